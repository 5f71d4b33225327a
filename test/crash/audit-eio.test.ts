/**
 * EIO at each of the first syncs: the kernel has forgotten what was lost, and the next fdatasync would say that all is
 * well. So the writer is ended for good: whatever comes after is refused, the process ends in order, and what was
 * acknowledged before is there.
 */
import { describe, expect, test } from "vitest";
import { crash, createState, createTally, hasStrace, isLong, LOAD, reportTally } from "../helpers/audit-writer.ts";

if (!hasStrace) console.log("skipped: the audit log on a disk that fails, for which there is no strace");

const COUNT = isLong ? 60 : 20;

const ALL_REFUSED = Array.from({ length: 3 * LOAD.writers }, () => "AUDIT_UNAVAILABLE");

describe.skipIf(!hasStrace)("a disk that fails", () => {
  test.each(["fdatasync", "fsync"])("[VR-AUD-03] [VR-AUD-04] at the Nth %s", { timeout: 300_000 }, async (call) => {
    const tally = createTally();
    let unharmed = 0;
    for (let n = 1; n <= (call === "fsync" ? COUNT / 2 : COUNT); n += 1) {
      const inject = ["-e", `trace=${call}`, "-e", `inject=${call}:error=EIO:when=${n}`];
      const { acknowledgedLate, refused, closed, failed, code } = await crash(tally, await createState(), LOAD, {
        inject,
      });
      const where = `at ${call} ${n}`;
      expect(acknowledgedLate, `acknowledged after the failure, ${where}`).toBe(0);
      if (failed !== undefined) continue;
      // One fsync is that of the reserve, without which the log goes on. Otherwise each of the writers tried three times.
      expect([closed, code], where).toEqual([true, 0]);
      expect(refused, where).toEqual(refused.length === 0 ? [] : ALL_REFUSED);
      unharmed += refused.length === 0 ? 1 : 0;
    }
    expect(unharmed).toBe(call === "fsync" ? 1 : 0);
    reportTally(`EIO at ${call}`, tally);
  });
});
