/** The last stages of `seal-model.ts`: from bytes in VRAM to a listed shard. */
import { constantTimeEqual, toHex } from "../bytes.ts";
import type { AllocationId, Measurement, UploadResult } from "../device/device.ts";
import { Mutex } from "../dispose.ts";
import { throwIfAborted, VramError } from "../errors.ts";
import { DIGEST_ALGORITHM } from "../hash/descriptor.ts";
import { createSeal } from "../seal/seal.ts";
import type { Reservation } from "./ledger.ts";
import { checkAllocation, policyError } from "./policy.ts";
import type { SealResult } from "./seal-model.ts";
import { refusedSeal } from "./seal-place.ts";
import { comparedWith, mismatch, type NamedSource, requireExpected, type SealRequest } from "./seal-request.ts";
import { type LastMeasured, recordOf, type Shard } from "./shard.ts";
import { requireRunning, type System, type Worker } from "./worker.ts";

/** Asks the driver what the memory is, and the policy whether that will do. */
export async function checkFacts(
  system: System,
  worker: Worker,
  source: NamedSource,
  allocationId: AllocationId,
): Promise<void> {
  const facts = await worker.device.facts(allocationId);
  const broken = checkAllocation(system.policy, facts);
  for (const { rule, expected, actual } of broken) {
    await system.journal.appendAnyway({ type: "policy_violation", device: worker.ref, rule, expected, actual });
  }
  if (broken.length > 0) throw policyError(broken);
  system.journal.note({ type: "facts_checked", device: worker.ref, name: source.shardName, access: facts.mainAccess });
}

/** Measures the bytes where they lie. */
export async function measure(
  system: System,
  worker: Worker,
  request: SealRequest,
  source: NamedSource,
  allocationId: AllocationId,
): Promise<BegunMeasurement> {
  throwIfAborted(request.signal);
  const begun = { wallMs: system.clock.wallMs(), monotonicMs: system.clock.monotonicMs() };
  const measured = await worker.device.measure(allocationId);
  const { bytesCovered, durationMs } = measured;
  const digest = toHex(measured.digest);
  system.journal.note({
    type: "measured",
    device: worker.ref,
    name: source.shardName,
    digest,
    bytesCovered,
    durationMs,
  });
  return { ...measured, begun };
}

/** The measurement against the digest given, or against that of the bytes that were read. */
export async function compare(
  system: System,
  worker: Worker,
  request: SealRequest,
  source: NamedSource,
  uploaded: UploadResult,
  measured: Measurement,
): Promise<void> {
  try {
    requireExpected(request, source.shardName, uploaded);
    const wanted = uploaded.digest ?? request.expected?.bytes;
    if (wanted === undefined) throw new VramError("INTERNAL", "a measurement is always compared with something");
    if (!constantTimeEqual(measured.digest, wanted)) {
      if (uploaded.digest === undefined) {
        throw mismatch(source.shardName, "the bytes are not what was expected", "fsverity", wanted, measured.digest);
      }
      const fix = "the source was read well, the copy was not: try again, then check the GPU";
      throw mismatch(source.shardName, "the copy in VRAM differs", "fsverity", wanted, measured.digest, fix);
    }
  } catch (thrown) {
    throw await refusedSeal(system, worker, source.shardId, thrown);
  }
}

/** What the earlier stages produced. */
export interface Sealable {
  readonly room: Reservation;
  readonly allocationId: AllocationId;
  readonly uploaded: UploadResult;
  readonly measured: BegunMeasurement;
}

/** A measurement and when it began: freshness counts from there. */
export interface BegunMeasurement extends Measurement {
  readonly begun: LastMeasured;
}

/** Puts the mac over every field. */
export function seal(system: System, worker: Worker, request: SealRequest, source: NamedSource, made: Sealable): Shard {
  const sealed = createSeal(worker.keys, {
    instanceId: system.instanceId,
    sequence: system.nextSequence(),
    shardId: source.shardId,
    name: source.shardName,
    shardIndex: request.shardIndex,
    totalShards: request.totalShards,
    sourceOffset: request.spec.kind === "path" ? (request.spec.part?.offset ?? 0) : 0,
    byteLength: source.byteLength,
    digestAlgorithm: DIGEST_ALGORITHM,
    digest: toHex(made.measured.digest),
    sha256: made.uploaded.sha256 === undefined ? "" : toHex(made.uploaded.sha256),
    comparedWith: comparedWith(request),
    backend: worker.device.info.backend,
    deviceUuid: worker.ref.uuid,
    policyDigest: system.policyDigest,
    sealedAtMs: Math.floor(system.clock.wallMs()),
    maxAgeMs: request.maxAgeMs,
  });
  const { shardId, name, sequence, keyId } = sealed;
  system.journal.note({ type: "seal_computed", device: worker.ref, shardId, name, sequence, keyId });
  return {
    seal: sealed,
    device: worker.ref,
    worker,
    allocationId: made.allocationId,
    charge: made.room,
    tensors: source.tensors,
    kept: made.measured.kept,
    source: request.spec.kind === "path" ? request.spec : undefined,
    use: new Mutex(),
    state: "sealed",
    lastMeasured: made.measured.begun,
    leases: 0,
    exports: 0,
    exportsTotal: 0,
  };
}

/** Makes the entry durable. A worker stopped meanwhile seals nothing more. */
export async function record(system: System, worker: Worker, request: SealRequest, shard: Shard): Promise<void> {
  throwIfAborted(request.signal);
  requireRunning(worker);
  const { shardId, name, byteLength, digest, comparedWith: compared, sequence } = shard.seal;
  await system.journal.append({
    type: "vram_sealed",
    device: worker.ref,
    shardId,
    name,
    byteLength,
    digest,
    comparedWith: compared,
    sequence,
  });
}

/** Lists the shard; as lost, if the device was lost while its entry was being written. Synchronous; cannot fail. */
export function register(system: System, worker: Worker, shard: Shard): SealResult {
  if (worker.lost) shard.state = "lost";
  system.registry.add(shard);
  return { record: recordOf(shard), seal: shard.seal };
}
