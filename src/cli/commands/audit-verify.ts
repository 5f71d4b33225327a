/** `vram audit verify`: the offline verifier of the audit log, with the keys that are at hand. Never repairs anything. */
import { join } from "node:path";
import { type EpochKey, wipeEpochKey } from "../../audit/epochs.ts";
import { EPOCH_KEY_FILE, readEpochFile } from "../../audit/key-files.ts";
import type { LogReport, Problem } from "../../audit/log-report.ts";
import { listSegments } from "../../audit/segments.ts";
import { verifyLog } from "../../audit/verify-log.ts";
import { toVramError, VramError } from "../../errors.ts";
import { LIMITS } from "../../limits.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";
import { parseSeq } from "../numbers.ts";
import { readSmallFile } from "../read-file.ts";
import { type LogOptions, logFolderOf } from "../state-dir.ts";
import { printReport } from "./audit-report.ts";

export interface AuditVerifyOptions extends LogOptions {
  readonly json?: true;
  readonly from?: string;
  readonly to?: string;
  readonly logKey?: string;
  readonly since?: string;
  readonly epochKey?: string;
}

/** Where the epoch key came from, and why there is none if there is none. */
export type KeySource =
  | { readonly from: "file" | "state"; readonly epoch: number }
  | { readonly from: "none"; readonly because: string };

/** What was verified and with what, besides the report of the verifier. */
export interface Verified {
  readonly report: LogReport;
  readonly segments: number;
  readonly prunedSegments: number;
  readonly keySource: KeySource;
  readonly folder: string;
}

interface FoundKey {
  readonly source: KeySource;
  readonly key: EpochKey | undefined;
}

async function readGivenKey(path: string): Promise<FoundKey> {
  const key = await readEpochFile(path).catch((cause: unknown) => {
    const { message } = toVramError(cause);
    throw new VramError("INVALID_ARGUMENT", message, { cause, details: { argument: "epochKey" } });
  });
  if (key === undefined) throw new VramError("SOURCE_NOT_FOUND", `${path}: there is no such file`);
  return { source: { from: "file", epoch: key.epoch }, key };
}

/** The key of the epoch that runs, if this user may read it. Without it the log can still be verified. */
async function readOwnKey(stateDir: string | undefined): Promise<FoundKey> {
  const none = (because: string): FoundKey => ({ source: { from: "none", because }, key: undefined });
  if (stateDir === undefined) return none("no epoch key was given (--epoch-key)");
  try {
    const key = await readEpochFile(join(stateDir, EPOCH_KEY_FILE));
    if (key === undefined) return none(`the state has no ${EPOCH_KEY_FILE}`);
    return { source: { from: "state", epoch: key.epoch }, key };
  } catch (thrown) {
    return none(toVramError(thrown).message);
  }
}

/**
 * The writer makes the first line of an epoch durable before it keeps the key of that epoch. A log that ends in an
 * earlier epoch than the key was cut off, or put back, and the key was not.
 */
function judgeOwnKey(report: LogReport, source: KeySource): LogReport {
  const isWhole = report.verdict === "intact" && !report.notExcluded.some(({ what }) => what === "not-read");
  const { checked, unchecked } = report.macs;
  const lastEpoch = Math.max(0, ...[...checked, ...unchecked].map(({ last }) => last));
  if (source.from !== "state" || !isWhole || source.epoch <= lastEpoch) return report;
  const message = `the state's own key is of epoch ${source.epoch}, and the log ends in epoch ${lastEpoch}`;
  const problem: Problem = { reason: "truncated", seq: report.entries, lastSeq: report.entries, message };
  return { ...report, verdict: "damaged", firstBad: problem, problems: [problem], problemsTotal: 1 };
}

async function verify(host: Host, options: AuditVerifyOptions): Promise<Verified> {
  const from = options.from === undefined ? {} : { from: parseSeq(options.from, "--from") };
  const to = options.to === undefined ? {} : { to: parseSeq(options.to, "--to") };
  const since = options.since === undefined ? {} : { since: await readSmallFile(options.since, LIMITS.noteBytes) };
  const logKey = options.logKey === undefined ? {} : { logKey: options.logKey };
  const { folder, stateDir } = await logFolderOf(options, host.env);
  // Before the log is read: beside a writer, the log is at least as far as the key.
  const found = options.epochKey === undefined ? await readOwnKey(stateDir) : await readGivenKey(options.epochKey);
  const { source, key } = found;
  try {
    const epochKeys = key === undefined ? {} : { epochKeys: key };
    const report = await verifyLog(folder, { ...from, ...to, ...since, ...logKey, ...epochKeys });
    const { segments } = await listSegments(folder);
    const prunedSegments = segments.filter(({ hasLines }) => !hasLines).length;
    const judged = judgeOwnKey(report, source);
    return { report: judged, segments: segments.length, prunedSegments, keySource: source, folder };
  } finally {
    if (key !== undefined) wipeEpochKey(key);
  }
}

/** Runs the command. Exit 0 if nothing wrong was found, 3 if anything was. */
export async function runAuditVerify(
  host: Host,
  _words: readonly string[],
  options: AuditVerifyOptions,
): Promise<number> {
  const verified = await verify(host, options);
  const { report, segments, prunedSegments, keySource } = verified;
  const isIntact = report.verdict === "intact";
  if (options.json === true) {
    printJson(host, "audit-verify", { ok: isIntact, ...report, segments, prunedSegments, epochKey: keySource });
  } else {
    printReport(host, verified);
  }
  return isIntact ? EXIT.ok : EXIT.mismatch;
}
