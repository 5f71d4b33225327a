import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { buildSafetensors, concat, rawSafetensors, u64, utf8 } from "../helpers/model-files.ts";

const MODELS = resolve(import.meta.dirname, "../../../shared/models");
const noModels = !existsSync(MODELS);
if (noModels) console.log(`skipped: real safetensors files, there is no ${MODELS}`);

const parse = (file: Uint8Array): HeaderParse => parseSafetensors(file, file.byteLength);

const tensorsOf = (parsed: HeaderParse): Extract<HeaderParse, { kind: "complete" }>["tensors"] => {
  if (parsed.kind !== "complete") throw new Error(`the parser wants ${parsed.byteLength} bytes`);
  return parsed.tensors;
};

const errorOf = (run: () => unknown): unknown => {
  try {
    run();
  } catch (thrown) {
    return thrown;
  }
  return undefined;
};

const expectRefusal = (run: () => unknown, rule: string, offset: number): void => {
  const error = errorOf(run);
  expect(error).toBeInstanceOf(VramError);
  expect(error).toMatchObject({ code: "MODEL_MALFORMED", details: { format: "safetensors", rule, offset } });
};

/** One tensor entry; what is not given is a valid U8 vector of four bytes. */
const entry = (name: string, fields: { dtype?: string; shape?: string; offsets?: string } = {}): string =>
  `"${name}":{"dtype":${fields.dtype ?? '"U8"'},"shape":${fields.shape ?? "[4]"},"data_offsets":${fields.offsets ?? "[0,4]"}}`;

/** The file offset of `marker` in a header. */
const at = (header: string, marker: string, delta = 0): number =>
  8 + Buffer.byteLength(header.slice(0, header.indexOf(marker))) + delta;

const small = buildSafetensors(
  [
    { name: "a", dtype: "F32", shape: [2, 1], data: new Uint8Array(8).fill(1) },
    { name: "empty", dtype: "F16", shape: [0, 7], data: new Uint8Array(0) },
    { name: 'b ✓ "\\', dtype: "BOOL", shape: [], data: new Uint8Array(1) },
  ],
  { metadata: new Map([["format", "pt\n\u{1f600}"]]), pad: 3 },
);
const smallHeader = 8 + Number(new DataView(small.buffer).getBigUint64(0, true));

describe("a valid safetensors file", () => {
  it("[VR-IN-02] yields its tensors with absolute offsets, in the order of the data", () => {
    expect(parse(small)).toEqual({
      kind: "complete",
      headerByteLength: smallHeader,
      tensors: [
        { name: "a", dtype: "F32", shape: [2, 1], offset: smallHeader, byteLength: 8 },
        { name: "empty", dtype: "F16", shape: [0, 7], offset: smallHeader + 8, byteLength: 0 },
        { name: 'b ✓ "\\', dtype: "BOOL", shape: [], offset: smallHeader + 8, byteLength: 1 },
      ],
    });
  });

  it("is ordered by its data, not by its header", () => {
    const header = `{${entry("second", { offsets: "[4,8]" })},${entry("first")}}`;
    const file = rawSafetensors(header, 8);
    expect(tensorsOf(parse(file)).map(({ name }) => name)).toEqual(["first", "second"]);
  });

  it("may list an empty tensor behind the one that begins at the same place", () => {
    const header = `{${entry("full")},${entry("empty", { shape: "[0]", offsets: "[0,0]" })}}`;
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
    const header = `{${entry('\\"\\\\\\/\\u00e9\\ud83d\\ude00\\u0041')}}`;
    expect(tensorsOf(parse(rawSafetensors(header, 4))).map(({ name }) => name)).toEqual(['"\\/é\u{1f600}A']);
    const outermost = `{${entry("\\udbff\\udfff\\ud800\\udc00")}}`;
    expect(tensorsOf(parse(rawSafetensors(outermost, 4)))).toMatchObject([{ name: "\u{10ffff}\u{10000}" }]);
    const longest = `{${entry("\\u0041".repeat(1024))}}`;
    expect(tensorsOf(parse(rawSafetensors(longest, 4)))).toMatchObject([{ name: "A".repeat(1024) }]);
  });

  it("passes metadata with every escape, and integers up to 2^53−1", () => {
    const header = '{"__metadata__":{"k":"\\b\\f\\n\\r\\t\\/\\u0000 é \u{1f600}","l":""}}';
    expect(tensorsOf(parse(rawSafetensors(header)))).toEqual([]);
    const zero = `{${entry("t", { shape: "[0,9007199254740991]", offsets: "[0,0]" })}}`;
    expect(tensorsOf(parse(rawSafetensors(zero)))).toMatchObject([
      { shape: [0, Number.MAX_SAFE_INTEGER], byteLength: 0 },
    ]);
  });

  it("may lie anywhere in its ArrayBuffer", () => {
    const surrounded = concat(new Uint8Array(13), small).subarray(13);
    expect(parse(surrounded)).toEqual(parse(small));
  });
});

describe("the need protocol", () => {
  it("[VR-IN-02] growing prefixes give what the whole file gives, in at most three steps", () => {
    for (let start = 0; start <= small.byteLength; start += 1) {
      let byteLength = start;
      let steps = 0;
      let parsed = parseSafetensors(small.subarray(0, byteLength), small.byteLength);
      while (parsed.kind === "need") {
        expect(parsed.byteLength).toBeGreaterThan(byteLength);
        byteLength = parsed.byteLength;
        parsed = parseSafetensors(small.subarray(0, byteLength), small.byteLength);
        steps += 1;
      }
      expect(steps).toBeLessThan(3);
      expect(parsed).toEqual(parse(small));
    }
  });

  it("asks for the length field, then for exactly the header", () => {
    expect(parseSafetensors(small.subarray(0, 7), small.byteLength)).toEqual({ kind: "need", byteLength: 8 });
    expect(parseSafetensors(small.subarray(0, 8), small.byteLength)).toEqual({ kind: "need", byteLength: smallHeader });
  });
});

describe("a hostile safetensors file", () => {
  it("[VR-IN-02] is refused wherever it is cut off, and when anything follows", () => {
    for (let byteLength = 0; byteLength < small.byteLength; byteLength += 1) {
      expect(errorOf(() => parse(small.subarray(0, byteLength)))).toMatchObject({ code: "MODEL_MALFORMED" });
    }
    expectRefusal(() => parse(concat(small, new Uint8Array(1))), "data-end", small.byteLength);
  });

  it("[VR-IN-02] ends in a typed error, whichever byte is changed", () => {
    for (let offset = 0; offset < smallHeader; offset += 1) {
      for (const byte of [0x00, 0x20, 0x22, 0x2d, 0x30, 0x5c, 0x7d, 0x80, 0xff]) {
        const file = small.slice();
        file[offset] = byte;
        const error = errorOf(() => parse(file));
        if (error !== undefined) expect(error).toMatchObject({ code: "MODEL_MALFORMED" });
      }
    }
  });

  it("[VR-IN-02] is refused for its length field", () => {
    expectRefusal(() => parse(new Uint8Array(7)), "truncated", 0);
    expectRefusal(() => parse(rawSafetensors("{}", 0, 3)), "truncated", 0);
    expectRefusal(() => parse(rawSafetensors("{}", 0, LIMITS.safetensorsHeaderBytes + 1)), "header-too-large", 0);
    expectRefusal(() => parse(rawSafetensors("{}", 0, 2n ** 64n - 1n)), "header-too-large", 0);
    expectRefusal(() => parse(rawSafetensors("", 4)), "header-start", 8);
    expectRefusal(() => parse(rawSafetensors(" {}")), "header-start", 8);
    expectRefusal(() => parse(rawSafetensors("[]")), "header-start", 8);
  });

  it("[VR-IN-02] may raise the header limit, up to the second figure", () => {
    const file = rawSafetensors("{}  ");
    expectRefusal(() => parseSafetensors(file, file.byteLength, { maxHeaderBytes: 3 }), "header-too-large", 0);
    expect(parseSafetensors(file, file.byteLength, { maxHeaderBytes: 4 }).kind).toBe("complete");
    const maxHeaderBytes = LIMITS.safetensorsHeaderBytesMax + 1;
    const tooHigh = errorOf(() => parseSafetensors(file, file.byteLength, { maxHeaderBytes }));
    expect(tooHigh).toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(errorOf(() => parseSafetensors(file, file.byteLength - 1))).toMatchObject({ code: "INTERNAL" });
  });

  const duplicated = `{${entry("a")},${entry("\\u0061")}}`;
  const twoFields = '{"t":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}';
  const extents = (count: number): string => `[${Array.from({ length: count }, () => "1").join(",")}]`;
  const cases: [rule: string, header: string, marker: string, delta?: number][] = [
    // JSON
    ["json-syntax", `{${entry("t")},}`, ",}", 1],
    ["json-syntax", '{"t"}', "}"],
    ["json-syntax", '{"t":[]}', "[]"],
    ["json-syntax", `{${entry("t", { shape: "4" })}}`, "4,"],
    ["json-syntax", `{${entry("t", { shape: '["4"]' })}}`, '"4"'],
    ["json-syntax", `{${entry("t", { offsets: "[0,4,4]" })}}`, ",4]"],
    ["json-syntax", `{${entry("t", { offsets: "[0]" })}}`, "]}"],
    ["json-syntax", `{${entry("t", { dtype: "null" })}}`, "null"],
    ["json-syntax", '{"__metadata__":null}', "null"],
    ["json-syntax", '{"__metadata__":{"k":1}}', "1"],
    ["json-syntax", `{${entry("t")} "u"}`, '"u"'],
    ["json-syntax", "{\ufeff}", "\ufeff"],
    ["json-unterminated", '{"t', "t", 1],
    ["json-unterminated", '{"__metadata__":{}', "{}", 2],
    ["json-unterminated", '{"t":{"shape":[', "[", 1],
    ["json-control-character", '{"__metadata__":{"k":"a\tb"}}', "\tb"],
    ["json-control-character", '{"__metadata__":{"k":"a\u001fb"}}', "\u001fb"],
    ["json-escape", '{"\\x41":{}}', "\\x"],
    ["json-escape", '{"\\u00g0":{}}', "\\u"],
    ["json-escape", '{"\\', "\\"],
    ["json-escape", '{"\\u00', "\\u"],
    ["json-surrogate", '{"\\ud800":{}}', "\\u"],
    ["json-surrogate", '{"\\ud800\\n":{}}', "\\u"],
    ["json-surrogate", '{"\\ud800\\ud800":{}}', "\\u"],
    ["json-surrogate", '{"\\udc00":{}}', "\\u"],
    ["json-surrogate", '{"\\udfff":{}}', "\\u"],
    ["json-surrogate", '{"\\udbff":{}}', "\\u"],
    ["json-escape", '{"\\ud800\\uzzzz":{}}', "\\uz"],
    ["json-number", `{${entry("t", { shape: "[-4]" })}}`, "-4"],
    ["json-number", `{${entry("t", { shape: "[4.0]" })}}`, "4.0"],
    ["json-number", `{${entry("t", { shape: "[4e0]" })}}`, "4e0"],
    ["json-number", `{${entry("t", { shape: "[4E0]" })}}`, "4E0"],
    ["json-number", `{${entry("t", { shape: "[04]" })}}`, "04]"],
    ["json-integer-too-large", `{${entry("t", { shape: "[9007199254740992]" })}}`, "9007"],
    ["json-integer-too-large", `{${entry("t", { shape: `[${"9".repeat(400)}]` })}}`, "9999"],
    ["trailing-bytes", `{${entry("t")}}  \n `, "\n"],
    ["trailing-bytes", `{${entry("t")}}\0`, "\0"],
    // Names and fields
    ["duplicate-name", duplicated, '"\\u0061"'],
    ["duplicate-name", '{"__metadata__":{},"__metadata__":{}}', ',"__metadata__"', 1],
    ["duplicate-key", '{"__metadata__":{"k":"","\\u006b":""}}', '"\\u006b"'],
    ["duplicate-key", twoFields, ',"dtype"', 1],
    ["metadata-key-too-long", `{"__metadata__":{"${"k".repeat(65_536)}":""}}`, '"kkk'],
    ["name-empty", `{${entry("")}}`, '""'],
    ["name-control", `{${entry("a\\u0000b")}}`, '"a'],
    ["name-control", `{${entry("\u007f")}}`, '"\u007f'],
    ["name-too-long", `{${entry("é".repeat(513))}}`, '"é'],
    ["name-too-long", `{${entry("n".repeat(7000))}}`, '"n'],
    ["field-unknown", '{"t":{"dtype":"U8","__proto__":{}}}', '"__proto__"'],
    ["field-unknown", '{"t":{"a field with a long name":1}}', '"a field'],
    ["field-missing", '{"t":{}}', "{}"],
    ["field-missing", '{"t":{"dtype":"U8","shape":[4]}}', '{"dtype'],
    ["field-missing", '{"t":{"dtype":"U8","data_offsets":[0,4]}}', '{"dtype'],
    ["dtype-unknown", `{${entry("t", { dtype: '"u8"' })}}`, '"u8"'],
    ["dtype-unknown", `{${entry("t", { dtype: '"constructor"' })}}`, '"constructor"'],
    ["dtype-unknown", `{${entry("t", { dtype: '"F32 with a long name"' })}}`, '"F32'],
    // Sizes and places
    ["rank-too-large", `{${entry("t", { shape: extents(65) })}}`, extents(65), 1 + 2 * 64],
    ["size-overflow", `{${entry("t", { shape: "[9007199254740991,2,0]" })}}`, "[9007"],
    ["size-overflow", `{${entry("t", { shape: "[9007199254740991]" })}}`, "[9007"],
    ["size-fractional", `{${entry("t", { dtype: '"F4"', shape: "[3]" })}}`, "[3]"],
    ["size-fractional", `{${entry("t", { dtype: '"F6_E2M3"', shape: "[3]" })}}`, "[3]"],
    ["size-mismatch", `{${entry("t", { shape: "[3]" })}}`, "[0,4]"],
    ["offsets-reversed", `{${entry("t", { offsets: "[4,0]" })}}`, "[4,0]"],
    ["tensor-outside-file", `{${entry("t", { shape: "[5]", offsets: "[0,5]" })}}`, "[0,5]"],
    ["overlap", `{${entry("t")},${entry("u", { shape: "[2]", offsets: "[2,4]" })}}`, "[2,4]"],
    ["overlap", `{${entry("t")},${entry("u", { shape: "[0]", offsets: "[2,2]" })}}`, "[2,2]"],
    ["overlap", `{${entry("t")},${entry("u")}}`, "[0,4]}}"],
    ["hole", `{${entry("t", { shape: "[3]", offsets: "[1,4]" })}}`, "[1,4]"],
  ];
  it.each(cases)("[VR-IN-02] is refused by %s: %.60j", (rule, header, marker, delta = 0) => {
    expectRefusal(() => parse(rawSafetensors(header, 4)), rule, at(header, marker, delta));
  });

  it("[VR-IN-02] is refused for data that no tensor names", () => {
    const header = `{${entry("t")}}`;
    expectRefusal(() => parse(rawSafetensors(header, 6)), "data-end", 8 + header.length + 4);
    expectRefusal(() => parse(rawSafetensors("{}", 1)), "data-end", 10);
  });

  it("[VR-IN-02] is refused for invalid UTF-8 in names and in metadata", () => {
    for (const bad of [[0xff], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80]]) {
      const name = concat(utf8('{"'), Uint8Array.from(bad), utf8('":{}}'));
      expectRefusal(() => parse(rawSafetensors(name)), "utf8-invalid", 10);
      const value = concat(utf8('{"__metadata__":{"k":"'), Uint8Array.from(bad), utf8('"}}'));
      expectRefusal(() => parse(rawSafetensors(value)), "utf8-invalid", 30);
    }
  });

  it("[VR-IN-02] may have LIMITS.tensorCount tensors and not one more", () => {
    const tensor = (index: number): string => `"${index}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`;
    const members = Array.from({ length: LIMITS.tensorCount }, (_, index) => tensor(index)).join(",");
    const options = { maxHeaderBytes: LIMITS.safetensorsHeaderBytesMax };
    const header = `{${members},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`;
    const file = rawSafetensors(header);
    const offset = at(header, '"x"');
    // That the refused one is the last shows that those before it were taken.
    expectRefusal(() => parseSafetensors(file, file.byteLength, options), "tensor-count", offset);
  });

  it("[VR-IN-02] may have 65,536 metadata entries and not one more", () => {
    const entries = Array.from({ length: 65_536 }, (_, index) => `"${index}":""`).join(",");
    expect(parse(rawSafetensors(`{"__metadata__":{${entries}}}`)).kind).toBe("complete");
    const header = `{"__metadata__":{${entries},"x":""}}`;
    expectRefusal(() => parse(rawSafetensors(header)), "metadata-count", at(header, '"x"'));
  });

  it("[VR-IN-04] is named in messages without control characters and without long names", () => {
    const header = `{"a\\u001b[2J${"n".repeat(900)}":{}}`;
    const error = errorOf(() => parse(rawSafetensors(header)));
    expect(error).toBeInstanceOf(VramError);
    const message = (error as VramError).message;
    expect(message).toContain("\\u{1b}");
    expect(message).toContain("…");
    expect(message.length).toBeLessThan(200);
    expect(message).not.toContain("\u001b");
  });

  it("[VR-IN-02] with a megabyte of one token takes linear time", () => {
    const started = performance.now();
    for (const filler of ['{"__metadata__":{"k":"', '{"', `{"t":{"shape":[${"1,".repeat(60)}`, "{"]) {
      for (const repeated of ["\\u0041", "\\n", "é", "9", "[", "{", " "]) {
        const file = rawSafetensors(filler + repeated.repeat(1_000_000 / repeated.length));
        expect(errorOf(() => parse(file))).toMatchObject({ code: "MODEL_MALFORMED" });
      }
    }
    expect(performance.now() - started).toBeLessThan(20_000);
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
    expect(errorOf(() => parseSafetensors(bytes.subarray(0, 4096), bytes.byteLength - 1))).toMatchObject({
      details: { rule: "tensor-outside-file" },
    });
  });

  it("[VR-IN-02] a header length one short leaves a byte no tensor names", () => {
    const bytes = readFileSync(resolve(MODELS, "model2vec-float16.safetensors"));
    const shorter = concat(u64(0x4f), bytes.subarray(8));
    expectRefusal(() => parse(shorter), "data-end", bytes.byteLength - 1);
  });
});
