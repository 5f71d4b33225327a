/** From an entry to `data` of a line: texts and lists at their borders, and what the line says in fields of its own. */
import { describe, expect, it } from "vitest";
import { boundedData, draftOf } from "../../src/audit/data.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { LIMITS } from "../../src/limits.ts";

const jsonBytes = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));
/** Text with this many bytes of JSON, the quotation marks included. */
const textOf = (byteLength: number, letter = "x"): string => letter.repeat(byteLength - 2);
const bounded = (value: unknown): unknown => boundedData({ type: "a", value })["value"];

describe("a text", () => {
  const most = LIMITS.auditTextBytes;

  it("stays whole up to its limit in bytes of JSON, and is cut behind it", () => {
    const whole = "x".repeat(most - 2);
    expect(bounded(whole)).toBe(whole);
    const cut = bounded(`${whole}y`);
    expect(cut).toBe(`${whole.slice(0, -3)}…`);
    expect(jsonBytes(cut)).toBe(most);
    expect(bounded("")).toBe("");
  });

  it.each([
    ["two bytes", "é", 2],
    ["four bytes", "😀", 4],
    ["an escape of two", '"', 2],
    ["an escape of six", "\u0001", 6],
  ])("is cut between characters of %s", (_what, letter, bytes) => {
    const cut = String(bounded(letter.repeat(most)));
    // … has three bytes, the quotation marks two.
    const fit = Math.floor((most - 5) / bytes);
    expect(cut).toBe(`${letter.repeat(fit)}…`);
    expect(jsonBytes(cut)).toBeLessThanOrEqual(most);
    expect(jsonBytes(cut)).toBeGreaterThan(most - bytes);
  });

  it("becomes well-formed, and is bounded wherever it stands", () => {
    expect(bounded("a\ud800b")).toBe("a\ufffdb");
    const long = "x".repeat(most);
    const cut = `${"x".repeat(most - 5)}…`;
    expect(bounded({ inner: { text: long, other: 1, none: null } })).toEqual({
      inner: { text: cut, other: 1, none: null },
    });
    expect(bounded([long, [long], { a: long }])).toEqual([cut, [cut], { a: cut }]);
  });

  it("is the only thing that is bounded by its length: numbers, truth and nothing stay", () => {
    for (const value of [0, 1.5, true, false, null]) expect(bounded(value)).toBe(value);
    expect(boundedData({ type: "a", gone: undefined })).toEqual({});
  });
});

describe("a list", () => {
  const most = LIMITS.entryRanges;

  it("has at most 64 items, and its whole number under another name only if it was cut", () => {
    const items = Array.from({ length: most + 2 }, (_, index) => index);
    expect(boundedData({ type: "a", items: items.slice(0, most) })).toEqual({ items: items.slice(0, most) });
    expect(boundedData({ type: "a", items })).toEqual({ items: items.slice(0, most), itemsTotal: most + 2 });
    expect(boundedData({ type: "a", items: [] })).toEqual({ items: [] });
  });

  it.each([
    ["larger", 1000, 1000],
    ["smaller", 3, 66],
    ["no number", "many", 66],
  ])("keeps the number that the entry brought if it is %s", (_what, told, total) => {
    const items = Array.from({ length: 66 }, (_, index) => index);
    expect(boundedData({ type: "a", items, itemsTotal: told })["itemsTotal"]).toBe(total);
    // A list that was not cut does not touch it.
    expect(boundedData({ type: "a", items: [1], itemsTotal: told })["itemsTotal"]).toBe(told);
  });

  it("has at most 16 KiB of JSON with its commas", () => {
    const item = textOf(1023);
    const items = Array.from({ length: 17 }, () => item);
    const data = boundedData({ type: "a", items });
    // 1023 bytes and a comma are 1 KiB each.
    expect([data["items"], data["itemsTotal"]]).toEqual([items.slice(0, 16), 17]);
    const longer = boundedData({ type: "a", items: items.map((text) => `${text}x`) });
    expect([(longer["items"] as unknown[]).length, longer["itemsTotal"]]).toEqual([15, 17]);
  });

  it("shares 29 KiB with the others: the short ones stay whole, the longest are cut alike", () => {
    const items = (count: number, letter: string) => Array.from({ length: count }, () => letter.repeat(510));
    const [short, one, other] = [items(2, "a"), items(30, "b"), items(31, "c")];
    const data = boundedData({ type: "a", one, short, other });
    expect(data["short"]).toEqual(short);
    expect(data).not.toHaveProperty("shortTotal");
    const lengths = [data["one"], data["other"]].map((list) => (list as unknown[]).length);
    // What is left of 29 KiB without the short one, halved; 513 bytes an item with its comma.
    const share = Math.floor((LIMITS.auditListsBytes - jsonBytes(short)) / 2);
    expect(lengths).toEqual([Math.floor(share / 513), Math.floor(share / 513)]);
    expect([data["oneTotal"], data["otherTotal"]]).toEqual([30, 31]);
    const all = [data["one"], data["short"], data["other"]].reduce((sum: number, list) => sum + jsonBytes(list), 0);
    expect(all).toBeLessThanOrEqual(LIMITS.auditListsBytes);
  });

  it("alone may have all it is allowed, though the lists together may have more", () => {
    const items = Array.from({ length: 31 }, () => "b".repeat(510));
    const alone = boundedData({ type: "a", items })["items"] as unknown[];
    expect(alone).toHaveLength(31);
    const two = boundedData({ type: "a", items, more: ["x"] });
    expect((two["items"] as unknown[]).length).toBe(31);
    expect(two["more"]).toEqual(["x"]);
  });
});

describe("a draft", () => {
  const STAMPS = { seq: 7, durability: "durable", gates: true } as const;
  const draft = (entry: object) => draftOf({ ...STAMPS, timeMs: 1234.9, ...entry } as unknown as Entry);

  it("has the type, the time in whole milliseconds, and everything but the stamps", () => {
    const entry = { type: "seal_refused", shardId: "s", reason: "mac", correlationId: "c" };
    expect(draft(entry)).toEqual({
      ...{ type: "seal_refused", timeMs: 1234 },
      data: { shardId: "s", reason: "mac", correlationId: "c" },
    });
  });

  it("names the worker only where there is no device, which says as much", () => {
    const device = { ordinal: 0, uuid: "EMU-1" };
    expect(draft({ type: "x", workerId: "EMU-1" }).data).toEqual({ workerId: "EMU-1" });
    expect(draft({ type: "x", workerId: "EMU-1", device }).data).toEqual({ device });
    expect(draft({ type: "x" }).data).toEqual({});
  });

  it.each([
    [-5, 0],
    [0.99, 0],
    [Number.NaN, 0],
    [Number.POSITIVE_INFINITY, 0],
    [2 ** 53, 0],
    [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ])("of time %d has %d: a line is written whatever a clock says", (timeMs, written) => {
    expect(draft({ type: "x", timeMs }).timeMs).toBe(written);
  });
});
