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

/** The epoch of the state's own key, or why it is not known. */
export type StateKey = { readonly epoch: number } | { readonly because: string };

/** What was verified and with what, besides the report of the verifier. */
export interface Verified {
  readonly report: LogReport;
  readonly segments: number;
  readonly prunedSegments: number;
  readonly keySource: KeySource;
  /** Undefined without a state directory. */
  readonly stateKey: StateKey | undefined;
  /** The epoch in which the log ends, 0 without a line; undefined where that is not known. */
  readonly lastEpoch: number | undefined;
  /** Whether the log was read to its end. */
  readonly isToTheEnd: boolean;
  readonly folder: string;
}

/** The keys that are at hand. The caller wipes `key`. */
interface FoundKeys {
  readonly source: KeySource;
  /** The one that checks macs. */
  readonly key: EpochKey | undefined;
  readonly stateKey: StateKey | undefined;
}

async function readGivenKey(path: string): Promise<EpochKey> {
  const key = await readEpochFile(path).catch((cause: unknown) => {
    const { message, fix } = toVramError(cause);
    throw new VramError("INVALID_ARGUMENT", message, { cause, fix, details: { argument: "epochKey" } });
  });
  if (key === undefined) throw new VramError("SOURCE_NOT_FOUND", `${path}: there is no such file`);
  return key;
}

/** The key of the epoch that runs, if this user may read it. Without it the log can still be verified. */
async function readOwnKey(stateDir: string): Promise<EpochKey | { readonly because: string }> {
  try {
    const key = await readEpochFile(join(stateDir, EPOCH_KEY_FILE));
    return key ?? { because: `the state has no ${EPOCH_KEY_FILE}` };
  } catch (thrown) {
    return { because: toVramError(thrown).message };
  }
}

/** The key that was given checks macs, else the state's own. That one is held against the log in any case. */
async function readKeys(stateDir: string | undefined, given: string | undefined): Promise<FoundKeys> {
  const own = stateDir === undefined ? undefined : await readOwnKey(stateDir);
  const isRead = own !== undefined && "key" in own;
  const stateKey = isRead ? { epoch: own.epoch } : own;
  if (given !== undefined) {
    if (isRead) wipeEpochKey(own);
    const key = await readGivenKey(given);
    return { source: { from: "file", epoch: key.epoch }, key, stateKey };
  }
  if (isRead) return { source: { from: "state", epoch: own.epoch }, key: own, stateKey };
  const because = own?.because ?? "no epoch key was given (--epoch-key)";
  return { source: { from: "none", because }, key: undefined, stateKey };
}

/** Problems that leave open what the last line was. */
const AT_LINES: ReadonlySet<Problem["reason"]> = new Set<Problem["reason"]>([
  "form",
  "mac",
  "seq",
  "order",
  "missing",
  "prev",
  "epoch",
  "tail",
  "segment",
]);

/** The epoch in which the log ends; undefined where not every line was read, or one of them is bad. */
function lastEpochOf({ macs, problems, problemsTotal }: LogReport, isToTheEnd: boolean): number | undefined {
  const isKnown = problems.length === problemsTotal && !problems.some(({ reason }) => AT_LINES.has(reason));
  if (!isToTheEnd || !isKnown) return undefined;
  return Math.max(0, ...[...macs.checked, ...macs.unchecked].map(({ last }) => last));
}

/**
 * The writer makes the first line of an epoch durable before it keeps the key of that epoch. A log that ends in an
 * earlier epoch than a key was cut off, or put back, and the key was not.
 */
function judgeKeys(report: LogReport, { source, stateKey }: FoundKeys, lastEpoch: number): LogReport {
  const problem = (whose: string, epoch: number, more: string): Problem => ({
    reason: "truncated",
    seq: report.entries,
    lastSeq: report.entries,
    message: `${whose} is of epoch ${epoch}, and the log ends in epoch ${lastEpoch}${more}`,
  });
  const found: Problem[] = [];
  if (stateKey !== undefined && "epoch" in stateKey && stateKey.epoch > lastEpoch) {
    found.push(problem("the state's own key", stateKey.epoch, ""));
  }
  if (source.from === "file" && source.epoch > lastEpoch) {
    found.push(problem("the given epoch key", source.epoch, ": the log is older than it, or it is of another log"));
  }
  if (found.length === 0) return report;
  return {
    ...report,
    verdict: "damaged",
    firstBad: report.firstBad ?? found[0],
    problems: [...found, ...report.problems].slice(0, LIMITS.auditProblems),
    problemsTotal: report.problemsTotal + found.length,
  };
}

/** The numbers of `--from` and `--to`, where they were given. */
function parseRange(options: AuditVerifyOptions): { readonly from?: number; readonly to?: number } {
  const from = options.from === undefined ? {} : { from: parseSeq(options.from, "--from") };
  const to = options.to === undefined ? {} : { to: parseSeq(options.to, "--to") };
  if (from.from !== undefined && to.to !== undefined && to.to < from.from) {
    throw new VramError("INVALID_ARGUMENT", `--to ${to.to} is before --from ${from.from}`, {
      fix: "give a --to that is not before --from, or leave one of both out",
      details: { argument: "to" },
    });
  }
  return { ...from, ...to };
}

/** Where nothing is wrong, nothing was looked at either if it was to begin beyond the end. */
function requireWithin({ verdict, entries }: LogReport, from = 0): void {
  if (verdict !== "intact" || from === 0 || from < entries) return;
  throw new VramError("INVALID_ARGUMENT", `--from ${from} is beyond the end of the log, which has ${entries} entries`, {
    fix: entries === 0 ? "leave --from out" : `give a seq from 0 to ${entries - 1}`,
    details: { argument: "from" },
  });
}

async function verify(host: Host, options: AuditVerifyOptions): Promise<Verified> {
  const range = parseRange(options);
  const since = options.since === undefined ? {} : { since: await readSmallFile(options.since, LIMITS.noteBytes) };
  const logKey = options.logKey === undefined ? {} : { logKey: options.logKey };
  const { folder, stateDir } = await logFolderOf(options, host.env);
  // Before the log is read: beside a writer, the log is at least as far as the key.
  const keys = await readKeys(stateDir, options.epochKey);
  const { source: keySource, key, stateKey } = keys;
  try {
    const epochKeys = key === undefined ? {} : { epochKeys: key };
    const found = await verifyLog(folder, { ...range, ...since, ...logKey, ...epochKeys });
    const isToTheEnd = range.to === undefined;
    const lastEpoch = lastEpochOf(found, isToTheEnd);
    const report = lastEpoch === undefined ? found : judgeKeys(found, keys, lastEpoch);
    requireWithin(report, range.from);
    const { segments } = await listSegments(folder);
    const prunedSegments = segments.filter(({ hasLines }) => !hasLines).length;
    return { report, segments: segments.length, prunedSegments, keySource, stateKey, lastEpoch, isToTheEnd, folder };
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
  const { report, segments, prunedSegments, keySource: epochKey, stateKey } = verified;
  const isIntact = report.verdict === "intact";
  if (options.json === true) {
    printJson(host, "audit-verify", { ok: isIntact, ...report, segments, prunedSegments, epochKey, stateKey });
  } else {
    printReport(host, verified);
  }
  return isIntact ? EXIT.ok : EXIT.mismatch;
}
