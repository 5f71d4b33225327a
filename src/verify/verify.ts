/**
 * Verifying: the record and its mac, the driver's facts, then the bytes where they lie. It throws or returns a report.
 * A mismatch, a bad mac in our own registry or changed facts stop the worker first and explain afterwards (VR-VER-06);
 * a measurement that did not work is neither pass nor mismatch; evidence that somebody handed in and that does not hold
 * changes nothing.
 */
import { constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { Located, Measurement } from "../device/device.ts";
import { differingRanges } from "../device/locate.ts";
import { throwIfAborted, toVramError, VramError } from "../errors.ts";
import { keptAddsUp } from "../hash/tree.ts";
import type { VerificationFailure } from "../journal/entry.ts";
import { LIMITS } from "../limits.ts";
import { checkAllocation, policyError } from "../residency/policy.ts";
import type { LastMeasured, Shard } from "../residency/shard.ts";
import { type System, stopWorker, type Worker } from "../residency/worker.ts";
import { checkMac, checkPresented, sealRefused } from "../seal/seal.ts";
import {
  type Damage,
  damageOf,
  freshReport,
  measuredReport,
  mismatchError,
  refineDamage,
  type VerificationReport,
} from "./report.ts";

export interface VerifyRequest {
  /** A seal somebody hands in; it must be the shard's current one. */
  readonly presented: unknown;
  /** A measurement no older than this will do. Undefined: measure now. */
  readonly maxAgeMs: number | undefined;
  /** Also measure with this salt, 1–32 bytes. */
  readonly salt: Uint8Array | undefined;
  readonly signal: AbortSignal | undefined;
}

/** Verifies one shard. */
export function verify(
  system: System,
  worker: Worker,
  shard: Shard,
  request: VerifyRequest,
): Promise<VerificationReport> {
  const task = async (): Promise<VerificationReport> => {
    throwIfAborted(request.signal);
    await requirePresented(system, worker, shard, request.presented);
    requireSealed(shard);
    const fresh = freshEnough(system, worker, shard, request);
    if (fresh !== undefined) return fresh;

    try {
      await requireOwnMac(system, worker, shard);
      await requireFacts(system, worker, shard);
      const begun = now(system);
      const measured = await worker.device.measure(shard.allocationId);
      await requireSame(system, worker, shard, measured);
      const salted = await measureSalted(worker, shard, request.salt);
      return await pass(system, worker, shard, { measured, salted, begun });
    } catch (thrown) {
      throw await explain(system, worker, shard, toVramError(thrown));
    }
  };
  return shard.use.run(task, request.signal);
}

async function requirePresented(system: System, worker: Worker, shard: Shard, presented: unknown): Promise<void> {
  if (presented === undefined) return;
  const verdict = checkPresented(worker.keys, presented, shard.seal);
  if (verdict === "valid") return;
  const { shardId } = shard.seal;
  await system.journal.appendAnyway({ type: "seal_refused", device: worker.ref, shardId, reason: verdict });
  throw sealRefused();
}

function requireSealed(shard: Shard): void {
  if (shard.state === "sealed") return;
  const { name, shardId } = shard.seal;
  if (shard.state === "evicted") throw new VramError("SHARD_NOT_FOUND", `${name} was evicted meanwhile`);
  throw new VramError("SHARD_NOT_RESIDENT", `${name} is ${shard.state} and cannot be relied on`, {
    details: { shardId, state: shard.state },
  });
}

/**
 * A seal's own maximum age bounds what any caller may settle for (VR-VER-07). On a device that is lost, or on which
 * something else was found to have changed, nobody settles for an older measurement.
 */
function freshEnough(
  system: System,
  worker: Worker,
  shard: Shard,
  request: VerifyRequest,
): VerificationReport | undefined {
  if (request.maxAgeMs === undefined || request.salt !== undefined) return undefined;
  const sealed = shard.seal.maxAgeMs;
  const limit = sealed === 0 ? request.maxAgeMs : Math.min(request.maxAgeMs, sealed);
  const ageMs = system.clock.monotonicMs() - shard.lastMeasured.monotonicMs;
  const isSettled = ageMs <= limit && !worker.lost && worker.stopped === undefined;
  return isSettled ? freshReport(shard, worker.device.info, ageMs) : undefined;
}

async function requireOwnMac(system: System, worker: Worker, shard: Shard): Promise<void> {
  if (checkMac(worker.keys, shard.seal) === "valid") return;
  const message = "our own record of the shard no longer carries a valid mac";
  await fail(system, worker, shard, "mac", message);
  throw new VramError("REGISTRY_CORRUPT", `${shard.seal.name}: ${message}`);
}

async function requireFacts(system: System, worker: Worker, shard: Shard): Promise<void> {
  const broken = checkAllocation(system.policy, await worker.device.facts(shard.allocationId));
  if (broken.length === 0) return;
  const error = policyError(broken);
  await fail(system, worker, shard, "facts", error.message);
  for (const { rule, expected, actual } of broken) {
    await system.journal.appendAnyway({ type: "policy_violation", device: worker.ref, rule, expected, actual });
  }
  throw error;
}

async function requireSame(system: System, worker: Worker, shard: Shard, measured: Measurement): Promise<void> {
  const { digest, byteLength } = shard.seal;
  const sealed = fromHex(digest, 32, "digest");
  if (measured.bytesCovered !== byteLength) {
    throw new VramError(
      "MEASUREMENT_INVALID",
      `the measurement covered ${measured.bytesCovered} of ${byteLength} bytes`,
    );
  }
  if (constantTimeEqual(measured.digest, sealed)) return;
  // Whatever may still be said about where: from here on it is a mismatch, and nothing may turn it into less.
  const sound = keptAddsUp(shard.kept, byteLength, sealed);
  const rangeOffsets = sound ? differingRanges(shard.kept, measured.kept) : [];
  const damage = damageOf(shard, rangeOffsets);
  await fail(system, worker, shard, "mismatch", "the measured digest differs from the sealed one", damage);
  const located = sound
    ? await locate(worker, shard, rangeOffsets)
    : unlocated("the hashes kept on the host no longer add up to the sealed digest");
  throw mismatchError(shard, measured, refineDamage(shard, damage, located));
}

const unlocated = (because: string): Located => ({ precision: "range", because });

/** How closely the damage can be named; a failure here costs precision, never the mismatch. */
async function locate(worker: Worker, shard: Shard, rangeOffsets: readonly number[]): Promise<Located> {
  const { allocationId, kept, source } = shard;
  const request = { allocationId, rangeOffsets, kept, ...(source === undefined ? {} : { source }) };
  return worker.device
    .locate(request)
    .catch((thrown: unknown) => unlocated(`locating failed: ${toVramError(thrown).code}`));
}

async function measureSalted(
  worker: Worker,
  shard: Shard,
  salt: Uint8Array | undefined,
): Promise<VerificationReport["salted"]> {
  if (salt === undefined) return undefined;
  const { digest } = await worker.device.measure(shard.allocationId, salt);
  return { salt: toHex(salt), digest: toHex(digest) };
}

/** Freshness counts from the beginning of a measurement: what was read first may have changed before it ended. */
const now = ({ clock }: System): LastMeasured => ({ wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() });

interface Passed {
  readonly measured: Measurement;
  readonly salted: VerificationReport["salted"];
  readonly begun: LastMeasured;
}

async function pass(
  system: System,
  worker: Worker,
  shard: Shard,
  { measured, salted, begun }: Passed,
): Promise<VerificationReport> {
  shard.lastMeasured = begun;
  const { shardId, name, digest } = shard.seal;
  await system.journal.appendAnyway({
    type: "seal_verified",
    device: worker.ref,
    shardId,
    name,
    digest,
    bytesCovered: measured.bytesCovered,
    measuredAtMs: begun.wallMs,
    durationMs: measured.durationMs,
    ...(salted === undefined ? {} : { salt: salted.salt, saltedDigest: salted.digest }),
  });
  const ageMs = system.clock.monotonicMs() - begun.monotonicMs;
  return measuredReport(shard, worker.device.info, measured, salted, { ageMs, wallMs: begun.wallMs });
}

/** A shard that can no longer be believed: marked first, its worker stopped, then put on record. */
async function fail(
  system: System,
  worker: Worker,
  shard: Shard,
  failure: VerificationFailure,
  message: string,
  damage?: Damage,
): Promise<void> {
  const { shardId, name } = shard.seal;
  shard.state = "mismatched";
  system.onUnreliable({ worker, shard, because: "unreliable" });
  if (system.onMismatch === "stop") await stopWorker(system, worker, `${name}: ${message}`);
  await recordFailure(system, worker, shardId, name, failure, message, damage);
}

async function recordFailure(
  system: System,
  worker: Worker,
  shardId: string,
  name: string,
  failure: VerificationFailure,
  message: string,
  damage?: Damage,
): Promise<void> {
  await system.journal.appendAnyway({
    type: "seal_verification_failed",
    device: worker.ref,
    shardId,
    name,
    failure,
    message,
    ranges: damage?.ranges.slice(0, LIMITS.entryRanges) ?? [],
    rangesTotal: damage?.rangeCount ?? 0,
    tensors: damage?.tensors.slice(0, LIMITS.entryRanges) ?? [],
    tensorsTotal: damage?.tensorCount ?? 0,
  });
}

/** Records failures that are not the shard's: an invalid measurement, unreadable memory, a lost device. */
async function explain(system: System, worker: Worker, shard: Shard, error: VramError): Promise<VramError> {
  const { shardId, name } = shard.seal;
  // A mismatch was put on record where it was found.
  if (shard.state === "sealed" || error.fatal) {
    const failure =
      error.code === "MEASUREMENT_INVALID" ? "invalid" : error.code === "VRAM_UNREADABLE" ? "unreadable" : "device";
    await recordFailure(system, worker, shardId, name, failure, error.message);
  }
  return error;
}
