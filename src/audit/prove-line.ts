/**
 * Makes the proof that a line is in the log, from the log's own files, against its newest log checkpoint; and that the
 * log continues one that somebody remembered. A proof leaves here only if whoever checks it will find that it holds.
 * The log checkpoint is read first: the lines it covers were on disk before it.
 */
import { join } from "node:path";
import { requireInteger } from "../assert.ts";
import { constantTimeEqual } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { checkCheckpoint, type LogCheckpoint } from "./checkpoint.ts";
import { type LogLeaves, openLogLeaves } from "./log-leaves.ts";
import { type NoteKey, parseNote, parseVkey } from "./note.ts";
import { parseLine } from "./parse-line.ts";
import { proveConsistency, proveInclusion } from "./proofs.ts";
import { readWhole } from "./segments.ts";
import { CHECKPOINT_FILE, readFoundKey } from "./stored-checkpoints.ts";
import { type ContinuationProof, checkContinuation, checkTlogProof, type TlogProof } from "./tlog-proof.ts";
import { createRangeRoot, leafHash, type RangeRoot } from "./tree.ts";

export interface ProveOptions {
  /** `NAME+HASH+KEY`; without it the one in the folder. */
  readonly logKey?: string;
  /** A log checkpoint that was remembered: the signed note. */
  readonly since?: Uint8Array;
}

/** A proof that holds, or why there is none: then the log is not what was signed. */
export type Proved =
  | {
      readonly ok: true;
      readonly key: NoteKey;
      readonly keyFrom: "given" | "found";
      readonly checkpoint: LogCheckpoint;
      /** Leaf hash of the line. */
      readonly leaf: Uint8Array;
      readonly proof: TlogProof;
      readonly continuation: ContinuationProof | undefined;
    }
  | { readonly ok: false; readonly message: string };

type Refused = Extract<Proved, { readonly ok: false }>;

const refused = (message: string): Refused => ({ ok: false, message });

const invalid = (argument: string, message: string, fix?: string): VramError =>
  new VramError("INVALID_ARGUMENT", message, { details: { argument }, ...(fix === undefined ? {} : { fix }) });

interface Head {
  readonly key: NoteKey;
  readonly keyFrom: "given" | "found";
  readonly note: Uint8Array;
  readonly checkpoint: LogCheckpoint;
}

/** The newest log checkpoint under the log's key. */
async function readHead(folder: string, logKey: string | undefined): Promise<Head | Refused> {
  const key = logKey === undefined ? await readFoundKey(folder) : parseVkey(logKey);
  if (key === undefined) throw invalid("logKey", "there is no log key in the log's folder", "give it with --log-key");
  const note = await readWhole(join(folder, CHECKPOINT_FILE), LIMITS.noteBytes);
  if (note === undefined) {
    throw new VramError("STATE_INVALID", "there is no log checkpoint yet, and a proof needs one", {
      fix: "one is written within a second of activity; if the writer runs, try again",
    });
  }
  const checked = checkCheckpoint(note, key);
  if (!checked.ok) return refused(`the newest log checkpoint is not one under the log's key: ${checked.fault}`);
  return { key, keyFrom: logKey === undefined ? "found" : "given", note, checkpoint: checked.checkpoint };
}

/** The line at `seq` and its leaf hash, if they belong together. */
async function readLeaf(
  leaves: LogLeaves,
  seq: number,
): Promise<{ leaf: Uint8Array; line: Uint8Array | undefined } | Refused> {
  const leaf = leaves.read(seq, seq + 1);
  const line = await leaves.line(seq);
  if (line === undefined) return { leaf, line };
  const parsed = parseLine(line);
  if (!parsed.ok || parsed.line.seq !== seq) return refused(`what stands in the place of seq ${seq} is not its line`);
  return constantTimeEqual(leafHash(line), leaf)
    ? { leaf, line }
    : refused(`the line of seq ${seq} and its kept leaf hash differ`);
}

function readRemembered(since: Uint8Array, { key, keyFrom }: Head): LogCheckpoint | Refused {
  const checked = checkCheckpoint(since, key);
  if (checked.ok && checked.checkpoint.size === 0) {
    throw invalid("since", "the remembered log checkpoint is of an empty log, which every log continues");
  }
  if (checked.ok) return checked.checkpoint;
  if (keyFrom === "given" || parseNote(since) === undefined) {
    throw invalid("since", `the remembered log checkpoint is none of the log with this key: ${checked.fault}`);
  }
  return refused("the remembered log checkpoint is not signed by the key in the log's folder: another log");
}

function continuationOf(
  rangeRoot: RangeRoot,
  remembered: LogCheckpoint,
  { note, checkpoint, key }: Head,
): ContinuationProof | Refused {
  if (remembered.size > checkpoint.size) {
    return refused(`the remembered log checkpoint covers ${remembered.size} entries, the newest ${checkpoint.size}`);
  }
  const hashes = proveConsistency(rangeRoot, remembered.size, checkpoint.size);
  const continuation = { from: remembered.size, hashes, checkpoint: note };
  if (checkContinuation(continuation, remembered, key).ok) return continuation;
  return refused(`the log does not continue the remembered log checkpoint over ${remembered.size} entries`);
}

/** Leaves hashed in one go: about 5 ms. */
const STEP_LEAVES = 4096;

/** Has the roots of complete subtrees remembered, a few at a time: a log of years has a million leaves. */
async function hashSubtrees(rangeRoot: RangeRoot, size: number): Promise<void> {
  let startMs = performance.now();
  for (let end = STEP_LEAVES; end <= size; end += STEP_LEAVES) {
    rangeRoot(end - STEP_LEAVES, end);
    if (performance.now() - startMs < 5) continue;
    await new Promise((resolve) => setImmediate(resolve));
    startMs = performance.now();
  }
}

/** Makes proofs of one log. What does not change in a log that only grows is kept: a later proof reads few leaves. */
export interface Prover {
  /**
   * Proves that the line at `seq` is in the log. `INVALID_ARGUMENT` if no log checkpoint covers it yet, or if key and
   * remembered log checkpoint do not fit; `STATE_INVALID` if the log cannot be read.
   */
  prove(seq: number, options?: ProveOptions): Promise<Proved>;
}

/** A prover of the log in `folder`. */
export function createProver(folder: string): Prover {
  const kept = new Map<string, Uint8Array>();
  return {
    prove: async (seq, options = {}) => {
      const isFirst = kept.size === 0;
      const proved = await proveWith(folder, kept, seq, options);
      if (proved.ok || isFirst) return proved;
      // Of a log that was put back to another state nothing is worth keeping.
      kept.clear();
      return proveWith(folder, kept, seq, options);
    },
  };
}

/** Proves one line, as a prover does. */
export const proveLine = (folder: string, seq: number, options?: ProveOptions): Promise<Proved> =>
  createProver(folder).prove(seq, options);

async function proveWith(
  folder: string,
  kept: Map<string, Uint8Array>,
  seq: number,
  options: ProveOptions,
): Promise<Proved> {
  requireInteger(seq, "seq", 0, Number.MAX_SAFE_INTEGER);
  const head = await readHead(folder, options.logKey);
  if ("message" in head) return head;
  const { key, keyFrom, note, checkpoint } = head;
  const { size } = checkpoint;
  if (seq >= size) {
    const covered = size === 0 ? "covers nothing" : `covers seq 0 to ${size - 1}`;
    const fix = "one is written within a second of activity; try again, or name an earlier line";
    throw invalid("seq", `the newest log checkpoint ${covered}, and not seq ${seq}`, fix);
  }
  const remembered = options.since === undefined ? undefined : readRemembered(options.since, head);
  if (remembered !== undefined && "message" in remembered) return remembered;
  const leaves = await openLogLeaves(folder);
  if (leaves.size < size) return refused(`the log has ${leaves.size} entries, and ${size} were signed`);
  const found = await readLeaf(leaves, seq);
  if ("message" in found) return found;
  const rangeRoot = createRangeRoot((start, end) => leaves.read(start, end), kept);
  await hashSubtrees(rangeRoot, size);
  const proof = { extra: found.line, index: seq, hashes: proveInclusion(rangeRoot, seq, size), checkpoint: note };
  if (!checkTlogProof(proof, found.leaf, key).ok) {
    return refused(`the log is not the one that was signed: its root over ${size} entries is another`);
  }
  const continuation = remembered === undefined ? undefined : continuationOf(rangeRoot, remembered, head);
  if (continuation !== undefined && "message" in continuation) return continuation;
  return { ok: true, key, keyFrom, checkpoint, leaf: found.leaf, proof, continuation };
}
