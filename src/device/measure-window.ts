/**
 * One window of a measurement: what it is given, what it enqueues, and how its results are judged. There are two areas,
 * so that one window is enqueued while the results of the one before are awaited and judged; everything is on one
 * stream, and each area has a mark of its own. All of it is reserved when the device is opened.
 *
 * A window cannot be a no-op (VR-VER-05). Before it the level is overwritten, the result area is filled with a fresh
 * random pattern, and each launch also hashes two canary blocks of fresh random bytes that differ in one bit, one as
 * its first block and one as its last: a launch cut short at either end shows.
 */
import { randomBytes, randomInt } from "node:crypto";
import { assert, present } from "../assert.ts";
import { constantTimeEqual, roundUp } from "../bytes.ts";
import { UndoStack } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { type Allocation, openAllocation } from "../handles/allocation.ts";
import type { DeviceContext } from "../handles/context.ts";
import type { HashKernel, KernelJob } from "../handles/kernel.ts";
import type { Pinned } from "../handles/mapped.ts";
import { openPinned } from "../handles/pinned.ts";
import { type Mark, openStream, type Stream } from "../handles/stream.ts";
import { hashBlocks, SALT_BLOCK_BYTES, saltBlock } from "../hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES, RANGE_BYTES } from "../hash/geometry.ts";

/** Layout of a control area, from its beginning. Offsets in bytes. */
const TABLES = [0, 1024] as const;
const SALT_AT = 2048;
const CANARY_A = BLOCK_BYTES;
const CANARY_B = 2 * BLOCK_BYTES;
const CANARY_DIGESTS_AT = 3 * BLOCK_BYTES;
/** Two canary digests per launch, two launches at most, in front of the result hashes. */
const CANARY_DIGESTS_BYTES = 4 * HASH_BYTES;
/** The first block of random bytes, and the result hashes. */
export const KNOWN_AT = CANARY_A;
export const RESULTS_AT = CANARY_DIGESTS_AT + CANARY_DIGESTS_BYTES;

/** What one window works with. It has one user from `startWindow` until its results are there. */
export interface Area {
  /** Where its tables, salt, canaries and results begin, in pinned and in device memory alike. */
  readonly at: number;
  /** Offset of the answer in pinned memory. */
  readonly answerAt: number;
  /** Offset of level 0 in device memory. */
  readonly levelAt: number;
  readonly mark: Mark;
}

/** What measuring works with, reserved once. */
export interface Workspace {
  readonly stream: Stream;
  readonly pinned: Pinned;
  readonly scratch: Allocation;
  readonly areas: readonly Area[];
  /** Room for level 0 in each area. */
  readonly levelBytes: number;
  readonly undo: UndoStack;
}

/** What is to be hashed in one window. */
export interface Window {
  /** One or two launches, in order. */
  readonly launches: readonly (readonly KernelJob[])[];
  /** Hashes the launches leave in the result area. */
  readonly hashCount: number;
  /** Bytes of data hashed: for the deadline, and for how much of the level is overwritten first. */
  readonly dataBytes: number;
  readonly salt: Uint8Array | undefined;
}

/** Two windows: one on the device, one before the host. */
const AREAS = 2;

export const invalid = (what: string): VramError =>
  new VramError("MEASUREMENT_INVALID", `the measurement is invalid: ${what}`);

/** Room for windows of `windowBytes`. On failure nothing stays behind. */
export async function openWorkspace(context: DeviceContext, windowBytes: number): Promise<Workspace> {
  assert(windowBytes > 0 && windowBytes % RANGE_BYTES === 0, "a window is whole ranges");
  const hashesBytes = Math.max((windowBytes / RANGE_BYTES) * HASH_BYTES, BLOCK_BYTES);
  const areaBytes = roundUp(RESULTS_AT + hashesBytes, BLOCK_BYTES);
  const answerBytes = CANARY_DIGESTS_BYTES + hashesBytes;
  const levelBytes = (windowBytes / BLOCK_BYTES) * HASH_BYTES;
  const undo = new UndoStack(() => undefined);
  try {
    const stream = openStream(context);
    undo.defer("stream", () => stream.close());
    const areas = Array.from({ length: AREAS }, (_, index): Area => {
      const mark = stream.createMark();
      undo.defer("mark", () => mark.close());
      return {
        at: index * areaBytes,
        answerAt: AREAS * areaBytes + index * answerBytes,
        levelAt: AREAS * areaBytes + index * levelBytes,
        mark,
      };
    });
    const pinned = openPinned(context, AREAS * (areaBytes + answerBytes));
    undo.defer("pinned memory", () => pinned.close());
    const scratch = openAllocation(context, AREAS * (areaBytes + levelBytes), "readWrite");
    undo.defer("scratch", () => scratch.close());
    return { stream, pinned, scratch, areas, levelBytes, undo };
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}

/** The area of window `index`. */
export const areaOf = (space: Workspace, index: number): Area => present(space.areas[index % AREAS], "an area");

/** Two fresh blocks that differ in one bit. */
function freshCanaries(): [Uint8Array, Uint8Array] {
  const known = randomBytes(BLOCK_BYTES);
  const flipped = new Uint8Array(known);
  const at = randomInt(BLOCK_BYTES);
  flipped[at] = (flipped[at] ?? 0) ^ (1 << randomInt(8));
  return [known, flipped];
}

/** SHA-256 of one block, as the host computes it. */
export function hostDigest(block: Uint8Array, padded: Uint8Array | undefined): Uint8Array {
  const out = new Uint8Array(HASH_BYTES);
  hashBlocks(block, out, padded);
  return out;
}

/** Whether the 32 bytes at `at` are still the pattern's. The pattern is no secret: the first other byte ends it. */
function survived(answer: Uint8Array, pattern: Uint8Array, at: number): boolean {
  let same = 0;
  while (same < HASH_BYTES && answer[at + same] === pattern[at + same]) same += 1;
  return same === HASH_BYTES;
}

/** Throws unless every canary is right and no 32 bytes of the pattern survived. */
export function requireRealResults(answer: Uint8Array, pattern: Uint8Array, canaries: readonly Uint8Array[]): void {
  canaries.forEach((expected, index) => {
    const found = answer.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
    if (!constantTimeEqual(found, expected)) throw invalid(`canary block ${index} has the wrong digest`);
  });
  for (let at = CANARY_DIGESTS_BYTES; at < answer.byteLength; at += HASH_BYTES) {
    if (survived(answer, pattern, at)) throw invalid("a part of the result area was never written");
  }
}

/** The jobs of launch `index` between its two canaries. */
function betweenCanaries({ scratch }: Workspace, area: Area, jobs: readonly KernelJob[], index: number): KernelJob[] {
  const canary = (offset: number, which: number): KernelJob => ({
    source: scratch,
    offset: area.at + offset,
    byteLength: BLOCK_BYTES,
    target: scratch,
    targetOffset: area.at + CANARY_DIGESTS_AT + (index * 2 + which) * HASH_BYTES,
  });
  return [canary(CANARY_A, 0), ...jobs, canary(CANARY_B, 1)];
}

/**
 * Enqueues a window: pattern, canaries, launches, and the copy of the results. What it returns waits for the checked
 * results, `hashCount` × 32 bytes. If anything throws, here or there, the stream has yet to be settled.
 */
export function startWindow(
  space: Workspace,
  area: Area,
  kernel: HashKernel,
  window: Window,
): () => Promise<Uint8Array> {
  const { stream, pinned, scratch } = space;
  const used = CANARY_DIGESTS_BYTES + window.hashCount * HASH_BYTES;
  const padded = window.salt === undefined ? undefined : saltBlock(window.salt);
  const [known, flipped] = freshCanaries();
  const pattern = randomBytes(used);
  pinned.bytes.set(padded ?? new Uint8Array(SALT_BLOCK_BYTES), area.at + SALT_AT);
  pinned.bytes.set(known, area.at + CANARY_A);
  pinned.bytes.set(flipped, area.at + CANARY_B);
  pinned.bytes.set(pattern, area.at + CANARY_DIGESTS_AT);
  pinned.bytes.set(pattern, area.answerAt);
  const dirtied = Math.min(space.levelBytes, blockCount(window.dataBytes) * HASH_BYTES);
  stream.fill(scratch, area.levelAt, randomInt(256), dirtied);
  stream.copyToDevice(scratch, area.at, pinned, area.at, CANARY_DIGESTS_AT + used);
  window.launches.forEach((jobs, index) => {
    const room = { pinned, device: scratch, offset: area.at + present(TABLES[index], "room for a table") };
    const salt = padded === undefined ? undefined : { memory: scratch, offset: area.at + SALT_AT };
    kernel.enqueue(stream, betweenCanaries(space, area, jobs, index), room, salt);
  });
  stream.copyToHost(pinned, area.answerAt, scratch, area.at + CANARY_DIGESTS_AT, used);
  area.mark.record();
  return async () => {
    await area.mark.wait(window.dataBytes);
    const answer = pinned.bytes.slice(area.answerAt, area.answerAt + used);
    const pair = [hostDigest(known, padded), hostDigest(flipped, padded)];
    const canaries = window.launches.flatMap(() => pair);
    requireRealResults(answer, pattern, canaries);
    return answer.subarray(CANARY_DIGESTS_BYTES);
  };
}
