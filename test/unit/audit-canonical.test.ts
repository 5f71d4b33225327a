/**
 * The judge of canonical JSON against a slower one made of `JSON.parse` and `canonicalJson`, exhaustively over short
 * texts: every number of four characters, every escape, every byte of an object replaced by every printable one.
 */
import { describe, expect, it } from "vitest";
import { canonicalObjectEnd } from "../../src/audit/canonical.ts";
import { canonicalJson } from "../../src/bytes.ts";

const bytesOf = (text: string): Uint8Array => Buffer.from(text, "utf8");
/** Whether the judge takes all of `text`. */
const isTaken = (text: string): boolean => canonicalObjectEnd(bytesOf(text), 0) === Buffer.byteLength(text);

function areKeysWords(value: unknown): boolean {
  if (Array.isArray(value)) return value.every(areKeysWords);
  if (typeof value !== "object" || value === null) return true;
  return Object.entries(value).every(([key, part]) => /^[A-Za-z][A-Za-z0-9_]{0,63}$/.test(key) && areKeysWords(part));
}

/** The other judge. */
function isCanonical(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return text.startsWith("{") && areKeysWords(value) && canonicalJson(value) === text;
  } catch {
    return false;
  }
}

/** Texts on which the two disagree. */
const disagreements = (texts: Iterable<string>): string[] =>
  [...texts].filter((text) => isTaken(text) !== isCanonical(text));

function* words(alphabet: string, length: number): Generator<string> {
  if (length === 0) {
    yield "";
    return;
  }
  for (const head of words(alphabet, length - 1)) for (const letter of alphabet) yield head + letter;
}

const PRINTABLE = Array.from({ length: 95 }, (_, index) => String.fromCharCode(0x20 + index));

describe("[VR-AUD-02] numbers", () => {
  it("of up to four characters are taken exactly as JSON.stringify writes them", () => {
    const all = [1, 2, 3, 4].flatMap((length) => [...words("019.-+eE", length)]);
    const wrong = disagreements(all.map((number) => `{"a":${number}}`));
    expect(wrong).toEqual([]);
    expect(all.filter((number) => isTaken(`{"a":${number}}`)).length).toBeGreaterThan(100);
  });

  it("at the borders of 15 digits, of tiny ones, of exponents and of what a double holds", () => {
    const digits = "123456789012345678901234567";
    const long = Array.from({ length: 27 }, (_, length) => digits.slice(0, length + 1));
    const points = long.flatMap((number) =>
      Array.from(number, (_, at) => `${number.slice(0, at)}.${number.slice(at)}`),
    );
    const tiny = Array.from({ length: 10 }, (_, zeros) => `0.${"0".repeat(zeros)}`).flatMap((head) => [
      ...[head, `${head}1`, `${head}9`, `${head}12`, `${head}10`, `${head}123456789`],
    ]);
    const powers = Array.from({ length: 30 }, (_, power) => power).flatMap((power) => [
      ...[`1e${power}`, `1e+${power}`, `1e-${power}`, `1.5e+${power}`, `1.5e-${power}`, `1E${power}`, `12e-${power}`],
    ]);
    const ends = ["9007199254740991", "9007199254740993", "1.7976931348623157e+308", "1e+309", "5e-324", "1e-325"];
    const zeros = ["0.1234567890123450", "00000000000000", "0000000000000001", "10.0000001", "1.0000001"];
    const all = [...long, ...points, ...tiny, ...powers, ...ends, ...zeros].flatMap((number) => [number, `-${number}`]);
    expect(disagreements(all.map((number) => `{"a":${number}}`))).toEqual([]);
    expect(disagreements(all.map((number) => `{"a":[${number},${number}],"b":1}`))).toEqual([]);
  });
});

describe("[VR-AUD-02] texts", () => {
  it("have every escape of one letter and of four digits, and every byte, as JSON.stringify writes them", () => {
    const codes = Array.from({ length: 0x180 }, (_, code) => code);
    const escapes = codes.flatMap((code) => {
      const hex = code.toString(16).padStart(4, "0");
      return [`\\u${hex}`, `\\u${hex.toUpperCase()}`, `\\U${hex}`, `\\u${hex.slice(1)}`, `\\x${hex.slice(2)}`];
    });
    const letters = codes.map((code) => `\\${String.fromCharCode(code)}`);
    const raw = codes.map((code) => String.fromCharCode(code));
    const all = [...escapes, ...letters, ...raw, "\\\\\\\\", '\\\\\\"', "\\u2028", "\u2028", "\\ud83d\\ude00", "😀"];
    expect(disagreements(all.map((text) => `{"a":"${text}"}`))).toEqual([]);
    expect(disagreements(all.map((text) => `{"a":"x${text}y","b":"${text}"}`))).toEqual([]);
  });
});

const WHOLE = '{"A":{},"a":[true,false,null,[],"x\\n"],"a_1":{"C":-1.5e-7,"c9":0.25},"b":100}';

describe("[VR-AUD-02] objects", () => {
  it("are taken with no byte of them replaced, doubled or left out, unless the other judge agrees", () => {
    expect(isTaken(WHOLE)).toBe(true);
    const changed = Array.from(WHOLE, (_, at) => at).flatMap((at) => {
      const [head, rest] = [WHOLE.slice(0, at), WHOLE.slice(at + 1)];
      return [head + rest, `${head}${WHOLE.charAt(at)}${WHOLE.charAt(at)}${rest}`].concat(
        PRINTABLE.map((letter) => head + letter + rest),
      );
    });
    expect(disagreements(changed)).toEqual([]);
  });

  it("end where they end, wherever they begin", () => {
    const object = '{"a":[1,{"b":"}"}]}';
    for (const before of ["", "x", '{"a":1}']) {
      for (const behind of ["", "}", ',"mac":1', " "]) {
        const bytes = bytesOf(before + object + behind);
        expect(canonicalObjectEnd(bytes, before.length)).toBe(before.length + object.length);
      }
    }
    expect(canonicalObjectEnd(bytesOf("{}"), 0)).toBe(2);
    for (let length = 0; length < WHOLE.length; length += 1) {
      expect(canonicalObjectEnd(bytesOf(WHOLE.slice(0, length)), 0), `the first ${length} bytes`).toBe(-1);
    }
  });

  it("have their keys in the order of bytes, each once", () => {
    const keys = ["A", "AA", "Z", "a", "a0", "aA", "a_", "aa", "ab", "b", "ba"];
    const pairs = keys.flatMap((one) => keys.map((other) => `{"${one}":1,"${other}":2}`));
    expect(disagreements(pairs)).toEqual([]);
    const triples = keys.flatMap((one) => keys.map((other) => `{"Z":{"y":1},"${one}":1,"${other}":2}`));
    expect(disagreements(triples)).toEqual([]);
  });

  it("have keys that are words of ASCII of 1 to 64 letters", () => {
    const codes = Array.from({ length: 0x100 }, (_, code) => String.fromCharCode(code));
    const keys = codes.flatMap((char) => [char, `a${char}`, `a${char}b`, `${char}a`]);
    for (const length of [0, 1, 63, 64, 65, 66]) keys.push("k".repeat(length));
    expect(disagreements(keys.map((key) => `{"${key}":1}`))).toEqual([]);
    expect(isTaken(`{"${"k".repeat(64)}":1}`)).toBe(true);
  });

  it.each([
    ["objects", '{"a":', "}", "{}"],
    ["lists", "[", "]", "[]"],
  ])("go as deep as was said, and no deeper: %s", (_what, open, close, inner) => {
    const deep = (levels: number): string => `{"a":${open.repeat(levels)}${inner}${close.repeat(levels)}}`;
    for (const depth of [1, 2, 3, 8]) {
      for (const levels of [0, 1, 2, 6, 7]) {
        const text = deep(levels);
        const end = canonicalObjectEnd(bytesOf(text), 0, depth);
        expect(end, `${levels + 2} levels, ${depth} allowed`).toBe(levels + 2 <= depth ? text.length : -1);
      }
    }
    expect(canonicalObjectEnd(bytesOf("{}"), 0, 0)).toBe(-1);
    expect([isTaken(deep(6)), isTaken(deep(7))]).toEqual([true, false]);
  });
});
