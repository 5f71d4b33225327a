/** An example of every entry, and what narration makes of entries: shared by the tests of it and of its document. */
import type { DeviceRef, Entry, EntryBody } from "../../src/journal/entry.ts";
import { createNarrator, type NarratorOptions } from "../../src/narrate/narrator.ts";

const UUID = "EMU-11111111-2222-4333-8444-555555555555";
const SHARD = `shard-${"a2".repeat(13)}`;
const LEASE = `lease-${"b3".repeat(13)}`;
const EXPORT = `export-${"c4".repeat(13)}`;
const STATEMENT = `statement-${"d5".repeat(13)}`;
const DIGEST = "6a".repeat(32);
const MIB = 1024 * 1024;

export const DEVICE: DeviceRef = { ordinal: 0, uuid: UUID };
const device = DEVICE;
const name = "model.gguf";
const capacity = {
  bytesTotal: 2048 * MIB,
  bytesUsed: 64 * MIB,
  bytesFree: 1920 * MIB,
  bytesReserved: 0,
  bytesHeadroom: 64 * MIB,
  bytesUnreclaimed: 0,
};

type Bodies = { readonly [Body in EntryBody as Body["type"]]: readonly [Body, ...Body[]] };

/** At least one of each type; several where level, fields or sentence depend on what is in it. */
export const EXAMPLES: Bodies = {
  service_started: [
    {
      ...{ type: "service_started", backend: "emulated", version: "0.1.0", instanceId: "0f".repeat(16) },
      ...{ policyDigest: DIGEST, devices: [{ ...device, keyId: "1e".repeat(16), stopped: false }] },
    },
    {
      ...{ type: "service_started", backend: "emulated", version: "0.1.0", instanceId: "0f".repeat(16) },
      ...{ policyDigest: DIGEST, configDigest: DIGEST, devices: [] },
      ...{ lost: [{ shardId: SHARD, name, digest: DIGEST }], lostTotal: 3 },
    },
    {
      ...{ type: "service_started", backend: "emulated", version: "0.1.0", instanceId: "0f".repeat(16) },
      ...{ policyDigest: DIGEST, configDigest: DIGEST, devices: [] },
      orphans: [4711, 4711, 4712].map((pid) => ({
        ...{ exportId: EXPORT, shardId: SHARD, name, deviceUuid: UUID, byteLength: 64 * MIB },
        peer: { pid, startTicks: 12 },
      })),
      orphansTotal: 3,
    },
  ],
  service_stopped: [
    { type: "service_stopped", because: "closed" },
    { type: "service_stopped", because: "interrupted" },
    { type: "service_stopped", because: "failed", code: "DEVICE_LOST" },
  ],
  device_process_changed: [
    { type: "device_process_changed", device, state: "starting", restarts: 0 },
    { type: "device_process_changed", device, state: "running", pid: 4711, restarts: 0 },
    { type: "device_process_changed", device, state: "running", pid: 4712, restarts: 1 },
    { type: "device_process_changed", device, state: "lost", code: "DEVICE_STALLED", restarts: 1 },
    { type: "device_process_changed", device, state: "stopped", restarts: 5 },
    { type: "device_process_changed", device, state: "wedged", code: "DEVICE_STALLED", restarts: 1 },
  ],
  wanted_refused: [{ type: "wanted_refused", name, code: "SOURCE_NOT_FOUND", reason: "/srv/a b.gguf is gone" }],
  device_opened: [{ type: "device_opened", device, name: "Emulated GPU", backend: "emulated", bytesTotal: 2048 * MIB }],
  device_lost: [{ type: "device_lost", device, code: "DEVICE_LOST" }],
  source_opened: [{ type: "source_opened", name, format: "gguf", byteLength: 64 * MIB, tensorCount: 75 }],
  capacity_reserved: [{ type: "capacity_reserved", device, name, byteLength: 64 * MIB, bytesFree: 1920 * MIB }],
  vram_allocated: [{ type: "vram_allocated", device, name, byteLength: 64 * MIB }],
  vram_allocation_failed: [
    { type: "vram_allocation_failed", device, name, bytesNeeded: 4096, bytesAvailable: 0, code: "OUT_OF_VRAM" },
    { type: "vram_allocation_failed", device, name, bytesNeeded: 4096, bytesAvailable: 0, code: "CUDA_FAILED" },
  ],
  vram_deallocated: [
    { type: "vram_deallocated", device, name, byteLength: 64 * MIB, because: "evicted", zeroed: true },
    {
      ...{ type: "vram_deallocated", device, name, byteLength: 64 * MIB, because: "closed", zeroed: false },
      reason: "the device is lost",
    },
  ],
  upload_progressed: [{ type: "upload_progressed", name, bytesDone: MIB, bytesTotal: 64 * MIB }],
  uploaded: [
    { type: "uploaded", name, byteLength: 64 * MIB, durationMs: 40, comparedWith: "witnessed" },
    { type: "uploaded", name, byteLength: 64 * MIB, durationMs: 0.5, comparedWith: "expected" },
  ],
  facts_checked: [{ type: "facts_checked", device, name, access: "read" }],
  measured: [{ type: "measured", device, name, digest: DIGEST, bytesCovered: 64 * MIB, durationMs: 8.25 }],
  seal_computed: [{ type: "seal_computed", device, shardId: SHARD, name, sequence: 1, keyId: "1e".repeat(16) }],
  vram_sealed: [
    {
      ...{ type: "vram_sealed", device, shardId: SHARD, name, byteLength: 64 * MIB, digest: DIGEST, sequence: 1 },
      comparedWith: "expected",
    },
    {
      ...{ type: "vram_sealed", device, shardId: SHARD, name, byteLength: 64 * MIB, digest: DIGEST, sequence: 2 },
      comparedWith: "witnessed",
    },
  ],
  set_sealed: [{ type: "set_sealed", name: "llama", totalShards: 4, mac: DIGEST }],
  seal_verified: [
    {
      type: "seal_verified",
      device,
      shardId: SHARD,
      name,
      digest: DIGEST,
      bytesCovered: 64 * MIB,
      ...{ measuredAtMs: 1_700_000_000_000, durationMs: 8.25 },
    },
  ],
  seal_verification_failed: [
    {
      ...{ type: "seal_verification_failed", device, shardId: SHARD, name, failure: "mismatch" },
      ...{ message: "the measured digest differs from the sealed one", ranges: [{ offset: 0, byteLength: MIB / 2 }] },
      ...{ rangesTotal: 1, tensors: ["head", "norm"], tensorsTotal: 5 },
    },
    {
      ...{ type: "seal_verification_failed", device, shardId: SHARD, name, failure: "mac", message: "a bad mac" },
      ...{ ranges: [], rangesTotal: 0, tensors: [], tensorsTotal: 0 },
    },
  ],
  seal_refused: [{ type: "seal_refused", device, shardId: SHARD, reason: "mac" }],
  policy_violation: [
    { type: "policy_violation", device, rule: "managed-memory", expected: "not managed", actual: "managed" },
  ],
  worker_stopped: [{ type: "worker_stopped", device, reason: `${name}: a bad mac` }],
  worker_resumed: [{ type: "worker_resumed", device, reason: "memory was replaced" }],
  capacity_queried: [{ type: "capacity_queried", device, capacity }],
  capacity_changed: [{ type: "capacity_changed", device, capacity }],
  lease_granted: [
    {
      ...{ type: "lease_granted", device, leaseId: LEASE, shardId: SHARD, name, digest: DIGEST, holder: "engine-1" },
      ...{ caller: "uid 1000", durationMs: 60_000, measuredAgeMs: 120 },
    },
  ],
  lease_renewed: [{ type: "lease_renewed", device, leaseId: LEASE, shardId: SHARD, name, durationMs: 1500 }],
  lease_released: [{ type: "lease_released", device, leaseId: LEASE, shardId: SHARD, name }],
  lease_expired: [{ type: "lease_expired", device, leaseId: LEASE, shardId: SHARD, name }],
  lease_revoked: [{ type: "lease_revoked", device, leaseId: LEASE, shardId: SHARD, name, because: "unreliable" }],
  shard_exported: [
    {
      ...{ type: "shard_exported", device, exportId: EXPORT, shardId: SHARD, name, digest: DIGEST, leaseId: LEASE },
      ...{ caller: "uid 1000", peer: { pid: 4711, startTicks: 12 }, byteLength: 64 * MIB },
      expected: `fsverity:${DIGEST}`,
    },
    {
      ...{ type: "shard_exported", device, exportId: EXPORT, shardId: SHARD, name, digest: DIGEST, leaseId: LEASE },
      ...{ caller: "uid 1000", peer: { pid: 4711, startTicks: 12 }, byteLength: 64 * MIB },
    },
  ],
  export_ended: [
    { type: "export_ended", device, exportId: EXPORT, shardId: SHARD, name, because: "closed", held: false },
    { type: "export_ended", device, exportId: EXPORT, shardId: SHARD, name, because: "failed", held: false },
    { type: "export_ended", device, exportId: EXPORT, shardId: SHARD, name, because: "service_closed", held: true },
    { type: "export_ended", device, exportId: EXPORT, shardId: SHARD, name, because: "service_gone", held: true },
    { type: "export_ended", device, exportId: EXPORT, shardId: SHARD, name, because: "service_gone", held: false },
  ],
  statement_issued: [
    {
      ...{ type: "statement_issued", device, statementId: STATEMENT, shardId: SHARD, name, digest: DIGEST },
      ...{ nonce: DIGEST, statementDigest: DIGEST, keyId: DIGEST, verifiedSeq: 17, caller: "uid 1000" },
    },
  ],
  key_rotated: [
    {
      ...{ type: "key_rotated", purpose: "statement", from: DIGEST, to: `7b${DIGEST.slice(2)}` },
      ...{ publicKey: "-----BEGIN PUBLIC KEY-----", reason: "yearly" },
    },
  ],
  auth_failed: [
    { type: "auth_failed", failure: "bad-token", transport: "tcp", caller: "token 3fa2b1" },
    { type: "auth_failed", failure: "wrong-peer", transport: "socket" },
  ],
  request_refused: [
    { type: "request_refused", status: 413, code: "REQUEST_REFUSED", transport: "socket", caller: "uid 1000" },
  ],
  request_served: [{ type: "request_served", route: "GET /v1/shards", status: 200, durationMs: 1, transport: "tcp" }],
  operation_ended: [
    { type: "operation_ended", operation: "seal_set", durationMs: 1234.5 },
    {
      ...{ type: "operation_ended", operation: "seal", durationMs: 1, code: "INVALID_ARGUMENT" },
      argument: "shardId",
    },
    { type: "operation_ended", operation: "seal", durationMs: 1, code: "MODEL_MALFORMED" },
    { type: "operation_ended", operation: "verify", durationMs: 1, code: "SHARD_BUSY" },
    { type: "operation_ended", operation: "seal", durationMs: 1, code: "INTERNAL" },
    { type: "operation_ended", operation: "seal", durationMs: 1, code: "ABORTED" },
    { type: "operation_ended", operation: "verify", durationMs: 1, code: "MEASUREMENT_MISMATCH" },
    { type: "operation_ended", operation: "renew", durationMs: 1, code: "LEASE_NOT_FOUND" },
  ],
  epoch_started: [{ type: "epoch_started", because: "time" }],
  heartbeat: [{ type: "heartbeat" }],
  audit_recovered: [{ type: "audit_recovered", segment: 3, tornBytes: 120 }],
  audit_gap: [{ type: "audit_gap", entries: 2, types: ["vram_deallocated", "worker_stopped"] }],
  audit_pruned: [{ type: "audit_pruned", entries: 90_000, prunedEntries: 120_000, lastSegment: 2 }],
  audit_committed: [{ type: "audit_committed", entries: 3, byteLength: 900, durationMs: 1, waiting: 0 }],
  audit_failed: [
    { type: "audit_failed", message: "ENOSPC: no space left on device, open '/var/lib/vram'", final: false },
    { type: "audit_failed", message: "EIO: i/o error, fdatasync", final: true },
  ],
  release_failed: [{ type: "release_failed", what: "context", message: "CUDA_ERROR_DEINITIALIZED" }],
  entry_unrecorded: [{ type: "entry_unrecorded", lost: "vram_deallocated", message: "no answer within 10000 ms" }],
};

/** A body as the journal stamps it. */
export function stamped(body: EntryBody, stamp: Partial<Entry> = {}): Entry {
  const workerId = "device" in body ? body.device.uuid : undefined;
  const time = { seq: 1, timeMs: Date.UTC(2026, 0, 2, 3, 4, 5, 6), durability: "transient", gates: false } as const;
  return { ...body, ...time, ...(workerId === undefined ? {} : { workerId }), ...stamp } as Entry;
}

/** Every example as an entry. */
export const exampleEntries = (): Entry[] =>
  Object.values<readonly EntryBody[]>(EXAMPLES).flatMap((bodies) => bodies.map((body) => stamped(body)));

/** A line of the JSON form. */
export interface JsonLine extends Readonly<Record<string, unknown>> {
  readonly level: string;
  readonly time: string;
  readonly actor: string;
  readonly action: string;
  readonly target: string;
  readonly human: string;
}

/** The lines of a text: each ends with a line feed, and there is none within. */
export function linesOf(text: string): string[] {
  if (text !== "" && !text.endsWith("\n")) throw new Error("the last line does not end");
  return text.split("\n").slice(0, -1);
}

export const jsonLines = (text: string): JsonLine[] => linesOf(text).map((one) => JSON.parse(one) as JsonLine);

/** A narrator and what it has written so far. */
export async function recordingNarrator(options: Partial<NarratorOptions> = {}) {
  const written: string[] = [];
  const write = (text: string): void => void written.push(text);
  const narrator = await createNarrator({ format: "json", level: "debug", write, ...options });
  return { narrator, written, text: () => written.join(""), lines: () => jsonLines(written.join("")) };
}

/** What is written about these entries. */
export async function narrated(entries: readonly Entry[], options: Partial<NarratorOptions> = {}): Promise<string> {
  const { narrator, text } = await recordingNarrator(options);
  for (const entry of entries) await narrator.accept(entry);
  return text();
}
