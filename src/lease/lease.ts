/** A lease as data: what it is granted for, what is held of it, and what anybody may see of it. */
import type { Clock } from "../clock.ts";
import type { Backend } from "../cuda/driver.ts";
import type { DeviceRef } from "../journal/entry.ts";
import type { LeaseRevocation } from "../journal/service-body.ts";
import type { Shard } from "../residency/shard.ts";

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
  /** What renews and releases it. */
  readonly leaseId: string;
  /** The shard that may be relied on. */
  readonly shardId: string;
  /** What people call the shard. */
  readonly name: string;
  /** Sealed digest of the shard, 32 bytes, hex. */
  readonly digest: string;
  /** Which implementation measured it. */
  readonly backend: Backend;
  /** Where the shard lies. */
  readonly device: DeviceRef;
  /** What the holder calls itself; `unnamed` if it does not. */
  readonly holder: string;
  /** By the wall clock. */
  readonly grantedAt: string;
  /** For people: the monotonic clock decides. */
  readonly expiresAt: string;
  /** Until it expires, by the monotonic clock; 0 if that has passed. */
  readonly remainingMs: number;
  /** For which it was granted or last renewed. */
  readonly durationMs: number;
}

/** How a lease ends. */
export type LeaseEnd = LeaseRevocation | "released" | "expired";

/** A lease in the book of leases. */
export interface Held {
  readonly leaseId: string;
  readonly shard: Shard;
  readonly terms: LeaseTerms;
  readonly grantedAtMs: number;
  durationMs: number;
  /** By the monotonic clock. */
  endsAtMs: number;
  /** Told once, when it ends. */
  readonly listeners: Set<(because: LeaseEnd) => void>;
}

/** What is shown of a lease now. */
export function leaseOf(held: Held, clock: Clock): Lease {
  const { leaseId, shard, terms, grantedAtMs, durationMs, endsAtMs } = held;
  const { shardId, name, digest, backend } = shard.seal;
  const remainingMs = Math.max(0, endsAtMs - clock.monotonicMs());
  return {
    ...{ leaseId, shardId, name, digest, backend },
    device: { ordinal: shard.device.ordinal, uuid: shard.device.uuid },
    holder: terms.holder,
    grantedAt: new Date(grantedAtMs).toISOString(),
    expiresAt: new Date(clock.wallMs() + remainingMs).toISOString(),
    remainingMs,
    durationMs,
  };
}
