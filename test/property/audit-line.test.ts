/**
 * The reader of audit lines under fuzz. The law: bytes are a line exactly if writing what they say gives these bytes.
 * The second opinion is JSON.parse with our canonical JSON, which builds what the reader only scans.
 */
import { createSecretKey } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalObjectEnd } from "../../src/audit/canonical.ts";
import { dataOfLine, encodeLine, type LineData } from "../../src/audit/line.ts";
import { parseLine } from "../../src/audit/parse-line.ts";
import { canonicalJson } from "../../src/bytes.ts";
import { bytesOf } from "../helpers/audit-log.ts";
import { randomOf } from "../helpers/mutate.ts";

const MAC_KEY = createSecretKey(bytesOf("mac key"));

const key = fc.oneof(
  { weight: 9, arbitrary: fc.stringMatching(/^[A-Za-z][A-Za-z0-9_]{0,9}$/) },
  fc.constantFrom("a", "aa", "A", "toString", "z9"),
);
const leaf = fc.oneof(
  fc.string({ unit: "binary", maxLength: 20 }).map((text) => text.toWellFormed()),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => (Object.is(value, -0) ? 0 : value)),
  fc.maxSafeInteger(),
  fc.integer({ min: -1_000_000, max: 1_000_000 }).map((value) => value / 1000),
  fc.boolean(),
  fc.constant(null),
);
const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 5, withCrossShrink: true },
    leaf,
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(key, tie("value"), { maxKeys: 4, noNullPrototype: true }),
  ),
}));
const data = fc.dictionary(key, value, { maxKeys: 6, noNullPrototype: true }) as fc.Arbitrary<LineData>;

/** Whether `text` is the canonical form of an object whose keys are words, by parsing and writing it. */
function isCanonical(text: string): boolean {
  const depthOf = (part: unknown): number => {
    if (typeof part !== "object" || part === null) return 0;
    return 1 + Math.max(0, ...Object.values(part).map(depthOf));
  };
  const keysOf = (part: unknown): string[] => {
    if (typeof part !== "object" || part === null) return [];
    const inner = Object.values(part).flatMap(keysOf);
    return Array.isArray(part) ? inner : [...Object.keys(part), ...inner];
  };
  try {
    const parsed: unknown = JSON.parse(text);
    const isObject = typeof parsed === "object" && parsed !== null && !Array.isArray(parsed);
    const keysAreWords = keysOf(parsed).every((name) => /^[A-Za-z][A-Za-z0-9_]{0,63}$/.test(name));
    return isObject && keysAreWords && depthOf(parsed) <= 8 && canonicalJson(parsed) === text;
  } catch {
    return false;
  }
}

const scans = (text: string): boolean => {
  const bytes = Buffer.from(text);
  return canonicalObjectEnd(bytes, 0) === bytes.byteLength;
};

/** Pieces that mean something to the reader. */
const TOKENS = ["{", "}", "[", "]", ",", ":", '"', "\\", "\\u001f", "\\u0061", "-", ".", "e", "0", "null", " ", "é"];

/** `text` with a few small changes that follow from `seed`. */
function mutated(text: string, seed: number): string {
  const random = randomOf(seed, 0);
  let out = text;
  for (let step = 0; step <= random(2); step += 1) {
    const at = random(out.length + 1);
    const put = [TOKENS[random(TOKENS.length)] ?? "", out.slice(at, at + random(9)), ""][random(3)] ?? "";
    const from = random(2) === 0 ? at : random(out.length + 1);
    out = `${out.slice(0, from)}${put}${out.slice(from + random(3))}`;
  }
  return out.toWellFormed();
}

describe("data of a line", () => {
  it("[VR-AUD-02] is accepted as canonical JSON writes it", () => {
    fc.assert(
      fc.property(data, (given) => {
        expect(scans(canonicalJson(given))).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  it("[VR-AUD-02] is accepted exactly if parsing and writing it gives the same bytes", () => {
    let accepted = 0;
    fc.assert(
      fc.property(data, fc.integer(), (given, seed) => {
        const text = mutated(canonicalJson(given), seed);
        expect(scans(text), text).toBe(isCanonical(text));
        if (scans(text)) accepted += 1;
      }),
      { numRuns: 20_000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });

  it("has numbers in the form that JSON.stringify gives them", () => {
    const digits = fc.stringMatching(/^-?[0-9]{0,18}(\.[0-9]{0,18})?([eE][-+]?[0-9]{1,3})?$/);
    fc.assert(
      fc.property(digits, (text) => {
        const object = `{"a":${text}}`;
        expect(scans(object), text).toBe(isCanonical(object));
      }),
      { numRuns: 20_000 },
    );
  });
});

describe("lines", () => {
  const line = fc.record({
    seq: fc.maxSafeNat(),
    timeMs: fc.maxSafeNat(),
    boot: fc.uint8Array({ minLength: 16, maxLength: 16 }),
    epoch: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    type: fc.stringMatching(/^[a-z][a-z0-9_]{0,63}$/),
    data,
    prev: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  });

  it("[VR-AUD-02] are read as they were written", () => {
    fc.assert(
      fc.property(line, (fields) => {
        const bytes = encodeLine(fields, MAC_KEY);
        const parsed = parseLine(bytes.subarray(0, -1));
        if (!parsed.ok) throw new Error(parsed.fault);
        const { data: given, boot, prev, ...rest } = fields;
        expect(parsed.line).toMatchObject(rest);
        expect([...parsed.line.boot, ...parsed.line.prev]).toEqual([...boot, ...prev]);
        expect(canonicalJson(dataOfLine(parsed.line))).toBe(canonicalJson(given));
      }),
      { numRuns: 1000 },
    );
  });

  it("[VR-AUD-02] that are accepted are what writing them would give, whatever was done to the bytes", () => {
    let accepted = 0;
    fc.assert(
      fc.property(line, fc.integer(), (fields, seed) => {
        const text = mutated(Buffer.from(encodeLine(fields, MAC_KEY)).toString().slice(0, -1), seed);
        const parsed = parseLine(Buffer.from(text));
        if (!parsed.ok) return;
        accepted += 1;
        const written = Buffer.from(encodeLine({ ...parsed.line, data: dataOfLine(parsed.line) }, MAC_KEY)).toString();
        // All but the mac, which only who has the key can write.
        expect(text.slice(0, -66)).toBe(written.slice(0, -67));
      }),
      { numRuns: 10_000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });

  it("are refused, not thrown at, whatever the bytes are", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(parseLine(bytes).ok).toBe(false);
        expect(parseLine(Buffer.concat([Buffer.from('{"v":1,"seq":'), bytes])).ok).toBe(false);
      }),
      { numRuns: 5000 },
    );
  });
});
