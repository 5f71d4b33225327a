/** Durable entries of a service: leases, what is wanted, and callers who are not let in. Part of the union in `entry.ts`. */
import type { ErrorCode } from "../errors.ts";
import type { DeviceRef } from "./entry.ts";

/** `unreliable`: of the shard itself; `stopped`: the worker of its device; `closed`: the service ends; `unrecorded`: it was
 * never granted, but its record may have been written all the same. */
export type LeaseRevocation = "unreliable" | "stopped" | "lost" | "evicted" | "closed" | "unrecorded";

export type AuthFailure = "no-token" | "bad-token" | "wrong-scope" | "wrong-peer" | "wrong-host" | "cross-site";

/** How a caller reached the service. */
export type Transport = "socket" | "tcp";

/** `closed`: by the other process, or its end; `failed`: it was never handed over; `service_closed`, `service_gone`: the
 * service ended first, and the other process may hold the memory still. */
export type ExportEnd = "closed" | "failed" | "service_closed" | "service_gone";

/** The process at the other end of an export, told from a later one of the same number by when it started. */
export interface Peer {
  readonly pid: number;
  /** Clock ticks since the machine started, as /proc has it; 0 where that is not known. */
  readonly startTicks: number;
}

/** Memory that was exported before this start, and whose peer is still there. */
export interface OrphanedExport {
  readonly exportId: string;
  readonly shardId: string;
  readonly name: string;
  readonly deviceUuid: string;
  /** Of the allocation. */
  readonly byteLength: number;
  readonly peer: Peer;
}

export type ServiceBody =
  | {
      /** Another process was handed the memory of a shard. */
      readonly type: "shard_exported";
      readonly device: DeviceRef;
      readonly exportId: string;
      readonly shardId: string;
      readonly name: string;
      readonly digest: string;
      /** What it said it expects; absent if it expected nothing in particular. */
      readonly expected?: string;
      readonly leaseId: string;
      readonly caller: string;
      readonly peer: Peer;
      /** Of the allocation. */
      readonly byteLength: number;
    }
  | {
      readonly type: "export_ended";
      readonly device: DeviceRef;
      readonly exportId: string;
      readonly shardId: string;
      readonly name: string;
      readonly because: ExportEnd;
      /** Whether the other process may still hold the memory. */
      readonly held: boolean;
    }
  | {
      /** A statement for others was signed. */
      readonly type: "statement_issued";
      readonly device: DeviceRef;
      readonly statementId: string;
      readonly shardId: string;
      readonly name: string;
      readonly digest: string;
      readonly nonce: string;
      /** SHA-256 of the statement, hex. */
      readonly statementDigest: string;
      /** Names the key that signed it. */
      readonly keyId: string;
      /** The line that tells of the measurement. */
      readonly verifiedSeq: number;
      readonly caller: string;
    }
  | {
      /** From here on statements are signed with another key. */
      readonly type: "key_rotated";
      readonly purpose: "statement";
      readonly from: string;
      readonly to: string;
      /** SPKI of the new key, PEM. */
      readonly publicKey: string;
      readonly reason: string;
    }
  | {
      readonly type: "lease_granted";
      readonly device: DeviceRef;
      readonly leaseId: string;
      readonly shardId: string;
      readonly name: string;
      readonly digest: string;
      /** Who has it: as the caller calls itself, and as the service knows it. */
      readonly holder: string;
      readonly caller: string;
      readonly durationMs: number;
      /** Age of the measurement it was granted on, in ms. */
      readonly measuredAgeMs: number;
    }
  | {
      readonly type: "lease_renewed";
      readonly device: DeviceRef;
      readonly leaseId: string;
      readonly shardId: string;
      readonly name: string;
      readonly durationMs: number;
    }
  | {
      readonly type: "lease_released" | "lease_expired";
      readonly device: DeviceRef;
      readonly leaseId: string;
      readonly shardId: string;
      readonly name: string;
    }
  | {
      readonly type: "lease_revoked";
      readonly device: DeviceRef;
      readonly leaseId: string;
      readonly shardId: string;
      readonly name: string;
      readonly because: LeaseRevocation;
    }
  | {
      /** Something wanted that is not sealed again: its row, its source or its digest does not hold. */
      readonly type: "wanted_refused";
      readonly name: string;
      readonly code: ErrorCode;
      readonly reason: string;
    }
  | {
      /** A caller who is not let in, or not that far. */
      readonly type: "auth_failed";
      readonly failure: AuthFailure;
      readonly transport: Transport;
      /** `uid 1000`, or the first digits of a token's hash; absent where there is neither. */
      readonly caller?: string;
    }
  | {
      /** A request that is malformed, too large or too slow, or asks for what is refused to it. */
      readonly type: "request_refused";
      readonly status: number;
      readonly code: ErrorCode;
      readonly transport: Transport;
      readonly caller?: string;
    };
