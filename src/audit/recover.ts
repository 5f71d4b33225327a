/**
 * Continuing a log: from its files to the position behind its last line, by the same `applyLine` as the writer. What a
 * crash can leave behind is mended here and nothing else is: an unterminated last line (set aside into `*.torn`), leaf
 * hashes that lag behind their lines, a log checkpoint cut off within `checkpoints`, a key one epoch behind the last
 * line. Whatever a crash cannot explain is damage: `STATE_INVALID`, nothing is changed, `vram audit verify` says more.
 * Lines of closed segments are not read, so that a start takes no longer for a long log; their leaf hashes are, and
 * those and the chain of the last segment are held against what was signed.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { constantTimeEqual, toHex } from "../bytes.ts";
import { isSystemError, removeTemporary, syncFolder } from "../files.ts";
import type { LogEnds } from "./durable.ts";
import { type EpochKey, wipeEpochKey } from "./epochs.ts";
import { auditFolder, ensureEpochKey, replaceEpochKey } from "./key-files.ts";
import type { NoteSigner } from "./note.ts";
import { applyLine, beginSegment, createPosition, type LogPosition } from "./position.ts";
import {
  damaged,
  type FoundEpochKey,
  type FoundHeads,
  judgeEpochKey,
  judgeHead,
  judgeSigner,
  makeSigner,
  readHeads,
  requireHeads,
} from "./recover-keys.ts";
import { listSegments, readLeaves, readLines, type Segment, segmentFile } from "./segments.ts";
import { CHECKPOINT_FILE, CHECKPOINTS_FILE } from "./stored-checkpoints.ts";
import { cut, findTorn, setAside, type TornLine } from "./torn.ts";
import { isUnwritten, leafHash, NODE_BYTES } from "./tree.ts";

/** A log as it was found, ready to be written to. */
export interface RecoveredLog {
  readonly folder: string;
  readonly position: LogPosition;
  readonly ends: LogEnds;
  readonly epochKey: EpochKey;
  readonly signer: NoteSigner;
  readonly signedSize: number;
  readonly keptSize: number;
  /** Bytes of lines and leaf hashes in all segments. */
  readonly bytes: number;
  /** Torn last lines that no `audit_recovered` tells of yet. */
  readonly torn: readonly TornLine[];
}

/** A log on the way through its leaves: where it stands, and its roots at the sizes that are asked for. */
interface Walk {
  readonly position: LogPosition;
  readonly sizes: ReadonlySet<number>;
  readonly roots: Map<number, Uint8Array>;
}

/** `roots` has those of `sizes` that were reached. */
function beginWalk(sizes: ReadonlySet<number>): Walk {
  const position = createPosition();
  return { position, sizes, roots: new Map([[0, position.tree.root()]]) };
}

function step({ position, sizes, roots }: Walk, leaf: Uint8Array, epoch: number | undefined): void {
  applyLine(position, leaf, epoch);
  if (sizes.has(position.tree.size)) roots.set(position.tree.size, position.tree.root());
}

/** The leaf hashes of a segment that is closed: all of them, or the log is damaged. */
async function takeClosed(folder: string, segment: Segment, walk: Walk): Promise<number> {
  const leaves = await readLeaves(folder, segment.number);
  if (leaves.byteLength === 0 || leaves.byteLength % NODE_BYTES !== 0) {
    throw damaged(folder, `${segmentFile(segment.number, "leaves")} is missing or incomplete`);
  }
  beginSegment(walk.position);
  for (let at = 0; at < leaves.byteLength; at += NODE_BYTES) {
    step(walk, leaves.subarray(at, at + NODE_BYTES), undefined);
  }
  const lines = segment.hasLines ? (await promises.stat(join(folder, segmentFile(segment.number, "jsonl")))).size : 0;
  return leaves.byteLength + lines;
}

/** What the last segment holds. */
interface LastSegment {
  readonly linesBytes: number;
  readonly tail: Uint8Array;
  /** Leaf hashes that are there, as bytes; what is missing is owed. */
  readonly keptBytes: number;
  readonly owed: readonly Uint8Array[];
  readonly last: Uint8Array | undefined;
}

async function takeLast(folder: string, segment: Segment, walk: Walk): Promise<LastSegment> {
  const { position } = walk;
  const kept = segment.hasLeaves ? await readLeaves(folder, segment.number) : new Uint8Array(0);
  const owed: Uint8Array[] = [];
  let linesBytes = 0;
  let last: Uint8Array | undefined;
  let tail: Uint8Array = new Uint8Array(0);
  beginSegment(position);
  if (segment.hasLines) {
    for await (const batch of readLines(folder, segment.number)) {
      for (const line of batch.lines) {
        const leaf = leafHash(line);
        const at = position.segmentEntries * NODE_BYTES;
        const there = kept.subarray(at, at + NODE_BYTES);
        // Behind the first that is not there everything is written again.
        if (owed.length > 0 || there.byteLength < NODE_BYTES || isUnwritten(there)) owed.push(leaf);
        else if (!constantTimeEqual(there, leaf)) throw damaged(folder, `line ${position.tree.size} was changed`);
        if (!follows(line, position.prev))
          throw damaged(folder, `line ${position.tree.size} does not follow the one before`);
        step(walk, leaf, epochOf(line));
        linesBytes += line.byteLength + 1;
        last = line;
      }
      tail = batch.tail ?? tail;
    }
  }
  const keptBytes = (position.segmentEntries - owed.length) * NODE_BYTES;
  if (kept.byteLength - position.segmentEntries * NODE_BYTES >= NODE_BYTES) {
    throw damaged(folder, `${segmentFile(segment.number, "jsonl")} has fewer lines than there are leaf hashes`);
  }
  return { linesBytes, tail, keptBytes, owed, last };
}

/** From the end of a line back to the digits of its `prev`: `"`, `,"mac":"`, 64 digits, `"}`. */
const BEHIND_PREV = 1 + 8 + 2 * NODE_BYTES + 2;

/** Whether the line names the one before it; cheaply, by where its digits stand. */
function follows(line: Uint8Array, prev: Uint8Array): boolean {
  const end = line.byteLength - BEHIND_PREV;
  const digits = line.subarray(Math.max(0, end - 2 * NODE_BYTES), Math.max(0, end));
  return Buffer.from(digits.buffer, digits.byteOffset, digits.byteLength).toString("latin1") === toHex(prev);
}

/** Epoch of a line, cheaply: it is judged where it matters, in the last line. */
function epochOf(line: Uint8Array): number | undefined {
  const head = Buffer.from(line.buffer, line.byteOffset, Math.min(line.byteLength, 160)).toString("latin1");
  const [, digits] = /"epoch":([0-9]{1,16}),/.exec(head) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** The last line of the log, wherever it lies; undefined if it was pruned or there is none. */
async function lastLineBefore(folder: string, segments: readonly Segment[]): Promise<Uint8Array | undefined> {
  const segment = segments.at(-1);
  if (segment?.hasLines !== true) return undefined;
  let last: Uint8Array | undefined;
  for await (const { lines } of readLines(folder, segment.number)) last = lines.at(-1) ?? last;
  return last;
}

async function appendOwed(folder: string, segment: number, { keptBytes, owed }: LastSegment): Promise<void> {
  const path = join(folder, segmentFile(segment, "leaves"));
  const file = await promises.open(path, "a+", 0o600);
  try {
    // A hash that was cut off is written again as a whole.
    await file.truncate(keptBytes);
    await file.writeFile(Buffer.concat(owed));
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** A log that was read and judged, and not changed. */
interface Judged {
  readonly folder: string;
  readonly lastSegment: Segment;
  readonly found: LastSegment;
  readonly position: LogPosition;
  readonly signer: NoteSigner | undefined;
  readonly epochKey: FoundEpochKey | undefined;
  readonly heads: FoundHeads;
  readonly signedSize: number;
  readonly keptSize: number;
  /** Bytes of lines and leaf hashes in closed segments. */
  readonly closedBytes: number;
}

const FIRST_SEGMENT: Segment = { number: 1, hasLines: false, hasLeaves: false };

/** The segments of the log; none if there is no folder yet. */
async function listWhole(folder: string): Promise<readonly Segment[]> {
  const exists = await promises.lstat(folder).catch((error: unknown) => {
    if (!isSystemError(error, "ENOENT")) throw error;
  });
  const { segments } = exists === undefined ? { segments: [] } : await listSegments(folder);
  let isPruned = true;
  for (const [index, { number, hasLines }] of segments.entries()) {
    if (number !== index + 1) throw damaged(folder, `segment ${index + 1} is missing`);
    isPruned &&= !hasLines;
    const isClosed = index < segments.length - 1;
    if (isClosed && !hasLines && !isPruned) throw damaged(folder, `${segmentFile(number, "jsonl")} is missing`);
  }
  return segments;
}

/** Reads everything and changes nothing. */
async function judgeLog(stateDir: string): Promise<Judged> {
  const folder = auditFolder(stateDir);
  const segments = await listWhole(folder);
  const closed = segments.slice(0, -1);
  const lastSegment = segments.at(-1) ?? FIRST_SEGMENT;
  const heads = await readHeads(folder);
  const walk = beginWalk(heads.sizes);
  const { position, roots } = walk;
  let closedBytes = 0;
  for (const segment of closed) closedBytes += await takeClosed(folder, segment, walk);
  const found = await takeLast(folder, lastSegment, walk);
  const last = found.last ?? (await lastLineBefore(folder, closed));
  if (found.last === undefined && last !== undefined) position.epoch = epochOf(last) ?? 0;

  const isNew = position.tree.size === 0 && found.tail.byteLength === 0;
  const signer = await judgeSigner(stateDir, folder, isNew);
  const signedSize = judgeHead(folder, CHECKPOINT_FILE, heads.newest, signer, roots);
  const keptSize = judgeHead(folder, CHECKPOINTS_FILE, heads.lastKept, signer, roots);
  requireHeads(folder, position, heads, keptSize);
  const epochKey = await judgeEpochKey(stateDir, folder, position, last);
  return { folder, lastSegment, found, position, signer, epochKey, heads, signedSize, keptSize, closedBytes };
}

async function makeFolder(stateDir: string, folder: string): Promise<void> {
  try {
    await promises.mkdir(folder, { mode: 0o700 });
    await syncFolder(stateDir);
  } catch (error) {
    if (!isSystemError(error, "EEXIST")) throw error;
  }
}

/** Makes what a new log needs, and mends what a crash left. Killed anywhere in between, the next start does it again. */
async function mend(stateDir: string, judged: Judged): Promise<{ signer: NoteSigner; epochKey: EpochKey }> {
  const { folder, lastSegment, found, heads } = judged;
  let epochKey = judged.epochKey?.key;
  try {
    await makeFolder(stateDir, folder);
    await removeTemporary(folder);
    const signer = judged.signer ?? (await makeSigner(stateDir, folder));
    epochKey ??= await ensureEpochKey(stateDir);
    if (judged.epochKey?.isReplaced === false) await replaceEpochKey(stateDir, epochKey);
    if (heads.keptBytes < heads.fileBytes) await cut(join(folder, CHECKPOINTS_FILE), heads.keptBytes);
    await setAside(folder, lastSegment.number, found.tail);
    // Synced even if nothing is cut off: whole lines that nobody acknowledged are about to be signed.
    if (lastSegment.hasLines) await cut(join(folder, segmentFile(lastSegment.number, "jsonl")), found.linesBytes);
    if (found.owed.length > 0 || found.keptBytes > 0) await appendOwed(folder, lastSegment.number, found);
    return { signer, epochKey };
  } catch (error) {
    if (epochKey !== undefined) wipeEpochKey(epochKey);
    throw error;
  }
}

/** Reads the log of a state, and mends what a crash left. A state without a log gets an empty one. */
export async function recoverLog(stateDir: string): Promise<RecoveredLog> {
  const judged = await judgeLog(stateDir);
  const { folder, position, found, lastSegment, heads, signedSize, keptSize, closedBytes } = judged;
  const mended = await mend(stateDir, judged);
  const leavesBytes = position.segmentEntries * NODE_BYTES;
  return {
    folder,
    position,
    ends: {
      segment: lastSegment.number,
      segmentBytes: found.linesBytes,
      leavesBytes,
      checkpointsBytes: heads.keptBytes,
    },
    ...mended,
    signedSize,
    keptSize,
    bytes: closedBytes + found.linesBytes + leavesBytes,
    torn: await findTorn(folder),
  };
}
