/**
 * Attesting: from a question with a nonce to a statement that a stranger can check (design §5, "Statement"; VR-ATT-01).
 * The order makes it worth something: measure with the nonce, have that on record, have the record under a log checkpoint,
 * and only then sign; what was signed is on record before anybody has it.
 */
import { randomBytes } from "node:crypto";
import { signEnvelope } from "../attest/envelope.ts";
import { type Evidence, encodeEvidence, evidenceNonce } from "../attest/evidence.ts";
import type { StatementSigner } from "../attest/keys.ts";
import {
  encodeStatement,
  PREDICATE_TYPES,
  type Predicate,
  STATEMENT_TYPE,
  type Statement,
} from "../attest/statement.ts";
import type { AuditLog } from "../audit/audit-log.ts";
import { dataOfLine } from "../audit/line.ts";
import { findTail, followLog, type LogPlace } from "../audit/log-tail.ts";
import { parseLine } from "../audit/parse-line.ts";
import type { Prover } from "../audit/prove-line.ts";
import { encodeProofFile } from "../audit/tlog-proof.ts";
import { toHex } from "../bytes.ts";
import { throwIfAborted, VramError } from "../errors.ts";
import { DIGEST_ALGORITHM, sha256 } from "../hash/descriptor.ts";
import { recordOf, type Shard } from "../residency/shard.ts";
import { createId } from "../seal/names.ts";
import type { VerificationReport } from "../verify/report.ts";
import { VERSION } from "../version.ts";
import { type Parts, shardOf } from "./parts.ts";
import type { StatementKeysReply, StatementReply } from "./replies.ts";
import type { StatementRequest } from "./requests.ts";
import type { Caller } from "./service.ts";
import type { StatementKeys } from "./statement-keys.ts";

/** What statements are made with; only a service that keeps an audit log has it. */
export interface Attesting {
  readonly log: AuditLog;
  readonly logFolder: string;
  readonly prover: Prover;
  readonly keys: StatementKeys;
  /** SHA-256 of the PTX that measures, hex; absent on the emulated device. */
  readonly kernel: string | undefined;
}

/** A nonce that nobody sent. */
const NONCE_BYTES = 32;

function requireAttesting({ attesting }: Parts): Attesting {
  if (attesting !== undefined) return attesting;
  throw new VramError("AUDIT_UNAVAILABLE", "this service keeps no audit log, and makes no statement without one", {
    fix: "set audit.mode to required",
  });
}

/** A log that is kept as well as it goes has taken an entry and not written it. */
const unwritten = (type: string): VramError =>
  new VramError("AUDIT_UNAVAILABLE", `the entry ${type} could not be written to the audit log`);

const unproven = (message: string, cause?: unknown): VramError =>
  new VramError("AUDIT_UNAVAILABLE", `the statement has no place in the audit log: ${message}`, {
    fix: "`vram audit verify` says what is wrong with the log",
    cause,
  });

/** The seq of the newest line of this type behind `place` that `isIt`. A log that is kept as well as it goes may lack it. */
async function findLine(
  folder: string,
  place: LogPlace,
  type: "seal_verified" | "statement_issued" | "key_rotated",
  isIt: (data: Readonly<Record<string, unknown>>) => boolean,
): Promise<number> {
  const follower = followLog(folder, place);
  let seq: number | undefined;
  for (let lines = await follower.read(); lines.length > 0; lines = await follower.read()) {
    for (const bytes of lines) {
      const parsed = parseLine(bytes);
      if (parsed.ok && parsed.line.type === type && isIt(dataOfLine(parsed.line))) seq = parsed.line.seq;
    }
  }
  if (seq !== undefined) return seq;
  throw unwritten(type);
}

/** Says so where something was told of that a log with gaps then did not write: it was not handed out, or changed nothing. */
async function requireWritten(
  parts: Parts,
  place: LogPlace,
  type: "statement_issued" | "key_rotated",
  isIt: (data: Readonly<Record<string, unknown>>) => boolean,
): Promise<void> {
  try {
    await findLine(requireAttesting(parts).logFolder, place, type, isIt);
  } catch (error) {
    const message = "it did not come about, because it could not be written to the audit log";
    parts.open.system.journal.note({ type: "entry_unrecorded", lost: type, message });
    throw error;
  }
}

/** Whether a line tells of this measurement: others may be made with the same nonce at the same time. */
const isOf =
  ({ record, salted, measuredAt, durationMs }: VerificationReport) =>
  (data: Readonly<Record<string, unknown>>): boolean =>
    data["shardId"] === record.shardId &&
    data["salt"] === salted?.salt &&
    data["saltedDigest"] === salted?.digest &&
    data["measuredAtMs"] === Date.parse(measuredAt) &&
    data["durationMs"] === durationMs;

/** A C2SP tlog-proof of the line, under a log checkpoint made for it. */
async function proveMeasured({ log, prover }: Attesting, seq: number): Promise<string> {
  await log.checkpoint();
  const proved = await prover.prove(seq, { logKey: log.vkey });
  if (!proved.ok) throw unproven(proved.message);
  return Buffer.from(encodeProofFile(proved)).toString("utf8");
}

interface Measured {
  readonly report: VerificationReport;
  readonly nonceFrom: Predicate["measurement"]["nonceFrom"];
  readonly proof: string;
}

/** What is signed: about the shard as its record was when it was measured. */
function statementOf(parts: Parts, kernel: string | undefined, shard: Shard, measured: Measured): Statement {
  const { seal, worker } = shard;
  const { report, nonceFrom, proof } = measured;
  const { record, salted = { salt: "", digest: "" } } = report;
  const { policy, policyDigest, clock } = parts.open.system;
  const { ordinal, uuid, name, computeCapability, driverVersion, bytesTotal, facts } = worker.device.info;
  return {
    _type: STATEMENT_TYPE,
    subject: [
      {
        name: seal.name,
        digest: { [DIGEST_ALGORITHM]: seal.digest, ...(seal.sha256 === "" ? {} : { sha256: seal.sha256 }) },
      },
    ],
    predicateType: PREDICATE_TYPES[seal.backend],
    predicate: {
      statementId: createId("statement"),
      issuedAt: new Date(clock.wallMs()).toISOString(),
      backend: seal.backend,
      device: { ordinal, uuid, name, computeCapability, driverVersion, bytesTotal, facts: { ...facts } },
      shard: {
        ...{ shardId: seal.shardId, shardIndex: seal.shardIndex, totalShards: seal.totalShards },
        ...{ sourceOffset: seal.sourceOffset, byteLength: seal.byteLength, sealedAt: record.sealedAt },
        ...{ comparedWith: seal.comparedWith, instanceId: seal.instanceId },
      },
      measurement: {
        ...{ digest: report.digest, bytesCovered: report.bytesCovered, measuredAt: report.measuredAt },
        ...{ readFrom: report.readFrom, nonce: salted.salt, nonceFrom, saltedDigest: salted.digest },
      },
      exports: { now: record.exports, total: record.exportsTotal },
      policy: { version: policy.version, device: { ...policy.device }, allocation: { ...policy.allocation } },
      policyDigest,
      software: { name: "vram-residency", version: VERSION, ...(kernel === undefined ? {} : { kernel }) },
      log: { proof },
    },
  };
}

/** What the GPU says of itself for this statement, if it can. */
async function evidenceFor({ worker }: Shard, payload: Uint8Array): Promise<Evidence | undefined> {
  const nonce = evidenceNonce(payload);
  const evidence = await worker.device.evidence(nonce);
  return evidence === undefined ? undefined : encodeEvidence(evidence, nonce);
}

/** Where something was found to have changed, nothing is vouched for, whatever this shard is; nor for what is gone. */
function requireResident({ worker, seal, state }: Shard): void {
  if (worker.stopped !== undefined) {
    throw new VramError("WORKER_STOPPED", `no statement is made about ${seal.name}: ${worker.stopped}`);
  }
  if (state === "sealed") return;
  throw new VramError("SHARD_NOT_RESIDENT", `no statement is made about ${seal.name}, which is ${state}`, {
    details: { shardId: seal.shardId, state },
  });
}

/** Makes a statement. Handed out only when it is on record; fails as a verification does, and without an audit log. */
export async function attest(
  parts: Parts,
  request: StatementRequest,
  caller: Caller,
  signal: AbortSignal,
): Promise<StatementReply> {
  parts.requireAccepting();
  const attesting = requireAttesting(parts);
  const shard = shardOf(parts, request.shard);
  requireResident(shard);
  const nonce = request.nonce?.toLowerCase() ?? toHex(randomBytes(NONCE_BYTES));
  const nonceFrom = request.nonce === undefined ? "service" : "caller";
  const place = await findTail(attesting.logFolder, 0);
  const report = await parts.vram.verify(shard.seal.shardId, { salt: nonce, signal });
  const verifiedSeq = await findLine(attesting.logFolder, place, "seal_verified", isOf(report));
  const proof = await proveMeasured(attesting, verifiedSeq);
  // A measurement is not interrupted. What nobody waits for is not signed.
  throwIfAborted(signal);
  const { signer } = attesting.keys;
  const statement = statementOf(parts, attesting.kernel, shard, { report, nonceFrom, proof });
  const payload = encodeStatement(statement);
  const envelope = signEnvelope(payload, signer.privateKey, signer.keyId);
  const evidence = await evidenceFor(shard, payload);
  const { statementId } = statement.predicate;
  const { shardId, name, digest } = shard.seal;
  // Not awaited from here to the entry: what happens to the shard later is on record later.
  requireResident(shard);
  await parts.open.system.journal.append({
    ...{ type: "statement_issued", device: shard.device, statementId, shardId, name, digest, nonce },
    ...{ statementDigest: toHex(sha256(payload)), keyId: signer.keyId, verifiedSeq, caller: caller.name },
  });
  await requireWritten(parts, place, "statement_issued", (data) => data["statementId"] === statementId);
  return { statementId, record: recordOf(shard), envelope, ...(evidence === undefined ? {} : { evidence }) };
}

const keysReply = ({ log }: Attesting, { keyId, publicPem }: StatementSigner): StatementKeysReply => ({
  keyId,
  publicKey: publicPem,
  logKey: log.vkey,
  origin: log.vkey.slice(0, log.vkey.indexOf("+")),
});

/** What auditors are given. */
export function showKeys(parts: Parts): StatementKeysReply {
  const attesting = requireAttesting(parts);
  return keysReply(attesting, attesting.keys.signer);
}

/** Signs with another key from here on. */
export async function rotateKey(parts: Parts, reason: string): Promise<StatementKeysReply> {
  parts.requireAccepting();
  const attesting = requireAttesting(parts);
  const signer = await attesting.keys.rotate(reason, async (tell, keyId) => {
    const place = await findTail(attesting.logFolder, 0);
    await tell();
    await requireWritten(parts, place, "key_rotated", (data) => data["to"] === keyId);
  });
  return keysReply(attesting, signer);
}
