/** Handles over a fresh emulated machine: what tests of handles start from. */

import { type Clock, systemClock } from "../../src/clock.ts";
import type { CudaDriver } from "../../src/cuda/driver.ts";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { emulatedMonitor } from "../../src/cuda/emulated/monitor.ts";
import { type LocalDevice, openLocalDevice } from "../../src/device/local.ts";
import type { LocalDeviceOptions } from "../../src/device/local-parts.ts";
import { VramError } from "../../src/errors.ts";
import { openAllocation } from "../../src/handles/allocation.ts";
import { openContext } from "../../src/handles/context.ts";
import { openHashKernel } from "../../src/handles/kernel.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { openStream } from "../../src/handles/stream.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { nodeFileSystem } from "../../src/source/file.ts";
import { device } from "./emulated.ts";
import { errorOf } from "./header-parses.ts";

/** The code of the `VramError` that `run` throws; else what it throws. */
export const codeBy = (run: () => unknown): unknown => {
  const error = errorOf(run);
  return error instanceof VramError ? error.code : error;
};

/** A clock that moves by 1 ms whenever it is read, and by what is slept. */
export function fakeClock(): Clock & { now: number } {
  const clock = {
    now: 0,
    wallMs: () => 0,
    monotonicMs: () => {
      clock.now += 1;
      return clock.now;
    },
    sleep: async (ms: number) => {
      clock.now += ms * 500;
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
  return clock;
}

/** A context on a fresh machine, and what its releases reported. */
export function openAll(wrap: (driver: CudaDriver) => CudaDriver = (driver) => driver) {
  const faults = createFaultPlan();
  const emulated = openEmulatedDriver({ devices: [device()], pool: openHashPool(0), faults });
  const reports: string[] = [];
  const clock = fakeClock();
  const context = openContext(wrap(emulated), 0, clock, (what) => reports.push(what));
  return { faults, emulated, reports, clock, context };
}

/** Every kind of handle at once. */
export function openEvery(wrap?: (driver: CudaDriver) => CudaDriver) {
  const all = openAll(wrap);
  const allocation = openAllocation(all.context, 5000, "read");
  const scratch = openAllocation(all.context, 6000, "readWrite");
  const pinned = openPinned(all.context, 7000);
  const stream = openStream(all.context);
  const mark = stream.createMark();
  const kernel = openHashKernel(all.context, EMULATED_MODULE_IMAGE);
  const handles = { allocation, scratch, pinned, mark, stream, kernel };
  const closeAll = (): void => {
    for (const handle of [...Object.values(handles), all.context]) handle.close();
  };
  return { ...all, ...handles, handles, closeAll };
}

/** A device with two slots and windows of 512 KiB on a fresh machine of 64 MiB. `open` may be called again. */
export function deviceMachine(
  wrap: (driver: CudaDriver) => CudaDriver = (driver) => driver,
  options: Partial<LocalDeviceOptions> = {},
) {
  const faults = createFaultPlan();
  const pool = openHashPool(0);
  const emulated = openEmulatedDriver({ devices: [device(0), device(1)], pool, faults });
  const reports: string[] = [];
  const open = (): Promise<LocalDevice> =>
    openLocalDevice({
      driver: wrap(emulated),
      ordinal: 0,
      clock: systemClock,
      pool,
      monitor: emulatedMonitor([]),
      fs: nodeFileSystem,
      kernelImage: EMULATED_MODULE_IMAGE,
      report: (what) => reports.push(what),
      ringSlots: 2,
      ringSlotBytes: 512 * 1024,
      measureWindowBytes: 512 * 1024,
      ...options,
    });
  return { faults, emulated, reports, open };
}

/** Allocates and uploads `bytes`; the witnessed digest, and where they lie. */
export async function uploadBytes(local: LocalDevice, bytes: Uint8Array) {
  const { sourceId } = await local.openSource({ kind: "bytes", bytes }, { format: "raw" });
  const allocationId = await local.allocate(bytes.byteLength);
  const uploaded = await local.upload({ sourceId, allocationId, witness: true, sha256: true }, {});
  await local.closeSource(sourceId);
  return { allocationId, uploaded };
}
