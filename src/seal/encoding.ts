/**
 * The bytes a seal's mac is computed over (design §5, "Seal v1"): every field behind its byte count as u32-LE, in this
 * order, integers little-endian. Also the strict reading of a seal that somebody hands in: unknown, missing and
 * ill-typed fields are errors.
 */
import { frame, fromHex, u32le, u64le } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { DIGEST_ALGORITHM } from "../hash/descriptor.ts";
import { requireName, requireShardId } from "./names.ts";

/** How the measurement was judged before sealing (design §2, decision 2). */
export type ComparedWith = "expected" | "witnessed";

/** Everything a seal says. Hex is lower-case; times are milliseconds since 1970. */
export interface SealFields {
  /** 16 bytes, hex: names the key. */
  readonly keyId: string;
  /** 16 bytes, hex: random per start of the program. */
  readonly instanceId: string;
  /** 1, 2, … within the instance. */
  readonly sequence: number;
  /** Names the shard on its own, also in a later start. */
  readonly shardId: string;
  /** What people call it. */
  readonly name: string;
  /** From 0; 0 for what is no member of a set. */
  readonly shardIndex: number;
  /** How many members its set has; 1 for what is no member of a set. */
  readonly totalShards: number;
  /** First byte of the shard within its source. */
  readonly sourceOffset: number;
  /** Bytes of weights, at least 1. */
  readonly byteLength: number;
  /** What `digest` is of: fs-verity, SHA-256 over blocks of 4096 bytes, no salt. */
  readonly digestAlgorithm: typeof DIGEST_ALGORITHM;
  /** 32 bytes, hex. */
  readonly digest: string;
  /** 32 bytes, hex, or empty when it was not computed. */
  readonly sha256: string;
  /** What the measurement was held against before sealing. */
  readonly comparedWith: ComparedWith;
  /** Which implementation measured it. */
  readonly backend: Backend;
  /** `GPU-…`, `MIG-…`, emulated `EMU-…`: where it was measured. */
  readonly deviceUuid: string;
  /** 32 bytes, hex: SHA-256 of the policy as RFC 8785 JSON. */
  readonly policyDigest: string;
  /** By the wall clock. */
  readonly sealedAtMs: number;
  /** 0 = none. */
  readonly maxAgeMs: number;
}

/** A keyed record of what was measured. Nothing in it is secret, nothing is encrypted. */
export interface Seal extends SealFields {
  /** Of the form of seals: docs/seal.md. */
  readonly version: 1;
  /** HMAC-SHA256, hex. */
  readonly mac: string;
}

const PREFIX = "vram-residency/seal/v1\n";

const text = (value: string): Uint8Array => Buffer.from(value, "utf8");
const hex = (value: string): Uint8Array => Buffer.from(value, "hex");

/** The exact bytes under the mac of a seal. */
export function encodeSeal(fields: SealFields): Uint8Array {
  const framed = frame([
    hex(fields.keyId),
    hex(fields.instanceId),
    u64le(fields.sequence),
    text(fields.shardId),
    text(fields.name),
    u32le(fields.shardIndex),
    u32le(fields.totalShards),
    u64le(fields.sourceOffset),
    u64le(fields.byteLength),
    text(fields.digestAlgorithm),
    hex(fields.digest),
    hex(fields.sha256),
    text(fields.comparedWith),
    text(fields.backend),
    text(fields.deviceUuid),
    hex(fields.policyDigest),
    u64le(fields.sealedAtMs),
    u64le(fields.maxAgeMs),
  ]);
  return Buffer.concat([text(PREFIX), framed]);
}

const bad = (field: string): VramError =>
  new VramError("INVALID_ARGUMENT", `the seal's ${field} is not well-formed`, { details: { argument: "seal" } });

type Check = (value: unknown) => boolean;

const isHex =
  (byteLength: number): Check =>
  (value) => {
    if (typeof value !== "string" || value !== value.toLowerCase()) return false;
    fromHex(value, byteLength, "hex");
    return true;
  };
const isInteger =
  (min: number, max: number): Check =>
  (value) =>
    typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max;
const isOneOf =
  (...values: readonly unknown[]): Check =>
  (value) =>
    values.includes(value);
const isText =
  (require: (value: string) => string): Check =>
  (value) => {
    if (typeof value !== "string") return false;
    require(value);
    return true;
  };

const U32_MAX = 2 ** 32 - 1;
const U53_MAX = Number.MAX_SAFE_INTEGER;

const CHECKS: Record<keyof Seal, Check> = {
  version: isOneOf(1),
  keyId: isHex(16),
  instanceId: isHex(16),
  sequence: isInteger(1, U53_MAX),
  shardId: isText(requireShardId),
  name: isText(requireName),
  shardIndex: isInteger(0, U32_MAX),
  totalShards: isInteger(1, U32_MAX),
  sourceOffset: isInteger(0, U53_MAX),
  byteLength: isInteger(1, U53_MAX),
  digestAlgorithm: isOneOf(DIGEST_ALGORITHM),
  digest: isHex(32),
  sha256: (value) => value === "" || isHex(32)(value),
  comparedWith: isOneOf("expected", "witnessed"),
  backend: isOneOf("cuda", "cuda-substituted", "emulated"),
  deviceUuid: (value) => typeof value === "string" && /^(?:GPU|MIG|EMU)-[0-9a-f-]{8,64}$/.test(value),
  policyDigest: isHex(32),
  sealedAtMs: isInteger(0, U53_MAX),
  maxAgeMs: isInteger(0, U53_MAX),
  mac: isHex(32),
};

/** Reads a seal somebody hands in. Throws `INVALID_ARGUMENT` naming the first field that is not well-formed. */
export function parseSeal(value: unknown): Seal {
  if (typeof value !== "object" || value === null) throw bad("form");
  const given = new Map<string, unknown>(Object.entries(value));
  for (const [field, check] of Object.entries(CHECKS)) {
    let valid: boolean;
    try {
      valid = given.has(field) && check(given.get(field));
    } catch {
      valid = false;
    }
    if (!valid) throw bad(field);
    given.delete(field);
  }
  if (given.size > 0) throw bad("set of fields");
  // Every field of the type was checked one by one, and there are no others.
  return Object.freeze({ ...(value as Seal) });
}
