/**
 * `vram-residency/offline`: checks that need no service, no GPU, no state directory and no native code. For whoever was
 * handed a statement, a proof or a copied audit log, and trusts nobody.
 *
 * ```ts
 * const checked = await checkStatement(readFileSync("statement.json"), {
 *   publicKey: readFileSync("statement.pub.pem", "utf8"),
 *   model: "model.safetensors",
 *   nonce,
 * });
 * if (!checked.ok) throw new Error(checked.message);
 * for (const { shown, words } of checked.findings) console.log(shown ? "shown" : "not shown", words);
 * ```
 *
 * @module vram-residency/offline
 */
import { type CheckedStatement, checkStatement as check, type StatementTerms } from "./attest/check.ts";
import { modelFile } from "./attest/model.ts";
import { type ErrorCode, VramError } from "./errors.ts";
import { openHashPool } from "./hash/pool.ts";
import type { DigestWatch } from "./staging/digest.ts";

/** What a statement is held against; `model` is the path of a file. */
export interface CheckOptions extends Omit<StatementTerms, "model" | "nowMs">, DigestWatch {
  /** Path of the file that the statement should be about; digested here. One of `digest` and `model` there must be. */
  readonly model?: string;
  /** Milliseconds since 1970; default: this machine's clock. */
  readonly nowMs?: number;
  /** Threads that digest the file; default one per core. */
  readonly hashThreads?: number;
}

/** A term that is there without a value, such as a variable that nobody set, would not be checked, and nobody told. */
function requireValues(options: CheckOptions): void {
  const [argument] = Object.entries(options).find(([, value]) => value === undefined) ?? [];
  if (argument === undefined) return;
  throw new VramError("INVALID_ARGUMENT", `the term ${argument} has no value`, {
    fix: "give it one, or leave it out: then it is not checked",
    details: { argument },
  });
}

/**
 * Checks a statement: the bytes of a file that `vram attest` wrote. What is wrong with it is in what comes back; throws
 * `INVALID_ARGUMENT` for options that are none, and the errors of reading a source.
 */
export async function checkStatement(bytes: Uint8Array, options: CheckOptions): Promise<CheckedStatement> {
  requireValues(options);
  const { model, nowMs = Date.now(), hashThreads, signal, onProgress, ...terms } = options;
  if (model === undefined) return check(bytes, { ...terms, nowMs });
  const watch = {
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined ? {} : { onProgress }),
  };
  const pool = openHashPool(hashThreads);
  try {
    return await check(bytes, { ...terms, nowMs, model: modelFile(model, pool, watch) });
  } finally {
    await pool.close();
  }
}

export type { CheckedStatement, RefusedStatement, SetPart, StatementFault } from "./attest/check.ts";
export type { Finding } from "./attest/findings.ts";
export type { LogFault } from "./attest/logged.ts";
export { PREDICATE_TYPES, type Predicate, STATEMENT_TYPE, type Statement } from "./attest/statement.ts";
export {
  type CheckedCheckpoint,
  type CheckpointFault,
  checkCheckpoint,
  type LogCheckpoint,
} from "./audit/checkpoint.ts";
export type { EpochKey } from "./audit/epochs.ts";
export type { Doubt, EpochRange, LogReport, Problem, ProblemReason } from "./audit/log-report.ts";
export { type NoteKey, parseVkey } from "./audit/note.ts";
export { type AuditLine, type LineFault, type ParsedLine, parseLine } from "./audit/parse-line.ts";
export type { Proof } from "./audit/proofs.ts";
export {
  type CheckedProof,
  type ContinuationProof,
  checkTlogProof,
  type ProofFault,
  type ProofFile,
  parseProofFile,
  type TlogProof,
} from "./audit/tlog-proof.ts";
export { leafHash } from "./audit/tree.ts";
export { type VerifyLogOptions, verifyLog } from "./audit/verify-log.ts";
export { formatDigest, type NamedDigest, parseDigest } from "./hash/descriptor.ts";
export { type ErrorCode, VramError };
