/** A lease as data: what it is granted for, and what anybody may see of it. */
import type { Backend } from "../cuda/driver.ts";
import type { DeviceRef } from "../journal/entry.ts";

/** What a lease is granted for. */
export interface LeaseTerms {
  /** What the holder calls itself, and who the service knows it to be; for the record. */
  readonly holder: string;
  readonly caller: string;
  readonly durationMs: number;
  /** Age of the measurement that it is granted on. */
  readonly measuredAgeMs: number;
}

/** A lease as it stands: plain data. Durations in ms, times RFC 3339. */
export interface Lease {
  readonly leaseId: string;
  readonly shardId: string;
  readonly name: string;
  readonly digest: string;
  readonly backend: Backend;
  readonly device: DeviceRef;
  readonly holder: string;
  readonly grantedAt: string;
  /** For people: the monotonic clock decides. */
  readonly expiresAt: string;
  readonly remainingMs: number;
  readonly durationMs: number;
}
