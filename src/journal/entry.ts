/**
 * What can happen, as data: one discriminated union. `durable` entries are what an audit log must hold before the
 * operation may go on; `transient` ones are narration, progress and figures. Stages append entries and nothing else;
 * audit log, narration and metrics only read them. No pointer, key or path is ever part of an entry.
 */
import type { ErrorCode } from "../errors.ts";
import type { OrphanedExport, ServiceBody, Transport } from "./service-body.ts";

/** Where something happened. */
export interface DeviceRef {
  /** The driver's number, from 0. */
  readonly ordinal: number;
  /** `GPU-…`, `MIG-…`, emulated `EMU-…`. */
  readonly uuid: string;
}

/** Damage found by a verification: always whole 512 KiB ranges of the shard, in bytes. */
export interface DamagedRange {
  /** A multiple of 512 KiB. */
  readonly offset: number;
  /** 512 KiB, or less at the end of the shard. */
  readonly byteLength: number;
}

export type VerificationFailure = "mismatch" | "mac" | "facts" | "unreadable" | "invalid" | "device";

/** Entries an audit log keeps. Names as in design §5. */
export type DurableBody =
  | { readonly type: "vram_allocated"; readonly device: DeviceRef; readonly name: string; readonly byteLength: number }
  | {
      readonly type: "vram_allocation_failed";
      readonly device: DeviceRef;
      readonly name: string;
      readonly bytesNeeded: number;
      readonly bytesAvailable: number;
      readonly code: ErrorCode;
    }
  | {
      readonly type: "vram_deallocated";
      readonly device: DeviceRef;
      readonly name: string;
      /** Of what was sealed there, if it was. */
      readonly shardId?: string;
      readonly byteLength: number;
      /** `lost`: with the device; its memory went with the process that held it. */
      readonly because: "evicted" | "undone" | "closed" | "lost";
      readonly zeroed: boolean;
      /** Why the memory was not zeroed, when it was not. */
      readonly reason?: string;
    }
  | {
      readonly type: "vram_sealed";
      readonly device: DeviceRef;
      readonly shardId: string;
      readonly name: string;
      readonly byteLength: number;
      readonly digest: string;
      readonly comparedWith: "expected" | "witnessed";
      readonly sequence: number;
    }
  | { readonly type: "set_sealed"; readonly name: string; readonly totalShards: number; readonly mac: string }
  | {
      readonly type: "seal_verified";
      readonly device: DeviceRef;
      readonly shardId: string;
      readonly name: string;
      readonly digest: string;
      readonly bytesCovered: number;
      /** When the measurement began; statements name it, and are held against it. */
      readonly measuredAtMs: number;
      readonly durationMs: number;
      readonly salt?: string;
      readonly saltedDigest?: string;
    }
  | {
      readonly type: "seal_verification_failed";
      readonly device: DeviceRef;
      readonly shardId: string;
      readonly name: string;
      readonly failure: VerificationFailure;
      readonly message: string;
      /** The first ones; how many there are stands beside them. */
      readonly ranges: readonly DamagedRange[];
      readonly rangesTotal: number;
      readonly tensors: readonly string[];
      readonly tensorsTotal: number;
    }
  | ServiceBody
  | { readonly type: "seal_refused"; readonly device: DeviceRef; readonly shardId: string; readonly reason: string }
  | {
      readonly type: "policy_violation";
      readonly device: DeviceRef;
      readonly rule: string;
      readonly expected: string;
      readonly actual: string;
    }
  | { readonly type: "worker_stopped"; readonly device: DeviceRef; readonly reason: string }
  | { readonly type: "worker_resumed"; readonly device: DeviceRef; readonly reason: string }
  | {
      readonly type: "service_started";
      readonly backend: string;
      readonly version: string;
      /** 16 random bytes, hex: this start. Seals carry it. */
      readonly instanceId: string;
      readonly policyDigest: string;
      /** SHA-256 of the configuration, hex; of a service. */
      readonly configDigest?: string;
      /** What was wanted and is not resident, since an earlier process ended: the first ones, and how many. */
      readonly lost?: readonly { readonly shardId: string; readonly name: string; readonly digest: string }[];
      readonly lostTotal?: number;
      /** Memory of an earlier process that another one may still hold, since it attached: the first ones, and how many. */
      readonly orphans?: readonly OrphanedExport[];
      readonly orphansTotal?: number;
      /** SHA-256 of the kernel's PTX, hex; absent on the emulated device, which has none. */
      readonly kernel?: string;
      /** Names the key that signs statements; of a service that keeps a log. */
      readonly statementKeyId?: string;
      /** `stopped`: since a verification failed in an earlier run. */
      readonly devices: readonly (DeviceRef & { readonly keyId: string; readonly stopped: boolean })[];
    }
  | {
      readonly type: "service_stopped";
      readonly because: "closed" | "failed" | "interrupted";
      readonly code?: ErrorCode;
    };

/** Entries the audit log writes about itself; the journal only hears of them. */
export type LogBody =
  | { readonly type: "epoch_started"; readonly because: "start" | "segment" | "time" | "entries" }
  | { readonly type: "heartbeat" }
  | { readonly type: "audit_recovered"; readonly segment: number; readonly tornBytes: number }
  | { readonly type: "audit_gap"; readonly entries: number; readonly types: readonly string[] }
  | {
      readonly type: "audit_pruned";
      /** Pruned this time, and since the log began. */
      readonly entries: number;
      readonly prunedEntries: number;
      readonly lastSegment: number;
    };

/** What a caller can ask for. */
export type Operation =
  | "seal"
  | "seal_set"
  | "verify"
  | "verify_set"
  | "evict"
  | "resume"
  | "capacity"
  | "plan"
  | "lease"
  | "renew";

/** The account of a device, in bytes, as `capacity` returns it. */
export interface CapacityFigures {
  readonly bytesTotal: number;
  readonly bytesUsed: number;
  readonly bytesFree: number;
  readonly bytesReserved: number;
  readonly bytesHeadroom: number;
  readonly bytesUnreclaimed: number;
}

/** Entries nobody keeps. */
export type TransientBody =
  | {
      readonly type: "device_opened";
      readonly device: DeviceRef;
      readonly name: string;
      readonly backend: string;
      readonly bytesTotal: number;
    }
  | { readonly type: "device_lost"; readonly device: DeviceRef; readonly code: ErrorCode }
  | {
      /** The process that keeps a device, in a service. */
      readonly type: "device_process_changed";
      readonly device: DeviceRef;
      readonly state: "starting" | "running" | "lost" | "stopped" | "wedged";
      readonly pid?: number;
      readonly code?: ErrorCode;
      /** Of the last 5 minutes. */
      readonly restarts: number;
    }
  | {
      readonly type: "request_served";
      /** As the table of routes has it: `GET /v1/shards/{shard}`; `other` for what is no route. */
      readonly route: string;
      readonly status: number;
      readonly durationMs: number;
      readonly transport: Transport;
    }
  | {
      readonly type: "source_opened";
      readonly name: string;
      readonly format: string;
      readonly byteLength: number;
      readonly tensorCount: number;
    }
  | {
      readonly type: "capacity_reserved";
      readonly device: DeviceRef;
      readonly name: string;
      readonly byteLength: number;
      readonly bytesFree: number;
    }
  | {
      readonly type: "upload_progressed";
      readonly name: string;
      readonly bytesDone: number;
      readonly bytesTotal: number;
    }
  | {
      readonly type: "uploaded";
      readonly name: string;
      readonly byteLength: number;
      readonly durationMs: number;
      readonly comparedWith: "expected" | "witnessed";
    }
  | { readonly type: "facts_checked"; readonly device: DeviceRef; readonly name: string; readonly access: string }
  | {
      readonly type: "measured";
      readonly device: DeviceRef;
      readonly name: string;
      readonly digest: string;
      readonly bytesCovered: number;
      readonly durationMs: number;
    }
  | {
      readonly type: "seal_computed";
      readonly device: DeviceRef;
      readonly shardId: string;
      readonly name: string;
      readonly sequence: number;
      readonly keyId: string;
    }
  | { readonly type: "capacity_queried"; readonly device: DeviceRef; readonly capacity: CapacityFigures }
  | { readonly type: "capacity_changed"; readonly device: DeviceRef; readonly capacity: CapacityFigures }
  | {
      readonly type: "operation_ended";
      readonly operation: Operation;
      readonly durationMs: number;
      /** Why it failed; absent if it did not. */
      readonly code?: ErrorCode;
      /** The argument that was refused, by name. */
      readonly argument?: string;
    }
  | {
      /** Lines that are on disk from now on. */
      readonly type: "audit_committed";
      readonly entries: number;
      readonly byteLength: number;
      readonly durationMs: number;
      /** Entries that wait for the next write. */
      readonly waiting: number;
    }
  /** `final`: nothing is written any more by this process. */
  | { readonly type: "audit_failed"; readonly message: string; readonly final: boolean }
  | { readonly type: "release_failed"; readonly what: string; readonly message: string }
  | { readonly type: "entry_unrecorded"; readonly lost: string; readonly message: string };

export type EntryBody = DurableBody | LogBody | TransientBody;

/** An entry as readers receive it. */
export type Entry = EntryBody & {
  /** 1, 2, … within this journal. */
  readonly seq: number;
  /** Milliseconds since 1970, by a clock that may jump. */
  readonly timeMs: number;
  /** `durable` entries are what an audit log keeps. */
  readonly durability: "durable" | "transient";
  /** Whether the operation fails if this is not recorded; false for what must proceed anyway (evict, stop). */
  readonly gates: boolean;
  /** On whose behalf; absent for what nobody asked for. */
  readonly correlationId?: string;
  /** UUID of the device whose worker did it, if it was one's. */
  readonly workerId?: string;
};
