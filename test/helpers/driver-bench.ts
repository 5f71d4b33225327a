/**
 * A driver of any backend, ready for work: a context that is current, a stream, the kernel. What the contract of the
 * border (driver-contract.ts) is shown on. What a test leaves allocated, `clear` frees.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { Access, CudaDriver, PinnedMemory } from "../../src/cuda/driver.ts";
import { encodeJobs, HASH_KERNEL, type HashJob, hashLaunch } from "../../src/cuda/kernel-abi.ts";

/** What a backend brings along to be held to the contract. */
export interface Subject {
  readonly driver: CudaDriver;
  /** What the driver loads as the hashing kernel. */
  readonly image: Uint8Array;
  /** The device the work is done on. Another than 0, where there is one: a zero is right by chance too easily. */
  readonly ordinal: number;
  /** Closes an exported fd. */
  closeFd(fd: number): void;
  /** Checks of the backend's own, once everything is given back. */
  audit?(): void;
}

/** An allocation and its main mapping, both whole. */
export interface Mapped {
  readonly cuHandle: bigint;
  readonly cuPointer: bigint;
  readonly byteLength: number;
}

export interface Bench extends Subject {
  readonly cuDevice: number;
  readonly cuContext: bigint;
  readonly cuStream: bigint;
  readonly cuFunction: bigint;
  readonly granule: number;
  bytesFree(): number;
  /** Resolves when all that the stream holds now is done. Rejects as `event.query` throws. */
  finish(cuStream?: bigint): Promise<void>;
  allocate(access?: Access, granules?: number): Mapped;
  /** Another mapping of the same memory: its address. */
  alias(mapped: Mapped, access: Access): bigint;
  /** Frees what `allocate` made, with its aliases. */
  free(mapped: Mapped): void;
  pinned(bytes: number | Uint8Array): PinnedMemory;
  freePinned(memory: PinnedMemory): void;
  upload(cuTo: bigint, bytes: Uint8Array): Promise<void>;
  download(cuFrom: bigint, byteLength: number): Promise<Buffer>;
  /** Hashes the jobs in one launch of `threads` (default: as many as needed), with a salt block of 64 bytes or none. */
  hash(jobs: readonly HashJob[], options?: { readonly salt?: Uint8Array; readonly gridX?: number }): Promise<void>;
  /** Gives back what is left over, newest first; all of it, then throws what was refused first. */
  clear(): void;
  /** Gives back everything. `lost`: of a dead context nothing else is expected than that it refuses. */
  close(options?: { readonly lost?: boolean }): Promise<void>;
}

/** No device needs this long for a few MiB: whoever waits longer waits for nothing. */
const WATCHDOG_MS = 30_000;
const TABLE_OFFSET = 64n;

/** What is to be given back: by address or handle, in order of its making. */
type Owned = Map<bigint, () => void>;

function giveBack(owned: Owned, key: bigint): void {
  const undo = owned.get(key);
  owned.delete(key);
  undo?.();
}

function memoryOf({ memory }: CudaDriver, cuDevice: number, granule: number, owned: Owned) {
  const aliases = new Map<bigint, bigint[]>();
  const map = (cuHandle: bigint, byteLength: number, access: Access): bigint => {
    const cuPointer = memory.reserveAddress(byteLength);
    memory.map(cuPointer, byteLength, cuHandle);
    memory.setAccess(cuPointer, byteLength, cuDevice, access);
    owned.set(cuPointer, () => {
      try {
        memory.unmap(cuPointer, byteLength);
      } finally {
        memory.freeAddress(cuPointer, byteLength);
      }
    });
    return cuPointer;
  };
  return {
    allocate: (access: Access = "readWrite", granules = 1): Mapped => {
      const byteLength = granules * granule;
      const cuHandle = memory.create(byteLength, cuDevice);
      owned.set(cuHandle, () => memory.release(cuHandle));
      return { cuHandle, byteLength, cuPointer: map(cuHandle, byteLength, access) };
    },
    alias: ({ cuHandle, byteLength }: Mapped, access: Access): bigint => {
      const cuPointer = map(cuHandle, byteLength, access);
      aliases.set(cuHandle, [...(aliases.get(cuHandle) ?? []), cuPointer]);
      return cuPointer;
    },
    free: ({ cuHandle, cuPointer }: Mapped): void => {
      for (const key of [...(aliases.get(cuHandle) ?? []), cuPointer, cuHandle]) giveBack(owned, key);
      aliases.delete(cuHandle);
    },
    pinned: (bytes: number | Uint8Array): PinnedMemory => {
      const pinned = memory.allocatePinned(typeof bytes === "number" ? bytes : bytes.byteLength);
      owned.set(pinned.cuPointer, () => memory.freePinned(pinned.cuPointer));
      if (typeof bytes !== "number") pinned.bytes.set(bytes);
      return pinned;
    },
    freePinned: ({ cuPointer }: PinnedMemory): void => giveBack(owned, cuPointer),
  };
}

async function finishOn({ event }: CudaDriver, cuStream: bigint): Promise<void> {
  const cuEvent = event.create();
  event.record(cuEvent, cuStream);
  const start = performance.now();
  while (event.query(cuEvent) === "not-ready") {
    if (performance.now() - start > WATCHDOG_MS) throw new Error("the device did not get there");
    await nextTurn();
  }
  event.destroy(cuEvent);
}

/** Runs them all, and then throws what the first that failed threw. */
function attemptAll(tasks: readonly (() => void)[]): void {
  const errors: unknown[] = [];
  for (const task of tasks) {
    try {
      task();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

/** Makes the subject's device ready. */
export function openBench(subject: Subject): Bench {
  const { driver } = subject;
  const { memory, stream } = driver;
  const cuDevice = driver.device.get(subject.ordinal);
  const cuContext = driver.context.retainPrimary(cuDevice);
  driver.context.setCurrent(cuContext);
  const cuStream = stream.create();
  const cuModule = driver.module.load(subject.image);
  const cuFunction = driver.module.getFunction(cuModule, HASH_KERNEL);
  const granule = memory.granularity(cuDevice);
  const owned: Owned = new Map();
  const { allocate, alias, free, pinned, freePinned } = memoryOf(driver, cuDevice, granule, owned);
  const finish = (on = cuStream): Promise<void> => finishOn(driver, on);

  const upload = async (cuTo: bigint, bytes: Uint8Array): Promise<void> => {
    const slot = pinned(bytes);
    stream.copyToDevice(cuStream, cuTo, slot.cuPointer, bytes.byteLength);
    await finish();
    freePinned(slot);
  };
  const clear = (): void => {
    driver.context.setCurrent(cuContext);
    attemptAll([...owned.keys()].reverse().map((key) => () => giveBack(owned, key)));
  };
  return {
    ...subject,
    cuDevice,
    cuContext,
    cuStream,
    cuFunction,
    granule,
    ...{ allocate, alias, free, pinned, freePinned, finish, upload, clear },
    bytesFree: () => driver.context.memoryInfo().bytesFree,
    download: async (cuFrom, byteLength) => {
      const slot = pinned(byteLength);
      stream.copyToHost(cuStream, slot.cuPointer, cuFrom, byteLength);
      await finish();
      const bytes = Buffer.from(slot.bytes);
      freePinned(slot);
      return bytes;
    },
    hash: async (jobs, { salt, gridX } = {}) => {
      const room = allocate();
      await upload(room.cuPointer + TABLE_OFFSET, encodeJobs(jobs));
      if (salt !== undefined) await upload(room.cuPointer, salt);
      const launch = hashLaunch(room.cuPointer + TABLE_OFFSET, jobs, salt === undefined ? 0n : room.cuPointer);
      stream.launch(cuStream, cuFunction, { ...launch, gridX: gridX ?? launch.gridX });
      await finish();
      free(room);
    },
    close: async ({ lost = false } = {}) => {
      const steps = [
        clear,
        () => stream.destroy(cuStream),
        () => driver.module.unload(cuModule),
        () => driver.context.setCurrent(0n),
        () => driver.context.releasePrimary(cuDevice),
      ];
      try {
        attemptAll(steps);
      } catch (error) {
        if (!lost) throw error;
      }
      subject.audit?.();
      await driver.close();
    },
  };
}
