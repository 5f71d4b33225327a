/**
 * The state of one emulated driver: its devices, tables and what executes work. A `CUdevice` is the device's ordinal.
 * Every call of the driver goes through `enter`: a remembered lint, a closed driver, then the fault plan, then the call.
 */
import { cudaError, STATUS } from "../status.ts";
import { openAccessor } from "./access.ts";
import { openAddressSpace } from "./address-space.ts";
import { type Context, openContexts } from "./context.ts";
import type { EmulatedFaults } from "./faults.ts";
import { openLintBook } from "./lint.ts";
import { openAllocations } from "./memory.ts";
import { type EmulatedOptions, nameOf } from "./options.ts";
import { openPinnedBlocks } from "./pinned.ts";
import type { Execution, Marker, Stream } from "./queue.ts";
import { handleTable } from "./table.ts";

const STREAM_BASE = 0x0057_0000_0000_0000n;
const EVENT_BASE = 0x00e7_0000_0000_0000n;
const MODULE_BASE = 0x0030_0000_0000_0000n;
const FUNCTION_BASE = 0x00f0_0000_0000_0000n;

/** A kernel of a loaded module. */
export interface LoadedFunction {
  readonly context: Context;
  readonly cuModule: bigint;
}

export type Parts = ReturnType<typeof openParts>;

/** Devices are numbered as listed. */
export function openParts(options: EmulatedOptions) {
  const faults: EmulatedFaults = options.faults ?? {};
  const lints = openLintBook();
  const devices = options.devices.map((spec, ordinal) => ({ spec, ordinal, name: nameOf(spec) }));
  const allocations = openAllocations();
  const space = openAddressSpace(allocations);
  const execution: Execution = { faults, lints, executed: new Map() };
  let closed = false;

  /** Wraps the calls of one noun. */
  const enter = <A extends readonly unknown[], R>(call: string, body: (...args: A) => R): ((...args: A) => R) => {
    return (...args) => {
      lints.throwPending();
      if (closed) throw cudaError(call, STATUS.NOT_INITIALIZED);
      const status = faults.onCall?.(call);
      if (status !== undefined) throw cudaError(call, status);
      return body(...args);
    };
  };
  const device = (cuDevice: number, call: string) => {
    const found = devices[cuDevice];
    if (found === undefined) throw cudaError(call, STATUS.INVALID_DEVICE);
    return found;
  };

  return {
    faults,
    lints,
    devices,
    device,
    allocations,
    space,
    execution,
    enter,
    pool: options.pool,
    contexts: openContexts(),
    pinned: openPinnedBlocks(),
    access: openAccessor(space, faults, lints),
    streams: handleTable<Stream>("stream", STREAM_BASE, STATUS.INVALID_HANDLE),
    events: handleTable<Marker>("event", EVENT_BASE, STATUS.INVALID_HANDLE),
    modules: handleTable<{ readonly context: Context }>("module", MODULE_BASE, STATUS.INVALID_HANDLE),
    functions: handleTable<LoadedFunction>("module of the function", FUNCTION_BASE, STATUS.INVALID_HANDLE),
    close: () => {
      closed = true;
    },
  };
}
