/** The library as its users see it: what can be asked, what is handed out. Implemented by `vram.ts`. */
import type { BackendDecision } from "./device/detect.ts";
import type { DeviceInfo } from "./device/device.ts";
import type { GrantedLease, RenewedLease } from "./lease/gate.ts";
import type { Lease } from "./lease/lease.ts";
import type { EvictResult } from "./residency/evict.ts";
import type { Capacity } from "./residency/ledger.ts";
import type { Plan } from "./residency/plan.ts";
import type { Violation } from "./residency/policy.ts";
import type { SealResult } from "./residency/seal-model.ts";
import type { SetResult } from "./residency/seal-set.ts";
import type { ShardRecord } from "./residency/shard.ts";
import type { Seal } from "./seal/encoding.ts";
import type { SetSeal } from "./seal/set.ts";
import type { SourceFormat } from "./source/tensors.ts";
import type { VerificationReport } from "./verify/report.ts";
import type { SetReport } from "./verify/verify-set.ts";

/** What can be sealed: a path, bytes, or an async iterable of known length. */
export type SealSource =
  | string
  | Uint8Array
  | {
      /** Of a file under one of `modelRoots`. */
      readonly path: string;
    }
  | {
      /** Read while the call goes on: not to be changed. */
      readonly bytes: Uint8Array;
      /** What people call it; default `unnamed`. */
      readonly name?: string;
    }
  | {
      /** Read once, in order. */
      readonly chunks: AsyncIterable<Uint8Array>;
      /** Of all chunks; `SOURCE_READ_FAILED` if there are more or fewer. */
      readonly byteLength: number;
      /** What people call it; default `unnamed`. */
      readonly name?: string;
    };

/** How one source is sealed. Durations in milliseconds. */
export interface SealOptions {
  /** What people call it; default the file's base name. */
  readonly name?: string;
  /** Default: generated. */
  readonly shardId?: string;
  /** Ordinal or UUID; default the first device. */
  readonly device?: number | string;
  /** `fsverity:HEX` (fast: nothing is hashed on the host), `sha256:HEX` (witnessed), or 64 bare hex digits: fsverity. */
  readonly expected?: string;
  /** Also compute the plain SHA-256; the seal is then witnessed. */
  readonly sha256?: boolean;
  /** Verifications older than this are never relied on; 0 or absent = none. */
  readonly maxAgeMs?: number;
  /** How to read the header; default by content and extension. */
  readonly format?: "auto" | SourceFormat;
  /** Header limit of safetensors, up to 100 MiB. */
  readonly maxHeaderBytes?: number;
  /** Fires: the call undoes what it did and throws `ABORTED`. */
  readonly signal?: AbortSignal;
}

/** How a model in several shards is sealed. Durations in milliseconds. */
export interface SealSetOptions {
  /** What the set is called; default the base name of the path. Members are called `NAME/…`. */
  readonly name?: string;
  /** Cut a single file into this many shards at tensor boundaries; default 1. */
  readonly shards?: number;
  /** Devices by ordinal or UUID, member i on device i modulo their number; default the first. */
  readonly devices?: readonly (number | string)[];
  /** What a single file that is not cut must be, as in `SealOptions`. */
  readonly expected?: string;
  /** Also compute the plain SHA-256 of each member; their seals are then witnessed. */
  readonly sha256?: boolean;
  /** Verifications of a member older than this are never relied on; 0 or absent = none. */
  readonly maxAgeMs?: number;
  /** How to read the headers; default by content and extension. */
  readonly format?: "auto" | SourceFormat;
  /** Header limit of safetensors, up to 100 MiB. */
  readonly maxHeaderBytes?: number;
  /** Seals of an earlier start, in index order: the members get their ids again, and must have their digests. */
  readonly sealed?: readonly Seal[];
  /** Fires: the members sealed so far are evicted, and the call throws `ABORTED`. */
  readonly signal?: AbortSignal;
}

/** What a verification is held against, and how old its measurement may be. */
export interface VerifyOptions {
  /** A seal from an earlier call; it must be the shard's current one. */
  readonly seal?: Seal;
  /** Settle for a measurement by this instance no older than this. */
  readonly maxAgeMs?: number;
  /** Hex, 1–32 bytes: also measure with this salt. */
  readonly salt?: string;
  /** Fires while the call waits for its turn: it throws `ABORTED`. A measurement that has begun goes on to its end. */
  readonly signal?: AbortSignal;
}

/** How a source would be sealed. */
export interface PlanOptions {
  /** What it would be called; default the file's base name. */
  readonly name?: string;
  /** Ordinal or UUID; default the first device. */
  readonly device?: number | string;
  /** Cut a single file into this many shards; default 1. */
  readonly shards?: number;
  /** How to read the header; default by content and extension. */
  readonly format?: "auto" | SourceFormat;
  /** Header limit of safetensors, up to 100 MiB. */
  readonly maxHeaderBytes?: number;
  /** Fires while a header is read: the call throws `ABORTED`. */
  readonly signal?: AbortSignal;
}

/** For how long a lease goes on, and what has to hold before. */
export interface RenewOptions {
  /** For so long from now on. */
  readonly durationMs: number;
  /** Also verify, settling for a measurement no older than this. Absent: the state of shard and worker decides. */
  readonly maxAgeMs?: number;
  /** Fires while a verification waits for its turn: the call throws `ABORTED`, and the lease is as it was. */
  readonly signal?: AbortSignal;
}

/** What a lease is granted on. `maxAgeMs` settles for a measurement; absent: measured now. */
export interface LeaseOptions extends RenewOptions {
  /** Hex, 1–32 bytes: also measure with this salt. */
  readonly salt?: string;
  /** What the holder calls itself, and who he is known to be; for the record. */
  readonly holder?: string;
  /** Who the holder is known to be; default `in-process`. */
  readonly caller?: string;
}

/** A device and the state of its worker. */
export interface DeviceStatus extends DeviceInfo {
  /** `stopped`: seals nothing until `resume`. `lost`: the device failed, and is asked nothing any more. */
  readonly state: "running" | "stopped" | "lost";
  /** Why it is stopped. */
  readonly reason?: string;
}

/** What the policy says of a device. */
export interface PolicyReport {
  /** Which device. */
  readonly device: {
    /** From 0. */
    readonly ordinal: number;
    /** `GPU-…`, `MIG-…`, emulated `EMU-…`. */
    readonly uuid: string;
  };
  /** SHA-256 of the policy as RFC 8785 JSON, 32 bytes hex: seals carry it. */
  readonly policyDigest: string;
  /** Broken rules; a device that breaks one cannot be opened. */
  readonly violations: readonly Violation[];
}

/** Sealed weights on the devices of this process. Close it, or use `await using`. */
export interface Vram {
  /** Which backend answers, and why. Nothing measured on `emulated` is evidence about a GPU. */
  readonly backend: BackendDecision;
  /** Reads a source once into VRAM, measures it there, seals it. A call that fails has done nothing. */
  seal(source: SealSource, options?: SealOptions): Promise<SealResult>;
  /**
   * Seals a model in several shards as one: the files of a directory or index, or one file cut at tensor boundaries.
   * All or none.
   */
  sealSet(path: string, options?: SealSetOptions): Promise<SetResult>;
  /** Measures a shard where it lies. Throws, or returns a report. */
  verify(idOrName: string, options?: VerifyOptions): Promise<VerificationReport>;
  /** Measures every shard of a set where it lies. `set` is what `sealSet` returned. */
  verifySet(set: SetSeal, options?: Omit<VerifyOptions, "seal">): Promise<SetReport>;
  /** Whether a source would fit, by its header and the account of the device. Nothing is read beyond the header. */
  plan(path: string, options?: PlanOptions): Promise<Plan>;
  /**
   * The execute gate: verifies the shard, or settles for a measurement no older than `maxAgeMs`, then grants a lease. A
   * leased shard is not evicted; a lease is revoked when its shard, worker or device can no longer be relied on.
   */
  acquire(idOrName: string, options: LeaseOptions): Promise<GrantedLease>;
  /**
   * Gives a lease another deadline; with `maxAgeMs` its shard is verified first. `LEASE_NOT_FOUND` once it has ended.
   */
  renew(leaseId: string, options: RenewOptions): Promise<RenewedLease>;
  /** Gives a lease back. `LEASE_NOT_FOUND` once it has ended. */
  release(leaseId: string): Promise<Lease>;
  /** The leases that are held now. */
  leases(): readonly Lease[];
  /** The record of one shard as of now; asks no device. `SHARD_NOT_FOUND` if there is none. */
  inspect(idOrName: string): ShardRecord;
  /** The records of all shards as of now; asks no device. */
  list(): ShardRecord[];
  /** The account of one device; default the first. */
  capacity(device?: number | string): Promise<Capacity>;
  /** Zeroes and frees a shard. */
  evict(idOrName: string): Promise<EvictResult>;
  /** Lets a stopped worker seal again. `reason` goes on record. */
  resume(reason: string, device?: number | string): Promise<void>;
  /** What the VRAM-only policy says of every device. A violation throws already when opening. */
  checkPolicy(): PolicyReport[];
  /** The devices that were opened, those that were lost included. */
  devices(): DeviceStatus[];
  /** Evicts everything and closes. May be called twice. */
  close(): Promise<void>;
  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void>;
}
