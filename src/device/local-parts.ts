/** What a device of this process consists of: opened together, closed in reverse, on failure nothing stays behind. */
import type { Clock } from "../clock.ts";
import type { CudaDriver } from "../cuda/driver.ts";
import type { GpuMonitor } from "../cuda/monitor.ts";
import type { ReleaseFailureReporter, UndoStack } from "../dispose.ts";
import { type DeviceContext, openContext } from "../handles/context.ts";
import { openHashKernel } from "../handles/kernel.ts";
import type { Pinned } from "../handles/mapped.ts";
import { openPinned } from "../handles/pinned.ts";
import { openStream, type Stream } from "../handles/stream.ts";
import { BLOCK_BYTES } from "../hash/geometry.ts";
import type { HashPool } from "../hash/pool.ts";
import { LIMITS } from "../limits.ts";
import type { FileSystem } from "../source/file.ts";
import { openRing, type PinnedRing } from "../staging/ring.ts";
import { type Meter, openMeter, windowFor } from "./measure.ts";

export interface LocalDeviceOptions {
  readonly driver: CudaDriver;
  readonly ordinal: number;
  readonly clock: Clock;
  readonly pool: HashPool;
  readonly fs: FileSystem;
  /** The hashing kernel: PTX, or the emulated driver's stand-in. */
  readonly kernelImage: Uint8Array;
  readonly report: ReleaseFailureReporter;
  readonly monitor: GpuMonitor;
  readonly wddm?: boolean;
  readonly ringSlots?: number;
  readonly ringSlotBytes?: number;
  readonly measureWindowBytes?: number;
}

/** What an open device holds; opened together, closed in reverse. */
export interface LocalParts {
  readonly context: DeviceContext;
  readonly uploads: Stream;
  readonly chores: Stream;
  readonly block: Pinned;
  readonly ring: PinnedRing;
  readonly meter: Meter;
}

/** Opens it all for a device of so many bytes. */
export async function openLocalParts(
  options: LocalDeviceOptions,
  bytesTotal: number,
  undo: UndoStack,
): Promise<LocalParts> {
  const context = openContext(options.driver, options.ordinal, options.clock, options.report);
  undo.defer("context", () => context.close());
  const uploads = openStream(context);
  undo.defer("upload stream", () => uploads.close());
  const chores = openStream(context);
  undo.defer("chore stream", () => chores.close());
  const block = openPinned(context, BLOCK_BYTES);
  undo.defer("block buffer", () => block.close());
  const slots = options.ringSlots ?? LIMITS.ringSlots;
  const ring = openRing(context, uploads, slots, options.ringSlotBytes ?? LIMITS.ringSlotBytes);
  undo.defer("ring", () => ring.close());
  const kernel = openHashKernel(context, options.kernelImage);
  undo.defer("kernel", () => kernel.close());
  const meter = await openMeter(context, kernel, options.measureWindowBytes ?? windowFor(bytesTotal));
  undo.defer("meter", () => meter.close());
  await meter.selfTest();
  return { context, uploads, chores, block, ring, meter };
}
