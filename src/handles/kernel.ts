/**
 * The hashing kernel as an object: load the module once, launch with jobs in terms of handles. The job table and the
 * salt block travel through `control`, a pinned buffer and a device range of the same layout that the caller owns.
 */

import { encodeJobs, HASH_KERNEL, hashLaunch, JOB_BYTES } from "../cuda/kernel-abi.ts";
import { STATUS } from "../cuda/status.ts";
import { countHandle } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { blockCount, HASH_BYTES } from "../hash/geometry.ts";
import type { DeviceContext } from "./context.ts";
import { deviceAddress, hostAddress, type Mapped, type Pinned } from "./mapped.ts";
import type { Stream } from "./stream.ts";

/** Hash the 4 KiB blocks of [offset, offset + byteLength) of `source` to `target` + targetOffset. */
export interface KernelJob {
  readonly source: Mapped;
  readonly offset: number;
  readonly byteLength: number;
  readonly target: Mapped;
  readonly targetOffset: number;
}

/** Where a launch keeps its job table: the same offset in pinned and in device memory. */
export interface TableRoom {
  readonly pinned: Pinned;
  readonly device: Mapped;
  readonly offset: number;
}

export interface HashKernel {
  /**
   * Enqueues the jobs as one launch. `salt` is where the 64-byte salt block stands in device memory. The table room
   * may not be touched until the stream has passed the launch.
   */
  enqueue(stream: Stream, jobs: readonly KernelJob[], room: TableRoom, salt?: { memory: Mapped; offset: number }): void;
  close(): void;
}

/** What helps a driver that works, but will not compile our kernel. */
const LOAD_FIXES: Readonly<Record<number, string>> = {
  [STATUS.NO_BINARY_FOR_GPU]: "the kernel runs on GPUs from Turing on (compute capability 7.5): use a newer one",
  [STATUS.INVALID_IMAGE]: "our package is damaged: install it again",
  [STATUS.INVALID_PTX]: "install driver R470 or newer; if this one is, our package is damaged: install it again",
  [STATUS.JIT_COMPILER_NOT_FOUND]:
    "install libnvidia-ptxjitcompiler of the driver's own version; in a container, pass in the driver's capability compute",
  [STATUS.UNSUPPORTED_PTX_VERSION]: "install driver R470 or newer",
  [STATUS.JIT_COMPILATION_DISABLED]: "unset CUDA_DISABLE_PTX_JIT",
};

/** Loads the module; a device on which it cannot be loaded is one that cannot be used. */
function loadModule(context: DeviceContext, image: Uint8Array): bigint {
  try {
    return context.run((driver) => driver.module.load(image));
  } catch (thrown) {
    const cause = toVramError(thrown);
    const fix = LOAD_FIXES[Number(cause.details["status"])];
    if (fix === undefined) throw cause;
    throw new VramError("DEVICE_UNUSABLE", `the hashing kernel cannot be loaded: ${cause.message}`, {
      fix,
      details: cause.details,
      cause,
    });
  }
}

/** Loads the kernel's module. `image` is PTX for a real device. */
export function openHashKernel(context: DeviceContext, image: Uint8Array): HashKernel {
  const cuModule = loadModule(context, image);
  const gone = countHandle("module");
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    context.release("module", (driver) => driver.module.unload(cuModule));
    gone();
  };
  let cuFunction: bigint;
  try {
    cuFunction = context.run((driver) => driver.module.getFunction(cuModule, HASH_KERNEL));
  } catch (error) {
    close();
    throw error;
  }
  return {
    enqueue: (stream, jobs, room, salt) => {
      const rows = jobs.map((job) => ({
        cuSource: deviceAddress(job.source, job.offset, job.byteLength),
        byteLength: job.byteLength,
        cuTarget: deviceAddress(job.target, job.targetOffset, blockCount(job.byteLength) * HASH_BYTES),
      }));
      const table = encodeJobs(rows);
      const cuTable = deviceAddress(room.device, room.offset, jobs.length * JOB_BYTES);
      const cuSalt = salt === undefined ? 0n : deviceAddress(salt.memory, salt.offset, 64);
      hostAddress(room.pinned, room.offset, table.byteLength);
      room.pinned.bytes.set(table, room.offset);
      stream.copyToDevice(room.device, room.offset, room.pinned, room.offset, table.byteLength);
      context.run((driver) => driver.stream.launch(stream.cuStream(), cuFunction, hashLaunch(cuTable, rows, cuSalt)));
    },
    close,
  };
}
