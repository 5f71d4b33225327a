/**
 * One line after the other: form, mac, place, epoch, and what it says about the line before it. A line that does not
 * hold is named, and the next one is looked at before: it tells whether this line stands where it belongs (its seq is
 * the next one) and whether this line is as it was (its `prev` is this line's hash). So a changed line is named even
 * without keys, and one change is not reported as a thousand. The line behind the change is not held against it.
 */
import { constantTimeEqual } from "../bytes.ts";
import type { MacKeys } from "./epochs.ts";
import { checkLineMac } from "./line.ts";
import type { Problem, ProblemReason } from "./log-report.ts";
import { type AuditLine, type ParsedLine, parseLine } from "./parse-line.ts";
import { isUnwritten, leafHash, NODE_BYTES } from "./tree.ts";

/** Who is told what. */
export interface ChainReader {
  /** Recomputed mac keys; without them no mac is judged. */
  readonly macKeys: MacKeys | undefined;
  onProblem(problem: Problem): void;
  /** The next leaf of the tree. Not called any more once a leaf is not known. */
  onLeaf(leaf: Uint8Array): void;
  /** A line that holds, as far as it can be told. */
  onLine(line: AuditLine, mac: "valid" | "unchecked"): void;
}

/** A line as it came, and where from. */
interface Seen {
  readonly parsed: ParsedLine;
  readonly leaf: Uint8Array;
  readonly segment: number;
  /** 1 for the first one of the segment. */
  readonly lineNumber: number;
  readonly kept: KeptLeaves | undefined;
}

/** Leaf hashes that were kept beside the lines of a segment. */
export interface KeptLeaves {
  /** Seq of the first one. */
  readonly firstSeq: number;
  /** Joined; the last one may be cut. */
  readonly leaves: Uint8Array;
  /** Of a segment that grows: they follow their lines, and may be zeros after a crash. */
  readonly mayLag: boolean;
}

export interface LineChain {
  /** The seq of the next line: entries so far. A line that waits for its successor does not count yet. */
  readonly next: number;
  /** The same with the line that waits. */
  readonly pushed: number;
  /** Takes a line of a segment. */
  push(bytes: Uint8Array, segment: number, lineNumber: number, kept: KeptLeaves | undefined): void;
  /** Judges the line that waits, as the last one. */
  flush(): void;
  /** Takes kept leaf hashes instead of lines. Whole hashes only; the rest is left. */
  skip(leaves: Uint8Array): void;
  /** From here on the leaves are not known any more. */
  breakOff(): void;
}

const FIRST_PREV = new Uint8Array(NODE_BYTES);

const lineOf = (seen: Seen | undefined): AuditLine | undefined => (seen?.parsed.ok ? seen.parsed.line : undefined);

/** How the kept leaf hash of a line compares; one that is not there, or cut, does not. */
function keptLeaf({ kept, leaf }: Seen, seq: number): "same" | "differs" | "none" {
  if (kept === undefined) return "none";
  const at = (seq - kept.firstSeq) * NODE_BYTES;
  const hash = kept.leaves.subarray(at, at + NODE_BYTES);
  if (at < 0 || hash.byteLength < NODE_BYTES || (kept.mayLag && isUnwritten(hash))) return "none";
  return constantTimeEqual(hash, leaf) ? "same" : "differs";
}

/** Where the chain stands. */
interface State {
  readonly reader: ChainReader;
  next: number;
  waiting: Seen | undefined;
  /** Leaf hash of the line before; undefined if that line is not known. */
  prev: Uint8Array | undefined;
  prevMac: "valid" | "unchecked";
  /** Epoch of the line before; undefined if that line is not known. */
  epoch: number | undefined;
  /** Whether a leaf was not known, so that the tree has ended. */
  isBroken: boolean;
}

function report(state: State, seen: Seen, reason: ProblemReason, seqs: readonly [number, number], what: string): void {
  const message = `segment ${seen.segment} line ${seen.lineNumber}: ${what}`;
  state.reader.onProblem({ reason, seq: seqs[0], lastSeq: seqs[1], message });
}

/** The next line is not known, and `next` is the seq of the one behind. */
function loseTrack(state: State, next: number): void {
  state.next = next;
  state.prev = undefined;
  state.epoch = undefined;
  state.isBroken = true;
}

/** What stands here is not the next line; if the next line follows, it was put in between and takes no place. */
function giveUpPlace(state: State, after: Seen | undefined): void {
  if (lineOf(after)?.seq !== state.next) loseTrack(state, state.next + 1);
}

function judgeMac(state: State, line: AuditLine): "valid" | "unchecked" | "mac" {
  const { macKeys } = state.reader;
  const macKey = macKeys?.of(line.epoch);
  if (macKey === undefined) return "unchecked";
  if (checkLineMac(line, macKey) === "mac") return "mac";
  macKeys?.confirm();
  return "valid";
}

/** Whether the line is the next one, or stands behind a gap, which is reported. */
function takesItsPlace(state: State, line: AuditLine, seen: Seen, after: Seen | undefined): boolean {
  const { next } = state;
  if (line.seq === next) return true;
  if (lineOf(after)?.seq === next + 1) {
    report(state, seen, "seq", [next, next], `says seq ${line.seq} in the place of ${next}`);
    giveUpPlace(state, after);
    return false;
  }
  const message = `says seq ${line.seq} where ${next} is next`;
  if (line.seq < next) {
    report(state, seen, "order", [next, next], message);
    return false;
  }
  report(state, seen, "missing", [next, line.seq - 1], message);
  loseTrack(state, line.seq);
  return true;
}

/** Whether the line follows the one before it; if not, which of the two was changed. */
function judgePrev(state: State, line: AuditLine, mac: State["prevMac"], seen: Seen, after: Seen | undefined): boolean {
  const { seq } = line;
  if (state.prev === undefined || constantTimeEqual(line.prev, state.prev)) return true;
  const kept = keptLeaf(seen, seq);
  const afterPrev = lineOf(after)?.prev;
  const isNamed = afterPrev !== undefined && constantTimeEqual(afterPrev, seen.leaf);
  // Whether this line is as it was: by its mac, by the line behind it, by its kept leaf hash.
  const isConfirmed = mac === "valid" || isNamed || (after === undefined && kept === "same");
  const areBothGenuine = mac === "valid" && state.prevMac === "valid";
  state.isBroken = true;
  if (seq === 0 || areBothGenuine || (!isConfirmed && (after !== undefined || kept === "differs"))) {
    report(state, seen, "prev", [seq, seq], "does not follow the line before it");
  } else if (isConfirmed) {
    report(state, seen, "prev", [seq - 1, seq - 1], "follows another line than the one before it, which was changed");
  } else {
    report(state, seen, "prev", [seq - 1, seq], "this line or the one before it was changed");
  }
  return false;
}

/**
 * An epoch follows the one before it, and begins with `epoch_started`. None is left out: who has today's key only could
 * otherwise take yesterday's epochs away as a whole, and put his own line behind those of the day before.
 */
function judgeEpoch(state: State, line: AuditLine, seen: Seen): boolean {
  const before = state.epoch;
  state.epoch = Math.max(line.epoch, before ?? 0);
  if (before === undefined) return true;
  if (line.epoch - before === (line.type === "epoch_started" ? 1 : 0)) return true;
  report(state, seen, "epoch", [line.seq, line.seq], `${line.type} in epoch ${line.epoch} after epoch ${before}`);
  return false;
}

/** Judges a line that stands where it belongs. */
function judgeInPlace(state: State, line: AuditLine, mac: State["prevMac"], seen: Seen, after: Seen | undefined): void {
  const follows = judgePrev(state, line, mac, seen, after);
  const holds = judgeEpoch(state, line, seen) && follows;
  if (holds && !state.isBroken && keptLeaf(seen, line.seq) === "differs") {
    report(state, seen, "leaves", [line.seq, line.seq], "this line and its kept leaf hash differ");
  }
  if (holds) state.reader.onLine(line, mac);
  if (!state.isBroken) state.reader.onLeaf(seen.leaf);
  state.next = line.seq + 1;
  state.prev = seen.leaf;
  state.prevMac = mac;
}

function judge(state: State, seen: Seen, after: Seen | undefined): void {
  const here = [state.next, state.next] as const;
  if (!seen.parsed.ok) {
    const { fault, offset } = seen.parsed;
    report(state, seen, "form", here, `not a line: ${fault} at byte ${offset}`);
    giveUpPlace(state, after);
    return;
  }
  const { line } = seen.parsed;
  const mac = judgeMac(state, line);
  if (mac === "mac") {
    report(state, seen, "mac", here, `the mac of epoch ${line.epoch} does not hold`);
    giveUpPlace(state, after);
  } else if (takesItsPlace(state, line, seen, after)) {
    judgeInPlace(state, line, mac, seen, after);
  }
}

/** Judges the line that waits. */
function judgeWaiting(state: State, after: Seen | undefined): void {
  const seen = state.waiting;
  state.waiting = after;
  if (seen !== undefined) judge(state, seen, after);
}

/** Takes kept leaf hashes: as much as is known of lines that are not read. */
function skipLeaves(state: State, leaves: Uint8Array): void {
  judgeWaiting(state, undefined);
  state.prevMac = "unchecked";
  for (let at = 0; at + NODE_BYTES <= leaves.byteLength; at += NODE_BYTES) {
    const leaf = leaves.slice(at, at + NODE_BYTES);
    if (!state.isBroken) state.reader.onLeaf(leaf);
    state.prev = leaf;
    state.epoch = undefined;
    state.next += 1;
  }
}

/** A chain that begins with seq 0. */
export function createLineChain(reader: ChainReader): LineChain {
  const state: State = {
    reader,
    next: 0,
    waiting: undefined,
    prev: FIRST_PREV,
    prevMac: "unchecked",
    epoch: 0,
    isBroken: false,
  };
  return {
    get next() {
      return state.next;
    },
    get pushed() {
      return state.next + (state.waiting === undefined ? 0 : 1);
    },
    push: (bytes, segment, lineNumber, kept) => {
      judgeWaiting(state, { parsed: parseLine(bytes), leaf: leafHash(bytes), segment, lineNumber, kept });
    },
    flush: () => judgeWaiting(state, undefined),
    skip: (leaves) => skipLeaves(state, leaves),
    breakOff: () => {
      state.isBroken = true;
    },
  };
}
