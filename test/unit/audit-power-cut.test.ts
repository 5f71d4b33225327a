/**
 * What a power cut leaves and a kill does not: the leaf hashes of the growing segment are not synced, and a file system
 * may have grown the file without what stands in it (ext4: zeros to the end of a page). And what none leaves: log
 * checkpoints of closed epochs that are gone.
 */
import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { verifyLog } from "../../src/audit/verify-log.ts";
import { expectSound } from "../helpers/audit-writer.ts";
import { openUnit, type UnitLog } from "../helpers/audit-writer-unit.ts";

const resumed = { type: "worker_resumed", device: { ordinal: 0, uuid: "EMU-0" }, reason: "seen" } as const;

/** Three starts, so that two epochs were closed. */
async function writeLog(): Promise<UnitLog["state"]> {
  let state: UnitLog["state"] | undefined;
  for (let start = 0; start < 3; start += 1) {
    const log: UnitLog = await openUnit({}, state);
    ({ state } = log);
    for (let n = 0; n < 5; n += 1) await log.journal.append(resumed);
    await log.log.close();
  }
  if (state === undefined) throw new Error("there were starts");
  return state;
}

async function reopen(state: UnitLog["state"]): Promise<void> {
  const log = await openUnit({}, state);
  await log.journal.append(resumed);
  await log.closeSound();
}

describe("leaf hashes after a power cut", () => {
  it.each([
    ["the last one is zeros", (leaves: Buffer) => leaves.fill(0, leaves.byteLength - 32)],
    ["the last page of them is", (leaves: Buffer) => leaves.fill(0, 96)],
    ["one in the middle is", (leaves: Buffer) => leaves.fill(0, 64, 96)],
    ["all of them are", (leaves: Buffer) => leaves.fill(0)],
    ["the last one is half there", (leaves: Buffer) => leaves.fill(0, leaves.byteLength - 16)],
  ])("[VR-AUD-04] %s: nothing is wrong with the log, and it goes on", async (what, damage) => {
    const state = await writeLog();
    const path = join(state.folder, "000001.leaves");
    const leaves = readFileSync(path);
    damage(leaves);
    writeFileSync(path, leaves);
    if (what.includes("half")) {
      // A hash that is neither what was written nor zeros is no power cut.
      await expect(openUnit({}, state)).rejects.toMatchObject({ code: "STATE_INVALID" });
      return;
    }
    await expectSound(state);
    await reopen(state);
    expect(statSync(path).size).toBe(leaves.byteLength + 64);
    expect(readFileSync(path).includes(Buffer.alloc(32))).toBe(false);
  });
});

describe("log checkpoints that are gone", () => {
  it.each([["checkpoint"], ["checkpoints"]])(
    "[VR-AUD-02] %s: the log is not continued, and is damaged",
    async (name) => {
      const state = await writeLog();
      rmSync(join(state.folder, name));
      await expect(openUnit({}, state)).rejects.toMatchObject({ code: "STATE_INVALID" });
      expect(await verifyLog(state.folder)).toMatchObject({ verdict: "damaged", firstBad: { reason: "checkpoint" } });
    },
  );

  it("[VR-AUD-02] both, and the end cut off: what is left is not signed anew", async () => {
    const state = await writeLog();
    const path = join(state.folder, "000001.jsonl");
    const lines = readFileSync(path, "latin1").split("\n").slice(0, -3);
    writeFileSync(path, `${lines.join("\n")}\n`, "latin1");
    for (const name of ["checkpoint", "checkpoints", "000001.leaves"]) rmSync(join(state.folder, name));
    await expect(openUnit({}, state)).rejects.toMatchObject({ code: "STATE_INVALID" });
    expect(await verifyLog(state.folder)).toMatchObject({ verdict: "damaged" });
  });
});
