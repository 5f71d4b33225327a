import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { expectRefusal as expectRefusalOf, grow, MODELS, tensorsOf, withoutModels } from "../helpers/header-parses.ts";
import { buildSafetensors, concat, rawSafetensors, u64 } from "../helpers/model-files.ts";
import { safetensorsEntry, smallDataStart, smallSafetensors } from "../helpers/safetensors-files.ts";

const noModels = withoutModels("safetensors");

const parse = (file: Uint8Array): HeaderParse => parseSafetensors(file, file.byteLength);

const expectRefusal = (run: () => unknown, rule: string, offset: number): void =>
  expectRefusalOf(run, { format: "safetensors", rule, offset });

describe("a valid safetensors file", () => {
  it("[VR-IN-02] yields its tensors with absolute offsets, in the order of the data", () => {
    expect(parse(smallSafetensors)).toEqual({
      kind: "complete",
      headerByteLength: smallDataStart,
      tensors: [
        { name: "a", dtype: "F32", shape: [2, 1], offset: smallDataStart, byteLength: 8 },
        { name: "empty", dtype: "F16", shape: [0, 7], offset: smallDataStart + 8, byteLength: 0 },
        { name: 'b ✓ "\\', dtype: "BOOL", shape: [], offset: smallDataStart + 8, byteLength: 1 },
      ],
    });
  });

  it("is ordered by its data, not by its header", () => {
    const header = `{${safetensorsEntry("second", { offsets: "[4,8]" })},${safetensorsEntry("first")}}`;
    const file = rawSafetensors(header, 8);
    expect(tensorsOf(parse(file)).map(({ name }) => name)).toEqual(["first", "second"]);
  });

  it("may list an empty tensor behind the one that begins at the same place", () => {
    const header = `{${safetensorsEntry("full")},${safetensorsEntry("empty", { shape: "[0]", offsets: "[0,0]" })}}`;
    expect(tensorsOf(parse(rawSafetensors(header, 4))).map(({ name }) => name)).toEqual(["empty", "full"]);
  });

  it("may have no tensors, white space between tokens and fields in any order", () => {
    expect(tensorsOf(parse(rawSafetensors("{}")))).toEqual([]);
    const header = '{ "t" :\n{ "data_offsets" : [ 0 , 2 ],\t"shape":[ 1 ] ,\r\n"dtype" : "BF16" } }   ';
    expect(tensorsOf(parse(rawSafetensors(header, 2)))).toMatchObject([{ name: "t", dtype: "BF16", byteLength: 2 }]);
  });

  it("sizes every dtype", () => {
    const bits = {
      ...{ BOOL: 8, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
      ...{ I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, F64: 64, I64: 64, U64: 64, C64: 64 },
      ...{ F4: 4, F6_E2M3: 6, F6_E3M2: 6 },
    };
    for (const [dtype, elementBits] of Object.entries(bits)) {
      const file = buildSafetensors([
        { name: "t", dtype, shape: [4, 3], data: new Uint8Array((12 * elementBits) / 8) },
      ]);
      expect(tensorsOf(parse(file))).toMatchObject([{ dtype, byteLength: (12 * elementBits) / 8 }]);
    }
  });

  it("takes names like __proto__, constructor and a byte order mark for what they are", () => {
    const names = ["__proto__", "constructor", "toString", "\ufeffa", "a"];
    const file = buildSafetensors(names.map((name) => ({ name, dtype: "U8", shape: [1], data: new Uint8Array(1) })));
    expect(tensorsOf(parse(file)).map(({ name }) => name)).toEqual(names);
    expect(Object.prototype).not.toHaveProperty("dtype");
  });

  it("resolves every escape in a name, and counts the name's length after that", () => {
    const header = `{${safetensorsEntry('\\"\\\\\\/\\u00e9\\ud83d\\ude00\\u0041')}}`;
    expect(tensorsOf(parse(rawSafetensors(header, 4))).map(({ name }) => name)).toEqual(['"\\/é\u{1f600}A']);
    const outermost = `{${safetensorsEntry("\\udbff\\udfff\\ud800\\udc00")}}`;
    expect(tensorsOf(parse(rawSafetensors(outermost, 4)))).toMatchObject([{ name: "\u{10ffff}\u{10000}" }]);
    const longest = `{${safetensorsEntry("\\u0041".repeat(1024))}}`;
    expect(tensorsOf(parse(rawSafetensors(longest, 4)))).toMatchObject([{ name: "A".repeat(1024) }]);
  });

  it("passes metadata with every escape, and integers up to 2^53−1", () => {
    const header = '{"__metadata__":{"k":"\\b\\f\\n\\r\\t\\/\\u0000 é \u{1f600}","l":""}}';
    expect(tensorsOf(parse(rawSafetensors(header)))).toEqual([]);
    const zero = `{${safetensorsEntry("t", { shape: "[0,9007199254740991]", offsets: "[0,0]" })}}`;
    expect(tensorsOf(parse(rawSafetensors(zero)))).toMatchObject([
      { shape: [0, Number.MAX_SAFE_INTEGER], byteLength: 0 },
    ]);
  });

  it("may lie anywhere in its ArrayBuffer", () => {
    const surrounded = concat(new Uint8Array(13), smallSafetensors).subarray(13);
    expect(parse(surrounded)).toEqual(parse(smallSafetensors));
  });
});

describe("the need protocol", () => {
  it("[VR-IN-02] growing prefixes give what the whole file gives, in at most three steps", () => {
    for (let start = 0; start <= smallSafetensors.byteLength; start += 1) {
      const { parsed, retries } = grow(parseSafetensors, smallSafetensors, start);
      expect(parsed).toEqual(parse(smallSafetensors));
      expect(retries).toBeLessThan(3);
    }
  });

  it("asks for the length field, then for exactly the header", () => {
    expect(parseSafetensors(smallSafetensors.subarray(0, 7), smallSafetensors.byteLength)).toEqual({
      kind: "need",
      byteLength: 8,
    });
    expect(parseSafetensors(smallSafetensors.subarray(0, 8), smallSafetensors.byteLength)).toEqual({
      kind: "need",
      byteLength: smallDataStart,
    });
  });
});

describe.skipIf(noModels)("real safetensors files", () => {
  const expected = new Map<string, readonly (readonly [name: string, dtype: string, shape: number[]])[]>([
    ["model2vec-float16.safetensors", [["embeddings", "F16", [29528, 2]]]],
    ["model2vec-float32.safetensors", [["embeddings", "F32", [29528, 2]]]],
    [
      "model2vec-vocab-quantized.safetensors",
      [
        ["weights", "F64", [29524]],
        ["embeddings", "F32", [128, 64]],
        ["mapping", "I32", [29524]],
      ],
    ],
  ]);
  it.each([...expected])("[VR-IN-02] %s parses to the table its README names", (file, tensors) => {
    const bytes = readFileSync(resolve(MODELS, file));
    const parsed = parse(bytes);
    const table = tensorsOf(parsed);
    expect(table.map(({ name, dtype, shape }) => [name, dtype, shape])).toEqual(tensors);
    const last = table.at(-1);
    expect((last?.offset ?? 0) + (last?.byteLength ?? 0)).toBe(bytes.byteLength);
    expect(parseSafetensors(bytes.subarray(0, 4096), bytes.byteLength)).toEqual(parsed);
    const shortened = (): unknown => parseSafetensors(bytes.subarray(0, 4096), bytes.byteLength - 1);
    expectRefusal(
      shortened,
      "tensor-outside-file",
      bytes.lastIndexOf("[", parsed.kind === "complete" ? parsed.headerByteLength : 0),
    );
  });

  it("[VR-IN-02] a header length one short leaves a byte no tensor names", () => {
    const bytes = readFileSync(resolve(MODELS, "model2vec-float16.safetensors"));
    const shorter = concat(u64(0x4f), bytes.subarray(8));
    expectRefusal(() => parse(shorter), "data-end", bytes.byteLength - 1);
  });
});
