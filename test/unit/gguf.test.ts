import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { GGML_TYPES } from "../../src/source/ggml-types.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { everyGgufValue, F32, smallGguf } from "../helpers/gguf-files.ts";
import { errorOf, grow, MODELS, tensorsOf, withoutModels } from "../helpers/header-parses.ts";
import { buildGguf, concat, GGUF_VALUE, ggufString } from "../helpers/model-files.ts";

const noModels = withoutModels("GGUF");
/** Where the metadata begins. */
const BODY_AT = 24;

const parse = (file: Uint8Array): HeaderParse => parseGguf(file, file.byteLength);

/** A vocabulary file ends with its header, whether given whole, by `need`, or cut off. */
const expectVocabulary = (bytes: Uint8Array): void => {
  const parsed = parse(bytes);
  expect(parsed).toEqual({ kind: "complete", headerByteLength: bytes.byteLength, tensors: [] });
  const { parsed: grown, bytesParsed } = grow(parseGguf, bytes, 4096);
  expect(grown).toEqual(parsed);
  expect(bytesParsed).toBeLessThanOrEqual(3 * bytes.byteLength);
  for (const byteLength of [0, 3, 24, 4096, bytes.byteLength >> 1, bytes.byteLength - 1]) {
    expect(errorOf(() => parse(bytes.subarray(0, byteLength)))).toMatchObject({ code: "MODEL_MALFORMED" });
  }
};

describe("a valid GGUF file", () => {
  it("[VR-IN-02] yields its tensors with absolute offsets, in the order of the data", () => {
    const parsed = parse(smallGguf);
    const dataStart = smallGguf.byteLength - 100;
    expect(dataStart % 32).toBe(0);
    expect(tensorsOf(parsed)).toEqual([
      { name: "blk.0.weight", dtype: "Q4_0", shape: [64, 2], offset: dataStart, byteLength: 72 },
      { name: "empty", dtype: "F32", shape: [0, 3], offset: dataStart + 96, byteLength: 0 },
      { name: "scalar ✓", dtype: "F32", shape: [], offset: dataStart + 96, byteLength: 4 },
    ]);
    const headerByteLength = parsed.kind === "complete" ? parsed.headerByteLength : 0;
    expect(dataStart - headerByteLength).toBeLessThan(32);
    expect(headerByteLength).toBeLessThanOrEqual(dataStart);
  });

  it("may be version 2, and end with its header when it has no tensors", () => {
    const file = buildGguf({ version: 2, kv: everyGgufValue });
    expect(parse(file)).toEqual({ kind: "complete", headerByteLength: file.byteLength, tensors: [] });
    expect(parse(buildGguf())).toEqual({ kind: "complete", headerByteLength: BODY_AT, tensors: [] });
  });

  it.each([1, 8, 32, 64, 4096, 1024 * 1024])("places its data by an alignment of %d", (alignment) => {
    const tensor = (name: string) => ({ name, type: 24, shape: [3], data: new Uint8Array(3) });
    const parsed = parse(buildGguf({ alignment, tensors: [tensor("a"), tensor("b")] }));
    const [a, b] = tensorsOf(parsed);
    const headerByteLength = parsed.kind === "complete" ? parsed.headerByteLength : 0;
    expect(a?.offset).toBe(Math.ceil(headerByteLength / alignment) * alignment);
    expect((b?.offset ?? 0) - (a?.offset ?? 0)).toBe(Math.ceil(3 / alignment) * alignment);
  });

  it("is ordered by its data, and may have gaps", () => {
    const second = { name: "second", type: F32, shape: [1], data: new Uint8Array(4), offset: 64 };
    const first = { name: "first", type: F32, shape: [1], data: new Uint8Array(64), offset: 0 };
    const file = buildGguf({ tensors: [second, first] });
    expect(tensorsOf(parse(file)).map(({ name }) => name)).toEqual(["first", "second"]);
  });

  it("sizes every ggml type by llama.cpp's figures", () => {
    // [id, elements of a block, bytes of a block]: sizeof(block_*) of ggml-common.h, computed by hand.
    const figures = [
      [0, 1, 4],
      [1, 1, 2],
      [2, 32, 18],
      [3, 32, 20],
      [6, 32, 22],
      [7, 32, 24],
      [8, 32, 34],
      [9, 32, 36],
      [10, 256, 84],
      [11, 256, 110],
      [12, 256, 144],
      [13, 256, 176],
      [14, 256, 210],
      [15, 256, 292],
      [16, 256, 66],
      [17, 256, 74],
      [18, 256, 98],
      [19, 256, 50],
      [20, 32, 18],
      [21, 256, 110],
      [22, 256, 82],
      [23, 256, 136],
      [24, 1, 1],
      [25, 1, 2],
      [26, 1, 4],
      [27, 1, 8],
      [28, 1, 8],
      [29, 256, 56],
      [30, 1, 2],
      [34, 256, 54],
      [35, 256, 66],
      [39, 32, 17],
      [40, 64, 36],
      [41, 128, 18],
      [42, 64, 18],
    ] as const;
    expect([...GGML_TYPES].map(([id, { blockElements, blockBytes }]) => [id, blockElements, blockBytes])).toEqual(
      figures,
    );
    for (const [type, blockElements, blockBytes] of figures) {
      const data = new Uint8Array(blockBytes * 6);
      const file = buildGguf({ tensors: [{ name: "t", type, shape: [blockElements * 2, 3], data }] });
      expect(tensorsOf(parse(file))).toMatchObject([{ byteLength: blockBytes * 6 }]);
    }
  });

  it("takes names like __proto__, constructor and a byte order mark for what they are", () => {
    const names = ["__proto__", "constructor", "\ufeffa", "a", "n".repeat(1024)];
    const kv = names.map((key) => ({ key, type: GGUF_VALUE.uint8, value: new Uint8Array(1) }));
    const tensors = names.map((name) => ({ name, type: F32, shape: [1], data: new Uint8Array(4) }));
    expect(tensorsOf(parse(buildGguf({ kv, tensors }))).map(({ name }) => name)).toEqual(names);
    expect(Object.prototype).not.toHaveProperty("dtype");
  });

  it("may have four extents and a key of 65,535 bytes", () => {
    const kv = [{ key: "k".repeat(65_535), type: GGUF_VALUE.uint8, value: new Uint8Array(1) }];
    const file = buildGguf({ kv, tensors: [{ name: "t", type: F32, shape: [2, 1, 3, 1], data: new Uint8Array(24) }] });
    expect(tensorsOf(parse(file))).toMatchObject([{ shape: [2, 1, 3, 1], byteLength: 24 }]);
  });

  it("may lie anywhere in its ArrayBuffer", () => {
    expect(parse(concat(new Uint8Array(13), smallGguf).subarray(13))).toEqual(parse(smallGguf));
  });
});

describe("the need protocol", () => {
  it("[VR-IN-02] growing prefixes give what the whole file gives, for less than thrice its bytes", () => {
    const whole = parse(smallGguf);
    for (let start = 0; start <= smallGguf.byteLength; start += 1) {
      const { parsed, bytesParsed } = grow(parseGguf, smallGguf, start);
      expect(parsed).toEqual(whole);
      expect(bytesParsed).toBeLessThanOrEqual(3 * smallGguf.byteLength);
    }
  });

  it("asks for twice the prefix, or more where more is known to follow, and never for more than the file", () => {
    const text = { key: "k", type: GGUF_VALUE.string, value: ggufString("x".repeat(1000)) };
    const file = buildGguf({ kv: [text, { key: "l", type: GGUF_VALUE.uint8, value: new Uint8Array(1) }] });
    const need = (byteLength: number): number => {
      const parsed = parseGguf(file.subarray(0, byteLength), file.byteLength);
      return parsed.kind === "need" ? parsed.byteLength : 0;
    };
    expect(need(0)).toBe(4);
    expect(need(20)).toBe(40);
    // Two entries of at least 14 bytes follow the counts.
    expect(need(25)).toBe(BODY_AT + 2 * 14);
    // Key, type and length of the string: its end is known.
    expect(need(60)).toBe(BODY_AT + 9 + 4 + 8 + 1000);
    expect(need(file.byteLength - 1)).toBe(file.byteLength);
  });

  it("never asks for more than the header limit", () => {
    const kv = Array.from({ length: 20 }, (_, index) => ({
      key: `k${index}`,
      type: GGUF_VALUE.string,
      value: ggufString("x".repeat(40)),
    }));
    const file = buildGguf({ kv });
    const options = { maxHeaderBytes: 500 };
    expect(parseGguf(file.subarray(0, 400), file.byteLength, options)).toEqual({ kind: "need", byteLength: 500 });
    expect(errorOf(() => parseGguf(file.subarray(0, 500), file.byteLength, options))).toMatchObject({
      details: { rule: "header-too-large" },
    });
  });
});

/**
 * The shared copies of both files were once decoded as UTF-8 text and encoded again: every byte of a binary field that
 * is no UTF-8 became the three bytes of U+FFFD, which moved all that follows. Structure and sizes no longer agree, so
 * refusing them is right. Where an undamaged copy is put in their place, the tests of whole files run by themselves.
 */
const REPLACEMENT = Buffer.from("\ufffd");
const REAL = ["ggml-vocab-bert-bge.gguf", "ggml-vocab-llama-spm.gguf"] as const;
const real = (name: string): Buffer => (noModels ? Buffer.alloc(0) : readFileSync(resolve(MODELS, name)));
const isTranscoded = (bytes: Buffer): boolean => isUtf8(bytes) && bytes.includes(REPLACEMENT);

describe.skipIf(noModels)("real GGUF files", () => {
  for (const name of REAL) {
    const bytes = real(name);
    const transcoded = isTranscoded(bytes);
    if (!transcoded) {
      it(`[VR-IN-02] ${name} parses, vocabulary and all`, () => expectVocabulary(bytes));
      continue;
    }
    it(`[VR-IN-02] ${name}, damaged by a text decoder, is refused behind the first damage`, () => {
      const error = errorOf(() => grow(parseGguf, bytes, 4096));
      // The field before is longer by two bytes for each byte replaced, so the next key's length is read out of place.
      const offset = { "ggml-vocab-bert-bge.gguf": 0xd4, "ggml-vocab-llama-spm.gguf": 0x18f }[name];
      expect(error).toMatchObject({ code: "MODEL_MALFORMED", details: { rule: "key-too-long", offset } });
      expect(bytes.indexOf(REPLACEMENT)).toBeLessThan(offset);
    });
  }

  const [bert] = REAL;
  if (!isTranscoded(real(bert))) return;
  it(`[VR-IN-02] ${bert} parses once its two damaged bytes are one byte each`, () => {
    // Which byte stood there (0x80 of 384, 0x8c of 1e-12) does not matter to the parser, only that it was one.
    const damaged = real(bert);
    const parts: Uint8Array[] = [];
    let start = 0;
    for (let found = damaged.indexOf(REPLACEMENT); found !== -1; found = damaged.indexOf(REPLACEMENT, start)) {
      parts.push(damaged.subarray(start, found), Uint8Array.of(0x80));
      start = found + REPLACEMENT.byteLength;
    }
    const mended = concat(...parts, damaged.subarray(start));
    expect(mended.byteLength).toBe(damaged.byteLength - 2 * 2);
    expectVocabulary(mended);
  });
});
