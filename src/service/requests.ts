/**
 * What may be asked of a service, as schemas: the server checks bodies and queries by them, the OpenAPI document and the
 * types of the client follow from them. Unknown fields are refused. Sizes are bytes, times milliseconds.
 */
import { z } from "zod";
import { LIMITS } from "../limits.ts";

const AGE_MAX_MS = 366 * 24 * 3600 * 1000;
const PATH_LENGTH = 4096;

/** Text without what would forge a line of a log or a screen; details are checked where it is used. */
const text = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .refine((value) => !value.includes("\0"), "must not contain a NUL byte");

const ageMs = z.int().min(0).max(AGE_MAX_MS);
const device = z.union([z.int().min(0).max(4095), text(64)]).meta({ description: "ordinal or UUID of a device" });
const path = text(PATH_LENGTH)
  .refine((value) => value.startsWith("/"), "must be an absolute path")
  .meta({ description: "absolute path of a file, a directory or a *.safetensors.index.json on the service's machine" });
const format = z.enum(["auto", "safetensors", "gguf", "raw"]);
const salt = z
  .string()
  .regex(/^(?:[0-9a-fA-F]{2}){1,32}$/)
  .meta({ description: "1 to 32 bytes, hex" });
const shard = text(LIMITS.nameBytes).meta({ description: "id or name of a shard" });

/** What is sealed and where: what a plan and a seal have in common. */
const placed = {
  /** Absolute path of a file, a directory or a `*.safetensors.index.json` on the service's machine. */
  path,
  /** What people will call it; default the file's base name. */
  name: text(LIMITS.nameBytes).optional().meta({ description: "default: the file's base name" }),
  /** Ordinal or UUID; default the first device. */
  device: device.optional().meta({ description: "default: the first device" }),
  /** Cut a single file into so many at tensor boundaries; default 1. */
  shards: z.int().min(1).max(LIMITS.setMembers).optional().meta({ description: "cut a single file into so many" }),
  /** How to read the header; default by content and extension. */
  format: format.optional(),
  /** Header limit of safetensors, up to 100 MiB. */
  maxHeaderBytes: z.int().min(2).max(LIMITS.safetensorsHeaderBytesMax).optional(),
};

export const planRequest = z.strictObject(placed).meta({ id: "PlanRequest" });

export const sealRequest = z
  .strictObject({
    ...placed,
    /** What it must be: `fsverity:HEX`, `sha256:HEX`, or 64 hex digits: fsverity. */
    expected: text(80).optional().meta({ description: "fsverity:HEX, sha256:HEX, or 64 hex digits: fsverity" }),
    /** Also compute the plain SHA-256; the seal is then witnessed. */
    sha256: z.boolean().optional().meta({ description: "also compute the plain SHA-256" }),
    /** Verifications older than this are never relied on; 0 or absent = none. */
    maxAgeMs: ageMs.optional().meta({ description: "older verifications are never relied on; 0 = none" }),
    /** Answer when it has ended; default: at once. */
    wait: z.boolean().optional().meta({ description: "answer when it is sealed; default: at once, with 202" }),
  })
  .meta({ id: "SealRequest" });

export const verifyRequest = z
  .strictObject({
    /** Settle for a measurement no older than this; 0 or absent = measure now. */
    maxAgeMs: ageMs.optional().meta({ description: "settle for a measurement no older than this; 0 = measure now" }),
    /** 1 to 32 bytes, hex: also measure with this salt. */
    salt: salt.optional(),
    /** A seal; it must be the shard's current one, or the call throws `SEAL_REFUSED`. */
    seal: z.record(z.string(), z.unknown()).optional().meta({ description: "a seal; it must be the current one" }),
  })
  .meta({ id: "VerifyRequest" });

export const leaseRequest = z
  .strictObject({
    /** Id or name. */
    shard,
    /** Settle for a measurement no older than this; 0 or absent = measure now. */
    maxAgeMs: ageMs.optional().meta({ description: "settle for a measurement no older than this; 0 = measure now" }),
    /** 1 to 32 bytes, hex: also measure with this salt. */
    salt: salt.optional(),
    /** At least 1000; default and limit: configuration. */
    durationMs: z.int().min(1000).max(AGE_MAX_MS).optional().meta({ description: "default and limit: configuration" }),
    /** What the caller calls itself; for the record. */
    holder: text(128).optional().meta({ description: "what the caller calls itself; for the record" }),
  })
  .meta({ id: "LeaseRequest" });

export const renewRequest = z
  .strictObject({
    /** From now on, at least 1000; default and limit: configuration. */
    durationMs: z.int().min(1000).max(AGE_MAX_MS).optional(),
    /** Also verify, settling for a measurement no older than this; absent: the state of shard and worker decides. */
    maxAgeMs: ageMs.optional().meta({ description: "also verify; absent: the state of shard and worker decides" }),
  })
  .meta({ id: "RenewRequest" });

export const resumeRequest = z
  .strictObject({
    /** For the record. */
    reason: text(LIMITS.nameBytes),
    /** Ordinal or UUID; default: every device whose worker is stopped. */
    device: device.optional(),
  })
  .meta({ id: "ResumeRequest" });

export const statementRequest = z
  .strictObject({
    /** Id or name; of one shard, not of a set. */
    shard,
    /** 16 to 32 bytes that nobody could know before, hex; without, nothing shows when it was made. */
    nonce: z
      .string()
      .regex(/^(?:[0-9a-fA-F]{2}){16,32}$/, "must be 16 to 32 bytes of hex")
      .optional()
      .meta({
        description: "16 to 32 bytes that nobody could know before, hex; without, nothing shows when it was made",
      }),
  })
  .meta({ id: "StatementRequest" });

export const rotateRequest = z
  .strictObject({
    /** For the record. */
    reason: text(LIMITS.nameBytes),
  })
  .meta({ id: "RotateRequest" });

const digits = (max: number, what: string) =>
  z
    .string()
    .regex(/^(?:0|[1-9][0-9]{0,15})$/)
    .transform(Number)
    .refine((value) => value <= max, what);

export const evictQuery = z.strictObject({ revoke: z.enum(["true", "false"]).optional() });
export const feedQuery = z.strictObject({
  correlationId: text(LIMITS.correlationIdLength).optional(),
  /** Names of entry types, separated by commas. */
  types: text(1024).optional(),
});
export const entriesQuery = z.strictObject({ last: digits(1000, "at most 1000").optional() });

/** What `plan` is asked. @interface */
export type PlanRequest = z.infer<typeof planRequest>;
/** What `seal` is asked. @interface */
export type SealRequestBody = z.infer<typeof sealRequest>;
/** How a shard is verified. @interface */
export type VerifyRequestBody = z.infer<typeof verifyRequest>;
/** What `grant` is asked. @interface */
export type LeaseRequest = z.infer<typeof leaseRequest>;
/** How a lease goes on. @interface */
export type RenewRequest = z.infer<typeof renewRequest>;
/** What `attest` is asked. @interface */
export type StatementRequest = z.infer<typeof statementRequest>;
/** Why the key is changed. @interface */
export type RotateRequest = z.infer<typeof rotateRequest>;
/** Which worker goes on, and why. @interface */
export type ResumeRequest = z.infer<typeof resumeRequest>;
