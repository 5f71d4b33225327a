/**
 * Statements without a service: a key, a log of a few lines, a model in memory, and knobs for whoever would forge one.
 * `alter` changes the statement before it is signed (somebody who has the key), `envelope` what was signed (somebody who
 * has not). Digests are those of the second implementation (`reference.ts`).
 */
import { createHash, randomBytes } from "node:crypto";
import {
  type CheckedStatement,
  checkStatement,
  type DigestModel,
  type StatementTerms,
} from "../../src/attest/check.ts";
import { type Envelope, signEnvelope } from "../../src/attest/envelope.ts";
import { createStatementSigner, type StatementSigner } from "../../src/attest/keys.ts";
import { encodeStatement, PREDICATE_TYPES, type Predicate, type Statement } from "../../src/attest/statement.ts";
import { signCheckpoint } from "../../src/audit/checkpoint.ts";
import { createEpochKey, macKeyOf } from "../../src/audit/epochs.ts";
import { encodeLine, type LineData } from "../../src/audit/line.ts";
import { createNoteSigner, encodeVkey, type NoteSigner, noteKeyOf } from "../../src/audit/note.ts";
import { encodeProofFile } from "../../src/audit/tlog-proof.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import type { Backend } from "../../src/cuda/driver.ts";
import { policyDigest, VRAM_ONLY_POLICY } from "../../src/residency/policy.ts";
import { referenceInclusion, referenceRoot } from "./audit-tree.ts";
import { digestOf } from "./reference.ts";

export const NOW_MS = Date.UTC(2026, 10, 23, 12);
export const UUIDS: Readonly<Record<Backend, string>> = {
  cuda: "GPU-5eed5eed-0001-0002-0003-000000000004",
  "cuda-substituted": "GPU-5eed5eed-0001-0002-0003-000000000004",
  emulated: "EMU-5eed5eed-0001-0002-0003-000000000004",
};
const READ_FROM = { cuda: "vram", "cuda-substituted": "substituted", emulated: "emulated" } as const;

/** Keys are made once: tests are about statements. */
export const SIGNER = createStatementSigner();
export const LOG_SIGNER = createNoteSigner("vram-residency/0123456789abcdef");
const macKey = macKeyOf(createEpochKey());

export interface Making {
  readonly backend?: Backend;
  readonly bytes?: Uint8Array;
  readonly name?: string;
  readonly nonce?: string;
  /** Lines of the log, and which of them tells of the measurement. */
  readonly lines?: number;
  readonly index?: number;
  readonly signer?: StatementSigner;
  readonly logSigner?: NoteSigner;
  /** Other data, or another type, of the line. */
  readonly line?: { readonly type?: string; readonly data?: (data: LineData) => LineData };
  /** Another line's proof, and the like. */
  readonly proof?: (parts: Parameters<typeof encodeProofFile>[0]["proof"]) => typeof parts;
  readonly alter?: (statement: Statement) => Statement;
  readonly envelope?: (envelope: Envelope) => unknown;
}

export interface Made {
  readonly file: Uint8Array;
  readonly statement: Statement;
  readonly payload: Uint8Array;
  readonly nonce: string;
  readonly logKey: string;
  readonly model: DigestModel;
  /** With the file and the nonce, unless terms say otherwise; undefined ones are left out. */
  check(
    terms?: { readonly [Key in keyof StatementTerms]?: StatementTerms[Key] | undefined },
  ): Promise<CheckedStatement>;
}

type Alter = NonNullable<Making["alter"]>;

/** Changes members of the predicate before it is signed: what somebody with the key could claim. */
export const claiming =
  (change: (predicate: Predicate) => Partial<Predicate>): Alter =>
  (statement) => ({ ...statement, predicate: { ...statement.predicate, ...change(statement.predicate) } });

/** The same for what is said of the measurement. */
export const measured = (change: Partial<Predicate["measurement"]>): Alter =>
  claiming(({ measurement }) => ({ measurement: { ...measurement, ...change } }));

/** A file in memory, as a checker has it. */
export const modelOf =
  (bytes: Uint8Array): DigestModel =>
  async ({ offset, byteLength }, { salt, sha256 = false }) => {
    if (offset + byteLength > bytes.byteLength) return undefined;
    const part = bytes.subarray(offset, offset + byteLength);
    const plain = sha256 ? { sha256: createHash("sha256").update(part).digest() } : {};
    return { digest: digestOf(part, salt), ...plain, fileBytes: bytes.byteLength };
  };

function logLines(count: number, index: number, type: string, data: LineData): Uint8Array[] {
  const lines: Uint8Array[] = [];
  let prev = new Uint8Array(32);
  for (let seq = 0; seq < count; seq += 1) {
    const own = seq === index ? { type, data } : { type: "heartbeat", data: {} };
    const fields = { seq, timeMs: NOW_MS, boot: new Uint8Array(16), epoch: 1, prev, ...own };
    const line = encodeLine(fields, macKey).subarray(0, -1);
    prev = new Uint8Array(leafHash(line));
    lines.push(line);
  }
  return lines;
}

/** Everything but the proof, of a shard with these bytes. */
function draftOf(backend: Backend, bytes: Uint8Array, name: string, nonce: string): Statement {
  const digest = toHex(digestOf(bytes));
  const measuredAt = new Date(NOW_MS - 1000).toISOString();
  return {
    _type: "https://in-toto.io/Statement/v1",
    subject: [{ name, digest: { "fsverity-sha256-4096": digest } }],
    predicateType: PREDICATE_TYPES[backend],
    predicate: {
      ...{ statementId: `statement-${"a".repeat(26)}`, issuedAt: new Date(NOW_MS - 500).toISOString(), backend },
      device: {
        ...{ ordinal: 0, uuid: UUIDS[backend], name: "GPU", computeCapability: "9.0", driverVersion: 13_000 },
        ...{ bytesTotal: 2 ** 36, facts: { ...VRAM_ONLY_POLICY.device } },
      },
      shard: {
        ...{ shardId: "shard-1", shardIndex: 0, totalShards: 1, sourceOffset: 0, byteLength: bytes.byteLength },
        ...{ sealedAt: measuredAt, comparedWith: "witnessed", instanceId: "0".repeat(32) },
      },
      measurement: {
        ...{ digest, bytesCovered: bytes.byteLength, measuredAt, readFrom: READ_FROM[backend], nonce },
        ...{ nonceFrom: "caller", saltedDigest: toHex(digestOf(bytes, Buffer.from(nonce, "hex"))) },
      },
      exports: { now: 0, total: 0 },
      policy: {
        ...{ version: 1, device: { ...VRAM_ONLY_POLICY.device }, allocation: { ...VRAM_ONLY_POLICY.allocation } },
      },
      policyDigest: policyDigest(VRAM_ONLY_POLICY),
      software: {
        ...{ name: "vram-residency", version: "0.1.0" },
        ...(backend === "emulated" ? {} : { kernel: "a".repeat(64) }),
      },
      log: { proof: "" },
    },
  };
}

/** The proof of the line about a statement's measurement, as text. */
function provedBy(statement: Statement, making: Making): string {
  const { subject, predicate } = statement;
  const { device, shard, measurement } = predicate;
  const { lines: count = 5, index = 2, logSigner = LOG_SIGNER, line = {} } = making;
  const told: LineData = {
    ...{ device: { ordinal: 0, uuid: device.uuid }, shardId: shard.shardId, name: subject[0].name },
    ...{ digest: measurement.digest, bytesCovered: measurement.bytesCovered },
    ...{ measuredAtMs: Date.parse(measurement.measuredAt), durationMs: 1 },
    ...{ salt: measurement.nonce, saltedDigest: measurement.saltedDigest },
  };
  const lines = logLines(count, index, line.type ?? "seal_verified", line.data?.(told) ?? told);
  const leaves = lines.map((one) => new Uint8Array(leafHash(one)));
  const checkpoint = signCheckpoint(count, referenceRoot(leaves), logSigner);
  const parts = { extra: lines[index], index, hashes: referenceInclusion(leaves, index), checkpoint };
  const proof = making.proof?.(parts) ?? parts;
  return Buffer.from(encodeProofFile({ proof, continuation: undefined })).toString("utf8");
}

/** Makes a statement; without any knobs it is accepted as it is. */
export function madeStatement(making: Making = {}): Made {
  const { backend = "cuda", bytes = randomBytes(10_000), name = "model.safetensors", signer = SIGNER } = making;
  const nonce = making.nonce ?? toHex(randomBytes(32));
  const draft = draftOf(backend, bytes, name, nonce);
  const text = provedBy(draft, making);
  const whole = { ...draft, predicate: { ...draft.predicate, log: { proof: text } } };
  const statement = making.alter?.(whole) ?? whole;
  const payload = encodeStatement(statement);
  const envelope = signEnvelope(payload, signer.privateKey, signer.keyId);
  const file = Buffer.from(JSON.stringify(making.envelope?.(envelope) ?? envelope));
  const logKey = encodeVkey(noteKeyOf(making.logSigner ?? LOG_SIGNER));
  const model = modelOf(bytes);
  const usual = { publicKey: SIGNER.publicPem, model, nonce, nowMs: NOW_MS };
  return {
    ...{ file, statement, payload, nonce, logKey, model },
    check: (terms = {}) => {
      const all = Object.entries({ ...usual, ...terms }).filter(([, value]) => value !== undefined);
      return checkStatement(file, Object.fromEntries(all) as unknown as StatementTerms);
    },
  };
}
