/** What the process that talks to NVML does: answers requests, one at a time, and ends with its parent. */
import { openLibrary } from "../ffi.ts";
import type { GpuHealth } from "./monitor.ts";
import { type Nvml, openNvml } from "./nvml.ts";

/** `PR_SET_PDEATHSIG`, `SIGKILL` (linux/prctl.h, signal.h). */
const SET_PARENT_DEATH_SIGNAL = 1;
const SIGKILL = 9n;

/** `id` comes back with the answer. */
export interface NvmlRequest {
  readonly id: number;
  readonly uuid: string;
}

export interface NvmlReply {
  readonly id: number;
  readonly health: GpuHealth;
}

/**
 * Answers requests with what the NVML at `library` knows. It is opened by the first request; if it cannot be, the
 * answer is `{}` and the next request tries again, for a driver may be loaded later. Never throws.
 */
export function nvmlServer(library: string): (request: NvmlRequest) => NvmlReply {
  let nvml: Nvml | undefined;
  return ({ id, uuid }) => {
    try {
      nvml ??= openNvml(library);
      return { id, health: nvml.read(uuid) };
    } catch {
      return { id, health: {} };
    }
  };
}

/**
 * Has the kernel kill this process when its parent dies: one that hangs in a driver call never learns that the channel
 * to its parent is gone (measured: it outlived it by 6 s). Does nothing where there is no glibc on Linux.
 */
export function dieWithParent(parentPid: number): void {
  try {
    const { prctl } = openLibrary("libc.so.6").bindPresent({ prctl: "int prctl(int option, uint64_t signal)" });
    prctl?.(SET_PARENT_DEATH_SIGNAL, SIGKILL);
  } catch {
    // Without it the `disconnect` event has to do.
  }
  // It may have died before it was asked to be watched.
  if (process.ppid !== parentPid) process.exit();
}
