/**
 * vram-residency: load model weights into GPU memory, seal them, and show when the bytes in VRAM were last measured.
 *
 * ```ts
 * await using vram = await openVram();
 * const { record, seal } = await vram.seal("model.safetensors");
 * const report = await vram.verify(record.shardId, { seal });
 * ```
 *
 * @module vram-residency
 */
import type { Vram } from "./api.ts";
import { optionsFromEnvironment, prepareForCuda } from "./environment.ts";
import { openSystem, type VramOptions } from "./open.ts";
import { createVram } from "./vram.ts";

/**
 * Opens the devices of this machine; for a GPU, call it on the main thread. Environment: `VRAM_BACKEND`,
 * `VRAM_EMULATED_BYTES`, `VRAM_HASH_THREADS`, `VRAM_LIBCUDA`, `VRAM_LIBNVML`; sets `CUDA_CACHE_DISABLE` and
 * `CUDA_MODULE_LOADING` for the driver.
 */
export async function openVram(options: VramOptions = {}): Promise<Vram> {
  if (options.backend !== "emulated") prepareForCuda(process.env);
  const fromEnvironment = optionsFromEnvironment(process.env);
  const emulated = { ...fromEnvironment.emulated, ...options.emulated };
  return createVram(await openSystem({ ...fromEnvironment, ...options, emulated }));
}

export type {
  DeviceStatus,
  LeaseOptions,
  PlanOptions,
  PolicyReport,
  RenewOptions,
  SealOptions,
  SealSetOptions,
  SealSource,
  VerifyOptions,
  Vram,
} from "./api.ts";
export type { Access, AllocationProperties, Backend } from "./cuda/driver.ts";
export type { BackendChoice, BackendDecision } from "./device/detect.ts";
export type { AllocationFacts, DamagedBlock, DeviceFacts, DeviceInfo } from "./device/device.ts";
export { type ErrorCode, type ErrorDetails, VramError } from "./errors.ts";
export { DIGEST_ALGORITHM, formatDigest, type NamedDigest, parseDigest } from "./hash/descriptor.ts";
export type { DamagedRange, DeviceRef, Entry } from "./journal/entry.ts";
export type { JournalReader } from "./journal/journal.ts";
export { withCorrelation } from "./journal/scope.ts";
export type { GrantedLease, RenewedLease } from "./lease/gate.ts";
export type { Lease } from "./lease/lease.ts";
export { createMetrics, type Metrics } from "./metrics/metrics.ts";
export type { VramOptions } from "./open.ts";
export type { AuditOptions } from "./recording.ts";
export type { EvictResult } from "./residency/evict.ts";
export type { Capacity } from "./residency/ledger.ts";
export type { Plan, PlannedShard } from "./residency/plan.ts";
export { type Policy, type Violation, VRAM_ONLY_POLICY } from "./residency/policy.ts";
export type { SealResult } from "./residency/seal-model.ts";
export type { SetResult } from "./residency/seal-set.ts";
export type { ShardRecord, ShardState } from "./residency/shard.ts";
export type { OnMismatch } from "./residency/worker.ts";
export { type ComparedWith, encodeSeal, type Seal, type SealFields } from "./seal/encoding.ts";
export { encodeSet, type SetSeal } from "./seal/set.ts";
export type { SourceFormat, Tensor } from "./source/tensors.ts";
export type { Damage, VerificationReport } from "./verify/report.ts";
export type { SetReport } from "./verify/verify-set.ts";
