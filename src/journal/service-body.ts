/** Durable entries of a service: leases, what is wanted, and callers who are not let in. Part of the union in `entry.ts`. */
import type { ErrorCode } from "../errors.ts";
import type { DeviceRef } from "./entry.ts";

/** `unreliable`: of the shard itself; `stopped`: the worker of its device; `closed`: the service ends; `unrecorded`: it was
 * never granted, but its record may have been written all the same. */
export type LeaseRevocation = "unreliable" | "stopped" | "lost" | "evicted" | "closed" | "unrecorded";

export type AuthFailure = "no-token" | "bad-token" | "wrong-scope" | "wrong-peer" | "wrong-host" | "cross-site";

/** How a caller reached the service. */
export type Transport = "socket" | "tcp";

export type ServiceBody =
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
