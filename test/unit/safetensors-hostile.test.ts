import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { errorOf, expectRefusal as expectRefusalOf } from "../helpers/header-parses.ts";
import { concat, rawSafetensors, utf8 } from "../helpers/model-files.ts";
import { safetensorsEntry as entry, smallDataStart, smallSafetensors } from "../helpers/safetensors-files.ts";

const parse = (file: Uint8Array): HeaderParse => parseSafetensors(file, file.byteLength);

const expectRefusal = (run: () => unknown, rule: string, offset: number): void =>
  expectRefusalOf(run, { format: "safetensors", rule, offset });

/** The file offset of `marker` in a header. */
const at = (header: string, marker: string, delta = 0): number =>
  8 + Buffer.byteLength(header.slice(0, header.indexOf(marker))) + delta;

describe("a hostile safetensors file", () => {
  it("[VR-IN-02] is refused wherever it is cut off, and when anything follows", () => {
    for (let byteLength = 0; byteLength < smallSafetensors.byteLength; byteLength += 1) {
      expect(errorOf(() => parse(smallSafetensors.subarray(0, byteLength)))).toMatchObject({ code: "MODEL_MALFORMED" });
    }
    expectRefusal(() => parse(concat(smallSafetensors, new Uint8Array(1))), "data-end", smallSafetensors.byteLength);
  });

  it("[VR-IN-02] ends in a typed error, whichever byte is changed", () => {
    for (let offset = 0; offset < smallDataStart; offset += 1) {
      for (const byte of [0x00, 0x20, 0x22, 0x2d, 0x30, 0x5c, 0x7d, 0x80, 0xff]) {
        const file = Uint8Array.from(smallSafetensors);
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
