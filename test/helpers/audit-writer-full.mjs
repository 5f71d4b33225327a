/**
 * A system whose state directory lies on a disk that is full: `node audit-writer-full.mjs DISK MODEL`, DISK being a file
 * system of 2 MiB. Runs on `dist`, in a namespace of its own (`mountFull`). Prints what each call ended with, as JSON.
 */
import { spawnSync } from "node:child_process";
import { closeSync, openSync, readdirSync, rmSync, statfsSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { verifyLog } from "../../dist/audit/verify-log.js";
import { openTestVram } from "../../dist/testing.js";

const [, , disk = "", model = ""] = process.argv;
const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const MIB = 1024 * 1024;
const stateDir = join(disk, "state");
const otherState = join(disk, "other");
const filling = join(disk, "filling");

// It is about to be filled: never anything but the small one.
const { bsize, blocks } = statfsSync(disk);
if (bsize * blocks > 4 * MIB) throw new Error(`${disk} has ${bsize * blocks} bytes: not the disk of the test`);

/** "ok", or the code of the error. */
const outcomeOf = (task) =>
  task.then(
    () => "ok",
    (error) => error.code ?? String(error),
  );

/** Leaves no byte: pages first, then the rest. */
function fill() {
  const file = openSync(filling, "a");
  for (const size of [4096, 1]) {
    try {
      for (;;) writeSync(file, new Uint8Array(size));
    } catch (error) {
      if (error.code !== "ENOSPC") throw error;
    }
  }
  closeSync(file);
}

const makeRoom = () => rmSync(filling);

/** The exit code of `vram try` on a state directory. */
function tried(directory) {
  const env = {
    ...process.env,
    VRAM_BACKEND: "emulated",
    VRAM_EMULATED_BYTES: String(128 * MIB),
    VRAM_HASH_THREADS: "0",
  };
  return spawnSync(process.execPath, [BIN, "try", "--state-dir", directory, model], { env, stdio: "ignore" }).status;
}

const open = () => openTestVram({ stateDir, emulated: { byteLength: 128 * MIB }, hashThreads: 0, headroomBytes: 0 });
const said = {};

said.triedWithRoom = tried(otherState);
const { vram, flipBit } = await open();
const first = (await vram.seal(model, { name: "first" })).record.shardId;
const second = (await vram.seal(model, { name: "second" })).record.shardId;
fill();
// Lines may go on in the last page of their segment for a while; 4096 bytes take less than 20 of them.
for (let n = 0; n < 20 && said.firstRefusal === undefined; n += 1) {
  const outcome = await outcomeOf(vram.seal(model, { name: `filling ${n}` }));
  if (outcome !== "ok") said.firstRefusal = outcome;
}
said.seals = [];
for (let n = 0; n < 3; n += 1) said.seals.push(await outcomeOf(vram.seal(model, { name: `refused ${n}` })));
said.tried = tried(otherState);
said.reserveWhenFull = readdirSync(join(stateDir, "audit")).includes("reserve");
said.verify = await outcomeOf(vram.verify(first));
await flipBit(second, 12_345, 3);
said.verifyDamaged = await outcomeOf(vram.verify(second));
said.resume = await outcomeOf(vram.resume("the disk is still full"));
said.evict = await outcomeOf(vram.evict(second));
said.whenFull = (await verifyLog(join(stateDir, "audit"))).verdict;
makeRoom();
said.resumeWithRoom = await outcomeOf(vram.resume("there is room"));
said.sealWithRoom = await outcomeOf(vram.seal(model, { name: "after" }));
said.reserveWithRoom = statSync(join(stateDir, "audit", "reserve")).size;
fill();
said.close = await outcomeOf(vram.close());
makeRoom();
const again = await open();
said.sealAfterRestart = await outcomeOf(again.vram.seal(model, { name: "again" }));
await again.vram.close();
const { verdict, problems } = await verifyLog(join(stateDir, "audit"));
said.verdict = verdict;
said.problems = problems;
said.triedAgain = tried(otherState);
console.log(JSON.stringify(said));
