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
 */
import { type CheckedStatement, checkStatement as check, type StatementTerms } from "./attest/check.ts";
import { modelFile } from "./attest/model.ts";
import { openHashPool } from "./hash/pool.ts";
import type { DigestWatch } from "./staging/digest.ts";

/** What a statement is held against; `model` is the path of a file. */
export interface CheckOptions extends Omit<StatementTerms, "model" | "nowMs">, DigestWatch {
  readonly model?: string;
  /** Milliseconds since 1970; default: this machine's clock. */
  readonly nowMs?: number;
  /** Threads that digest the file; default one per core. */
  readonly hashThreads?: number;
}

/**
 * Checks a statement: the bytes of a file that `vram attest` wrote. What is wrong with it is in what comes back; throws
 * `INVALID_ARGUMENT` for options that are none, and the errors of reading a source.
 */
export async function checkStatement(bytes: Uint8Array, options: CheckOptions): Promise<CheckedStatement> {
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

export type { CheckedStatement, RefusedStatement, StatementFault } from "./attest/check.ts";
export type { Finding } from "./attest/findings.ts";
export { PREDICATE_TYPES, type Predicate, STATEMENT_TYPE, type Statement } from "./attest/statement.ts";
export { type CheckedCheckpoint, checkCheckpoint, type LogCheckpoint } from "./audit/checkpoint.ts";
export type { LogReport } from "./audit/log-report.ts";
export { type NoteKey, parseVkey } from "./audit/note.ts";
export { parseLine } from "./audit/parse-line.ts";
export { type CheckedProof, checkTlogProof, parseProofFile } from "./audit/tlog-proof.ts";
export { leafHash } from "./audit/tree.ts";
export { type VerifyLogOptions, verifyLog } from "./audit/verify-log.ts";
export { type ErrorCode, VramError } from "./errors.ts";
export { formatDigest, type NamedDigest, parseDigest } from "./hash/descriptor.ts";
