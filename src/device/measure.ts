/**
 * Measuring a shard where it lies. The tree is hashed in windows (4 GiB): level 0 into scratch, level 1 from there;
 * only level 1 and the canaries come to the host, which folds the few levels above. Windows are two deep: the next one
 * is enqueued before the host waits for one and judges it, so that the device does not wait for the host. Everything
 * needed is reserved when the device is opened: measuring allocates nothing (VR-MEM-06).
 *
 * A measurement cannot be a no-op (VR-VER-05): `measure-window.ts`. Results that are not real are
 * `MEASUREMENT_INVALID`: neither pass nor mismatch.
 */
import { randomBytes } from "node:crypto";
import { requireRange } from "../assert.ts";
import { constantTimeEqual, roundUp } from "../bytes.ts";
import { toVramError, VramError } from "../errors.ts";
import type { DeviceContext } from "../handles/context.ts";
import type { HashKernel, KernelJob } from "../handles/kernel.ts";
import type { Mapped } from "../handles/mapped.ts";
import { settled } from "../handles/stream.ts";
import { saltBlock } from "../hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES, RANGE_BYTES } from "../hash/geometry.ts";
import { foldKept } from "../hash/tree.ts";
import { LIMITS } from "../limits.ts";
import type { Measurement } from "./device.ts";
import {
  type Area,
  areaOf,
  hostDigest,
  invalid,
  KNOWN_AT,
  openWorkspace,
  RESULTS_AT,
  startWindow,
  type Window,
  type Workspace,
} from "./measure-window.ts";

export interface Meter {
  /** Measures all of `memory`; `salt` is 1–32 bytes. One at a time. */
  measure(memory: Mapped, salt?: Uint8Array): Promise<Measurement>;
  /**
   * A known-answer test on fresh random bytes: whole blocks and tails, with and without a salt. Throws
   * `DEVICE_UNUSABLE` if this device does not compute SHA-256.
   */
  selfTest(): Promise<void>;
  /** Level-0 hashes of [offset, offset + byteLength), at most 512 KiB. One at a time. */
  leaves(memory: Mapped, offset: number, byteLength: number): Promise<Uint8Array>;
  /** May be called twice. */
  close(): Promise<void>;
}

/** Bytes of a window on a device with so much memory: a small one has no use, and no room, for scratch beyond it. */
export function windowFor(bytesTotal: number): number {
  return Math.min(LIMITS.measureWindowBytes, roundUp(bytesTotal, RANGE_BYTES));
}

/** A range of device memory. */
interface Range {
  readonly memory: Mapped;
  readonly offset: number;
  readonly byteLength: number;
}

/** Hashes `range` to the results of `area`. */
const toResults = (space: Workspace, area: Area, range: Range): KernelJob => ({
  source: range.memory,
  offset: range.offset,
  byteLength: range.byteLength,
  target: space.scratch,
  targetOffset: area.at + RESULTS_AT,
});

/** Level 1 of a range; level 0 where the whole tree is one block. */
function treeWindow(space: Workspace, area: Area, range: Range, salt: Uint8Array | undefined): Window {
  const { memory, offset, byteLength } = range;
  if (memory.byteLength <= BLOCK_BYTES) {
    return { launches: [[toResults(space, area, range)]], hashCount: 1, dataBytes: byteLength, salt };
  }
  const { scratch } = space;
  const level = { memory: scratch, offset: area.levelAt, byteLength: blockCount(byteLength) * HASH_BYTES };
  const toLevel = { source: memory, offset, byteLength, target: scratch, targetOffset: level.offset };
  return {
    launches: [[toLevel], [toResults(space, area, level)]],
    hashCount: Math.ceil(byteLength / RANGE_BYTES),
    dataBytes: byteLength,
    salt,
  };
}

/** The hashes of `count` windows, in order. One is always enqueued before the one before it is awaited. */
async function inTurn(
  count: number,
  start: (index: number) => ReturnType<typeof startWindow>,
): Promise<readonly Uint8Array[]> {
  const parts: Uint8Array[] = [];
  let earlier: ReturnType<typeof startWindow> | undefined;
  for (let index = 0; index < count; index += 1) {
    const later = start(index);
    if (earlier !== undefined) parts.push(await earlier());
    earlier = later;
  }
  if (earlier !== undefined) parts.push(await earlier());
  return parts;
}

/** Lengths, in bytes, at which a block's tail is handled in another way. */
const TAILS = [1, 55, 63, 64, 65, 2048, BLOCK_BYTES - 1] as const;

/** The first `tail` bytes of the known block of `area`, to result hash `index`. */
const tailJob = (space: Workspace, area: Area, tail: number, index: number): KernelJob => ({
  source: space.scratch,
  offset: area.at + KNOWN_AT,
  byteLength: tail,
  target: space.scratch,
  targetOffset: area.at + RESULTS_AT + index * HASH_BYTES,
});

/** A device that fails its self-test is not opened. */
async function asUnusable(test: () => Promise<void>): Promise<void> {
  try {
    await test();
  } catch (thrown) {
    const cause = toVramError(thrown);
    if (cause.code !== "MEASUREMENT_INVALID") throw cause;
    throw new VramError("DEVICE_UNUSABLE", `the self-test failed: ${cause.message}`, {
      fix: "this GPU or its driver computes wrong digests: try another driver version, then have the GPU checked",
      cause,
    });
  }
}

/** Reserves what measuring needs. `windowBytes` is a multiple of 512 KiB. */
export async function openMeter(context: DeviceContext, kernel: HashKernel, windowBytes: number): Promise<Meter> {
  const space = await openWorkspace(context, windowBytes);
  const { stream, pinned } = space;

  /** One window, in the first area. */
  const runAlone = (area: Area, window: Window): Promise<Uint8Array> =>
    settled(stream, window.dataBytes, () => startWindow(space, area, kernel, window)());

  const selfTest = async (salt: Uint8Array | undefined): Promise<void> => {
    const area = areaOf(space, 0);
    const launches = [TAILS.map((tail, index) => tailJob(space, area, tail, index))];
    const hashes = await runAlone(area, { launches, hashCount: TAILS.length, dataBytes: 1, salt });
    const padded = salt === undefined ? undefined : saltBlock(salt);
    TAILS.forEach((tail, index) => {
      // What was sent to the device is still in the pinned buffer.
      const at = area.at + KNOWN_AT;
      const expected = hostDigest(pinned.bytes.slice(at, at + tail), padded);
      const found = hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
      if (!constantTimeEqual(found, expected)) throw invalid(`the digest of ${tail} known bytes is wrong`);
    });
  };

  return {
    measure: async (memory, salt) => {
      const startedAt = context.clock.monotonicMs();
      const { byteLength: bytesCovered } = memory;
      const windows = Math.ceil(bytesCovered / windowBytes);
      const start = (index: number) => {
        const offset = index * windowBytes;
        const range = { memory, offset, byteLength: Math.min(windowBytes, bytesCovered - offset) };
        const area = areaOf(space, index);
        return startWindow(space, area, kernel, treeWindow(space, area, range, salt));
      };
      // Two windows at most are enqueued at any time.
      const outstanding = Math.min(bytesCovered, 2 * windowBytes);
      const parts = await settled(stream, outstanding, () => inTurn(windows, start));
      const { digest, kept } = foldKept(Buffer.concat(parts), bytesCovered, salt);
      return { digest, kept, bytesCovered, windows, durationMs: context.clock.monotonicMs() - startedAt };
    },
    leaves: async (memory, offset, byteLength) => {
      requireRange(0, byteLength, RANGE_BYTES, "a range of leaves");
      const area = areaOf(space, 0);
      const launches = [[toResults(space, area, { memory, offset, byteLength })]];
      const hashCount = blockCount(byteLength);
      return runAlone(area, { launches, hashCount, dataBytes: byteLength, salt: undefined });
    },
    selfTest: () =>
      asUnusable(async () => {
        for (const salt of [undefined, randomBytes(32)]) await selfTest(salt);
      }),
    close: () => space.undo.unwind(),
  };
}
