/**
 * What the verifier says about a log: what it found, what it looked at, and what nobody can tell from these files. The
 * last part is not small print: a log that was put back to an earlier state as a whole looks like that state.
 */
import { LIMITS } from "../limits.ts";

/**
 * What is wrong with a log. `form`: not a line · `mac` · `seq`: another line in this place · `order`: an earlier line
 * in front of this one · `missing` · `prev`: the chain of hashes · `epoch` · `tail`: cut within a line · `leaves`: kept
 * leaf hashes · `segment`: one is missing · `file`: a name that no segment has · `pruned`: pruned without an entry that
 * says so · `root`: a stored log checkpoint has another root · `checkpoint`: a stored note is bad · `truncated`: a log
 * checkpoint covers more entries than there are · `forked`: the remembered log checkpoint is of another history.
 */
export type ProblemReason =
  | "form"
  | "mac"
  | "seq"
  | "order"
  | "missing"
  | "prev"
  | "epoch"
  | "tail"
  | "leaves"
  | "segment"
  | "file"
  | "pruned"
  | "root"
  | "checkpoint"
  | "truncated"
  | "forked";

/**
 * Something that is wrong, with the entries that it is about: nothing in [seq, lastSeq] can be relied on. `file` and
 * `checkpoint` are about no entry and have 0 for both.
 */
export interface Problem {
  /** What programs match on. */
  readonly reason: ProblemReason;
  /** The first entry it is about. */
  readonly seq: number;
  /** The last entry it is about. */
  readonly lastSeq: number;
  /** For people. */
  readonly message: string;
}

/** Epochs from `first` to `last`. */
export interface EpochRange {
  /** From 0. */
  readonly first: number;
  /** Not below `first`. */
  readonly last: number;
}

/** What these files and keys cannot tell, and from which entry on. */
export interface Doubt {
  /** What programs match on: something that may be so, and would not have been seen. */
  readonly what:
    | "truncation"
    | "rollback-or-fork"
    | "unsigned"
    | "log-key"
    | "macs"
    | "pruned"
    | "not-read"
    | "not-compared";
  /** The first entry it is about. */
  readonly fromSeq: number;
  /** For people: what it would take to exclude it. */
  readonly message: string;
}

/** What the verifier found, what it looked at, and what it could not exclude. */
export interface LogReport {
  /** `intact`: nothing wrong was found; read `notExcluded` as well. */
  readonly verdict: "intact" | "damaged";
  /** Entries from the beginning of the log to where reading ended, those that were pruned included. */
  readonly entries: number;
  /** Of these, entries of which only the leaf hash is there. */
  readonly prunedEntries: number;
  /** Lines that were read, good or bad. */
  readonly linesRead: number;
  /** Of the problems about entries the one that ends first, and of those the narrowest. */
  readonly firstBad: Problem | undefined;
  /** At most 64, as they were found. */
  readonly problems: readonly Problem[];
  /** All of them. */
  readonly problemsTotal: number;
  /** How much was checked against epoch keys; without a key nothing is. */
  readonly macs: {
    /** Lines whose mac was computed. */
    readonly linesChecked: number;
    /** Epochs whose key was at hand. */
    readonly checked: readonly EpochRange[];
    /** Epochs whose key was not. */
    readonly unchecked: readonly EpochRange[];
  };
  /** Signed heads that lie in the log's folder. */
  readonly checkpoints: {
    /** Where the key came from. `found` is worth less: it lies beside the log. */
    readonly key: "given" | "found" | "none";
    /** Stored log checkpoints with a good signature, and those whose root is the log's. */
    readonly stored: number;
    /** Those of `stored` whose root is the log's. */
    readonly matched: number;
    /** Entries that a matching one covers. */
    readonly covered: number;
  };
  /** How the remembered log checkpoint compares: `beyond` has more entries than the log. */
  readonly remembered: "none" | "matches" | "differs" | "beyond" | "not-compared";
  /** Bytes of an unterminated last line behind everything that was signed: being written, or cut by a crash. */
  readonly inProgressBytes: number;
  /** What these files and keys cannot tell; seldom empty. */
  readonly notExcluded: readonly Doubt[];
}

/** Collects problems: the first 64, their number, and the one to name. */
export interface ProblemList {
  readonly total: number;
  readonly kept: readonly Problem[];
  readonly first: Problem | undefined;
  add(problem: Problem): void;
}

const isAboutEntries = ({ reason }: Problem): boolean => reason !== "file" && reason !== "checkpoint";

/** Whether `a` is to be named rather than `b`. */
function isNearer(a: Problem, b: Problem): boolean {
  if (isAboutEntries(a) !== isAboutEntries(b)) return isAboutEntries(a);
  return a.lastSeq === b.lastSeq ? a.seq > b.seq : a.lastSeq < b.lastSeq;
}

export function createProblemList(): ProblemList {
  const kept: Problem[] = [];
  let total = 0;
  let first: Problem | undefined;
  return {
    get total() {
      return total;
    },
    get first() {
      return first;
    },
    kept,
    add: (problem) => {
      total += 1;
      if (kept.length < LIMITS.auditProblems) kept.push(problem);
      if (first === undefined || isNearer(problem, first)) first = problem;
    },
  };
}

/** Adds an epoch to ranges that are in ascending order as long as the log is. At most 64 ranges are listed. */
export function addEpoch(ranges: EpochRange[], epoch: number): void {
  const last = ranges.at(-1);
  if (last !== undefined && epoch >= last.first && epoch <= last.last + 1) {
    if (epoch > last.last) ranges[ranges.length - 1] = { first: last.first, last: epoch };
  } else if (ranges.length < LIMITS.auditProblems) {
    ranges.push({ first: epoch, last: epoch });
  }
}

/** What a report is made of. */
type Findings = Omit<LogReport, "notExcluded" | "verdict"> & {
  /** Entries up to which the remembered log checkpoint vouches. */
  readonly rememberedSize: number;
  /** Entries that were taken by their kept leaf hashes, though their lines are there. */
  readonly skippedEntries: number;
  /** Whether reading ended before the end of the log. */
  readonly endedEarly: boolean;
};

/** What cannot be told from what was there. */
function doubtsOf(found: Findings): readonly Doubt[] {
  const { entries, prunedEntries, skippedEntries, endedEarly, remembered, macs, checkpoints } = found;
  const vouched = remembered === "matches" ? found.rememberedSize : 0;
  const doubts: Doubt[] = [];
  const add = (what: Doubt["what"], fromSeq: number, message: string): void => {
    doubts.push({ what, fromSeq, message });
  };
  add(
    "truncation",
    vouched,
    `entries after ${vouched} of them may have been cut off, with the log checkpoints on them`,
  );
  add("rollback-or-fork", vouched, `after ${vouched} entries others may have been shown another log`);
  if (checkpoints.covered < entries) {
    add("unsigned", checkpoints.covered, "no stored log checkpoint that matches covers these entries");
  }
  if (checkpoints.key === "found") add("log-key", 0, "the log key was taken from the log's own folder");
  if (checkpoints.key === "none") add("log-key", 0, "there is no log key: no signature was checked");
  if (macs.unchecked.length > 0) add("macs", 0, "the macs of some epochs could not be checked without their keys");
  if (prunedEntries > 0) add("pruned", 0, "pruned entries are known by their hashes only");
  if (skippedEntries > 0) add("not-read", prunedEntries, "lines were taken by their kept hashes, as asked for");
  if (endedEarly) add("not-read", entries, "lines were not read, as asked for");
  if (remembered === "not-compared") {
    add("not-compared", 0, "the log was not read as far as the remembered log checkpoint, or not all of it is known");
  }
  return doubts;
}

/** The report, with its verdict and with what cannot be excluded. */
export function reportOf(found: Findings): LogReport {
  const { rememberedSize: _size, skippedEntries: _skipped, endedEarly: _early, ...report } = found;
  return { verdict: found.problemsTotal === 0 ? "intact" : "damaged", ...report, notExcluded: doubtsOf(found) };
}
