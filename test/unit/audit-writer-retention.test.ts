/** Rotation and retention of the audit log (VR-AUD-05): whole segments go, the tree can still be checked. */
import { promises, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { EPOCH_KEY_FILE, readEpochFile } from "../../src/audit/key-files.ts";
import { segmentFile } from "../../src/audit/segments.ts";
import { verifyLog } from "../../src/audit/verify-log.ts";
import { createDisk, systemError } from "../helpers/audit-writer-disk.ts";
import { durable, openUnit, type UnitLog, until, YEAR_2026 } from "../helpers/audit-writer-unit.ts";

const DAY_MS = 24 * 3600 * 1000;
const OPTIONS = { segmentBytes: 140_000, retentionDays: 30 };

afterEach(() => vi.restoreAllMocks());

const named = (log: UnitLog, pattern: RegExp): string[] =>
  readdirSync(log.state.folder).filter((name) => pattern.test(name));
const segments = (log: UnitLog): string[] => named(log, /\.jsonl$/);

/** Entries of a segment, by its leaf hashes. */
const leavesOf = (log: UnitLog, number: number): number =>
  statSync(join(log.state.folder, segmentFile(number, "leaves"))).size / 32;

/** Fills one segment a day, beginning with `day`. */
async function fillDays(log: UnitLog, day: number, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    log.clock.wall = YEAR_2026 + (day + n) * DAY_MS;
    const before = named(log, /\.leaves$/).length;
    do {
      await log.journal.append({
        type: "worker_resumed",
        device: { ordinal: 0, uuid: "EMU-0" },
        reason: "x".repeat(4000),
      });
    } while (named(log, /\.leaves$/).length === before);
  }
}

/** Sound with the key that the state has: those of pruned lines are not needed. */
async function expectSoundPruned(log: UnitLog, prunedSegments: number): Promise<void> {
  const epochKeys = await readEpochFile(join(log.state.stateDir, EPOCH_KEY_FILE));
  const escrowed = await readEpochFile(log.state.escrow);
  for (const keys of [epochKeys, escrowed]) {
    const report = await verifyLog(log.state.folder, keys === undefined ? {} : { epochKeys: keys });
    expect(report.problems).toEqual([]);
    expect(report.prunedEntries > 0).toBe(prunedSegments > 0);
    expect(report.checkpoints.matched).toBe(report.checkpoints.stored);
  }
}

describe("retention", () => {
  test("[VR-AUD-05] prunes whole segments that are older, after an entry that says so, and keeps their leaf hashes", async () => {
    const log = await openUnit(OPTIONS);
    await fillDays(log, 0, 5);
    expect(segments(log)).toHaveLength(6);
    await log.log.close();
    await expectSoundPruned(log, 0);

    const later = await openUnit(
      { ...OPTIONS, clock: { ...log.clock, wallMs: () => YEAR_2026 + 32.5 * DAY_MS } },
      log.state,
    );
    expect(segments(later)).toEqual(["000004.jsonl", "000005.jsonl", "000006.jsonl"]);
    expect(named(later, /\.leaves$/)).toHaveLength(6);
    const pruned = (await later.entries()).filter(({ type }) => type === "audit_pruned").map(({ data }) => data);
    const gone = leavesOf(later, 1) + leavesOf(later, 2) + leavesOf(later, 3);
    expect(pruned).toEqual([{ entries: gone, lastSegment: 3, prunedEntries: gone }]);
    expect(later.notes).toContainEqual({ type: "audit_pruned", ...pruned[0] });
    await later.log.close();
    await expectSoundPruned(later, 3);

    const again = await openUnit(OPTIONS, log.state);
    await again.log.reader.accept(durable("goes on"));
    await again.log.close();
    await expectSoundPruned(again, 3);
  });

  test("[VR-AUD-05] works while the log runs, each time a segment ends", async () => {
    const log = await openUnit(OPTIONS);
    await fillDays(log, 0, 3);
    await fillDays(log, 40, 1);
    await until(() => segments(log).length === 2);
    await fillDays(log, 80, 2);
    await until(() => segments(log).length === 3);
    await log.log.close();
    await expectSoundPruned(log, 4);
    const pruned = (await log.entries()).filter(({ type }) => type === "audit_pruned");
    expect(pruned.length).toBeGreaterThan(0);
  });

  test("[VR-AUD-05] a crash between the entry and the removal is made up for at the next start", async () => {
    const log = await openUnit(OPTIONS);
    await fillDays(log, 0, 3);
    await log.log.close();
    const clock = { ...log.clock, wallMs: () => YEAR_2026 + 100 * DAY_MS };
    const real = promises.rm;
    vi.spyOn(promises, "rm").mockImplementation(async (path, options) => {
      if (String(path).endsWith("000002.jsonl")) throw systemError("EIO");
      await real(path, options);
    });
    const crashed = await openUnit({ ...OPTIONS, clock }, log.state);
    expect(segments(crashed)).toEqual(["000002.jsonl", "000003.jsonl", "000004.jsonl"]);
    await crashed.log.close();
    await expectSoundPruned(crashed, 1);
    vi.restoreAllMocks();
    const next = await openUnit({ ...OPTIONS, clock }, log.state);
    expect(segments(next)).toEqual(["000004.jsonl"]);
    await next.log.close();
    await expectSoundPruned(next, 3);
  });

  test("[VR-AUD-05] keeps what it cannot put on record", async () => {
    const log = await openUnit(OPTIONS);
    await fillDays(log, 0, 2);
    await log.log.close();
    const clock = { ...log.clock, wallMs: () => YEAR_2026 + 100 * DAY_MS };
    const disk = createDisk();
    disk.onWrite = () => Promise.reject(systemError("ENOSPC"));
    const full = await openUnit({ ...OPTIONS, clock, openFile: disk.openFile }, log.state);
    expect(segments(full)).toHaveLength(3);
    expect(full.notes).toContainEqual(expect.objectContaining({ type: "audit_failed", final: false }));
    await full.log.close();
    await expectSoundPruned(full, 0);
  });

  test("[VR-AUD-05] makes room in a log that has reached its limit", async () => {
    const log = await openUnit(OPTIONS);
    await fillDays(log, 0, 2);
    await log.log.close();
    const clock = { ...log.clock, wallMs: () => YEAR_2026 + 100 * DAY_MS };
    const limited = await openUnit({ ...OPTIONS, clock, maxBytes: 100_000 }, log.state);
    expect(segments(limited)).toEqual(["000003.jsonl"]);
    await limited.log.reader.accept(durable("there is room again"));
    await limited.log.close();
    await expectSoundPruned(limited, 2);
  });
});
