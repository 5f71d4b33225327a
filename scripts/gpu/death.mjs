/**
 * Step 4: a process is killed, with memory that another process holds an fd of, or that nobody does. When is the memory
 * free again, what does the holder find in it, and what does the next process find in memory that is new to it?
 */
import { GIB, MIB, openGpu } from "./driver.mjs";
import { scan } from "./hashing.mjs";
import { startPart } from "./parts.mjs";

const PATTERN = 0x3c;
const POLL_MS = 5;
const PATIENCE_MS = 8000;
/** About ten seconds on any GPU of these years; a fake counts to it at once. */
const SPIN_CYCLES = 20e9;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const bytesFree = (gpu) => gpu.driver.context.memoryInfo().bytesFree;

/** Waits until at least `wanted` bytes are free; how long that took, or null if it did not come about. */
async function msUntilFree(gpu, wanted) {
  const begin = performance.now();
  while (performance.now() - begin < PATIENCE_MS) {
    if (bytesFree(gpu) >= wanted) return Number((performance.now() - begin).toFixed(1));
    await pause(POLL_MS);
  }
  return null;
}

/** Until an owner has said that it is there, and, if it should, that it is working and has a holder. */
async function untilReady(part, { hold, spinCycles }) {
  const wanted = 1 + (hold ? 1 : 0) + (spinCycles > 0 ? 1 : 0);
  const said = [];
  while (said.length < wanted) said.push(await part.line());
  return said;
}

/** Looks for the pattern in as much new memory as there is. */
function lookForDirt(gpu, quick) {
  const most = quick ? 16 * MIB : bytesFree(gpu) - 2 * GIB;
  const memory = gpu.allocate(Math.max(1, Math.floor(most / gpu.granuleBytes)) * gpu.granuleBytes, "read");
  const found = { byteLength: memory.byteLength, ...scan(gpu, memory, PATTERN) };
  memory.close();
  return found;
}

function killed({ hold, spin }) {
  return async ({ quick, report }) => {
    const gpu = openGpu();
    const before = bytesFree(gpu);
    const options = {
      byteLength: quick ? 4 * MIB : 4 * GIB,
      pattern: PATTERN,
      hold,
      spinCycles: spin ? (quick ? 1e9 : SPIN_CYCLES) : 0,
    };
    const owner = startPart("owner", options);
    await untilReady(owner, options);
    // The launch comes right after the word: let it get to the device.
    if (spin) await pause(200);
    const during = bytesFree(gpu);
    const begin = performance.now();
    owner.kill();
    await owner.ended;
    report("free", { before, during, afterDeath: bytesFree(gpu) });
    report("msUntilProcessIsGone", Number((performance.now() - begin).toFixed(1)));
    const slack = 64 * MIB;
    if (hold) {
      report("msUntilContextIsFree", await msUntilFree(gpu, before - options.byteLength - slack));
      report("freeWhileHeld", bytesFree(gpu));
      owner.say("look");
      const { found } = await owner.line();
      report("foundByTheHolder", found);
      report("survives", found.pattern === found.blocks);
      owner.say("end");
    }
    report("msUntilAllIsFree", await msUntilFree(gpu, before - slack));
    report("freeAtTheEnd", bytesFree(gpu));
    report("dirtSeenByTheNext", lookForDirt(gpu, quick));
  };
}

export const title = "kill -9: what becomes of memory, with and without a holder of its fd";
export const questions = {
  "idle-held": { limitS: 40, ask: killed({ hold: true, spin: false }) },
  "working-held": { limitS: 45, ask: killed({ hold: true, spin: true }) },
  "idle-alone": { limitS: 30, ask: killed({ hold: false, spin: false }) },
  "working-alone": { limitS: 40, ask: killed({ hold: false, spin: true }) },
};
