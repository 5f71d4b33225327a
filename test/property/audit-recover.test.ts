/**
 * A crash may end any write of the audit log's last files in the middle. Wherever it does, the next start goes on, and no
 * whole line is lost: lines of any length of the segment, of its leaf hashes and of the notes, the log checkpoint there
 * or not, the key that of the last line or of the epoch before.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { EPOCH_KEY_FILE } from "../../src/audit/key-files.ts";
import { type CrashState, createState, entryOf, expectSound, openLog, readEntries } from "../helpers/audit-writer.ts";
import { openUnit } from "../helpers/audit-writer-unit.ts";
import { reportCount } from "../helpers/counts.ts";

const folder = mkdtempSync(join(tmpdir(), "audit-recover-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A log of two segments as it was after each line of the last one: what was there, and the key. */
interface Moment {
  readonly lines: Buffer;
  readonly leaves: Buffer;
  readonly notes: Buffer;
  /** The newest log checkpoint at that time. */
  readonly checkpoint: Buffer;
  readonly key: Buffer;
}

const LAST = "000002";

async function record(): Promise<{ readonly state: CrashState; readonly moments: Moment[] }> {
  const state = await createState();
  const { log, journal, clock } = await openUnit({ segmentBytes: 140_000 }, state);
  const read = (name: string): Buffer => readFileSync(join(state.folder, name));
  const key = (): Buffer => readFileSync(join(state.stateDir, EPOCH_KEY_FILE));
  const moments: Moment[] = [];
  for (let n = 0; moments.length < 12; n += 1) {
    if (n % 4 === 0) clock.monotonic += 15 * 60_000;
    await journal.append(entryOf(n < 20 || n % 2 === 0 ? "x".repeat(4000) : `entry ${n}`));
    if (readdirSync(state.folder).includes(`${LAST}.jsonl`)) {
      const [lines, leaves] = [read(`${LAST}.jsonl`), read(`${LAST}.leaves`)];
      moments.push({
        lines,
        leaves,
        notes: read("checkpoints"),
        checkpoint: read("checkpoint"),
        key: key(),
      });
    }
  }
  await log.close();
  return { state, moments };
}

const first = (bytes: Buffer, from: number, fraction: number): Buffer =>
  bytes.subarray(0, from + Math.round((bytes.byteLength - from) * fraction));

test("[VR-AUD-04] a log that ends anywhere is gone on with, and no whole line is lost", async () => {
  const { state: past, moments } = await record();
  const fixed = ["000001.jsonl", "000001.leaves", "log.vkey"].map(
    (name) => [name, readFileSync(join(past.folder, name))] as const,
  );
  const signing = readFileSync(join(past.stateDir, "audit-log.key"));
  const runs = 150;
  let count = 0;
  let torn = 0;
  // Not `fc.double`: most doubles between 0 and 1 are next to 0.
  const fraction = fc.integer({ min: 0, max: 10_000 }).map((part) => part / 10_000);
  const cutting = fc.record({ index: fc.nat(moments.length - 2), lines: fraction, leaves: fraction, notes: fraction });
  const seed = Number(process.env["VRAM_AUDIT_SEED"] ?? Date.now() % 2 ** 31);
  await fc.assert(
    fc.asyncProperty(cutting, async ({ index, ...cut }) => {
      const [before, after] = [moments[index], moments[index + 1]];
      if (before === undefined || after === undefined) throw new Error("there are moments");
      count += 1;
      const state: CrashState = {
        stateDir: join(folder, `${count}`),
        folder: join(folder, `${count}`, "audit"),
        escrow: past.escrow,
      };
      mkdirSync(state.folder, { recursive: true, mode: 0o700 });
      const write = (name: string, bytes: Buffer): void =>
        writeFileSync(join(state.stateDir, name), bytes, { mode: 0o600 });
      for (const [name, bytes] of fixed) write(`audit/${name}`, bytes);
      const lines = first(after.lines, before.lines.byteLength, cut.lines);
      const whole = lines.toString("latin1").split("\n").length - 1;
      write(`audit/${LAST}.jsonl`, lines);
      // Leaf hashes come behind their lines, and may be missing from any byte on.
      write(`audit/${LAST}.leaves`, first(after.leaves.subarray(0, whole * 32), 0, cut.leaves));
      // Notes of epochs that ended before the new lines; the last one may be cut.
      write(
        "audit/checkpoints",
        first(after.notes, before.notes.byteLength, lines.equals(before.lines) ? cut.notes : 1),
      );
      write("audit/checkpoint", after.notes.equals(before.notes) ? before.checkpoint : after.checkpoint);
      // The key of the last whole line: the new one is only there once its line is.
      write(EPOCH_KEY_FILE, before.key);
      write("audit-log.key", signing);
      const { log, journal } = await openLog(state);
      await journal.append(entryOf("goes on"));
      await log.close();
      await expectSound(state);
      const kept = readFileSync(join(state.folder, `${LAST}.jsonl`));
      expect(kept.subarray(0, lines.lastIndexOf("\n") + 1).equals(lines.subarray(0, lines.lastIndexOf("\n") + 1))).toBe(
        true,
      );
      const tail = lines.subarray(lines.lastIndexOf("\n") + 1);
      torn += tail.byteLength > 0 ? 1 : 0;
      if (tail.byteLength > 0) expect(readFileSync(join(state.folder, `${LAST}.torn`)).equals(tail)).toBe(true);
      const recovered = (await readEntries(state.folder)).filter(({ type }) => type === "audit_recovered");
      expect(recovered.map(({ data }) => data["tornBytes"])).toEqual(tail.byteLength > 0 ? [tail.byteLength] : []);
      rmSync(state.stateDir, { recursive: true });
    }),
    { numRuns: runs, seed },
  );
  expect(torn).toBeGreaterThan(runs / 2);
  reportCount(
    `audit log: ${runs} logs that end anywhere are gone on with, ${torn} of them within a line; seed ${seed}`,
  );
});
