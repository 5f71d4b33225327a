/**
 * The offline verifier of the audit log: reads a folder, changes nothing, says what holds. Whoever writes to that folder
 * is the adversary. Without keys the chain of hashes finds what was changed by accident or without care; macs find what
 * was changed without the key of that epoch; signed log checkpoints what was changed with it; a remembered log
 * checkpoint what was changed by someone with all of our keys. What none of them can tell is in the report.
 *
 * It may run beside the writer: signed heads are read before the lines they cover, and an unterminated last line behind
 * them is in progress, not bad.
 */
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { checkCheckpoint, type LogCheckpoint, parseCheckpoint } from "./checkpoint.ts";
import { type EpochKey, macKeysFrom } from "./epochs.ts";
import { dataOfLine } from "./line.ts";
import { createLineChain } from "./line-chain.ts";
import { createLogHeads } from "./log-heads.ts";
import {
  addEpoch,
  createProblemList,
  type EpochRange,
  type LogReport,
  type ProblemList,
  reportOf,
} from "./log-report.ts";
import { type NoteKey, parseNote, parseVkey } from "./note.ts";
import type { AuditLine } from "./parse-line.ts";
import { type LogReading, readSegments } from "./read-log.ts";
import { createSignedEpochs } from "./signed-epochs.ts";
import { readFoundKey, readStoredCheckpoints, type StoredCheckpoints } from "./stored-checkpoints.ts";

/** Which entries are read, and what they are held against. */
export interface VerifyLogOptions {
  /** Lines of closed segments that end before this seq are taken by their kept leaf hashes. 0 if absent. */
  readonly from?: number;
  /** The last seq to read. */
  readonly to?: number;
  /** `NAME+HASH+KEY`. Without it the one in the folder is used, and the report says so. */
  readonly logKey?: string;
  /** A log checkpoint that was remembered elsewhere: the signed note. */
  readonly since?: Uint8Array;
  /** K of an epoch, from escrow or the state directory: macs of this epoch and all later ones are checked. */
  readonly epochKeys?: EpochKey;
}

/** The log's key, and where it came from. */
interface ChosenKey {
  readonly key: NoteKey | undefined;
  readonly from: LogReport["checkpoints"]["key"];
}

const NO_CHECKPOINTS: StoredCheckpoints = { checkpoints: [], bad: [], isNewestGone: false };

async function chooseKey(folder: string, logKey: string | undefined): Promise<ChosenKey> {
  if (logKey !== undefined) return { key: parseVkey(logKey), from: "given" };
  const key = await readFoundKey(folder);
  return { key, from: key === undefined ? "none" : "found" };
}

/** The remembered log checkpoint; undefined if there is none, or if it is of another log than the one found. */
function readRemembered(
  since: Uint8Array | undefined,
  chosen: ChosenKey,
  problems: ProblemList,
): LogCheckpoint | undefined {
  if (since === undefined) return undefined;
  const checked = chosen.key === undefined ? undefined : checkCheckpoint(since, chosen.key);
  if (checked?.ok === true) return checked.checkpoint;
  const size = parseCheckpoint(parseNote(since)?.text ?? "")?.size;
  if (chosen.from !== "found" || size === undefined) {
    const fault = checked?.fault ?? "there is no log key";
    throw new VramError(
      "INVALID_ARGUMENT",
      `the remembered log checkpoint is none of the log with this key: ${fault}`,
      {
        details: { argument: "since" },
      },
    );
  }
  // The key lies beside the log. That it did not sign what was remembered is a finding, not a slip of the caller.
  const message = "the remembered log checkpoint is not signed by the key in the log's folder: another log";
  problems.add({ reason: "forked", seq: 0, lastSeq: Math.max(size - 1, 0), message });
  return undefined;
}

/** Whether what was pruned was recorded as pruned. */
function judgePruned(run: LogReading, recorded: number): void {
  if (run.endedEarly || run.skippedEntries > 0 || run.prunedEntries <= recorded) return;
  const message = `${run.prunedEntries} entries are gone, and audit_pruned entries tell of ${recorded}`;
  run.problems.add({ reason: "pruned", seq: recorded, lastSeq: run.prunedEntries - 1, message });
}

/** How many entries an `audit_pruned` line says were pruned since the log began. */
function prunedBy(line: AuditLine): number {
  const { prunedEntries } = line.type === "audit_pruned" ? dataOfLine(line) : { prunedEntries: 0 };
  return typeof prunedEntries === "number" ? prunedEntries : 0;
}

/**
 * Verifies the audit log in `folder`. Throws `STATE_INVALID` if it cannot be read and `INVALID_ARGUMENT` for keys or a
 * remembered log checkpoint that are not well-formed or do not belong together; everything else is in the report.
 */
export async function verifyLog(folder: string, options: VerifyLogOptions = {}): Promise<LogReport> {
  const from = requireInteger(options.from ?? 0, "from", 0, Number.MAX_SAFE_INTEGER);
  const to = requireInteger(options.to ?? Number.MAX_SAFE_INTEGER, "to", from, Number.MAX_SAFE_INTEGER);
  const problems = createProblemList();
  const chosen = await chooseKey(folder, options.logKey);
  const stored = chosen.key === undefined ? NO_CHECKPOINTS : await readStoredCheckpoints(folder, chosen.key);
  for (const { file, index, fault } of stored.bad) {
    problems.add({ reason: "checkpoint", seq: 0, lastSeq: 0, message: `${file}, note ${index + 1}: ${fault}` });
  }
  const rememberedHead = readRemembered(options.since, chosen, problems);
  const heads = createLogHeads(stored.checkpoints, rememberedHead, problems);
  const checked: EpochRange[] = [];
  const unchecked: EpochRange[] = [];
  let linesChecked = 0;
  let recorded = 0;
  const epochs = createSignedEpochs();
  const macKeys = options.epochKeys === undefined ? undefined : macKeysFrom(options.epochKeys);
  const chain = createLineChain({
    macKeys,
    onProblem: (problem) => problems.add(problem),
    onLeaf: (leaf) => heads.append(leaf),
    onLine: (line, mac) => {
      addEpoch(mac === "valid" ? checked : unchecked, line.epoch);
      if (mac === "valid") linesChecked += 1;
      recorded = Math.max(recorded, prunedBy(line));
      epochs.add(line);
    },
  });
  const signedSize = stored.checkpoints.at(-1)?.size ?? 0;
  const counts = { linesRead: 0, prunedEntries: 0, skippedEntries: 0, inProgressBytes: 0, endedEarly: false };
  const run: LogReading = { folder, problems, chain, signedSize, from, to, ...counts };
  try {
    await readSegments(run);
  } finally {
    macKeys?.close();
  }
  judgePruned(run, recorded);
  await epochs.judge(folder, chosen.key, stored, problems);
  if (!run.endedEarly) heads.end(chain.next);
  const isForeign = options.since !== undefined && rememberedHead === undefined;
  return reportOf({
    entries: chain.next,
    prunedEntries: run.prunedEntries,
    linesRead: run.linesRead,
    firstBad: problems.first,
    problems: problems.kept,
    problemsTotal: problems.total,
    macs: { linesChecked, checked, unchecked },
    checkpoints: {
      key: chosen.from,
      stored: stored.checkpoints.length,
      matched: heads.matched,
      covered: heads.covered,
    },
    remembered: isForeign ? "differs" : heads.remembered,
    inProgressBytes: run.inProgressBytes,
    rememberedSize: rememberedHead?.size ?? 0,
    skippedEntries: run.skippedEntries,
    endedEarly: run.endedEarly,
  });
}
