/** What a verification says when it passes, and how one that fails is reported. */

import { toHex } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import type { DamagedBlock, DeviceInfo, Located, Measurement } from "../device/device.ts";
import { VramError } from "../errors.ts";
import { RANGE_BYTES } from "../hash/geometry.ts";
import type { DamagedRange, DeviceRef } from "../journal/entry.ts";
import { LIMITS } from "../limits.ts";
import { recordOf, type Shard, type ShardRecord } from "../residency/shard.ts";
import { tensorsWithin } from "../source/tensors.ts";

/** A verification that passed. Durations in milliseconds, rate in bytes per second. */
export interface VerificationReport {
  /** The shard as of now. */
  readonly record: ShardRecord;
  /** Which implementation measured. Nothing of `emulated` is evidence about a GPU. */
  readonly backend: Backend;
  /** Where it was measured. */
  readonly device: DeviceRef;
  /** The measured digest, equal to the sealed one; 32 bytes, hex. */
  readonly digest: string;
  /**
   * `measured`: the bytes were measured by this call. `fresh-enough`: an earlier measurement by this instance is no
   * older than the caller demanded; nothing was measured now.
   */
  readonly basis: "measured" | "fresh-enough";
  /** Age of the measurement, from its beginning, by the monotonic clock. */
  readonly ageMs: number;
  /** When the measurement began; RFC 3339, UTC, for people: `ageMs` decides. */
  readonly measuredAt: string;
  /** Bytes the measurement covered: always all of the shard. 0 when nothing was measured now. */
  readonly bytesCovered: number;
  /** Of this measurement; 0 when nothing was measured now. */
  readonly durationMs: number;
  /** Of this measurement, rounded; 0 when nothing was measured now. */
  readonly bytesPerSecond: number;
  /** The caller's salt and what it gave: only bytes at hand now can. */
  readonly salted?: {
    /** 1 to 32 bytes, hex. */
    readonly salt: string;
    /** fs-verity digest with that salt, 32 bytes hex. */
    readonly digest: string;
  };
  /** `l2-possible`: the shard is so small that the GPU's L2 cache may have answered for VRAM. */
  readonly readFrom: "vram" | "l2-possible" | "emulated" | "substituted";
}

/** Whether the L2 cache could hold enough of the shard to answer for the memory behind it (facts/cuda.md, §9b). */
export function readFrom(info: DeviceInfo, byteLength: number): VerificationReport["readFrom"] {
  if (info.backend === "emulated") return "emulated";
  // What another library calls VRAM is not ours to say.
  if (info.backend === "cuda-substituted") return "substituted";
  return byteLength < 2 * info.l2CacheBytes ? "l2-possible" : "vram";
}

export function measuredReport(
  shard: Shard,
  info: DeviceInfo,
  measured: Measurement,
  salted: VerificationReport["salted"],
  // Of this measurement: the shard's own is already the next one's, if there was one meanwhile.
  { ageMs, wallMs }: { readonly ageMs: number; readonly wallMs: number },
): VerificationReport {
  const seconds = measured.durationMs / 1000;
  return {
    record: recordOf(shard),
    backend: info.backend,
    device: { ordinal: info.ordinal, uuid: info.uuid },
    digest: toHex(measured.digest),
    basis: "measured",
    ageMs,
    measuredAt: new Date(wallMs).toISOString(),
    bytesCovered: measured.bytesCovered,
    durationMs: measured.durationMs,
    bytesPerSecond: seconds > 0 ? Math.round(measured.bytesCovered / seconds) : 0,
    ...(salted === undefined ? {} : { salted }),
    readFrom: readFrom(info, measured.bytesCovered),
  };
}

export function freshReport(shard: Shard, info: DeviceInfo, ageMs: number): VerificationReport {
  return {
    record: recordOf(shard),
    backend: info.backend,
    device: { ordinal: info.ordinal, uuid: info.uuid },
    digest: shard.seal.digest,
    basis: "fresh-enough",
    ageMs,
    measuredAt: new Date(shard.lastMeasured.wallMs).toISOString(),
    bytesCovered: 0,
    durationMs: 0,
    bytesPerSecond: 0,
    readFrom: readFrom(info, shard.seal.byteLength),
  };
}

/** Where the damage is. Lists of ranges and blocks are cut (`limits.ts`), counts and tensors are not. */
export interface Damage {
  /** The first of them; `rangeCount` has them all. */
  readonly ranges: readonly DamagedRange[];
  /** All of them. */
  readonly rangeCount: number;
  /** Every tensor that overlaps a damaged range, in file order. */
  readonly tensors: readonly string[];
  /** As many as `tensors`. */
  readonly tensorCount: number;
  /** How closely it could be located, and why no closer. */
  readonly precision: "range" | "block";
  /** Why no closer, or what was not compared; absent if all of it was located block by block. */
  readonly because?: string;
  /** The first 4 KiB blocks that differ, with the names of the tensors in each; none unless `precision` is `block`. */
  readonly blocks: readonly (DamagedBlock & {
    /** Tensors that overlap the block, in file order. */
    readonly tensors: readonly string[];
  })[];
  /** All of them. */
  readonly blockCount: number;
}

const namesWithin = (shard: Shard, offset: number, byteLength: number): string[] =>
  tensorsWithin(shard.tensors, offset, byteLength).map((tensor) => tensor.name);

/** Ranges and tensors, before anything is located more closely. */
export function damageOf(shard: Shard, rangeOffsets: readonly number[]): Damage {
  const ranges = rangeOffsets.map((offset) => ({
    offset,
    byteLength: Math.min(RANGE_BYTES, shard.seal.byteLength - offset),
  }));
  const tensors = new Set(ranges.flatMap(({ offset, byteLength }) => namesWithin(shard, offset, byteLength)));
  return {
    ranges: ranges.slice(0, LIMITS.reportedRanges),
    rangeCount: ranges.length,
    tensors: [...tensors],
    tensorCount: tensors.size,
    precision: "range",
    blocks: [],
    blockCount: 0,
  };
}

/** The same, with what a comparison with the source added. */
export function refineDamage(shard: Shard, damage: Damage, located: Located): Damage {
  if (located.precision === "range") return { ...damage, because: located.because };
  const skipped = damage.rangeCount - LIMITS.locatedRanges;
  return {
    ...damage,
    ...(skipped > 0 ? { because: `${skipped} more ranges were not compared block by block` } : {}),
    precision: "block",
    blocks: located.blocks.map((block) => ({ ...block, tensors: namesWithin(shard, block.offset, block.byteLength) })),
    blockCount: located.blockCount,
  };
}

/** The error of a mismatch: both digests and where. */
export function mismatchError(shard: Shard, measured: Measurement, damage: Damage): VramError {
  const { name, digest } = shard.seal;
  const [expected, actual] = [`fsverity:${digest}`, `fsverity:${toHex(measured.digest)}`];
  const list = damage.tensors.slice(0, 3).join(", ");
  const more = damage.tensorCount > 3 ? ` and ${damage.tensorCount - 3} more` : "";
  const where = damage.tensorCount === 0 ? "no tensor there" : `in ${list}${more}`;
  const ranges = damage.rangeCount === 1 ? "1 range" : `${damage.rangeCount} ranges`;
  return new VramError(
    "MEASUREMENT_MISMATCH",
    `${name}: the bytes in VRAM are not the sealed ones: sealed ${expected}, measured ${actual}; ` +
      `${ranges} of 512 KiB damaged, ${where}`,
    { details: { shardId: shard.seal.shardId, expected, actual, damage } },
  );
}
