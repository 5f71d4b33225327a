/**
 * The execute gate: who wants to rely on a shard gets a lease on it right after it was verified, or after its last
 * verification was shown to be fresh enough (VR-VER-07, VR-API-01). What is handed out is plain data.
 */
import { throwIfAborted } from "../errors.ts";
import type { Shard } from "../residency/shard.ts";
import type { System } from "../residency/worker.ts";
import type { VerificationReport } from "../verify/report.ts";
import { verify } from "../verify/verify.ts";
import type { Lease } from "./lease.ts";
import type { Leases } from "./leases.ts";

/** What `acquire` returns. */
export interface GrantedLease {
  /** As it was granted. */
  readonly lease: Lease;
  /** What it was granted on. */
  readonly verification: VerificationReport;
}

/** What `renew` returns. */
export interface RenewedLease {
  /** With its new deadline. */
  readonly lease: Lease;
  /** Absent unless `maxAgeMs` was given. */
  readonly verification?: VerificationReport;
}

export interface GateRequest {
  readonly durationMs: number;
  readonly maxAgeMs: number | undefined;
  readonly salt: Uint8Array | undefined;
  readonly signal: AbortSignal | undefined;
  readonly holder?: string;
  readonly caller?: string;
}

/** Verifies, then grants. */
export async function acquire(
  system: System,
  leases: Leases,
  shard: Shard,
  request: GateRequest,
): Promise<GrantedLease> {
  const { durationMs, holder = "unnamed", caller = "in-process" } = request;
  const verification = await verify(system, shard.worker, shard, { presented: undefined, ...request });
  const terms = { holder, caller, durationMs, measuredAgeMs: verification.ageMs };
  const lease = await leases.grant(shard, terms);
  if (request.signal?.aborted === true) {
    // Whoever asked has gone: nobody would give it back.
    await leases.release(lease.leaseId);
    throwIfAborted(request.signal);
  }
  return { lease, verification: { ...verification, record: { ...verification.record, leases: shard.leases } } };
}

/** Verifies if a freshness is asked for, then renews. */
export async function renew(
  system: System,
  leases: Leases,
  leaseId: string,
  request: GateRequest,
): Promise<RenewedLease> {
  const shard = leases.shardOf(leaseId);
  const verification =
    request.maxAgeMs === undefined
      ? undefined
      : await verify(system, shard.worker, shard, { presented: undefined, ...request });
  const lease = await leases.renew(leaseId, request.durationMs);
  return { lease, ...(verification === undefined ? {} : { verification }) };
}
