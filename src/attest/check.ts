/**
 * Checking a statement, as somebody who trusts nobody does it: with a public key that came another way, and the digest or
 * the file that the weights should be. No state, no service, no native code. Each step may refuse; what is shown in the
 * end is put together by `findings.ts` from what the steps verified, never read from the statement.
 */
import type { KeyObject } from "node:crypto";
import { type NoteKey, parseVkey } from "../audit/note.ts";
import { constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { DIGEST_ALGORITHM, type NamedDigest, parseDigest } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";
import { contradictionIn } from "./contradiction.ts";
import { checkEnvelope, openEnvelope } from "./envelope.ts";
import { checkEvidence } from "./evidence.ts";
import { type Finding, findingsOf } from "./findings.ts";
import { keyIdOf, parsePublicKey } from "./keys.ts";
import { checkLogged, type LogFault } from "./logged.ts";
import { NONCE_BYTES_MIN, type Predicate, parseStatement, type Statement, said } from "./statement.ts";

/** A part of a file; both in bytes. */
export interface FilePart {
  readonly offset: number;
  readonly byteLength: number;
}

/** Digests of a part of a file, and how large the file is. */
export interface PartDigest {
  readonly digest: Uint8Array;
  /** If it was asked for. */
  readonly sha256?: Uint8Array;
  readonly fileBytes: number;
}

/** The checker's own copy of the model: digests of a part of it. Undefined where the file has no such part. */
export type DigestModel = (
  part: FilePart,
  what: { readonly salt?: Uint8Array; readonly sha256?: boolean },
) => Promise<PartDigest | undefined>;

/** Which member of a set: `{ index: 1, total: 4 }` is the first of four. */
export interface SetPart {
  /** From 1. */
  readonly index: number;
  /** How many members the set has. */
  readonly total: number;
}

/** What a statement is held against. One of `digest` and `model` there must be. */
export interface StatementTerms {
  /** SPKI in PEM: the signer's, obtained another way than the statement. */
  readonly publicKey: string;
  /** What the weights are: `fsverity:HEX`, `sha256:HEX` or 64 hex digits, which are fs-verity. */
  readonly digest?: string;
  /** All of it has to be what was measured, unless `part` names a part. */
  readonly model?: DigestModel;
  /** Which member of a set it has to be about; only this part of `model` is digested. */
  readonly part?: SetPart;
  /** UUID of the device that the signer has to name; any, if absent. */
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
  | "part"
  | "nonce"
  | "salted-digest"
  | "device"
  | "stale"
  | "future"
  | "evidence"
  | LogFault;

/** A statement that is not accepted, and why. Nothing in it is to be relied on. */
export interface RefusedStatement {
  /** Always false: tells it from one that was accepted. */
  readonly ok: false;
  /** What was wrong first; the order of the checks is fixed. */
  readonly fault: StatementFault;
  /** For people: what was expected and what was found. */
  readonly message: string;
}

/** What `checkStatement` found: the statement with what it shows, or the first fault. */
export type CheckedStatement =
  | {
      /** Tells it from one that was refused. */
      readonly ok: true;
      /** What the signer says; not all of it is shown. */
      readonly statement: Statement;
      /** What is shown of it, and what is not; always all properties, in one order. */
      readonly findings: readonly Finding[];
    }
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

function readTerms({ publicKey, digest, model, part, nonce, logKey }: StatementTerms): Held {
  if (digest === undefined && model === undefined) {
    throw invalid("digest", "a statement is checked against what the weights should be", "give a digest or the file");
  }
  if (nonce !== undefined && !/^(?:[0-9a-fA-F]{2}){16,32}$/.test(nonce)) {
    throw invalid("nonce", `a nonce is ${NONCE_BYTES_MIN} to 32 bytes of hex`, "give the one that you asked with");
  }
  if (part !== undefined && !(part.index >= 1 && part.index <= part.total)) {
    throw invalid("part", "a part is one of its set, from 1", "give it as its name has it: 1 of 4");
  }
  return {
    publicKey: parsePublicKey(publicKey),
    digest: digest === undefined ? undefined : parseDigest(digest),
    nonce: nonce?.toLowerCase(),
    logKey: logKey === undefined ? undefined : parseVkey(logKey),
  };
}

/** Which part of a file a shard is, and how to ask for it. */
function ofFile({ sourceOffset, byteLength, shardIndex, totalShards }: Predicate["shard"], fileBytes: number): string {
  const range = `bytes ${sourceOffset} to ${sourceOffset + byteLength} of the ${fileBytes} of the file`;
  if (totalShards === 1) return `${range}, and not about all of them`;
  return `${range}; if that part is what you expect, ask for it: --part ${shardIndex + 1}/${totalShards}`;
}

/** Whether it is about the content that the checker expects, by digest and by file. */
async function contentFault(
  { subject: [{ digest }], predicate: { shard, measurement } }: Statement,
  { model, part }: StatementTerms,
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
  const range = { offset: shard.sourceOffset, byteLength: shard.byteLength };
  const own = await model(range, { sha256: expected?.kind === "sha256" });
  if (own === undefined || toHex(own.digest) !== measurement.digest) {
    return refused("digest", `it is about fsverity:${measurement.digest}, and that is not the file`);
  }
  // A part that nobody asked for is another model: the rest of the file could be anything.
  if (own.fileBytes !== range.byteLength && (part === undefined || part.total === 1)) {
    return refused("part", `it is about ${ofFile(shard, own.fileBytes)}`);
  }
  if (own.sha256 !== undefined && expected !== undefined && !constantTimeEqual(own.sha256, expected.bytes)) {
    return refused("digest", `it is about the file, and the SHA-256 of that is ${toHex(own.sha256)}`);
  }
  if (nonce === undefined) return undefined;
  const salted = await model(range, { salt: fromHex(nonce, nonce.length / 2, "nonce") });
  if (salted !== undefined && toHex(salted.digest) === measurement.saltedDigest) return undefined;
  return refused("salted-digest", "its answer to the nonce is not what the file gives");
}

const isLater = (time: string, thanMs: number): boolean => Date.parse(time) > thanMs;

/** Whether it is about the device, the moment and the question of the checker. */
function contextFault({ predicate }: Statement, terms: StatementTerms, held: Held): RefusedStatement | undefined {
  const { measurement, device, shard, issuedAt } = predicate;
  const { deviceUuid, maxAgeMs, nowMs, part } = terms;
  if (held.nonce !== undefined && measurement.nonce !== held.nonce) {
    return refused("nonce", "it answers another nonce: it was issued for somebody else, or before");
  }
  if (held.nonce !== undefined && measurement.nonceFrom !== "caller") {
    return refused("nonce", "its nonce is one that the service chose: it could have been chosen, and answered, before");
  }
  if (part !== undefined && (part.index !== shard.shardIndex + 1 || part.total !== shard.totalShards)) {
    return refused("part", `it is about part ${shard.shardIndex + 1} of ${shard.totalShards}`);
  }
  if (deviceUuid !== undefined && device.uuid !== deviceUuid) {
    return refused("device", `it is about the device ${said(device.uuid)}`);
  }
  // Everything else in it was before that, or it contradicts itself.
  if (isLater(issuedAt, nowMs + LIMITS.statementSkewMs)) {
    return refused("future", `it was issued at ${issuedAt}, which is still to come here`);
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
  const contradicted = contradictionIn(statement);
  if (contradicted !== undefined) return refused("inconsistent", `it contradicts itself: ${contradicted}`);
  const fault =
    backendFault(statement, terms) ??
    contextFault(statement, terms, held) ??
    (await contentFault(statement, terms, held));
  if (fault !== undefined) return fault;
  const logged = checkLogged(statement, held.logKey);
  if (!logged.ok) return logged;
  const evidence = terms.evidence === undefined ? undefined : checkEvidence(terms.evidence, envelope.payload);
  if (evidence?.ok === false) return refused("evidence", evidence.message);
  const shown = { keyId, terms, logged, hasLogKey: held.logKey !== undefined, evidence: evidence?.byteLength };
  return { ok: true, statement, findings: findingsOf(statement, shown) };
}
