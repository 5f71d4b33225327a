/**
 * Measuring a shard where it lies. The tree is hashed in windows (4 GiB): level 0 into scratch, level 1 from there;
 * only level 1 and the canaries come to the host, which folds the few levels above. Everything needed is reserved when
 * the device is opened: measuring allocates nothing (VR-MEM-06).
 *
 * A measurement cannot be a no-op (VR-VER-05). Before each window the scratch is overwritten, the result area is
 * filled with a fresh random pattern, and each launch also hashes two canary blocks of fresh random bytes that differ
 * in one bit. A surviving pattern or a wrong canary is `MEASUREMENT_INVALID`: neither pass nor mismatch.
 */
import { randomBytes, randomInt } from "node:crypto";
import { assert, requireRange } from "../assert.ts";
import { constantTimeEqual, roundUp } from "../bytes.ts";
import { UndoStack } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { type Allocation, openAllocation } from "../handles/allocation.ts";
import type { DeviceContext } from "../handles/context.ts";
import type { HashKernel, KernelJob } from "../handles/kernel.ts";
import type { Mapped, Pinned } from "../handles/mapped.ts";
import { openPinned } from "../handles/pinned.ts";
import { openStream, type Stream, settled } from "../handles/stream.ts";
import { hashBlocks, SALT_BLOCK_BYTES, saltBlock } from "../hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES, RANGE_BYTES } from "../hash/geometry.ts";
import { foldKept } from "../hash/tree.ts";
import type { Measurement } from "./device.ts";

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

/** Layout of the control area, the same in pinned and in device memory. Offsets in bytes. */
const TABLES = [0, 1024] as const;
const SALT_AT = 2048;
const CANARY_A = BLOCK_BYTES;
const CANARY_B = 2 * BLOCK_BYTES;
const RESULTS_AT = 3 * BLOCK_BYTES;
/** Two canary digests per launch, two launches at most, in front of the result hashes. */
const CANARY_DIGESTS_BYTES = 4 * HASH_BYTES;

/** What measuring works with, reserved once. */
interface Workspace {
  readonly stream: Stream;
  /** Tables, salt, canaries, the result pattern, and the answer. */
  readonly pinned: Pinned;
  /** The same, and level 0 of one window. */
  readonly scratch: Allocation;
  /** Offset of the answer in `pinned`. */
  readonly answerAt: number;
  /** Offset of level 0 in `scratch`, and its room. */
  readonly levelAt: number;
  readonly levelBytes: number;
  readonly undo: UndoStack;
}

const invalid = (what: string): VramError =>
  new VramError("MEASUREMENT_INVALID", `the measurement is invalid: ${what}`);

/** Two fresh blocks that differ in one bit. */
function freshCanaries(): [Uint8Array, Uint8Array] {
  const known = randomBytes(BLOCK_BYTES);
  const flipped = new Uint8Array(known);
  const at = randomInt(BLOCK_BYTES);
  flipped[at] = (flipped[at] ?? 0) ^ (1 << randomInt(8));
  return [known, flipped];
}

function hostDigest(block: Uint8Array, padded: Uint8Array | undefined): Uint8Array {
  const out = new Uint8Array(HASH_BYTES);
  hashBlocks(block, out, padded);
  return out;
}

/** Throws unless every canary is right and no 32 bytes of the pattern survived. */
export function requireRealResults(answer: Uint8Array, pattern: Uint8Array, canaries: readonly Uint8Array[]): void {
  canaries.forEach((expected, index) => {
    const found = answer.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
    if (!constantTimeEqual(found, expected)) throw invalid(`canary block ${index} has the wrong digest`);
  });
  for (let at = CANARY_DIGESTS_BYTES; at < answer.byteLength; at += HASH_BYTES) {
    if (constantTimeEqual(answer.subarray(at, at + HASH_BYTES), pattern.subarray(at, at + HASH_BYTES))) {
      throw invalid("a part of the result area was never written");
    }
  }
}

/** Room for windows of `windowBytes`. On failure nothing stays behind. */
async function openWorkspace(context: DeviceContext, windowBytes: number): Promise<Workspace> {
  assert(windowBytes > 0 && windowBytes % RANGE_BYTES === 0, "a window is whole ranges");
  const hashesBytes = Math.max((windowBytes / RANGE_BYTES) * HASH_BYTES, BLOCK_BYTES);
  const resultBytes = CANARY_DIGESTS_BYTES + hashesBytes;
  const answerAt = RESULTS_AT + resultBytes;
  const levelAt = roundUp(answerAt, BLOCK_BYTES);
  const levelBytes = (windowBytes / BLOCK_BYTES) * HASH_BYTES;
  const undo = new UndoStack(() => undefined);
  try {
    const stream = openStream(context);
    undo.defer("stream", () => stream.close());
    const pinned = openPinned(context, answerAt + resultBytes);
    undo.defer("pinned memory", () => pinned.close());
    const scratch = openAllocation(context, levelAt + levelBytes, "readWrite");
    undo.defer("scratch", () => scratch.close());
    return { stream, pinned, scratch, answerAt, levelAt, levelBytes, undo };
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}

/** The two canary jobs of launch `index`. */
function canaryJobs(scratch: Mapped, index: number): KernelJob[] {
  return [CANARY_A, CANARY_B].map((offset, which) => ({
    source: scratch,
    offset,
    byteLength: BLOCK_BYTES,
    target: scratch,
    targetOffset: RESULTS_AT + (index * 2 + which) * HASH_BYTES,
  }));
}

/** Lengths, in bytes, at which a block's tail is handled in another way. */
const TAILS = [1, 55, 63, 64, 65, 2048, BLOCK_BYTES - 1] as const;

/** The first `tail` bytes of a canary block, to result hash `index`. */
const tailJob = (scratch: Mapped, tail: number, index: number): KernelJob => ({
  source: scratch,
  offset: CANARY_A,
  byteLength: tail,
  target: scratch,
  targetOffset: RESULTS_AT + CANARY_DIGESTS_BYTES + index * HASH_BYTES,
});

interface Run {
  /** One or two launches, in order. */
  readonly launches: readonly (readonly KernelJob[])[];
  /** Hashes the launches leave in the result area. */
  readonly hashCount: number;
  /** Bytes of data hashed: for the deadline, and for how much scratch is overwritten first. */
  readonly dataBytes: number;
  readonly salt: Uint8Array | undefined;
}

/** Poison, canaries, launches, and the checked results: `hashCount` × 32 bytes. */
async function runLaunches(space: Workspace, kernel: HashKernel, run: Run): Promise<Uint8Array> {
  const { stream, pinned, scratch, answerAt } = space;
  const used = CANARY_DIGESTS_BYTES + run.hashCount * HASH_BYTES;
  const padded = run.salt === undefined ? undefined : saltBlock(run.salt);
  const [known, flipped] = freshCanaries();
  const pattern = randomBytes(used);
  pinned.bytes.set(padded ?? new Uint8Array(SALT_BLOCK_BYTES), SALT_AT);
  pinned.bytes.set(known, CANARY_A);
  pinned.bytes.set(flipped, CANARY_B);
  pinned.bytes.set(pattern, RESULTS_AT);
  pinned.bytes.set(pattern, answerAt);
  await settled(stream, run.dataBytes, () => {
    stream.fill(
      scratch,
      space.levelAt,
      randomInt(256),
      Math.min(space.levelBytes, blockCount(run.dataBytes) * HASH_BYTES),
    );
    stream.copyToDevice(scratch, 0, pinned, 0, RESULTS_AT + used);
    run.launches.forEach((jobs, index) => {
      const room = { pinned, device: scratch, offset: TABLES[index] ?? 0 };
      const salt = padded === undefined ? undefined : { memory: scratch, offset: SALT_AT };
      kernel.enqueue(stream, [...jobs, ...canaryJobs(scratch, index)], room, salt);
    });
    stream.copyToHost(pinned, answerAt, scratch, RESULTS_AT, used);
  });
  const answer = pinned.bytes.slice(answerAt, answerAt + used);
  const pair = [hostDigest(known, padded), hostDigest(flipped, padded)];
  requireRealResults(
    answer,
    pattern,
    run.launches.flatMap(() => pair),
  );
  return answer.subarray(CANARY_DIGESTS_BYTES);
}

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
  const { scratch, levelAt } = space;

  const toResults = (source: Mapped, offset: number, byteLength: number): KernelJob => ({
    source,
    offset,
    byteLength,
    target: scratch,
    targetOffset: RESULTS_AT + CANARY_DIGESTS_BYTES,
  });

  /** Level 1 of one window; level 0 where the whole tree is one block. */
  const measureWindow = (memory: Mapped, offset: number, byteLength: number, salt: Uint8Array | undefined) => {
    if (memory.byteLength <= BLOCK_BYTES) {
      const launches = [[toResults(memory, offset, byteLength)]];
      return runLaunches(space, kernel, { launches, hashCount: 1, dataBytes: byteLength, salt });
    }
    const toLevel = { source: memory, offset, byteLength, target: scratch, targetOffset: levelAt };
    const launches = [[toLevel], [toResults(scratch, levelAt, blockCount(byteLength) * HASH_BYTES)]];
    const hashCount = Math.ceil(byteLength / RANGE_BYTES);
    return runLaunches(space, kernel, { launches, hashCount, dataBytes: byteLength, salt });
  };

  return {
    measure: async (memory, salt) => {
      const start = context.clock.monotonicMs();
      const parts: Uint8Array[] = [];
      let bytesCovered = 0;
      while (bytesCovered < memory.byteLength) {
        const byteLength = Math.min(windowBytes, memory.byteLength - bytesCovered);
        parts.push(await measureWindow(memory, bytesCovered, byteLength, salt));
        bytesCovered += byteLength;
      }
      const { digest, kept } = foldKept(Buffer.concat(parts), memory.byteLength, salt);
      return { digest, kept, bytesCovered, windows: parts.length, durationMs: context.clock.monotonicMs() - start };
    },
    leaves: async (memory, offset, byteLength) => {
      requireRange(0, byteLength, RANGE_BYTES, "a range of leaves");
      const launches = [[toResults(memory, offset, byteLength)]];
      return runLaunches(space, kernel, {
        launches,
        hashCount: blockCount(byteLength),
        dataBytes: byteLength,
        salt: undefined,
      });
    },
    selfTest: () =>
      asUnusable(async () => {
        for (const salt of [undefined, randomBytes(32)]) {
          const launches = [TAILS.map((tail, index) => tailJob(scratch, tail, index))];
          const hashes = await runLaunches(space, kernel, { launches, hashCount: TAILS.length, dataBytes: 1, salt });
          const padded = salt === undefined ? undefined : saltBlock(salt);
          TAILS.forEach((tail, index) => {
            // What was sent to the device is still in the pinned buffer.
            const expected = hostDigest(space.pinned.bytes.slice(CANARY_A, CANARY_A + tail), padded);
            const found = hashes.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
            if (!constantTimeEqual(found, expected)) throw invalid(`the digest of ${tail} known bytes is wrong`);
          });
        }
      }),
    close: () => space.undo.unwind(),
  };
}
