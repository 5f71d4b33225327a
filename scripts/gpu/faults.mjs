/**
 * Step 3: what a stray access does. Each question does one wrong thing, notes which call says so, and asks on: what do
 * later calls answer, can the process begin anew, and is the memory still what it was, seen from another process?
 */
import { statusName } from "../../dist/cuda/status.js";
import { answerOf, openGpu } from "./driver.mjs";
import { runPart } from "./parts.mjs";

const PATTERN = 0x7e;
const SUCCESS = statusName(0);

/** Every kind of call, after the fault. */
function laterCalls(gpu, memory, spare) {
  const { driver, cuDevice, granuleBytes } = gpu;
  let made;
  return {
    memoryInfo: answerOf(() => driver.context.memoryInfo()),
    createStream: answerOf(() => driver.stream.create()),
    enqueueFill: answerOf(() => driver.stream.fill(gpu.streamOf(), spare.address, 0, 4)),
    pointerAttribute: statusName(gpu.bare.status("pointerGetAttribute", gpu.bare.bytes, 2, memory.address)),
    getAccess: answerOf(() => driver.memory.getAccess(memory.address, cuDevice)),
    exportFd: answerOf(() => driver.memory.exportFd(memory.cuHandle)),
    create: answerOf(() => {
      made = driver.memory.create(granuleBytes, cuDevice);
    }),
    release: made === undefined ? "nothing to release" : answerOf(() => driver.memory.release(made)),
    unmap: answerOf(() => driver.memory.unmap(spare.address, spare.byteLength)),
    deviceCount: answerOf(() => driver.device.count()),
  };
}

/** Gives the context back until there is none, and takes a new one. */
function beginAnew(gpu) {
  const { context } = gpu.driver;
  const answers = { release: answerOf(() => context.releasePrimary(gpu.cuDevice)) };
  let cuContext = 0n;
  answers.retain = answerOf(() => {
    cuContext = context.retainPrimary(gpu.cuDevice);
  });
  answers.setCurrent = answerOf(() => context.setCurrent(cuContext));
  answers.memoryInfo = answerOf(() => context.memoryInfo());
  return answers;
}

/**
 * Runs `stray` on memory full of a pattern and mapped read-only. `stray` gets the read-only mapping, an address where
 * nothing is mapped, and writable memory; it enqueues one access.
 */
function fault(stray) {
  return ({ report }) => {
    const gpu = openGpu();
    const memory = gpu.allocate(2 * gpu.granuleBytes, "read");
    const alias = memory.alias("readWrite");
    gpu.fill(alias.address, PATTERN, memory.byteLength);
    alias.unmap();
    const scratch = gpu.allocate(gpu.granuleBytes);
    const spare = gpu.allocate(gpu.granuleBytes);
    const nowhere = gpu.driver.memory.reserveAddress(gpu.granuleBytes);
    const fd = gpu.driver.memory.exportFd(memory.cuHandle);
    const pinned = gpu.driver.memory.allocatePinned(4096);
    const probes = gpu.load("probes");
    const entries = { store: probes.entry("vram_probe_store"), load: probes.entry("vram_probe_load") };
    gpu.settle();

    const atEnqueue = answerOf(() => stray(gpu, { memory, scratch, nowhere, pinned, entries }));
    const begin = performance.now();
    const whenSettled = answerOfSettling(gpu);
    const seen = { atEnqueue, whenSettled, msUntilSettled: Number((performance.now() - begin).toFixed(2)) };
    report("seen", seen);
    report("laterCalls", laterCalls(gpu, memory, spare));
    report("beginAnew", beginAnew(gpu));
    const options = { byteLength: memory.byteLength, pattern: PATTERN, access: "read" };
    const { found } = runPart("importer", options, fd);
    report("seenByAnotherProcess", found);
    const isUnchanged = found.pattern === found.blocks;
    report("isUnchanged", isUnchanged);
    const isNoticed = atEnqueue !== SUCCESS || whenSettled !== SUCCESS;
    report("isNoticed", isNoticed);
    if (!isUnchanged) throw new Error("the sealed bytes were changed through a read-only mapping");
    if (!isNoticed) throw new Error("nothing said that the access was refused");
  };
}

/** Settling makes and records an event: in a dead context already that may be refused. */
function answerOfSettling(gpu) {
  let status;
  const refused = answerOf(() => {
    status = gpu.settleStatus();
  });
  return status ?? refused;
}

const at = (value) => ({ kind: "u64", value });
const word = { kind: "u32", value: 0xdeadbeef };
const STRAYS = {
  "kernel-store-read-only": (gpu, { memory, entries }) => gpu.launch(entries.store, 1, 32, [at(memory.address), word]),
  "copy-to-read-only": (gpu, { memory, pinned }) =>
    gpu.driver.stream.copyToDevice(gpu.streamOf(), memory.address, pinned.cuPointer, 4096),
  "fill-read-only": (gpu, { memory }) => gpu.driver.stream.fill(gpu.streamOf(), memory.address, 0, 4096),
  "kernel-load-unmapped": (gpu, { nowhere, scratch, entries }) =>
    gpu.launch(entries.load, 1, 32, [at(nowhere), at(scratch.address)]),
  "kernel-store-unmapped": (gpu, { nowhere, entries }) => gpu.launch(entries.store, 1, 32, [at(nowhere), word]),
  "copy-from-unmapped": (gpu, { nowhere, pinned }) =>
    gpu.driver.stream.copyToHost(gpu.streamOf(), pinned.cuPointer, nowhere, 4096),
  "kernel-store-misaligned": (gpu, { scratch, entries }) =>
    gpu.launch(entries.store, 1, 32, [at(scratch.address + 1n), word]),
  "kernel-load-without-access": (gpu, { memory, scratch, entries }) => {
    const blind = memory.alias("none");
    gpu.launch(entries.load, 1, 32, [at(blind.address), at(scratch.address)]);
  },
  "kernel-load-after-unmap": (gpu, { memory, scratch, entries }) => {
    const alias = memory.alias("read");
    alias.unmap();
    gpu.launch(entries.load, 1, 32, [at(alias.address), at(scratch.address)]);
  },
};

export const title = "stray accesses: which status, when, and what comes after";
export const questions = Object.fromEntries(
  Object.entries(STRAYS).map(([name, stray]) => [name, { limitS: 30, ask: fault(stray) }]),
);
