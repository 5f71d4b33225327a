import { describe, expect, it } from "vitest";
import type { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { everyGgufValue, F32, nestedGgufArray, Q4_0, smallGguf } from "../helpers/gguf-files.ts";
import { errorOf, expectRefusal as expectRefusalOf, grow, tensorsOf } from "../helpers/header-parses.ts";
import {
  buildGguf,
  concat,
  GGUF_VALUE,
  ggufArray,
  ggufEntry,
  ggufString,
  ggufTensorInfo,
  patched,
  rawGguf,
  u32,
  u64,
  utf8,
} from "../helpers/model-files.ts";

/** Offsets of the fixed fields, and of what follows them. */
const VERSION_AT = 4;
const TENSOR_COUNT_AT = 8;
const ENTRY_COUNT_AT = 16;
const BODY_AT = 24;

const parse = (file: Uint8Array): HeaderParse => parseGguf(file, file.byteLength);

const expectRefusal = (run: () => unknown, rule: string, offset: number): void =>
  expectRefusalOf(run, { format: "gguf", rule, offset });

describe("a hostile GGUF file", () => {
  it("[VR-IN-02] is refused wherever it is cut off", () => {
    for (let byteLength = 0; byteLength < smallGguf.byteLength; byteLength += 1) {
      expect(errorOf(() => parse(smallGguf.subarray(0, byteLength)))).toMatchObject({ code: "MODEL_MALFORMED" });
    }
    const vocabulary = buildGguf({ kv: everyGgufValue });
    for (let byteLength = 0; byteLength < vocabulary.byteLength; byteLength += 1) {
      expect(errorOf(() => parse(vocabulary.subarray(0, byteLength)))).toMatchObject({ code: "MODEL_MALFORMED" });
    }
  });

  it("[VR-IN-02] ends in a typed error, whichever byte is changed, for every prefix it asks for", () => {
    for (let offset = 0; offset < smallGguf.byteLength - 100; offset += 1) {
      for (const byte of [0x00, 0x01, 0x09, 0x20, 0x7f, 0x80, 0xff]) {
        const file = patched(smallGguf, offset, Uint8Array.of(byte));
        const error = errorOf(() => grow(parseGguf, file, 0));
        if (error !== undefined) expect(error).toMatchObject({ code: "MODEL_MALFORMED" });
      }
    }
  });

  it("[VR-IN-02] is refused for magic, version and byte order", () => {
    expectRefusal(() => parse(new Uint8Array(3)), "truncated", 0);
    expectRefusal(() => parse(patched(smallGguf, 0, utf8("g"))), "magic", 0);
    const bigEndian = (version: number): Uint8Array => patched(smallGguf, VERSION_AT, u32(version).reverse());
    for (const version of [1, 2, 3]) expectRefusal(() => parse(bigEndian(version)), "big-endian", VERSION_AT);
    for (const version of [0, 1, 4, 0xffff_ffff]) {
      expectRefusal(() => parse(patched(smallGguf, VERSION_AT, u32(version))), "version-unsupported", VERSION_AT);
    }
  });

  const U8 = { type: GGUF_VALUE.uint8, value: new Uint8Array(1) };
  const key = (bytes: Uint8Array | string): Uint8Array =>
    concat(ggufString(bytes), u32(GGUF_VALUE.uint8), new Uint8Array(1));
  const entry = (type: number, value: Uint8Array): Uint8Array => ggufEntry({ key: "k", type, value });
  const alignment = (type: number, value: Uint8Array): Uint8Array =>
    ggufEntry({ key: "general.alignment", type, value });
  /** Where the value type and the value of an entry begin whose key has `keyBytes` bytes. */
  const typeAt = (keyBytes: number): number => BODY_AT + 8 + keyBytes;
  const valueAt = (keyBytes: number): number => typeAt(keyBytes) + 4;

  const room = new Uint8Array(64);
  const metadata: [rule: string, offset: number, name: string, body: Uint8Array[], entries?: number | bigint][] = [
    ["metadata-count", ENTRY_COUNT_AT, "more entries than fit", [key("k")], 2],
    ["metadata-count", ENTRY_COUNT_AT, "2^64−1 entries", [key("k")], 2n ** 64n - 1n],
    ["metadata-count", ENTRY_COUNT_AT, "65,537 entries that fit", [new Uint8Array(65_537 * 14)], 65_537],
    ["key-empty", BODY_AT, "an empty key", [key(""), room]],
    ["key-too-long", BODY_AT, "a key of 65,536 bytes", [key("k".repeat(65_536))]],
    ["truncated", BODY_AT + 8, "a key behind the file", [u64(1000), room]],
    ["utf8-invalid", BODY_AT, "a key that is no UTF-8", [key(Uint8Array.of(0xff, 0xfe))]],
    ["duplicate-key", BODY_AT + 14, "a key twice", [key("k"), key("k")], 2],
    ["value-type-unknown", typeAt(1), "value type 13", [entry(13, room)]],
    ["value-type-unknown", typeAt(1), "value type 2^32−1", [entry(0xffff_ffff, room)]],
    ["value-type-unknown", valueAt(1), "an array of type 13", [entry(9, ggufArray(13, [], 0)), room]],
    ["truncated", valueAt(1), "a uint64 behind the file", [entry(10, new Uint8Array(7))]],
    ["bool-invalid", valueAt(1), "a bool of 2", [entry(7, Uint8Array.of(2))]],
    [
      "bool-invalid",
      valueAt(1) + 14,
      "a bool of 255 in an array",
      [entry(9, ggufArray(7, [Uint8Array.of(0, 1, 255)], 3))],
    ],
    ["truncated", valueAt(1) + 8, "a string behind the file", [entry(8, u64(100)), room]],
    ["truncated", valueAt(1) + 8, "a string of 2^64−1 bytes", [entry(8, u64(2n ** 64n - 1n)), room]],
    ["array-count", valueAt(1) + 4, "more elements than fit", [entry(9, ggufArray(0, [], 65)), room]],
    ["array-count", valueAt(1) + 4, "2^64−1 strings", [entry(9, ggufArray(8, [], 2n ** 64n - 1n)), room]],
    ["array-too-deep", valueAt(1) + 4 * 12, "arrays five deep", [entry(9, nestedGgufArray(5))]],
    ["array-too-deep", valueAt(1) + 4 * 12, "arrays 50,000 deep", [entry(9, nestedGgufArray(50_000))]],
    ["alignment-type", typeAt(17), "an alignment of int32", [alignment(5, u32(32))]],
    ["alignment-value", valueAt(17), "an alignment of 0", [alignment(4, u32(0))]],
    ["alignment-value", valueAt(17), "an alignment of 48", [alignment(4, u32(48))]],
    ["alignment-value", valueAt(17), "an alignment of 2 MiB", [alignment(4, u32(2 * 1024 * 1024))]],
    ["alignment-value", valueAt(17), "an alignment of 2^31", [alignment(4, u32(2 ** 31))]],
  ];
  it.each(metadata)("[VR-IN-02] is refused by %s at %d: %s", (rule, offset, _name, body, entries = 1) => {
    expectRefusal(() => parse(rawGguf(body, { entries })), rule, offset);
  });

  /** Where the fields of a tensor info begin whose name has one byte. */
  const RANK_AT = BODY_AT + 9;
  const SHAPE_AT = RANK_AT + 4;
  const info = (
    fields: { name?: string | Uint8Array; shape?: (number | bigint)[]; type?: number; offset?: number | bigint } = {},
  ): Uint8Array => ggufTensorInfo(fields.name ?? "t", fields.shape ?? [1], fields.type ?? F32, fields.offset ?? 0);
  const data = new Uint8Array(256);
  const MAX = Number.MAX_SAFE_INTEGER;
  const tensors: [rule: string, offset: number, name: string, body: Uint8Array[], count?: number | bigint][] = [
    ["tensor-count", TENSOR_COUNT_AT, "more tensors than fit", [info()], 2],
    ["tensor-count", TENSOR_COUNT_AT, "2^64−1 tensors", [info()], 2n ** 64n - 1n],
    ["tensor-count", TENSOR_COUNT_AT, "one above the limit", [info()], LIMITS.tensorCount + 1],
    ["name-empty", BODY_AT, "an empty name", [info({ name: "" }), data]],
    ["name-too-long", BODY_AT, "a name of 1025 bytes", [info({ name: "n".repeat(1025) }), data]],
    ["name-control", BODY_AT, "a name with NUL", [info({ name: "a\0b" }), data]],
    ["utf8-invalid", BODY_AT, "a name that is no UTF-8", [info({ name: Uint8Array.of(0xc0, 0x80) }), data]],
    ["duplicate-name", BODY_AT + 33, "a name twice", [info(), info(), data], 2],
    ["rank-too-large", RANK_AT, "five extents", [info({ shape: [1, 1, 1, 1, 1] }), data]],
    ["rank-too-large", RANK_AT, "2^32−1 extents", [ggufString("t"), u32(0xffff_ffff), data]],
    ["extent-too-large", SHAPE_AT, "an extent of 2^53", [info({ shape: [2n ** 53n] }), data]],
    ["extent-too-large", SHAPE_AT + 8, "a last extent of 2^64−1", [info({ shape: [0, 2n ** 64n - 1n] }), data]],
    ["size-overflow", SHAPE_AT, "2^60 elements and a zero", [info({ shape: [2 ** 30, 2 ** 30, 0] }), data]],
    ["size-overflow", SHAPE_AT, "2^53−1 elements of 4 bytes", [info({ shape: [MAX] }), data]],
    ["type-unknown", SHAPE_AT + 8, "a type removed", [info({ type: 4 }), data]],
    ["type-unknown", SHAPE_AT + 8, "a repacked type", [info({ type: 31 }), data]],
    ["type-unknown", SHAPE_AT + 8, "a type to come", [info({ type: 43 }), data]],
    ["block-misaligned", SHAPE_AT, "a row of half a block", [info({ shape: [16, 2], type: Q4_0 }), data]],
    ["block-misaligned", SHAPE_AT, "a quantized scalar", [info({ shape: [], type: Q4_0 }), data]],
    ["offset-misaligned", SHAPE_AT + 12, "an offset of 16", [info({ offset: 16 }), data]],
    ["tensor-outside-file", SHAPE_AT + 12, "a start behind the file", [info({ offset: 288 }), data]],
    ["tensor-outside-file", SHAPE_AT + 12, "an offset of 2^64−32", [info({ offset: 2n ** 64n - 32n }), data]],
    ["tensor-outside-file", SHAPE_AT + 12, "an end behind the file", [info({ shape: [80] }), data]],
    ["tensor-outside-file", SHAPE_AT + 12, "no data at all", [info()]],
    [
      "tensor-outside-file",
      SHAPE_AT + 12,
      "an empty tensor behind the file",
      [info({ shape: [0], offset: 1024 }), data],
    ],
    ["overlap", SHAPE_AT + 33 + 12, "one place twice", [info(), info({ name: "u" }), data], 2],
    ["overlap", SHAPE_AT + 33 + 12, "a tail shared", [info({ shape: [9] }), info({ name: "u", offset: 32 }), data], 2],
    ["overlap", SHAPE_AT + 12, "the first by header", [info({ offset: 32 }), info({ name: "u", shape: [9] }), data], 2],
  ];
  it.each(tensors)("[VR-IN-02] is refused by %s at %d: %s", (rule, offset, _name, body, count = 1) => {
    expectRefusal(() => parse(rawGguf(body, { tensors: count })), rule, offset);
  });

  it("lets empty tensors lie inside others", () => {
    const body = [info({ shape: [32] }), info({ name: "u", shape: [0], offset: 64 }), new Uint8Array(256)];
    expect(tensorsOf(parse(rawGguf(body, { tensors: 2 })))).toMatchObject([
      { name: "t" },
      { name: "u", byteLength: 0 },
    ]);
  });

  it("[VR-IN-02] is refused beyond the header limit, before more of it is asked for", () => {
    const text = ggufEntry({ key: "k", type: GGUF_VALUE.string, value: u64(LIMITS.ggufHeaderBytes) });
    const prefix = rawGguf([text], { entries: 1 });
    const fileByteLength = LIMITS.ggufHeaderBytes * 10;
    expectRefusal(() => parseGguf(prefix, fileByteLength), "header-too-large", valueAt(1) + 8);
    const claims = patched(prefix, TENSOR_COUNT_AT, u64(LIMITS.tensorCount));
    expect(parseGguf(patched(claims, ENTRY_COUNT_AT, u64(0)), fileByteLength)).toEqual({
      kind: "need",
      byteLength: BODY_AT + LIMITS.tensorCount * 25,
    });
    const entries = rawGguf([ggufEntry({ key: "k", ...U8 })], { entries: 1 });
    const options = { maxHeaderBytes: entries.byteLength - 1 };
    expectRefusal(() => parseGguf(entries, entries.byteLength, options), "header-too-large", BODY_AT);
    expect(parseGguf(entries, entries.byteLength, { maxHeaderBytes: entries.byteLength }).kind).toBe("complete");
  });

  it("refuses arguments that make no sense", () => {
    expect(errorOf(() => parseGguf(smallGguf, smallGguf.byteLength - 1))).toMatchObject({ code: "INTERNAL" });
    const zero = errorOf(() => parseGguf(smallGguf, smallGguf.byteLength, { maxHeaderBytes: 0 }));
    expect(zero).toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  it("[VR-IN-04] is named in messages without control characters and without long names", () => {
    const messages = [
      errorOf(() =>
        parse(rawGguf([info({ name: `\u009b2J\u202e${"n".repeat(900)}`, type: 99 }), data], { tensors: 1 })),
      ),
      errorOf(() => parse(rawGguf([key(`\u001b${"k".repeat(900)}`), key(`\u001b${"k".repeat(900)}`)], { entries: 2 }))),
    ].map((error) => (error as VramError).message);
    for (const message of messages) {
      expect(message).toMatch(/\\u\{/);
      expect(message).toContain("…");
      expect(message.length).toBeLessThan(250);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
      expect(message).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
    }
  });

  it("[VR-IN-02] with megabytes of small claims takes linear time", () => {
    const started = performance.now();
    const strings = ggufArray(GGUF_VALUE.string, [new Uint8Array(8_000_000)], 1_000_000);
    const arrays = ggufArray(GGUF_VALUE.array, [new Uint8Array(12_000_000)], 1_000_000);
    for (const value of [strings, arrays]) {
      const file = buildGguf({ kv: [{ key: "k", type: GGUF_VALUE.array, value }] });
      expect(grow(parseGguf, file, 0).parsed.kind).toBe("complete");
    }
    const last = LIMITS.tensorCount - 1;
    const infos = Array.from({ length: LIMITS.tensorCount }, (_, index) =>
      info({ name: `t${index}`, offset: 32 * (last - index) }),
    );
    const many = rawGguf([...infos, new Uint8Array((last + 3) * 32)], { tensors: infos.length });
    expect(tensorsOf(grow(parseGguf, many, 0).parsed)[0]).toMatchObject({ name: `t${last}` });
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
