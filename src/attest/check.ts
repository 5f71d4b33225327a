/**
 * Checking a statement, as somebody who trusts nobody does it: with a public key that came another way, and the digest or
 * the file that the weights should be. No state, no service, no native code. Each step may refuse; what is shown in the
 * end is put together by `findings.ts` from what the steps verified, never read from the statement.
 */
import type { KeyObject } from "node:crypto";
import { type NoteKey, parseVkey } from "../audit/note.ts";
import { canonicalJson, constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { DIGEST_ALGORITHM, type NamedDigest, parseDigest, sha256 } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";
import { checkEnvelope, openEnvelope } from "./envelope.ts";
import { checkEvidence } from "./evidence.ts";
import { type Finding, findingsOf } from "./findings.ts";
import { keyIdOf, parsePublicKey } from "./keys.ts";
import { checkLogged, type LogFault } from "./logged.ts";
import { NONCE_BYTES_MIN, PREDICATE_TYPES, parseStatement, type Statement } from "./statement.ts";

/** A part of a file; both in bytes. */
export interface FilePart {
  readonly offset: number;
  readonly byteLength: number;
}

/** The digest of a part of a file, and how large the file is. */
export interface PartDigest {
  readonly digest: Uint8Array;
  readonly fileBytes: number;
}

/** The checker's own copy of the model: digests of a part of it. Undefined where the file has no such part. */
export type DigestModel = (part: FilePart, what: { readonly salt?: Uint8Array }) => Promise<PartDigest | undefined>;

/** What a statement is held against. One of `digest` and `model` there must be. */
export interface StatementTerms {
  /** SPKI in PEM: the signer's, obtained another way than the statement. */
  readonly publicKey: string;
  /** What the weights are: `fsverity:HEX`, `sha256:HEX` or 64 hex digits, which are fs-verity. */
  readonly digest?: string;
  readonly model?: DigestModel;
  readonly deviceUuid?: string;
  /** Of the checker's choice, hex: 16 to 32 bytes. */
  readonly nonce?: string;
  /** No older than this, by the clocks of both machines. Milliseconds. */
  readonly maxAgeMs?: number;
  /** `NAME+HASH+KEY`. */
  readonly logKey?: string;
  /** Backends other than `cuda` that will do. */
  readonly acceptBackends?: readonly Backend[];
  /** What came with the statement of the GPU's own, as `--evidence` reads it. */
  readonly evidence?: Uint8Array;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}

/** Why a statement is not accepted. API: programs match on them. */
export type StatementFault =
  | "envelope"
  | "signature"
  | "statement"
  | "inconsistent"
  | "backend"
  | "digest"
  | "nonce"
  | "salted-digest"
  | "device"
  | "stale"
  | "future"
  | "evidence"
  | LogFault;

export interface RefusedStatement {
  readonly ok: false;
  readonly fault: StatementFault;
  readonly message: string;
}

export type CheckedStatement =
  | { readonly ok: true; readonly statement: Statement; readonly findings: readonly Finding[] }
  | RefusedStatement;

/** Terms, read. */
interface Held {
  readonly publicKey: KeyObject;
  readonly digest: NamedDigest | undefined;
  readonly nonce: string | undefined;
  readonly logKey: NoteKey | undefined;
}

const refused = (fault: StatementFault, message: string): RefusedStatement => ({ ok: false, fault, message });

const invalid = (argument: string, message: string, fix: string): VramError =>
  new VramError("INVALID_ARGUMENT", message, { fix, details: { argument } });

function readTerms({ publicKey, digest, model, nonce, logKey }: StatementTerms): Held {
  if (digest === undefined && model === undefined) {
    throw invalid("digest", "a statement is checked against what the weights should be", "give a digest or the file");
  }
  if (nonce !== undefined && !/^(?:[0-9a-fA-F]{2}){16,32}$/.test(nonce)) {
    throw invalid("nonce", `a nonce is ${NONCE_BYTES_MIN} to 32 bytes of hex`, "give the one that you asked with");
  }
  return {
    publicKey: parsePublicKey(publicKey),
    digest: digest === undefined ? undefined : parseDigest(digest),
    nonce: nonce?.toLowerCase(),
    logKey: logKey === undefined ? undefined : parseVkey(logKey),
  };
}

/** Where the bytes of a device are read. */
const READ_FROM: Readonly<Record<Backend, readonly string[]>> = {
  cuda: ["vram", "l2-possible"],
  "cuda-substituted": ["substituted"],
  emulated: ["emulated"],
};

/** What a statement says twice must be the same, and fit the kind it claims to be. */
function contradiction({ subject: [{ digest }], predicateType, predicate }: Statement): string | undefined {
  const { backend, device, measurement, shard, policy, policyDigest } = predicate;
  if (PREDICATE_TYPES[backend] !== predicateType) return "its predicate type is that of another backend";
  if (device.uuid.startsWith("EMU-") !== (backend === "emulated")) return "its device is none of its backend";
  if (!READ_FROM[backend].includes(measurement.readFrom)) return "its backend does not read from where it says";
  if ((predicate.software.kernel === undefined) !== (backend === "emulated"))
    return "its kernel is none of its backend";
  if (digest[DIGEST_ALGORITHM] !== measurement.digest) return "its subject is not what was measured";
  if (measurement.bytesCovered !== shard.byteLength) return "the measurement did not cover the shard";
  if (shard.shardIndex >= shard.totalShards) return "its shard is none of its set";
  if (toHex(sha256(Buffer.from(canonicalJson(policy)))) !== policyDigest) return "its policy has another digest";
  return undefined;
}

/** Whether it is about the content that the checker expects, by digest and by file. */
async function contentFault(
  { subject: [{ digest }], predicate: { shard, measurement } }: Statement,
  { model }: StatementTerms,
  { digest: expected, nonce }: Held,
): Promise<RefusedStatement | undefined> {
  if (expected !== undefined) {
    const stated = expected.kind === "sha256" ? digest.sha256 : digest[DIGEST_ALGORITHM];
    if (stated === undefined) return refused("digest", "it names no SHA-256; hold it against the fs-verity digest");
    if (!constantTimeEqual(fromHex(stated, 32, "digest"), expected.bytes)) {
      return refused("digest", `it is about ${expected.kind}:${stated}, and that is not the digest that is expected`);
    }
  }
  if (model === undefined) return undefined;
  const part = { offset: shard.sourceOffset, byteLength: shard.byteLength };
  const own = await model(part, {});
  // What is one shard is all of a file: its beginning alone is another model.
  const isWhole = shard.totalShards > 1 || own?.fileBytes === shard.byteLength;
  if (own === undefined || !isWhole || toHex(own.digest) !== measurement.digest) {
    return refused("digest", `it is about fsverity:${measurement.digest}, and that is not the file`);
  }
  if (nonce === undefined) return undefined;
  const salted = await model(part, { salt: fromHex(nonce, nonce.length / 2, "nonce") });
  if (salted !== undefined && toHex(salted.digest) === measurement.saltedDigest) return undefined;
  return refused("salted-digest", "its answer to the nonce is not what the file gives");
}

const isLater = (time: string, thanMs: number): boolean => Date.parse(time) > thanMs;

/** Whether it is about the device, the moment and the question of the checker. */
function contextFault({ predicate }: Statement, terms: StatementTerms, held: Held): RefusedStatement | undefined {
  const { measurement, device } = predicate;
  const { deviceUuid, maxAgeMs, nowMs } = terms;
  if (held.nonce !== undefined && measurement.nonce !== held.nonce) {
    return refused("nonce", "it answers another nonce: it was issued for somebody else, or before");
  }
  if (deviceUuid !== undefined && device.uuid !== deviceUuid) {
    return refused("device", `it is about the device ${device.uuid}`);
  }
  const latestMs = nowMs + LIMITS.statementSkewMs;
  if (isLater(measurement.measuredAt, latestMs) || isLater(predicate.issuedAt, latestMs)) {
    return refused("future", `it was measured at ${measurement.measuredAt}, which is still to come here`);
  }
  if (maxAgeMs !== undefined && !isLater(measurement.measuredAt, nowMs - maxAgeMs - 1)) {
    return refused("stale", `it was measured at ${measurement.measuredAt}, longer ago than ${maxAgeMs} ms`);
  }
  return undefined;
}

function backendFault({ predicate: { backend } }: Statement, terms: StatementTerms): RefusedStatement | undefined {
  if (backend === "cuda" || terms.acceptBackends?.includes(backend) === true) return undefined;
  const what = backend === "emulated" ? "an EMULATED device: host memory" : "a SUBSTITUTED driver library";
  return refused("backend", `it is about ${what}, and nothing in it is evidence about a GPU`);
}

/**
 * Checks a statement. Throws `INVALID_ARGUMENT` for terms that are none; whatever is wrong with the statement is in what
 * it returns, the first fault that was found.
 */
export async function checkStatement(bytes: Uint8Array, terms: StatementTerms): Promise<CheckedStatement> {
  const held = readTerms(terms);
  const envelope = openEnvelope(bytes);
  if (envelope === undefined) return refused("envelope", "it is no DSSE envelope with one signature");
  const keyId = keyIdOf(held.publicKey);
  if (!checkEnvelope(envelope, held.publicKey) || envelope.keyId !== keyId) {
    return refused("signature", `it is not signed by this key (${keyId}); it names ${envelope.keyId}`);
  }
  const statement = parseStatement(envelope.payload);
  if ("fault" in statement) return refused("statement", `its key signed what is no statement: ${statement.fault}`);
  const contradicted = contradiction(statement);
  if (contradicted !== undefined) return refused("inconsistent", `it contradicts itself: ${contradicted}`);
  const fault =
    backendFault(statement, terms) ??
    contextFault(statement, terms, held) ??
    (await contentFault(statement, terms, held));
  if (fault !== undefined) return fault;
  const logged = checkLogged(statement.predicate, held.logKey);
  if (!logged.ok) return logged;
  const evidence = terms.evidence === undefined ? undefined : checkEvidence(terms.evidence, envelope.payload);
  if (evidence?.ok === false) return refused("evidence", evidence.message);
  const shown = { keyId, terms, logged, hasLogKey: held.logKey !== undefined, evidence: evidence?.byteLength };
  return { ok: true, statement, findings: findingsOf(statement, shown) };
}
