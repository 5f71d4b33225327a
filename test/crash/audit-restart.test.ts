/**
 * A start that is killed as well: the first one, which makes folder and keys, and one that has everything to mend that a
 * crash can leave. At each call in turn, until a start survives; then the next one goes on.
 */
import { appendFileSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { EPOCH_KEY_FILE } from "../../src/audit/key-files.ts";
import {
  bytesOfState,
  type CrashState,
  crash,
  createState,
  createTally,
  entryOf,
  expectRecovers,
  hasStrace,
  isLong,
  LOAD,
  openLog,
  readEntries,
  reportTally,
  runWriter,
} from "../helpers/audit-writer.ts";

if (!hasStrace) console.log("skipped: a start of the audit log killed at system calls, for which there is no strace");

/** Calls that change files; in each run those at which something is still undone, all of them in the long form. */
const ALL = ["fsync", "fdatasync", "rename", "ftruncate", "pwrite64", "link", "unlink", "mkdir"];
const MENDING = isLong ? ALL : ["fsync", "rename", "ftruncate"];
const BEGINNING = isLong ? ALL : ["fsync", "rename", "mkdir"];

const killAt = (call: string, n: number): string[] => [
  "-e",
  `trace=${call}`,
  "-e",
  `inject=${call}:signal=SIGKILL:when=${n}`,
];

/** One entry, and the end. */
const ONE = { ...LOAD, writers: 1, entries: 1 };

/** A log of two starts with the key of the one before, and with everything torn that can be. */
async function createTorn(): Promise<{ readonly state: CrashState; readonly ids: string[] }> {
  const state = await createState();
  const ids: string[] = [];
  const key = join(state.stateDir, EPOCH_KEY_FILE);
  let before = Buffer.alloc(0);
  for (const start of ["first", "second"]) {
    if (start === "second") before = readFileSync(key);
    const { log, journal } = await openLog(state);
    for (let n = 0; n < 5; n += 1) {
      ids.push(`${start} ${n}`);
      await journal.append(entryOf("x", ids.at(-1)));
    }
    await log.close();
  }
  const lines = join(state.folder, "000001.jsonl");
  const leaves = join(state.folder, "000001.leaves");
  writeFileSync(key, before);
  appendFileSync(lines, readFileSync(lines).subarray(0, 100));
  truncateSync(leaves, readFileSync(leaves).byteLength - 40);
  appendFileSync(join(state.folder, "checkpoints"), readFileSync(join(state.folder, "checkpoint")).subarray(0, 60));
  writeFileSync(join(state.folder, "log.vkey.01234567-89ab-4cde-8f01-23456789abcd.tmp"), "left behind");
  return { state, ids };
}

describe("a start with everything to mend", () => {
  test("[VR-AUD-04] mends it: the torn line is kept and on record, and no more than that is lost", async () => {
    const { state, ids } = await createTorn();
    const { torn } = await expectRecovers(state, ids);
    expect(torn).toBe(1);
    const kept = readFileSync(join(state.folder, "000001.torn"));
    expect(kept).toEqual(readFileSync(join(state.folder, "000001.jsonl")).subarray(0, 100));
    const entries = await readEntries(state.folder);
    expect(entries.find(({ type }) => type === "audit_recovered")?.data).toEqual({ segment: 1, tornBytes: 100 });
  });

  test("[VR-AUD-04] what a second crash tears off the same segment does not replace the first", async () => {
    const { state, ids } = await createTorn();
    await expectRecovers(state, ids);
    appendFileSync(join(state.folder, "000001.jsonl"), "the second");
    expect((await expectRecovers(state, ids)).torn).toBe(2);
    expect(readFileSync(join(state.folder, "000001.torn")).byteLength).toBe(100);
    expect(readFileSync(join(state.folder, "000001.torn.2"), "utf8")).toBe("the second");
  });

  test.skipIf(!hasStrace)(
    "[VR-AUD-04] is killed at any call, and the next one mends it",
    { timeout: 300_000 },
    async () => {
      const tally = createTally();
      for (const call of MENDING) {
        for (let n = 1, closed = false; !closed; n += 1) {
          const { state, ids } = await createTorn();
          const told = await runWriter(state, ONE, { inject: killAt(call, n) });
          expect(told.failed, `${call} ${n}`).toBeUndefined();
          const { milliseconds, torn } = await expectRecovers(state, [...ids, ...told.acknowledged]);
          expect(torn, `torn lines, ${call} ${n}`).toBe(1);
          expect(readFileSync(join(state.folder, "000001.torn")).byteLength, `${call} ${n}`).toBeOneOf([100, 201]);
          ({ closed } = told);
          tally.crashes += closed ? 0 : 1;
          tally.acknowledged += told.acknowledged.length;
          tally.longestRestartMs = Math.max(tally.longestRestartMs, Math.round(milliseconds));
        }
      }
      expect(tally.crashes).toBeGreaterThan(10);
      reportTally("SIGKILL within a restart", tally);
    },
  );
});

describe.skipIf(!hasStrace)("the first start", () => {
  test("[VR-AUD-04] is killed at any call, and the next one begins the log", { timeout: 300_000 }, async () => {
    const tally = createTally();
    for (const call of BEGINNING) {
      for (let n = 1, closed = false; !closed && n < 30; n += 1) {
        const state = await createState();
        const told = await crash(tally, state, ONE, { inject: killAt(call, n) });
        expect(told.failed, `${call} ${n}`).toBeUndefined();
        ({ closed } = told);
      }
    }
    expect(tally.crashes).toBeGreaterThan(10);
    reportTally("SIGKILL within the first start", tally);
  });

  test("[VR-AUD-04] without escrow is killed at any call of making K(0)", { timeout: 300_000 }, async () => {
    for (const call of ["link", "unlink"]) {
      const state = await createState();
      await rm(state.stateDir, { recursive: true });
      await mkdir(state.stateDir, { mode: 0o700 });
      const told = await runWriter(state, ONE, { inject: killAt(call, 1) });
      expect(told.closed, call).toBe(false);
      const { log, journal } = await openLog(state);
      await journal.append(entryOf("the next process goes on"));
      await log.close();
      const names = [...(await bytesOfState(state)).keys()].map((path) => path.slice(state.stateDir.length + 1));
      expect(names).toContain(EPOCH_KEY_FILE);
      expect(names.filter((name) => name.startsWith("audit/") && name.endsWith(".tmp"))).toEqual([]);
    }
  });
});
