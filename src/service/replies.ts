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
const deviceRef = z.object({
  /** From 0, as the driver counts in this start. */ ordinal: count,
  /** `GPU-…`, `MIG-…`, emulated `EMU-…`. */ uuid: z.string(),
});

export const shardRecord = z
  .object({
    /** Names it on its own. */ shardId: z.string(),
    /** Unique on its device. */ name: z.string(),
    /** As it is known now. */ state: z.enum(["sealed", "mismatched", "lost", "evicted"]),
    /** Whether `state` is `sealed`. */ sealed: z.boolean(),
    /** What measured it. */ backend,
    /** Where it lies. */ device: deviceRef,
    /** Without padding. */ byteLength: size,
    /** `fsverity-sha256-4096`. */ digestAlgorithm: z.string(),
    /** Sealed; hex. */ digest: hex32,
    /** In one piece, hex; absent unless it was computed. */ sha256: hex32.optional(),
    /** What the first measurement was held against. */ comparedWith: z.enum(["expected", "witnessed"]),
    /** From 0 within its set; else 0. */ shardIndex: count,
    /** Members of its set; else 1. */ totalShards: count,
    /** By the wall clock. */ sealedAt: z.string(),
    /** Begin of the last good measurement. */ lastVerifiedAt: z.string(),
    /** Held on it now. */ leases: count,
    /** Attached now. */ exports: count.meta({
      description: "connections over which other processes are attached now",
    }),
    /** Since sealed. */ exportsTotal: count.meta({
      description: "how often its memory was handed to another process",
    }),
  })
  .meta({ id: "ShardRecord" });

/** Error of the library, as data: what a failed operation and a problem have in common. */
const errorFields = {
  /** One of docs/errors.md. */ code: z.string(),
  /** What to do. */ fix: z.string(),
  /** May succeed later as it is. */ retriable: z.boolean(),
  /** Numbers, digests and names; may be empty. */ details: z.record(z.string(), z.unknown()),
};

export const errorReply = z
  .object({
    ...errorFields,
    /** For people. */ message: z.string(),
  })
  .meta({ id: "Error" });

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
  /** All, whoever holds it. */ bytesTotal: size,
  /** Allocated for shards. */ bytesUsed: size,
  /** A shard of this size fits. */ bytesFree: size,
  /** Promised to seals in flight. */ bytesReserved: size,
  /** Never promised. */ bytesHeadroom: size,
  /** Freed, and still mapped by somebody else; an estimate. */ bytesUnreclaimed: size,
});

export const plan = z
  .object({
    /** All members together. */ fits: z.boolean(),
    /** What it would be called. */ name: z.string(),
    /** Of all members. */ byteLength: size,
    /** In index order. */ members: z.array(
      z.object({
        /** Of the shard. */ name: z.string(),
        /** Of the shard. */ byteLength: size,
        /** As its header was read. */ format: z.string(),
        /** 0 for `raw`. */ tensorCount: count,
        /** After those before it. */ fits: z.boolean(),
      }),
    ),
    /** Where they would lie. */ device: deviceRef,
    /** What this was judged by. */ capacity,
    /** The shard or set of this name that is resident already. */ resident: z.boolean(),
    /** Why nothing would be sealed there now, though it fits. */ blocked: z.string().optional(),
  })
  .meta({ id: "Plan" });

const seal = z.record(z.string(), z.unknown()).meta({ id: "Seal", description: "docs/seal.md" });
const sealed = z.object({
  /** As it was sealed. */ record: shardRecord,
  /** To be kept: docs/seal.md. */ seal,
});

export const operation = z
  .object({
    /** What asks for it again. */ operationId: z.string(),
    /** As in the journal. */ correlationId: z.string(),
    /** `restore`: wanted since an earlier start. */ kind: z.enum(["seal", "restore"]),
    /** Of the shard or set. */ name: z.string(),
    /** How far it is. */ state: z.enum(["running", "succeeded", "failed"]),
    /** Uploaded so far. */ bytesDone: size,
    /** Absent until known. */ bytesTotal: size.optional(),
    /** By the wall clock. */ startedAt: z.string(),
    /** Absent while it runs. */ endedAt: z.string().optional(),
    /** Only of one that succeeded. */ result: z
      .object({
        /** In index order. */ shards: z.array(sealed),
        /** The seal of a set; absent for a single shard. */ set: z.record(z.string(), z.unknown()).optional(),
      })
      .optional(),
    /** Only of one that failed. */ error: errorReply.optional(),
  })
  .meta({ id: "Operation" });

/** Something wanted that is not resident, and why. */
export const missingShard = z
  .object({
    /** As it is wanted. */ name: z.string(),
    /** That it gets again. */ shardId: z.string(),
    /** That it must have again; hex. */ digest: hex32,
    /** Of the shard. */ byteLength: size,
    /** Where it belongs. */ deviceUuid: z.string(),
    /** `refused`: not tried again by itself. */ state: z.enum(["waiting", "restoring", "blocked", "refused"]),
    /** Absent unless something stands against it. */ reason: z.string().optional(),
  })
  .meta({ id: "MissingShard" });

export const listing = z
  .object({
    /** What answers. */ backend,
    /** What measurements there are worth. */ evidence: z.string(),
    /** Resident. */ shards: z.array(shardRecord),
    /** Wanted, and not resident. */ missing: z.array(missingShard),
    /** Running, and failed of late. */ operations: z.array(operation),
  })
  .meta({ id: "Listing" });

export const verification = z
  .object({
    /** As it is after it. */ record: shardRecord,
    /** What measured. */ backend,
    /** Where it was measured. */ device: deviceRef,
    /** Measured, equal to the sealed one; hex. */ digest: hex32,
    /** `fresh-enough`: measured earlier. */ basis: z.enum(["measured", "fresh-enough"]),
    /** Since the measurement began. */ ageMs: z.number(),
    /** When it began. */ measuredAt: z.string(),
    /** All of it; 0 for `fresh-enough`. */ bytesCovered: size,
    /** 0 for `fresh-enough`. */ durationMs: z.number(),
    /** 0 for `fresh-enough`. */ bytesPerSecond: z.number(),
    /** If a salt was given. */ salted: z
      .object({
        /** Hex. */ salt: z.string(),
        /** With that salt; hex. */ digest: hex32,
      })
      .optional(),
    /** `l2-possible`: perhaps the cache. */ readFrom: z.enum(["vram", "l2-possible", "emulated", "substituted"]),
  })
  .meta({ id: "Verification" });

export const lease = z
  .object({
    /** What renews and releases it. */ leaseId: z.string(),
    /** What may be relied on. */ shardId: z.string(),
    /** Of that shard. */ name: z.string(),
    /** Sealed digest of that shard; hex. */ digest: hex32,
    /** What measured it. */ backend,
    /** Where it lies. */ device: deviceRef,
    /** As it calls itself. */ holder: z.string(),
    /** By the wall clock. */ grantedAt: z.string(),
    /** For people: the monotonic clock decides. */ expiresAt: z.string(),
    /** What is left when this is answered. */ remainingMs: z.number(),
    /** As granted or last renewed. */ durationMs: z.number(),
  })
  .meta({ id: "Lease" });

export const grantedLease = z
  .object({
    /** As it was granted. */ lease,
    /** What it was granted on. */ verification,
  })
  .meta({ id: "GrantedLease" });
export const renewedLease = z
  .object({
    /** With its new deadline. */ lease,
    /** If `maxAgeMs` was given. */ verification: verification.optional(),
  })
  .meta({ id: "RenewedLease" });
export const leases = z.object({ leases: z.array(lease) }).meta({ id: "Leases" });

export const eviction = z
  .object({
    /** Of the shard or set. */ name: z.string(),
    /** What was resident. */ shards: z.array(
      z.object({
        /** As it was last. */ record: shardRecord,
        /** False where another process may map it. */ zeroed: z.boolean(),
        /** Why it was not zeroed. */ reason: z.string().optional(),
      }),
    ),
    /** Whether it was wanted, and is not any more. */ wanted: z.boolean(),
  })
  .meta({ id: "Eviction" });

export const deviceState = z
  .object({
    /** From 0. */ ordinal: count,
    /** `GPU-…`, `MIG-…`, emulated `EMU-…`. */ uuid: z.string(),
    /** The driver's words. */ name: z.string(),
    /** What answers for it. */ backend,
    /** 13000 is CUDA 13.0. */ driverVersion: z.int(),
    /** MAJOR.MINOR. */ computeCapability: z.string(),
    /** Of its worker. */ state: z.enum(["running", "stopped", "lost"]),
    /** Why it does not run. */ reason: z.string().optional(),
    /** What keeps it. */ process: z.object({
      /** `wedged`: killed, and has not gone. */ state: z.enum(["starting", "running", "lost", "stopped", "wedged"]),
      /** While there is one. */ pid: z.int().optional(),
      /** In the last 5 minutes. */ restarts: count,
    }),
    /** Absent while the device does not answer. */ capacity: capacity.optional(),
  })
  .meta({ id: "Device" });

export const devices = z.object({ devices: z.array(deviceState) }).meta({ id: "Devices" });

export const readiness = z
  .object({
    /** Whether `reasons` is empty. */ ready: z.boolean(),
    /** Of the service. */ state: z.enum(["starting", "running", "stopping"]),
    /** Why it is not ready. */ reasons: z.array(z.string()),
    /** Of this package. */ version: z.string(),
    /** Of this start: 16 bytes, hex. */ instanceId: z.string(),
    /** By the wall clock. */ startedAt: z.string(),
    /** What answers. */ backend,
    /** Why that backend. */ because: z.string(),
    /** What measurements there are worth. */ evidence: z.string(),
    /** How the audit log is kept. */ audit: z.object({
      /** `required`: nothing is sealed that is not on record. */ mode: z.enum(["off", "best-effort", "required"]),
      /** NAME+HASH+KEY; absent where there is no log. */ logKey: z.string().optional(),
    }),
    /** Resident. */ shards: z.array(shardRecord),
    /** Wanted, and not resident. */ missing: z.array(missingShard),
    /** As they answer now. */ devices: z.array(deviceState),
  })
  .meta({ id: "Readiness" });

export const statement = z
  .object({
    /** As in the audit log. */ statementId: z.string(),
    /** What it is about. */ record: shardRecord,
    /** The statement, signed. */
    envelope: envelopeSchema.meta({ id: "Envelope", description: "DSSE v1; docs/statement.md" }),
    /** Absent where the GPU offers none. */ evidence: evidenceSchema.optional(),
  })
  .meta({ id: "Statement" });

export const statementKeys = z
  .object({
    /** SHA-256 of the SPKI, hex. */
    keyId: hex32.meta({ description: "SHA-256 of the SPKI of the key that signs statements" }),
    /** Signs statements: SPKI in PEM. */ publicKey: z.string().meta({ description: "that key: SPKI in PEM" }),
    /** Of the audit log: NAME+HASH+KEY. */ logKey: z.string().meta({ description: "of the audit log: NAME+HASH+KEY" }),
    /** The audit log's name. */ origin: z.string().meta({ description: "of the audit log" }),
  })
  .meta({ id: "StatementKeys" });

export const health = z.object({ status: z.enum(["ok", "not-ready"]) }).meta({ id: "Health" });

/** A shard, as anybody may see it. @interface */ export type ShardRecordReply = z.infer<typeof shardRecord>;
export type Problem = z.infer<typeof problem>;
/** Whether sealing would fit, as of now. Nothing is reserved. @interface */ export type Plan = z.infer<typeof plan>;
/** Work in progress, or how it ended. @interface */ export type OperationReply = z.infer<typeof operation>;
/** Wanted, and not resident. @interface */ export type MissingShard = z.infer<typeof missingShard>;
/** What a service holds, lacks and is doing. @interface */ export type Listing = z.infer<typeof listing>;
/** A verification that passed. @interface */ export type Verification = z.infer<typeof verification>;
/** A lease as it stands. @interface */ export type LeaseReply = z.infer<typeof lease>;
/** A lease, and what it rests on. @interface */ export type GrantedLease = z.infer<typeof grantedLease>;
/** A lease with another deadline. @interface */ export type RenewedLease = z.infer<typeof renewedLease>;
/** What was evicted. @interface */ export type Eviction = z.infer<typeof eviction>;
/** A device with its worker and its process. @interface */ export type DeviceState = z.infer<typeof deviceState>;
/** A statement, signed. @interface */ export type StatementReply = z.infer<typeof statement>;
/** What statements are checked with. @interface */ export type StatementKeysReply = z.infer<typeof statementKeys>;
/** All that stands against being ready. @interface */ export type Readiness = z.infer<typeof readiness>;
