/**
 * What a service answers, as schemas: the OpenAPI document and the client's types follow from them, and the client reads
 * answers by them. A newer service may say more: unknown fields are left out, not refused. Sizes are bytes, durations
 * milliseconds, times RFC 3339 in UTC. No pointer, key or path is ever part of an answer.
 */
import { z } from "zod";
import { envelopeSchema } from "../attest/envelope.ts";
import { evidenceSchema } from "../attest/evidence.ts";

const hex32 = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const size = z.int().min(0);
const backend = z.enum(["cuda", "cuda-substituted", "emulated"]);
const deviceRef = z.object({ ordinal: count, uuid: z.string() });

export const shardRecord = z
  .object({
    shardId: z.string(),
    name: z.string(),
    state: z.enum(["sealed", "mismatched", "lost", "evicted"]),
    sealed: z.boolean(),
    backend,
    device: deviceRef,
    byteLength: size,
    digestAlgorithm: z.string(),
    digest: hex32,
    sha256: hex32.optional(),
    comparedWith: z.enum(["expected", "witnessed"]),
    shardIndex: count,
    totalShards: count,
    sealedAt: z.string(),
    lastVerifiedAt: z.string(),
    leases: count,
    exports: count.meta({ description: "connections over which other processes are attached now" }),
    exportsTotal: count.meta({ description: "how often its memory was handed to another process" }),
  })
  .meta({ id: "ShardRecord" });

/** Error of the library, as data: what a failed operation and a problem have in common. */
const errorFields = {
  code: z.string(),
  fix: z.string(),
  retriable: z.boolean(),
  details: z.record(z.string(), z.unknown()),
};

export const errorReply = z.object({ ...errorFields, message: z.string() }).meta({ id: "Error" });

/** RFC 9457, with our fields. */
export const problem = z
  .object({
    type: z.string(),
    title: z.string().meta({ description: "what the code stands for" }),
    status: z.int(),
    detail: z.string(),
    instance: z.string().meta({ description: "the correlation id of the request" }),
    ...errorFields,
  })
  .meta({ id: "Problem" });

const capacity = z.object({
  bytesTotal: size,
  bytesUsed: size,
  bytesFree: size,
  bytesReserved: size,
  bytesHeadroom: size,
  bytesUnreclaimed: size,
});

export const plan = z
  .object({
    fits: z.boolean(),
    name: z.string(),
    byteLength: size,
    members: z.array(
      z.object({ name: z.string(), byteLength: size, format: z.string(), tensorCount: count, fits: z.boolean() }),
    ),
    device: deviceRef,
    capacity,
    /** The shard or set of this name that is resident already. */
    resident: z.boolean(),
    /** Why nothing would be sealed there now, though it fits. */
    blocked: z.string().optional(),
  })
  .meta({ id: "Plan" });

const seal = z.record(z.string(), z.unknown()).meta({ id: "Seal", description: "docs/seal.md" });
const sealed = z.object({ record: shardRecord, seal });

export const operation = z
  .object({
    operationId: z.string(),
    correlationId: z.string(),
    kind: z.enum(["seal", "restore"]),
    name: z.string(),
    state: z.enum(["running", "succeeded", "failed"]),
    bytesDone: size,
    bytesTotal: size.optional(),
    startedAt: z.string(),
    endedAt: z.string().optional(),
    result: z.object({ shards: z.array(sealed), set: z.record(z.string(), z.unknown()).optional() }).optional(),
    error: errorReply.optional(),
  })
  .meta({ id: "Operation" });

/** Something wanted that is not resident, and why. */
export const missingShard = z
  .object({
    name: z.string(),
    shardId: z.string(),
    digest: hex32,
    byteLength: size,
    deviceUuid: z.string(),
    state: z.enum(["waiting", "restoring", "blocked", "refused"]),
    reason: z.string().optional(),
  })
  .meta({ id: "MissingShard" });

export const listing = z
  .object({
    backend,
    evidence: z.string(),
    shards: z.array(shardRecord),
    missing: z.array(missingShard),
    operations: z.array(operation),
  })
  .meta({ id: "Listing" });

export const verification = z
  .object({
    record: shardRecord,
    backend,
    device: deviceRef,
    digest: hex32,
    basis: z.enum(["measured", "fresh-enough"]),
    ageMs: z.number(),
    measuredAt: z.string(),
    bytesCovered: size,
    durationMs: z.number(),
    bytesPerSecond: z.number(),
    salted: z.object({ salt: z.string(), digest: hex32 }).optional(),
    readFrom: z.enum(["vram", "l2-possible", "emulated", "substituted"]),
  })
  .meta({ id: "Verification" });

export const lease = z
  .object({
    leaseId: z.string(),
    shardId: z.string(),
    name: z.string(),
    digest: hex32,
    backend,
    device: deviceRef,
    holder: z.string(),
    grantedAt: z.string(),
    expiresAt: z.string(),
    /** What is left when this is answered. */
    remainingMs: z.number(),
    durationMs: z.number(),
  })
  .meta({ id: "Lease" });

export const grantedLease = z.object({ lease, verification }).meta({ id: "GrantedLease" });
export const renewedLease = z.object({ lease, verification: verification.optional() }).meta({ id: "RenewedLease" });
export const leases = z.object({ leases: z.array(lease) }).meta({ id: "Leases" });

export const eviction = z
  .object({
    name: z.string(),
    /** What was resident. */
    shards: z.array(z.object({ record: shardRecord, zeroed: z.boolean(), reason: z.string().optional() })),
    /** Whether it was wanted, and is not any more. */
    wanted: z.boolean(),
  })
  .meta({ id: "Eviction" });

export const deviceState = z
  .object({
    ordinal: count,
    uuid: z.string(),
    name: z.string(),
    backend,
    driverVersion: z.int(),
    computeCapability: z.string(),
    /** Of its worker. */
    state: z.enum(["running", "stopped", "lost"]),
    reason: z.string().optional(),
    process: z.object({
      state: z.enum(["starting", "running", "lost", "stopped", "wedged"]),
      pid: z.int().optional(),
      restarts: count,
    }),
    /** Absent while the device does not answer. */
    capacity: capacity.optional(),
  })
  .meta({ id: "Device" });

export const devices = z.object({ devices: z.array(deviceState) }).meta({ id: "Devices" });

export const readiness = z
  .object({
    ready: z.boolean(),
    state: z.enum(["starting", "running", "stopping"]),
    /** Why it is not ready. */
    reasons: z.array(z.string()),
    version: z.string(),
    instanceId: z.string(),
    startedAt: z.string(),
    backend,
    because: z.string(),
    evidence: z.string(),
    audit: z.object({ mode: z.enum(["off", "best-effort", "required"]), logKey: z.string().optional() }),
    shards: z.array(shardRecord),
    missing: z.array(missingShard),
    devices: z.array(deviceState),
  })
  .meta({ id: "Readiness" });

export const statement = z
  .object({
    statementId: z.string(),
    record: shardRecord,
    envelope: envelopeSchema.meta({ id: "Envelope", description: "DSSE v1; docs/statement.md" }),
    /** Absent where the GPU offers none. */
    evidence: evidenceSchema.optional(),
  })
  .meta({ id: "Statement" });

export const statementKeys = z
  .object({
    keyId: hex32.meta({ description: "SHA-256 of the SPKI of the key that signs statements" }),
    publicKey: z.string().meta({ description: "that key: SPKI in PEM" }),
    logKey: z.string().meta({ description: "of the audit log: NAME+HASH+KEY" }),
    origin: z.string().meta({ description: "of the audit log" }),
  })
  .meta({ id: "StatementKeys" });

export const health = z.object({ status: z.enum(["ok", "not-ready"]) }).meta({ id: "Health" });

export type ShardRecordReply = z.infer<typeof shardRecord>;
export type Problem = z.infer<typeof problem>;
export type Plan = z.infer<typeof plan>;
export type OperationReply = z.infer<typeof operation>;
export type MissingShard = z.infer<typeof missingShard>;
export type Listing = z.infer<typeof listing>;
export type Verification = z.infer<typeof verification>;
export type LeaseReply = z.infer<typeof lease>;
export type GrantedLease = z.infer<typeof grantedLease>;
export type RenewedLease = z.infer<typeof renewedLease>;
export type Eviction = z.infer<typeof eviction>;
export type DeviceState = z.infer<typeof deviceState>;
export type StatementReply = z.infer<typeof statement>;
export type StatementKeysReply = z.infer<typeof statementKeys>;
export type Readiness = z.infer<typeof readiness>;
