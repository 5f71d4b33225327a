/** A sealed shard: what we hold of it inside, and the public record that is all anybody sees (design §5). */
import { assert } from "../assert.ts";
import type { Backend } from "../cuda/driver.ts";
import type { AllocationId } from "../device/device.ts";
import type { Mutex } from "../dispose.ts";
import type { DeviceRef } from "../journal/entry.ts";
import type { ComparedWith, Seal } from "../seal/encoding.ts";
import type { SourceSpec } from "../source/source.ts";
import type { Tensor } from "../source/tensors.ts";
import type { Reservation } from "./ledger.ts";
import type { Worker } from "./worker.ts";

/**
 * `sealed`: measured, and not known to have changed since. `mismatched`: a verification found other bytes, facts or
 * mac. `lost`: the device failed under it. `evicted`: gone; only a record handed out earlier says so.
 */
export type ShardState = "sealed" | "mismatched" | "lost" | "evicted";

/** Everything public about a shard. Plain, frozen data; never a pointer, key or path. */
export interface ShardRecord {
  /** Names the shard on its own; generated unless given. */
  readonly shardId: string;
  /** What people call it; unique on its device. */
  readonly name: string;
  /** What is known of it as of this record. */
  readonly state: ShardState;
  /** Whether `state` is `sealed`. */
  readonly sealed: boolean;
  /** Which implementation measured it. Nothing of `emulated` is evidence about a GPU. */
  readonly backend: Backend;
  /** Where it lies. */
  readonly device: DeviceRef;
  /** Bytes of weights; the allocation is rounded up to granules. */
  readonly byteLength: number;
  /** Always `DIGEST_ALGORITHM`. */
  readonly digestAlgorithm: string;
  /** 32 bytes, hex. */
  readonly digest: string;
  /** SHA-256 of the shard in one piece, 32 bytes hex; absent unless it was computed. */
  readonly sha256?: string;
  /** What the first measurement was held against. */
  readonly comparedWith: ComparedWith;
  /** From 0; 0 for what is no member of a set. */
  readonly shardIndex: number;
  /** How many members its set has; 1 for what is no member of a set. */
  readonly totalShards: number;
  /** RFC 3339, UTC. */
  readonly sealedAt: string;
  /** When the last good measurement began; RFC 3339, UTC. */
  readonly lastVerifiedAt: string;
  /** Leases that are held on it now: while there is one, it is not evicted. */
  readonly leases: number;
  /** Other processes that hold the memory now, as far as we know: those that are still connected. */
  readonly exports: number;
  /** How often it was handed to another process since it was sealed: any of them may have mapped it writable. */
  readonly exportsTotal: number;
  /** The record as JSON. */
  toString(): string;
}

/** When a shard was last measured. Freshness is judged by the monotonic clock only. */
export interface LastMeasured {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

/** A shard as the registry holds it. */
export interface Shard {
  readonly seal: Seal;
  readonly device: DeviceRef;
  /** Who sealed it and holds its memory. A device that was lost and opened again has another worker. */
  readonly worker: Worker;
  readonly allocationId: AllocationId;
  readonly charge: Reservation;
  readonly tensors: readonly Tensor[];
  /** Level 1 of the sealed tree; checked against the sealed digest before use. */
  readonly kept: Uint8Array;
  /** Where the bytes came from, if that can be read again. Never shown. */
  readonly source: SourceSpec | undefined;
  /** Verifying and evicting exclude each other. */
  readonly use: Mutex;
  state: ShardState;
  lastMeasured: LastMeasured;
  leases: number;
  exports: number;
  exportsTotal: number;
}

const rfc3339 = (wallMs: number): string => new Date(wallMs).toISOString();

/** The public record of a shard, as of now. `String(record)` is its JSON. */
export function recordOf(shard: Shard): ShardRecord {
  const { seal } = shard;
  assert(shard.state !== "sealed" || shard.lastMeasured.wallMs > 0, "a sealed shard was measured");
  const record: ShardRecord = {
    shardId: seal.shardId,
    name: seal.name,
    state: shard.state,
    sealed: shard.state === "sealed",
    backend: seal.backend,
    device: { ordinal: shard.device.ordinal, uuid: shard.device.uuid },
    byteLength: seal.byteLength,
    digestAlgorithm: seal.digestAlgorithm,
    digest: seal.digest,
    ...(seal.sha256 === "" ? {} : { sha256: seal.sha256 }),
    comparedWith: seal.comparedWith,
    shardIndex: seal.shardIndex,
    totalShards: seal.totalShards,
    sealedAt: rfc3339(seal.sealedAtMs),
    lastVerifiedAt: rfc3339(shard.lastMeasured.wallMs),
    leases: shard.leases,
    exports: shard.exports,
    exportsTotal: shard.exportsTotal,
  };
  Object.defineProperty(record, "toString", { value: () => JSON.stringify(record), enumerable: false });
  return Object.freeze(record);
}
