/**
 * What a statement says: an in-toto Statement v1 (https://github.com/in-toto/attestation, spec/v1) about one shard, as
 * RFC 8785 JSON, so that there is one way to write it and one way to read it. Its subject is the content, by digest; its
 * predicate says what was measured, where, when, for which nonce, under which policy, by which software, and where that
 * stands in the audit log. Each backend has a predicate type of its own: a reader that wants a GPU's knows no other.
 *
 * Times are RFC 3339 in UTC, sizes bytes, hashes lower-case hex. Nothing here is believed because it stands here:
 * `check.ts` says what of it was shown.
 */
import { z } from "zod";
import { canonicalJson, escaped } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { DIGEST_ALGORITHM } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";

/** URI that every statement has under `_type`. */
export const STATEMENT_TYPE = "https://in-toto.io/Statement/v1";

/** URIs that name, and lead nowhere: what they stand for is docs/statement.md. */
export const PREDICATE_TYPES: Readonly<Record<Backend, string>> = {
  cuda: "urn:vram-residency:statement:cuda:v1",
  "cuda-substituted": "urn:vram-residency:statement:cuda-substituted:v1",
  emulated: "urn:vram-residency:statement:emulated:v1",
};

/** A caller's nonce is the salt of the measurement: what nobody can guess, and as long as a salt may be. */
export const NONCE_BYTES_MIN = 16;

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const text = z.string().min(1).max(LIMITS.statementTextLength);
const time = z.iso.datetime({ precision: 3 });
/** Answers of the driver, and what a policy demands of them: words, numbers, and yes or no. */
const facts = z.record(z.string().max(64), z.union([z.boolean(), z.number(), z.string().max(256)]));

const subject = z.strictObject({
  /** What people call the shard. */
  name: text,
  /** By which the weights are found again. */
  digest: z.strictObject({
    /** fs-verity digest, 32 bytes hex. */
    [DIGEST_ALGORITHM]: hash,
    /** Of the whole shard in one piece; only if it was computed when it was sealed. */
    sha256: hash.optional(),
  }),
});

const predicate = z.strictObject({
  /** `statement-` and 26 letters and digits: names it in the audit log. */
  statementId: z.string().regex(/^statement-[a-z2-7]{26}$/),
  /** When it was signed. */
  issuedAt: time,
  /** What measured; the predicate type names it too. */
  backend: z.enum(["cuda", "cuda-substituted", "emulated"]),
  /** Where it was measured. */
  device: z.strictObject({
    /** From 0, as the driver counted in the service. */
    ordinal: count,
    /** `GPU-…`, `MIG-…`, emulated `EMU-…`. */
    uuid: text,
    /** As the driver calls it. */
    name: z.string().max(256),
    /** MAJOR.MINOR, as the driver says. */
    computeCapability: z.string().max(64),
    /** 13000 is CUDA 13.0. */
    driverVersion: count,
    /** Of its memory. */
    bytesTotal: count,
    /** As `DeviceFacts` has them. */
    facts,
  }),
  /** What was measured. */
  shard: z.strictObject({
    /** Names it on its own. */
    shardId: text,
    /** Which of its set, from 0. */
    shardIndex: count,
    /** How many its set has; 1 without a set. */
    totalShards: z.int().min(1),
    /** Where the shard begins in its file. */
    sourceOffset: count,
    /** Of the shard. */
    byteLength: z.int().min(1),
    /** By the wall clock of the signer. */
    sealedAt: time,
    /** `expected`: the digest was given; `witnessed`: the host digested what it uploaded. */
    comparedWith: z.enum(["expected", "witnessed"]),
    /** Of the start of the service that sealed it. */
    instanceId: z.string().regex(/^[0-9a-f]{32}$/),
  }),
  /** What was found, and for which question. */
  measurement: z.strictObject({
    /** The subject's, as it was measured; hex. */
    digest: hash,
    /** Always all of the shard. */
    bytesCovered: count,
    /** When it was begun, by the service's clock. */
    measuredAt: time,
    /** `l2-possible`: a shard so small that the cache of the GPU may have answered. */
    readFrom: z.enum(["vram", "l2-possible", "emulated", "substituted"]),
    /** Hex: the salt of the second measurement. */
    nonce: z.string().regex(/^(?:[0-9a-f]{2}){16,32}$/),
    /** Who chose the nonce. One that the service chose shows nothing about when. */
    nonceFrom: z.enum(["caller", "service"]),
    /** fs-verity digest of the same bytes with the nonce as salt. */
    saltedDigest: hash,
  }),
  /** Processes that were handed the memory, and could have mapped it writable. */
  exports: z.strictObject({
    /** Connections over which one has it. */
    now: count,
    /** How often it was handed to one since it was sealed. */
    total: count,
  }),
  /** What had to hold of device and allocation, by the signer's word. */
  policy: z.strictObject({
    /** Of this form. */
    version: z.literal(1),
    /** Facts that a device must have. */
    device: facts,
    /** Facts that an allocation must have. */
    allocation: facts,
  }),
  /** SHA-256 of `policy` as RFC 8785 JSON; hex. */
  policyDigest: hash,
  /** What measured, by its own word. */
  software: z.strictObject({
    /** Of this package. */
    name: z.literal("vram-residency"),
    /** Of this package, as semver. */
    version: text,
    /** SHA-256 of the PTX that measures; absent on the emulated device, which runs none. */
    kernel: hash.optional(),
  }),
  /** The line of the audit log that tells of this measurement, with its place under a log checkpoint: a C2SP tlog-proof. */
  log: z.strictObject({
    /** As text; `extra` is the line. */
    proof: z.string().max(LIMITS.statementBytes),
  }),
});

export const statementSchema = z.strictObject({
  /** Of in-toto. */
  _type: z.literal(STATEMENT_TYPE),
  /** Exactly one. */
  subject: z.tuple([subject]),
  /** One of `PREDICATE_TYPES`. */
  predicateType: z.string().max(256),
  /** What the signer says. */
  predicate,
});

/** An in-toto Statement v1 about one shard; docs/statement.md. @interface */
export type Statement = z.infer<typeof statementSchema>;
/** What a signer says of a measurement. Nothing in it is shown by standing here: `findings` say what is. @interface */
export type Predicate = z.infer<typeof predicate>;

/** The bytes of a statement. Throws `INTERNAL` for what a reader would refuse: that must not be signed. */
export function encodeStatement(statement: Statement): Uint8Array {
  const bytes = Buffer.from(canonicalJson(statement), "utf8");
  const parsed = parseStatement(bytes);
  const fault = "fault" in parsed ? parsed.fault : bytes.byteLength > LIMITS.statementBytes ? "too long" : undefined;
  if (fault === undefined) return bytes;
  throw new VramError("INTERNAL", `the statement is not well-formed: ${fault}`);
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function isCanonical(value: unknown, text: string): boolean {
  try {
    return canonicalJson(value) === text;
  } catch {
    // A text that is not well-formed has no form at all.
    return false;
  }
}

/** Reads a statement in its one form; or says what is wrong with it. */
export function parseStatement(bytes: Uint8Array): Statement | { readonly fault: string } {
  let text: string;
  let value: unknown;
  try {
    text = decoder.decode(bytes);
    value = JSON.parse(text);
  } catch {
    return { fault: "it is no JSON" };
  }
  const parsed = statementSchema.safeParse(value);
  if (!parsed.success) {
    const { path = [], code = "" } = parsed.error.issues[0] ?? {};
    return { fault: `${said(path.map(String).join("."))} is not valid (${code})` };
  }
  // A key that stands twice or that our reader would pass over, white space, another order: what has two readings.
  return isCanonical(parsed.data, text) ? parsed.data : { fault: "it is not in the one form of RFC 8785" };
}

const SAID_CHARACTERS = 64;

/**
 * What a signer says, within words of ours: in quotation marks, on one line, short, and of letters, digits and
 * punctuation. No tick of its own can stand where a terminal breaks the line, and pass for one of ours.
 */
export function said(text: string): string {
  const characters = Array.from(text.replace(/\s+/gu, " "));
  const shown = characters.slice(0, SAID_CHARACTERS).join("");
  const end = characters.length > SAID_CHARACTERS ? "…" : "";
  return `"${shown.replace(/[^\p{L}\p{M}\p{N}\p{P} -~]|"/gu, escaped)}${end}"`;
}
