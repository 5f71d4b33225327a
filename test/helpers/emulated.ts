/**
 * One emulated device, ready for work: a context that is current, a stream, the kernel. What tests of the emulated
 * driver start from. Waiting polls `event.query` once per turn of the event loop; nothing here sleeps.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Access, PinnedMemory } from "../../src/cuda/driver.ts";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import type { EmulatedFaults } from "../../src/cuda/emulated/faults.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import type { EmulatedDeviceSpec, EmulatedDriver } from "../../src/cuda/emulated/options.ts";
import { encodeJobs, HASH_KERNEL, type HashJob, hashLaunch } from "../../src/cuda/kernel-abi.ts";
import { VramError } from "../../src/errors.ts";
import { type HashPool, openHashPool } from "../../src/hash/pool.ts";

export const MIB = 1024 * 1024;
export const GRANULE = 2 * MIB;

/** A whole allocation mapped once. */
export interface Mapped {
  readonly cuHandle: bigint;
  readonly cuPointer: bigint;
  readonly byteLength: number;
}

export interface Machine {
  readonly driver: EmulatedDriver;
  readonly cuContext: bigint;
  readonly cuStream: bigint;
  readonly cuFunction: bigint;
  /** Resolves when all that `cuStream` holds now has executed. Rejects as `event.query` throws. */
  finish(cuStream?: bigint): Promise<void>;
  allocate(byteLength: number, access?: Access): Mapped;
  /** Another mapping of the same memory. */
  alias(mapped: Mapped, access: Access): bigint;
  free(mapped: Mapped): void;
  pinned(bytes: number | Uint8Array): PinnedMemory;
  upload(cuTo: bigint, bytes: Uint8Array): Promise<void>;
  download(cuFrom: bigint, byteLength: number): Promise<Uint8Array>;
  /** Hashes the jobs in one launch and returns when it is done. */
  hash(jobs: readonly HashJob[], salt?: Uint8Array): Promise<void>;
}

export interface MachineOptions {
  readonly devices?: readonly EmulatedDeviceSpec[];
  readonly pool?: HashPool;
  readonly faults?: EmulatedFaults;
}

export const device = (ordinal = 0, byteLength = 64 * MIB): EmulatedDeviceSpec => ({
  uuid: `EMU-00000000-0000-4000-8000-00000000000${ordinal}`,
  byteLength,
});

/** Runs the event loop until `done` says so; at most 100,000 turns. */
export async function turnsUntil(done: () => boolean): Promise<void> {
  for (let turn = 0; !done(); turn += 1) {
    if (turn === 100_000) throw new Error("the emulated device did not get there");
    await nextTurn();
  }
}

/** Lets everything that can execute execute, without asking the driver anything. */
export async function letItRun(turns = 50): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) await nextTurn();
}

function mappingHelpers(driver: EmulatedDriver): Pick<Machine, "allocate" | "alias" | "free"> {
  const map = (cuHandle: bigint, byteLength: number, access: Access): bigint => {
    const cuPointer = driver.memory.reserveAddress(byteLength);
    driver.memory.map(cuPointer, byteLength, cuHandle);
    driver.memory.setAccess(cuPointer, byteLength, 0, access);
    return cuPointer;
  };
  return {
    allocate: (byteLength, access = "readWrite") => {
      const cuHandle = driver.memory.create(byteLength, 0);
      return { cuHandle, byteLength, cuPointer: map(cuHandle, byteLength, access) };
    },
    alias: ({ cuHandle, byteLength }, access) => map(cuHandle, byteLength, access),
    free: ({ cuHandle, cuPointer, byteLength }) => {
      driver.memory.unmap(cuPointer, byteLength);
      driver.memory.freeAddress(cuPointer, byteLength);
      driver.memory.release(cuHandle);
    },
  };
}

export function openMachine(options: MachineOptions = {}): Machine {
  const pool = options.pool ?? openHashPool(0);
  const devices = options.devices ?? [device()];
  const driver = openEmulatedDriver({ devices, pool, ...(options.faults && { faults: options.faults }) });
  const cuContext = driver.context.retainPrimary(0);
  driver.context.setCurrent(cuContext);
  const cuStream = driver.stream.create();
  const cuFunction = driver.module.getFunction(driver.module.load(EMULATED_MODULE_IMAGE), HASH_KERNEL);
  const helpers = mappingHelpers(driver);

  const finish = async (on = cuStream): Promise<void> => {
    const cuEvent = driver.event.create();
    driver.event.record(cuEvent, on);
    await turnsUntil(() => driver.event.query(cuEvent) === "complete");
    driver.event.destroy(cuEvent);
  };
  const pinned = (bytes: number | Uint8Array): PinnedMemory => {
    const memory = driver.memory.allocatePinned(typeof bytes === "number" ? bytes : bytes.byteLength);
    if (typeof bytes !== "number") memory.bytes.set(bytes);
    return memory;
  };
  const upload = async (cuTo: bigint, bytes: Uint8Array): Promise<void> => {
    const slot = pinned(bytes);
    driver.stream.copyToDevice(cuStream, cuTo, slot.cuPointer, bytes.byteLength);
    await finish();
    driver.memory.freePinned(slot.cuPointer);
  };
  const download = async (cuFrom: bigint, byteLength: number): Promise<Uint8Array> => {
    const slot = pinned(byteLength);
    driver.stream.copyToHost(cuStream, slot.cuPointer, cuFrom, byteLength);
    await finish();
    const bytes = Uint8Array.from(slot.bytes);
    driver.memory.freePinned(slot.cuPointer);
    return bytes;
  };
  const hash = async (jobs: readonly HashJob[], salt?: Uint8Array): Promise<void> => {
    const scratch = helpers.allocate(GRANULE);
    const table = encodeJobs(jobs);
    await upload(scratch.cuPointer + 64n, table);
    if (salt !== undefined) await upload(scratch.cuPointer, salt);
    const cuSalt = salt === undefined ? 0n : scratch.cuPointer;
    driver.stream.launch(cuStream, cuFunction, hashLaunch(scratch.cuPointer + 64n, jobs, cuSalt));
    await finish();
    helpers.free(scratch);
  };
  return { driver, cuContext, cuStream, cuFunction, finish, pinned, upload, download, hash, ...helpers };
}

/** What `act` throws. */
export function thrownBy(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

/** The driver status that `act` throws, or the error's name where it is none: "EmulatorLint". */
export function statusOf(act: () => unknown): unknown {
  return statusIn(thrownBy(act));
}

/** Likewise for a promise that rejects. */
export async function statusWhen(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return statusIn(error);
  }
  throw new Error("nothing was thrown");
}

function statusIn(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  if (!(error instanceof VramError)) return error.name;
  const { status } = error.details;
  return status;
}
