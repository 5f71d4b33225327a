/**
 * The driver as the questions of this folder use it: the product's own border (`dist/cuda/native`), beside it the bare
 * functions where a status is the answer, and memory, kernels and timing in a few words. Synchronous throughout: what
 * a question enqueues is waited for by polling `cuEventQuery`, because that is how the product waits.
 */
import { createCipheriv, createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { CUDA_LIBRARY } from "../../dist/cuda/driver.js";
import { openNativeDriver } from "../../dist/cuda/native/driver.js";
import { DRIVER_PROTOTYPES } from "../../dist/cuda/native/prototypes.js";
import { STATUS, statusName } from "../../dist/cuda/status.js";
import { allocateNative, openLibrary, viewNative } from "../../dist/ffi/library.js";

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;

/** Functions that only questions use. A library without one of them has no answer to those questions. */
const MORE_PROTOTYPES = {
  memHostAlloc: "int cuMemHostAlloc(void *address, size_t size, uint32_t flags)",
  memFreeHost: "int cuMemFreeHost(uint64_t address)",
  memcpyDtoDAsync: "int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, uint64_t stream)",
  eventElapsedTime: "int cuEventElapsedTime(void *milliseconds, uint64_t start, uint64_t end)",
  funcGetAttribute: "int cuFuncGetAttribute(void *value, int attribute, uint64_t function)",
};

/** A question that this driver library cannot be asked. */
export class Unsupported extends Error {}

/** The library that is asked, and what its answers are worth. */
export const libraryName = () => process.env.VRAM_LIBCUDA || CUDA_LIBRARY;

/** `SUCCESS (0)`, or the status that `task` was refused with; anything else is thrown on. */
export function answerOf(task) {
  try {
    task();
    return statusName(STATUS.SUCCESS);
  } catch (error) {
    if (typeof error?.details?.status !== "number") throw error;
    return statusName(error.details.status);
  }
}

/** Bytes without a pattern, and numbers, the same for the same seed. */
export function randomSource(seed) {
  const key = createHash("sha256").update(String(seed)).digest();
  const cipher = createCipheriv("aes-256-ctr", key, Buffer.alloc(16));
  const bytes = (byteLength) => cipher.update(Buffer.alloc(byteLength));
  return { bytes, below: (limit) => Number(bytes(6).readUIntLE(0, 6) % limit) };
}

/** `kernels/NAME.ptx`. */
export const readPtx = (name) => readFileSync(new URL(`../../kernels/${name}.ptx`, import.meta.url));

const u32 = (value) => ({ kind: "u32", value });
const u64 = (value) => ({ kind: "u64", value: BigInt(value) });
export const parameters = { u32, u64 };

/** The bare functions: `status(name, …)` is what a call answers, `ask(name, …)` its first out-parameter. */
function openBare(library) {
  const bound = openLibrary(library).bindPresent({ ...DRIVER_PROTOTYPES, ...MORE_PROTOTYPES });
  const { bytes, view } = allocateNative(64);
  const status = (name, ...args) => {
    if (bound[name] === undefined) throw new Unsupported(`this libcuda has no ${name}`);
    return bound[name](...args);
  };
  const ask = (name, ...args) => {
    bytes.fill(0);
    const answer = status(name, bytes, ...args);
    if (answer !== STATUS.SUCCESS) throw Object.assign(new Error(`${name}: ${statusName(answer)}`), { status: answer });
    return view.getBigUint64(0, true);
  };
  return { has: (name) => bound[name] !== undefined, status, ask, bytes, view };
}

const STAGING_BYTES = 16 * MIB;

/**
 * Page-locked memory for transfers: the product's own, or the driver's where that is refused. One refusal is one answer,
 * and must not be the answer to every question.
 */
function openStaging(driver, bare) {
  try {
    return driver.memory.allocatePinned(STAGING_BYTES);
  } catch (refusal) {
    if (!bare.has("memHostAlloc")) throw refusal;
    const cuPointer = bare.ask("memHostAlloc", STAGING_BYTES, 1);
    return { cuPointer, bytes: viewNative(cuPointer, STAGING_BYTES) };
  }
}

const ACCESS_FLAGS = ["none", "read", "readWrite"];

/**
 * The first device. With a context unless `context: false`. Everything a question opens lives until its process ends,
 * unless the question closes it.
 */
export function openGpu({ context = true } = {}) {
  const driver = openNativeDriver(libraryName());
  const bare = openBare(libraryName());
  const cuDevice = driver.device.get(0);
  if (context) driver.context.setCurrent(driver.context.retainPrimary(cuDevice));
  const granuleBytes = driver.memory.granularity(cuDevice);
  let stream;
  let events;
  let staging;

  const streamOf = () => {
    stream ??= driver.stream.create();
    return stream;
  };

  /** Maps all of `cuHandle` at a fresh address. */
  const map = (cuHandle, byteLength, access) => {
    if (!ACCESS_FLAGS.includes(access)) throw new Error(`no such access: ${access}`);
    const address = driver.memory.reserveAddress(byteLength);
    driver.memory.map(address, byteLength, cuHandle);
    driver.memory.setAccess(address, byteLength, cuDevice, access);
    const unmap = () => {
      driver.memory.unmap(address, byteLength);
      driver.memory.freeAddress(address, byteLength);
    };
    return { address, byteLength, unmap };
  };

  const withHandle = (cuHandle, byteLength, access) => {
    const main = map(cuHandle, byteLength, access);
    const close = () => {
      main.unmap();
      driver.memory.release(cuHandle);
    };
    return { ...main, cuHandle, alias: (other) => map(cuHandle, byteLength, other), close };
  };

  /** Device memory of at least `byteLength` bytes, in whole granules. */
  const allocate = (byteLength, access = "readWrite") => {
    const whole = Math.ceil(byteLength / granuleBytes) * granuleBytes;
    return withHandle(driver.memory.create(whole, cuDevice), whole, access);
  };

  /** Memory of another process, or of this one, by its fd. */
  const importFd = (fd, byteLength, access) => withHandle(bare.ask("memImport", fd, 1), byteLength, access);

  /** Waits for all work; the status it ended with. */
  const settleStatus = () => {
    const cuEvent = driver.event.create();
    try {
      driver.event.record(cuEvent, streamOf());
      let status = STATUS.NOT_READY;
      while (status === STATUS.NOT_READY) status = bare.status("eventQuery", cuEvent);
      return statusName(status);
    } finally {
      answerOf(() => driver.event.destroy(cuEvent));
    }
  };
  const settle = () => {
    const status = settleStatus();
    if (status !== statusName(STATUS.SUCCESS)) throw new Error(`the stream ended with ${status}`);
  };

  /**
   * Milliseconds that the work `enqueue` puts into the stream takes: between two events on the device where the library
   * can tell, else by the host's clock until the work is seen to be done.
   */
  const timed = (enqueue) => {
    settle();
    const byEvents = bare.has("eventElapsedTime");
    events ??= byEvents ? [bare.ask("eventCreate", 0), bare.ask("eventCreate", 0)] : [];
    const begin = performance.now();
    if (byEvents) driver.event.record(events[0], streamOf());
    enqueue(streamOf());
    if (byEvents) driver.event.record(events[1], streamOf());
    settle();
    const wallMs = performance.now() - begin;
    if (!byEvents) return wallMs;
    bare.ask("eventElapsedTime", events[0], events[1]);
    return bare.view.getFloat32(0, true);
  };

  const stagingOf = () => {
    staging ??= openStaging(driver, bare);
    return staging;
  };
  const upload = (address, bytes) => {
    const { cuPointer, bytes: room } = stagingOf();
    for (let at = 0; at < bytes.byteLength; at += room.byteLength) {
      const part = bytes.subarray(at, at + room.byteLength);
      room.set(part);
      driver.stream.copyToDevice(streamOf(), address + BigInt(at), cuPointer, part.byteLength);
      settle();
    }
  };
  const download = (address, byteLength) => {
    const { cuPointer, bytes: room } = stagingOf();
    const found = Buffer.alloc(byteLength);
    for (let at = 0; at < byteLength; at += room.byteLength) {
      const count = Math.min(room.byteLength, byteLength - at);
      driver.stream.copyToHost(streamOf(), cuPointer, address + BigInt(at), count);
      settle();
      found.set(room.subarray(0, count), at);
    }
    return found;
  };
  const fill = (address, value, byteLength) => {
    driver.stream.fill(streamOf(), address, value, byteLength);
    settle();
  };

  /** Compiles a PTX file: how long the driver took, and its functions. */
  const load = (name) => {
    const image = readPtx(name);
    const begin = performance.now();
    const cuModule = driver.module.load(image);
    const jitMs = performance.now() - begin;
    return { jitMs, cuModule, entry: (entry) => driver.module.getFunction(cuModule, entry) };
  };
  const launch = (cuFunction, gridX, blockX, values) =>
    driver.stream.launch(streamOf(), cuFunction, { gridX, blockX, parameters: values });

  return {
    driver,
    bare,
    cuDevice,
    granuleBytes,
    streamOf,
    allocate,
    importFd,
    settle,
    settleStatus,
    timed,
    upload,
    download,
    fill,
    load,
    launch,
  };
}
