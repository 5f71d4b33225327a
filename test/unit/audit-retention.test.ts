/** Which segments may go, and in which order it happens: on record first, then one after the other; and refusals counted. */
import { rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Draft } from "../../src/audit/log-writer.ts";
import { createMissed, createRefusals } from "../../src/audit/refusals.ts";
import { createPruner, DAY_MS, findExpired, type Pruning } from "../../src/audit/retention.ts";
import { LIMITS } from "../../src/limits.ts";
import { leafFiles, lineFiles, makeLog, writeFiles } from "../helpers/audit-log.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 28, segmentLines: 8, epochLines: 4 });
const FILES = new Map([...lineFiles(LOG), ...leafFiles(LOG)]);
/** The time of a line: they are a millisecond apart. */
const timeOf = (seq: number): number => 1_767_225_600_000 + seq;
const bytesOf = (number: number): number => FILES.get(`00000${number}.jsonl`)?.byteLength ?? 0;

const lay = async (): Promise<string> => writeFiles(await temporaryFolder(), FILES);

describe("[VR-AUD-05] a segment may go", () => {
  it.each([
    ["none, where the first one ends at that time", 7, []],
    ["the first, where it ends before", 8, [1]],
    ["the first, until the next one ends", 15, [1]],
    ["two", 16, [1, 2]],
    ["all that are closed", 1000, [1, 2, 3]],
  ])("if its last line is older: %s", async (_what, seq, segments) => {
    const byteLength = segments.reduce((sum, number) => sum + bytesOf(number), 0);
    const entries = segments.length * 8;
    expect(await findExpired(await lay(), 4, timeOf(seq))).toEqual({
      ...{ segments, entries, prunedEntries: entries, byteLength },
    });
  });

  it("if it is not the one that is written to, and has its leaf hashes", async () => {
    const folder = await lay();
    expect((await findExpired(folder, 3, timeOf(1000))).segments).toEqual([1, 2]);
    expect((await findExpired(folder, 1, timeOf(1000))).segments).toEqual([]);
    rmSync(join(folder, "000002.leaves"));
    expect((await findExpired(folder, 4, timeOf(1000))).segments).toEqual([1]);
  });

  it("and those that went before count among the entries that are gone", async () => {
    const folder = await lay();
    rmSync(join(folder, "000001.jsonl"));
    expect(await findExpired(folder, 4, timeOf(16))).toEqual({
      ...{ segments: [2], entries: 8, prunedEntries: 16, byteLength: bytesOf(2) },
    });
  });

  it("if its last line can be read, however long the lines before are", async () => {
    const folder = await lay();
    truncateSync(join(folder, "000001.jsonl"), bytesOf(1) - 5);
    expect((await findExpired(folder, 4, timeOf(1000))).segments).toEqual([]);
    const last = Buffer.from(LOG.lines[7] ?? []);
    const long = Buffer.concat([
      Buffer.alloc(3 * LIMITS.auditLineBytes, "x"),
      Buffer.from("\n"),
      last,
      Buffer.from("\n"),
    ]);
    writeFileSync(join(folder, "000001.jsonl"), long);
    expect((await findExpired(folder, 4, timeOf(8))).segments).toEqual([1]);
    writeFileSync(join(folder, "000001.jsonl"), Buffer.concat([last, Buffer.from("\n")]));
    expect((await findExpired(folder, 4, timeOf(8))).segments).toEqual([1]);
    writeFileSync(join(folder, "000001.jsonl"), "");
    expect((await findExpired(folder, 4, timeOf(8))).segments).toEqual([]);
  });

  it("after days of 24 hours", () => {
    expect(DAY_MS).toBe(86_400_000);
  });
});

describe("[VR-AUD-05] pruning", () => {
  async function open(changed: Partial<Pruning> = {}) {
    const steps: unknown[] = [];
    const pruning: Pruning = {
      folder: await lay(),
      current: () => 4,
      oldestMs: () => timeOf(16),
      record: async (told) => void steps.push(told),
      remove: async (segment) => void steps.push(segment),
      onFailure: (thrown) => void steps.push(String(thrown)),
      ...changed,
    };
    return { prune: createPruner(pruning), steps };
  }

  it("puts on record what goes, then removes it, and says how many bytes that is", async () => {
    const { prune, steps } = await open();
    expect(await prune()).toBe(bytesOf(1) + bytesOf(2));
    expect(steps).toEqual([{ entries: 16, prunedEntries: 16, lastSegment: 2 }, 1, 2]);
  });

  it("does nothing where nothing is old", async () => {
    const { prune, steps } = await open({ oldestMs: () => 0 });
    expect([await prune(), steps]).toEqual([0, []]);
  });

  it("removes nothing that is not on record, and goes on another time", async () => {
    let fails = true;
    const removed: number[] = [];
    const { prune, steps } = await open({
      record: async () => {
        if (fails) throw new Error("no disk");
      },
      remove: async (segment) => void removed.push(segment),
    });
    expect([await prune(), steps, removed]).toEqual([0, ["Error: no disk"], []]);
    fails = false;
    expect([await prune(), removed]).toEqual([bytesOf(1) + bytesOf(2), [1, 2]]);
  });

  it("happens once at a time", async () => {
    const { prune, steps } = await open();
    const [first, second] = await Promise.all([prune(), prune()]);
    expect([first, second]).toEqual([bytesOf(1) + bytesOf(2), 0]);
    expect(steps).toHaveLength(3);
    // Nothing was removed from the folder: asked again, it finds the same.
    expect(await prune()).toBe(first);
  });
});

describe("[VR-AUD-03] refused requests", () => {
  const refused = (type: string, data: Draft["data"], timeMs = 1): Draft => ({ type, timeMs, data });

  function open() {
    let nowMs = 0;
    const refusals = createRefusals(() => nowMs);
    const pass = (ms: number): void => {
      nowMs += ms;
    };
    const take = (count: number, draft: (n: number) => Draft): number =>
      Array.from({ length: count }, (_, n) => refusals.take(draft(n))).filter((isWritten) => isWritten).length;
    return { refusals, pass, take };
  }
  const byDevice = (uuid: string) => (n: number) => refused("seal_refused", { device: { ordinal: n, uuid }, n }, n);

  it("are counted beyond eight of a kind; what is no refusal never is", () => {
    const { refusals, take } = open();
    expect(take(30, () => refused("worker_stopped", {}))).toBe(30);
    expect(take(LIMITS.auditRefusals + 5, byDevice("a"))).toBe(LIMITS.auditRefusals);
    expect(take(1, byDevice("b"))).toBe(1);
    expect(refusals.settle(false)).toEqual([]);
  });

  it.each([
    ["seal_refused", { device: { uuid: "a" } }, { device: { uuid: "b" } }, { device: { uuid: "a", more: 1 } }],
    ["vram_allocation_failed", { device: { uuid: "a" } }, { device: { uuid: "b" } }, { device: { uuid: "a" }, x: 1 }],
    [
      "auth_failed",
      { failure: "no-token", transport: "tcp" },
      { failure: "bad-token", transport: "tcp" },
      { failure: "no-token", transport: "tcp", caller: "x" },
    ],
    [
      "auth_failed",
      { failure: "no-token", transport: "tcp" },
      { failure: "no-token", transport: "socket" },
      { failure: "no-token", transport: "tcp" },
    ],
    [
      "request_refused",
      { code: "A", transport: "tcp" },
      { code: "B", transport: "tcp" },
      { code: "A", transport: "tcp", path: 2 },
    ],
    [
      "request_refused",
      { code: "A", transport: "tcp" },
      { code: "A", transport: "socket" },
      { code: "A", transport: "tcp" },
    ],
  ])("%s are told apart by what they are about", (type, one, other, same) => {
    const { take } = open();
    expect(take(LIMITS.auditRefusals, () => refused(type, one))).toBe(LIMITS.auditRefusals);
    expect(take(1, () => refused(type, same))).toBe(0);
    expect(take(1, () => refused(type, other))).toBe(1);
  });

  it("are told after a minute by the last of them, with how many and since when", () => {
    const { refusals, pass, take } = open();
    take(LIMITS.auditRefusals + 3, byDevice("a"));
    pass(59_999.6);
    expect(refusals.settle(false)).toEqual([]);
    pass(0.4);
    const n = LIMITS.auditRefusals + 2;
    const told = { device: { ordinal: n, uuid: "a" }, n, repeated: 3, sinceMs: 60_000 };
    expect(refusals.settle(false)).toEqual([{ type: "seal_refused", timeMs: n, data: told }]);
    // In the minute behind a count everything is counted; behind a quiet one they are written again.
    pass(1000);
    expect(take(2, byDevice("a"))).toBe(0);
    pass(59_000);
    expect(refusals.settle(false)).toMatchObject([{ data: { repeated: 2, sinceMs: 60_000 } }]);
    pass(60_000);
    expect(refusals.settle(false)).toEqual([]);
    expect(take(LIMITS.auditRefusals + 1, byDevice("a"))).toBe(LIMITS.auditRefusals);
  });

  it("are told at once at the end, and only those that were counted", () => {
    const { refusals, pass, take } = open();
    take(3, byDevice("a"));
    take(LIMITS.auditRefusals + 1, byDevice("b"));
    pass(10.4);
    expect(refusals.settle(true)).toMatchObject([{ data: { repeated: 1, sinceMs: 10 } }]);
  });

  it("of more kinds than there may be are counted by their type", () => {
    const { refusals, take } = open();
    expect(take(LIMITS.auditRefusalKinds, (n) => byDevice(`uuid-${n}`)(n))).toBe(LIMITS.auditRefusalKinds);
    expect(take(20, (n) => byDevice(`more-${n}`)(n))).toBe(LIMITS.auditRefusals);
    // A kind that is known stays one.
    expect(take(1, byDevice("uuid-0"))).toBe(1);
    const [told, ...others] = refusals.settle(true);
    expect([told?.data["repeated"], others]).toEqual([20 - LIMITS.auditRefusals, []]);
  });
});

describe("[VR-AUD-03] entries that found no place", () => {
  it("are counted until they are told, with the first 64 types", () => {
    const missed = createMissed();
    expect(missed.take()).toBeUndefined();
    for (const type of ["b", "a", "b"]) missed.add(type);
    expect(missed.take()).toEqual({ entries: 3, types: ["b", "a"] });
    expect(missed.take()).toBeUndefined();
    for (let n = 0; n < 70; n += 1) missed.add(`type-${n}`);
    const told = missed.take();
    expect([told?.entries, told?.types.length, told?.types.at(-1)]).toEqual([70, LIMITS.entryRanges, "type-63"]);
  });
});
