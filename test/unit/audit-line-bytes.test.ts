/**
 * Reading a line against a slower reader made of one pattern: every byte of a line replaced, left out or doubled. And
 * at its borders: the longest line and data, the fault and where it is, and the position that lines lead to.
 */
import { createHmac, createSecretKey } from "node:crypto";
import { describe, expect, it } from "vitest";
import { checkLineMac, dataOfLine, encodeLine, type LineFields } from "../../src/audit/line.ts";
import { parseLine } from "../../src/audit/parse-line.ts";
import { applyLine, beginSegment, createPosition } from "../../src/audit/position.ts";
import { createLogTree } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { bytesOf } from "../helpers/audit-log.ts";

const MAC_KEY = createSecretKey(bytesOf("mac key"));
const FIELDS: LineFields = {
  ...{ seq: 41, timeMs: 1_767_225_600_000, boot: bytesOf("boot").slice(0, 16), epoch: 3, type: "vram_sealed_2" },
  ...{ data: { name: "x", list: [1, true] }, prev: bytesOf("prev") },
};
const lineOf = (changed: Partial<LineFields> = {}): string =>
  Buffer.from(encodeLine({ ...FIELDS, ...changed }, MAC_KEY))
    .toString("utf8")
    .slice(0, -1);
const LINE = lineOf();
const parsed = (text: string) => parseLine(Buffer.from(text));
const faultAt = (text: string): readonly unknown[] => {
  const result = parsed(text);
  return result.ok ? ["none"] : [result.fault, result.offset];
};

const INTEGER = "(0|[1-9][0-9]{0,15})";
const PATTERN = new RegExp(
  `^\\{"v":1,"seq":${INTEGER},"time":${INTEGER},"boot":"[0-9a-f]{32}","epoch":([1-9][0-9]{0,15}),` +
    '"type":"[a-z][a-z0-9_]{0,63}","data":(\\{.*\\}),"prev":"[0-9a-f]{64}","mac":"[0-9a-f]{64}"\\}$',
);
/** The other reader; `data` of the lines here is written one way only. */
function isLine(text: string): boolean {
  const [, seq, time, epoch, data = ""] = PATTERN.exec(text) ?? [];
  if (seq === undefined) return false;
  try {
    const value = JSON.parse(data) as object;
    const isPlain = Object.keys(value).every((key) => /^[A-Za-z]\w*$/.test(key));
    const isSorted = JSON.stringify(Object.keys(value)) === JSON.stringify(Object.keys(value).sort());
    const areSafe = [seq, time, epoch].every((number) => Number.isSafeInteger(Number(number)));
    return JSON.stringify(value) === data && isPlain && isSorted && areSafe;
  } catch {
    return false;
  }
}

describe("[VR-AUD-02] a line", () => {
  it("is read exactly if the pattern takes it, with any byte replaced, left out or doubled", () => {
    const letters = ' "\\,:{}[]-._/019:@AFG`afgz~';
    const wrong: string[] = [];
    for (let at = 0; at < LINE.length; at += 1) {
      const [head, rest] = [LINE.slice(0, at), LINE.slice(at + 1)];
      const changed = [head + rest, `${head}${LINE.charAt(at)}${LINE.charAt(at)}${rest}`, head];
      for (const letter of letters) changed.push(head + letter + rest);
      wrong.push(...changed.filter((text) => parsed(text).ok !== isLine(text)));
    }
    expect(wrong).toEqual([]);
    expect(parsed(LINE).ok).toBe(true);
  });

  const at = (text: string): number => LINE.indexOf(text);
  it.each([
    ["a space in front of a key", LINE.replace(',"seq"', ', "seq"'), "form", at(',"seq"')],
    ["a key that ends early", LINE.replace('"seq":', '"seq" :'), "form", at(',"seq"')],
    ["an unknown key of 70 letters", LINE.replace('"seq"', `"${"k".repeat(70)}"`), "unknown-key", at(',"seq"')],
    ["an unknown key of 90 letters", LINE.replace('"seq"', `"${"k".repeat(90)}"`), "form", at(',"seq"')],
    ["a key that was there", LINE.replace('"boot"', '"time"'), "duplicate-key", at(',"boot"')],
    ["a key that comes later", LINE.replace('"boot"', '"mac"'), "key-order", at(',"boot"')],
    ["another version", LINE.replace('"v":1', '"v":2'), "version", 5],
    ["version 0", LINE.replace('"v":1', '"v":0'), "version", 5],
    ["seq beyond 2^53 − 1", LINE.replace("41", "9007199254740992"), "number", at("41")],
    ["time 00", LINE.replace("1767225600000", "00"), "number", at("1767225600000")],
    ["no time", LINE.replace("1767225600000", ""), "number", at("1767225600000")],
    ["a time of the character behind 9", LINE.replace("1767225600000", ":"), "number", at("1767225600000")],
    ["a time of the character before 0", LINE.replace("1767225600000", "/"), "number", at("1767225600000")],
    ["epoch 0", LINE.replace('"epoch":3', '"epoch":0'), "number", at('"epoch":3') + 8],
    ["a capital in boot", LINE.replace('"boot":"', '"boot":"F'), "hex", at('"boot":"') + 8],
    ["a boot too long", LINE.replace('"boot":"', '"boot":"0'), "hex", at('"boot":"') + 8 + 32],
    ["a digit that is none, second of two", LINE.replace(/("boot":"..).../, "$10g0"), "hex", at('"boot":"') + 8 + 2],
    ["a type that begins with _", LINE.replace("vram_sealed_2", "_a"), "type", at("vram_sealed_2")],
    ["a type with a hyphen", LINE.replace("vram_sealed_2", "vram-sealed"), "type", at("vram_sealed_2") + 4],
    ["a type of 65 letters", LINE.replace("vram_sealed_2", "a".repeat(65)), "type", at("vram_sealed_2")],
    ["data that ends nowhere", LINE.replace("[1,true]", "[1,true"), "data", at('"data":') + 7],
    ["something behind", `${LINE}}`, "form", LINE.length - 1],
    ["no end", LINE.slice(0, -1), "form", LINE.length - 1],
  ])("with %s says what is wrong, and where", (_what, text, fault, offset) => {
    expect(faultAt(text)).toEqual([fault, offset]);
  });

  it("may have a type of 64 letters, digits and _, and the largest numbers", () => {
    const type = `z${"09_a".repeat(16)}`.slice(0, 64);
    const most = Number.MAX_SAFE_INTEGER;
    const result = parsed(lineOf({ type, seq: most, timeMs: most, epoch: most }));
    expect(result.ok && result.line).toMatchObject({ type, seq: most, timeMs: most, epoch: most });
    expect(parsed(lineOf({ seq: 0, timeMs: 0, epoch: 1, type: "a" })).ok).toBe(true);
  });

  it("has data of less than 32 KiB", () => {
    const dataOf = (byteLength: number) => ({ a: "x".repeat(byteLength - '{"a":""}'.length) });
    expect(parsed(lineOf({ data: dataOf(LIMITS.auditDataBytes - 1) })).ok).toBe(true);
    expect(() => lineOf({ data: dataOf(LIMITS.auditDataBytes) })).toThrow("the entry vram_sealed_2 has no line: data");
    expect(() => lineOf({ data: dataOf(LIMITS.auditLineBytes) })).toThrow(
      "the entry vram_sealed_2 has no line: too-long",
    );
  });

  it("that cannot be written says which part of it, and why", () => {
    const refusal = (changed: Partial<LineFields>): unknown => {
      try {
        return lineOf(changed);
      } catch (error) {
        return error instanceof VramError ? [error.code, error.details] : error;
      }
    };
    expect(refusal({ data: { "a-b": 1 } })).toEqual(["INVALID_ARGUMENT", { argument: "data", fault: "data" }]);
    for (const argument of ["seq", "timeMs", "epoch"]) {
      for (const value of [-1, 1.5, 2 ** 53]) {
        expect(refusal({ [argument]: value }), argument).toEqual(["INVALID_ARGUMENT", { argument }]);
      }
    }
    for (const changed of [{ boot: new Uint8Array(17) }, { prev: new Uint8Array(31) }]) {
      expect(refusal(changed)).toEqual(["INTERNAL", {}]);
    }
  });

  it("has the mac that anybody with the key computes over all in front of it", () => {
    const covered = `vram-residency/audit/v1\n${LINE.slice(0, LINE.indexOf(',"mac"'))}`;
    const mac = createHmac("sha256", MAC_KEY).update(covered).digest();
    const result = parsed(LINE);
    if (!result.ok) throw new Error(result.fault);
    expect(toHex(result.line.mac)).toBe(toHex(mac));
    expect(checkLineMac(result.line, MAC_KEY)).toBe("valid");
    expect(checkLineMac({ ...result.line, mac: bytesOf("another") }, MAC_KEY)).toBe("mac");
    expect(dataOfLine(result.line)).toEqual(FIELDS.data);
    expect(result.line.dataStart).toBe(at('"data":') + 7);
  });
});

describe("the position of a log", () => {
  const leaf = (index: number): Uint8Array => bytesOf(`leaf ${index}`);

  it("is at the beginning: zeros, no epoch, no lines", () => {
    const { tree, ...rest } = createPosition();
    expect(tree.size).toBe(0);
    expect(rest).toEqual({ prev: new Uint8Array(32), epoch: 0, epochEntries: 0, segmentEntries: 0 });
  });

  it("moves with each line: tree, hash, epoch, and lines of epoch and segment", () => {
    const position = createPosition();
    const tree = createLogTree();
    const steps: readonly (readonly [epoch: number | undefined, after: readonly number[]])[] = [
      [1, [1, 1, 1]],
      [1, [1, 2, 2]],
      [undefined, [1, 3, 3]],
      [2, [2, 1, 4]],
      [4, [4, 1, 5]],
      [4, [4, 2, 6]],
    ];
    for (const [index, [epoch, after]] of steps.entries()) {
      tree.append(leaf(index));
      applyLine(position, leaf(index), epoch);
      expect([position.epoch, position.epochEntries, position.segmentEntries]).toEqual(after);
      expect([toHex(position.prev), toHex(position.tree.root())]).toEqual([toHex(leaf(index)), toHex(tree.root())]);
    }
    beginSegment(position);
    expect([position.epoch, position.epochEntries, position.segmentEntries]).toEqual([4, 2, 0]);
  });
});
