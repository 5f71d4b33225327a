/**
 * SIGKILL at each of the first fdatasyncs, and at the other calls that a writer's files go through: what was
 * acknowledged is there, and the next process goes on.
 */
import { describe, expect, test } from "vitest";
import { crash, createState, createTally, hasStrace, isLong, LOAD, reportTally } from "../helpers/audit-writer.ts";

if (!hasStrace) console.log("skipped: the audit log's writer killed at system calls, for which there is no strace");

const FDATASYNCS = isLong ? 100 : 20;

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

/** The calls besides fdatasync, and how many of the first of each. */
const CALLS: readonly (readonly [call: string, what: string, ns: readonly number[]])[] = [
  ["fsync", "a key or a folder is synced", upTo(isLong ? 40 : 12)],
  ["rename", "a key or a log checkpoint is replaced", upTo(isLong ? 30 : 6)],
  ["pwrite64", "lines, leaf hashes, notes, the old key", upTo(isLong ? 60 : 8)],
];

describe.skipIf(!hasStrace)("a writer that is killed", () => {
  test("[VR-AUD-04] at the Nth fdatasync", { timeout: 300_000 }, async () => {
    const tally = createTally();
    for (const n of upTo(FDATASYNCS)) {
      const inject = ["-e", "trace=fdatasync", "-e", `inject=fdatasync:signal=SIGKILL:when=${n}`];
      const told = await crash(tally, await createState(), LOAD, { inject });
      expect(told, `at fdatasync ${n}`).toMatchObject({ closed: false, refused: [] });
    }
    reportTally(`SIGKILL at fdatasync 1–${FDATASYNCS}`, tally);
  });

  test.each(CALLS)("[VR-AUD-04] at the Nth %s: %s", { timeout: 300_000 }, async (call, _what, ns) => {
    const tally = createTally();
    for (const n of ns) {
      const inject = ["-e", `trace=${call}`, "-e", `inject=${call}:signal=SIGKILL:when=${n}`];
      const { refused } = await crash(tally, await createState(), LOAD, { inject });
      expect(refused, `at ${call} ${n}`).toEqual([]);
    }
    reportTally(`SIGKILL at ${call} 1–${ns.length}`, tally);
  });
});
