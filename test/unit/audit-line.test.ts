/** Lines of the audit log: what is written is read, and nothing else is; what an entry may say has bounds. */
import { createSecretKey } from "node:crypto";
import { describe, expect, it } from "vitest";
import { boundedData } from "../../src/audit/data.ts";
import { checkLineMac, dataOfLine, encodeLine, type LineData, type LineFields } from "../../src/audit/line.ts";
import { type LineFault, parseLine } from "../../src/audit/parse-line.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { bytesOf } from "../helpers/audit-log.ts";

const MAC_KEY = createSecretKey(bytesOf("mac key"));
const FIELDS: LineFields = {
  seq: 41,
  timeMs: 1_767_225_600_000,
  boot: bytesOf("boot").slice(0, 16),
  epoch: 3,
  type: "vram_sealed",
  data: { name: "modèle", nested: { list: [1, "two", null, true, false, {}, []] } },
  prev: bytesOf("prev"),
};

const lineOf = (changed: Partial<LineFields> = {}): string =>
  Buffer.from(encodeLine({ ...FIELDS, ...changed }, MAC_KEY))
    .toString("utf8", 0)
    .slice(0, -1);
const parsed = (text: string | Uint8Array) => parseLine(Buffer.from(text as string));
const faultOf = (text: string | Uint8Array): LineFault | "none" => {
  const result = parsed(text);
  return result.ok ? "none" : result.fault;
};
const withData = (json: string): string => lineOf({ data: {} }).replace('"data":{}', () => `"data":${json}`);

describe("a line", () => {
  it("[VR-AUD-02] is read as it was written", () => {
    const result = parsed(lineOf());
    if (!result.ok) throw new Error(result.fault);
    const { data, ...rest } = FIELDS;
    expect(result.line).toMatchObject({ ...rest, bytes: Buffer.from(lineOf()) });
    expect(dataOfLine(result.line)).toEqual(data);
    expect(checkLineMac(result.line, MAC_KEY)).toBe("valid");
    expect(checkLineMac(result.line, createSecretKey(bytesOf("another key")))).toBe("mac");
  });

  it("[VR-AUD-02] has every byte in front of the mac under the mac", () => {
    const text = Buffer.from(lineOf());
    for (let at = 0; at < text.byteLength; at += 1) {
      const changed = Buffer.from(text);
      changed[at] = (changed[at] ?? 0) ^ 1;
      const result = parseLine(changed);
      if (result.ok) expect(checkLineMac(result.line, MAC_KEY), `byte ${at}`).toBe("mac");
    }
  });

  const line = lineOf();
  const cases: readonly (readonly [what: string, text: string, fault: LineFault])[] = [
    ["nothing", "", "form"],
    ["white space in front", ` ${line}`, "form"],
    ["white space behind", `${line} `, "form"],
    ["a second line", `${line}\n${line}`, "form"],
    ["a carriage return", `${line}\r`, "form"],
    ["a key behind the mac", `${line.slice(0, -1)},"more":1}`, "unknown-key"],
    ["a second mac", `${line.slice(0, -1)},"mac":"${"0".repeat(64)}"}`, "duplicate-key"],
    ["no mac", line.replace(/,"mac":"\w+"/, ""), "form"],
    ["seq twice", line.replace('"time"', '"seq":41,"time"'), "duplicate-key"],
    ["data twice", line.replace('"prev"', '"data":{},"prev"'), "duplicate-key"],
    ["an unknown key", line.replace('"time"', '"when":1,"time"'), "unknown-key"],
    ["an escaped key", line.replace('"time"', '"tim\\u0065"'), "form"],
    ["time before seq", line.replace(/("seq":41),("time":\d+)/, "$2,$1"), "key-order"],
    ["version 2", line.replace('"v":1', '"v":2'), "version"],
    ["a version as text", line.replace('"v":1', '"v":"1"'), "number"],
    ["a leading zero", line.replace('"seq":41', '"seq":041'), "number"],
    ["a sign", line.replace('"seq":41', '"seq":-1'), "number"],
    ["minus zero", line.replace('"seq":41', '"seq":-0'), "number"],
    ["a fraction", line.replace('"seq":41', '"seq":41.0'), "form"],
    ["an exponent", line.replace('"seq":41', '"seq":4e1'), "form"],
    ["a number beyond 2^53 − 1", line.replace('"seq":41', '"seq":9007199254740992'), "number"],
    ["a number of 17 digits", line.replace('"seq":41', '"seq":41111111111111111'), "form"],
    ["epoch 0", line.replace('"epoch":3', '"epoch":0'), "number"],
    ["null", line.replace('"epoch":3', '"epoch":null'), "number"],
    ["hex in capitals", line.replace(/("prev":".)\w/, "$1F"), "hex"],
    ["a hash too short", line.replace(/("prev":".)\w/, "$1"), "hex"],
    ["a hash too long", line.replace(/("prev":")/, "$10"), "hex"],
    ["a type in capitals", line.replace("vram_sealed", "Vram_sealed"), "type"],
    ["a type that begins with a digit", line.replace("vram_sealed", "1vram"), "type"],
    ["an empty type", line.replace("vram_sealed", ""), "type"],
    ["a type of 65 letters", line.replace("vram_sealed", "a".repeat(65)), "type"],
    ["a type with an escape", line.replace("vram_sealed", "vram\\u005f"), "type"],
    ["data that is an array", withData("[]"), "data"],
    ["data that is null", withData("null"), "data"],
  ];
  it.each(cases)("[VR-AUD-02] is refused with %s", (_what, text, fault) => {
    expect(faultOf(text)).toBe(fault);
    expect(faultOf(line)).toBe("none");
  });

  it("says where the fault is", () => {
    expect(parsed(line.replace('"seq":41', '"seq":041'))).toEqual({ ok: false, fault: "number", offset: 13 });
  });

  it("is refused with bytes that are not UTF-8, or too many of them", () => {
    const bytes = Buffer.from(line);
    bytes[bytes.indexOf("mod")] = 0xff;
    expect(faultOf(bytes)).toBe("not-utf8");
    expect(faultOf(Buffer.alloc(LIMITS.auditLineBytes, "a"))).toBe("too-long");
    expect(faultOf(Buffer.alloc(LIMITS.auditLineBytes - 1, "a"))).toBe("form");
  });
});

describe("data of a line", () => {
  it.each([
    '{"a":0,"b":1,"bb":2}',
    '{"a":-1,"b":1.5,"c":1e+21,"d":1e-7,"e":0.000001,"f":9007199254740992,"g":-0.5}',
    '{"a":"\\" \\\\ \\b\\f\\n\\r\\t\\u0000\\u001f / \u007f é \u2028 😀"}',
    `{"a":${"[".repeat(7)}${"]".repeat(7)}}`,
    '{"A":1,"a":1,"a_1":1}',
    '{"toString":1}',
  ])("may be %s", (json) => {
    expect(faultOf(withData(json))).toBe("none");
  });

  it.each([
    ["unsorted keys", '{"b":1,"a":1}'],
    ["a key twice", '{"a":1,"a":1}'],
    ["an inner key twice", '{"a":[{"b":1,"b":1}]}'],
    ["a longer key first", '{"aa":1,"a":1}'],
    ["white space", '{"a": 1}'],
    ["a comma too many", '{"a":1,}'],
    ["a comma too many in a list", '{"a":[1,]}'],
    ["a leading zero", '{"a":01}'],
    ["a trailing zero", '{"a":1.50}'],
    ["a point without digits", '{"a":1.}'],
    ["1.0", '{"a":1.0}'],
    ["minus zero", '{"a":-0}'],
    ["a number that is not exact", '{"a":9007199254740993}'],
    ["an exponent that could be digits", '{"a":1e5}'],
    ["digits that have an exponent", '{"a":0.0000001}'],
    ["infinity", '{"a":1e999}'],
    ["an empty key", '{"":1}'],
    ["a key with a hyphen", '{"a-b":1}'],
    ["a key beyond ASCII", '{"é":1}'],
    ["a key that begins with _", '{"__proto__":1}'],
    ["a key of 65 letters", `{"${"a".repeat(65)}":1}`],
    ["an escaped slash", '{"a":"\\/"}'],
    ["an escaped letter", '{"a":"\\u0061"}'],
    ["a long escape for a short one", '{"a":"\\u000a"}'],
    ["an escape in capitals", '{"a":"\\u001F"}'],
    ["an escape cut off", '{"a":"\\u00"}'],
    ["a tab", '{"a":"\t"}'],
    ["a text without an end", '{"a":"b}'],
    ["an unknown word", '{"a":nul}'],
    ["a list without an end", '{"a":[1}'],
    ["no value", '{"a":}'],
    ["9 levels", `{"a":${"[".repeat(8)}${"]".repeat(8)}}`],
    ["16,000 levels", `{"a":${"[".repeat(16_000)}}`],
    ["32 KiB", `{"a":"${"x".repeat(32_768 - 8)}"}`],
  ])("is refused with %s", (_what, json) => {
    expect(faultOf(withData(json))).toBe("data");
  });

  it("[VR-MEM-07] is not written if no reader would accept it", () => {
    let deep: LineData = {};
    for (let level = 0; level < 9; level += 1) deep = { a: deep };
    for (const data of [{ "a-b": 1 }, deep, { a: "x".repeat(40_000) }, { a: "x".repeat(70_000) }]) {
      expect(() => lineOf({ data })).toThrow(VramError);
    }
    expect(() => lineOf({ type: 'a","x":"' })).toThrow("has no line: ");
    expect(() => lineOf({ seq: -1 })).toThrow("seq");
    expect(() => lineOf({ epoch: 0 })).toThrow("epoch");
    expect(() => lineOf({ boot: new Uint8Array(15) })).toThrow("boot");
  });
});

describe("data from an entry", () => {
  const ranges = Array.from({ length: 70 }, (_, index) => ({ offset: index * 524_288, byteLength: 524_288 }));

  it("leaves out the type and what is undefined", () => {
    expect(boundedData({ type: "a", name: "b", salt: undefined, zeroed: false })).toEqual({ name: "b", zeroed: false });
  });

  it("lists 64 ranges and 64 tensors, then a total", () => {
    const tensors = Array.from({ length: 65 }, (_, index) => `blk.${index}`);
    const data = boundedData({ type: "a", ranges, tensors });
    expect(data).toEqual({
      ranges: ranges.slice(0, 64),
      rangesTotal: 70,
      tensors: tensors.slice(0, 64),
      tensorsTotal: 65,
    });
    expect(boundedData({ type: "a", ranges, rangesTotal: 4000 })).toMatchObject({ rangesTotal: 4000 });
    expect(boundedData({ type: "a", ranges: ranges.slice(0, 64) })).not.toHaveProperty("rangesTotal");
  });

  it("has a line, whatever the names of tensors and the message are", () => {
    const worst = {
      type: "seal_verification_failed",
      device: { ordinal: 2 ** 31, uuid: "u".repeat(68) },
      message: "\u0001".repeat(10_000),
      name: "\ud800".repeat(1024),
      ranges: ranges.map(({ byteLength }) => ({ offset: Number.MAX_SAFE_INTEGER - 1, byteLength })),
      tensors: Array.from({ length: 400 }, (_, index) => `${index}${"😀".repeat(500)}`),
    };
    const data = boundedData(worst);
    expect(faultOf(lineOf({ data }))).toBe("none");
    expect(data["tensorsTotal"]).toBe(400);
    const message = String(data["message"]);
    expect(message.endsWith("\u0001…")).toBe(true);
    expect(Buffer.byteLength(JSON.stringify(message))).toBeLessThanOrEqual(LIMITS.auditTextBytes);
  });

  it("keeps a text that just fits", () => {
    const text = "x".repeat(LIMITS.auditTextBytes - 2);
    expect(boundedData({ type: "a", text })).toEqual({ text });
    expect(boundedData({ type: "a", text: `${text}x` })["text"]).toBe(`${text.slice(0, -3)}…`);
  });
});
