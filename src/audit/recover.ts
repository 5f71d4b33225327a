/**
 * Continuing a log: from its files to the position behind its last line, by the same `applyLine` as the writer. What a
 * crash can leave behind is mended here and nothing else is: an unterminated last line (set aside into `*.torn`), leaf
 * hashes that lag behind their lines, a log checkpoint cut off within `checkpoints`, a key one epoch behind the last
 * line. Whatever a crash cannot explain is damage: `STATE_INVALID`, nothing is changed, `vram audit verify` says more.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { constantTimeEqual } from "../bytes.ts";
import { isSystemError, replaceFile, syncFolder } from "../files.ts";
import { LIMITS } from "../limits.ts";
import type { LogEnds } from "./durable.ts";
import type { EpochKey } from "./epochs.ts";
import { auditFolder } from "./key-files.ts";
import type { NoteSigner } from "./note.ts";
import { applyLine, beginSegment, createPosition, type LogPosition } from "./position.ts";
import { cut, damaged, findEpochKey, findKept, findSigned, findSigner } from "./recover-keys.ts";
import { listSegments, readLeaves, readLines, readWhole, type Segment, segmentFile } from "./segments.ts";
import { leafHash, NODE_BYTES } from "./tree.ts";

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

/** A last line that was cut off by a crash, and now lies in a file of its own. */
export interface TornLine {
  readonly segment: number;
  readonly byteLength: number;
  /** `NNNNNN.torn.new`, to be called `NNNNNN.torn` once it is on record. */
  readonly file: string;
}

const TORN_NEW = /^([0-9]{6})\.torn\.new$/;

/** The leaf hashes of a segment that is closed: all of them, or the log is damaged. */
async function takeClosed(folder: string, segment: Segment, position: LogPosition): Promise<number> {
  const leaves = await readLeaves(folder, segment.number);
  if (leaves.byteLength === 0 || leaves.byteLength % NODE_BYTES !== 0) {
    throw damaged(folder, `${segmentFile(segment.number, "leaves")} is missing or incomplete`);
  }
  beginSegment(position);
  for (let at = 0; at < leaves.byteLength; at += NODE_BYTES) {
    applyLine(position, leaves.subarray(at, at + NODE_BYTES), undefined);
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

async function takeLast(folder: string, segment: Segment, position: LogPosition): Promise<LastSegment> {
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
        if (there.byteLength < NODE_BYTES) owed.push(leaf);
        else if (!constantTimeEqual(there, leaf)) throw damaged(folder, `line ${position.tree.size} was changed`);
        applyLine(position, leaf, epochOf(line));
        linesBytes += line.byteLength + 1;
        last = line;
      }
      tail = batch.tail ?? tail;
    }
  }
  const keptBytes = (position.segmentEntries - owed.length) * NODE_BYTES;
  if (kept.byteLength - keptBytes >= NODE_BYTES) {
    throw damaged(folder, `${segmentFile(segment.number, "jsonl")} has fewer lines than there are leaf hashes`);
  }
  return { linesBytes, tail, keptBytes, owed, last };
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

/** Puts an unterminated last line aside. After a crash in between it is put aside again: nothing is lost. */
async function setAside(folder: string, segment: number, { linesBytes, tail }: LastSegment): Promise<void> {
  if (tail.byteLength === 0) return;
  const path = join(folder, `${segmentFile(segment, "jsonl").slice(0, 6)}.torn.new`);
  const before = (await readWhole(path, LIMITS.auditSegmentBytes)) ?? new Uint8Array(0);
  await replaceFile(path, Buffer.concat([before, before.byteLength > 0 ? Buffer.from("\n") : before, tail]));
  await cut(join(folder, segmentFile(segment, "jsonl")), linesBytes);
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

/** Torn lines that were put aside and are not on record yet. */
async function findTorn(folder: string): Promise<TornLine[]> {
  const found: TornLine[] = [];
  for (const file of (await promises.readdir(folder)).sort()) {
    const [, digits] = TORN_NEW.exec(file) ?? [];
    if (digits === undefined) continue;
    const { size } = await promises.stat(join(folder, file));
    found.push({ segment: Number(digits), byteLength: size, file });
  }
  return found;
}

/** Remembers that `audit_recovered` is on disk. */
export async function settleTorn(folder: string, { file }: TornLine): Promise<void> {
  await promises.rename(join(folder, file), join(folder, file.slice(0, -".new".length)));
  await syncFolder(folder);
}

async function makeFolder(folder: string): Promise<void> {
  await promises.mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
    if (!isSystemError(error, "EEXIST")) throw error;
  });
}

/** Reads the log of a state, and mends what a crash left. A state without a log gets an empty one. */
export async function recoverLog(stateDir: string): Promise<RecoveredLog> {
  const folder = auditFolder(stateDir);
  await makeFolder(folder);
  const { segments } = await listSegments(folder);
  const position = createPosition();
  const closed = segments.slice(0, -1);
  const lastSegment = segments.at(-1) ?? { number: 1, hasLines: false, hasLeaves: false };
  if (segments.some(({ number }, index) => number !== index + 1)) throw damaged(folder, "a segment is missing");
  let bytes = 0;
  for (const segment of closed) bytes += await takeClosed(folder, segment, position);
  const found = await takeLast(folder, lastSegment, position);
  const last = found.last ?? (await lastLineBefore(folder, closed));
  if (found.last === undefined && last !== undefined) position.epoch = epochOf(last) ?? 0;
  const entries = position.tree.size;

  const signer = await findSigner(stateDir, folder, entries === 0 && found.tail.byteLength === 0);
  const signed = await findSigned(folder, signer, entries);
  const epochKey = await findEpochKey(stateDir, folder, position, last);
  const kept = await findKept(folder, signer);
  await setAside(folder, lastSegment.number, found);
  if (found.owed.length > 0 || found.keptBytes > 0) await appendOwed(folder, lastSegment.number, found);
  const leavesBytes = position.segmentEntries * NODE_BYTES;
  return {
    folder,
    position,
    ends: {
      segment: lastSegment.number,
      segmentBytes: found.linesBytes,
      leavesBytes,
      checkpointsBytes: kept.bytes,
    },
    epochKey,
    signer,
    signedSize: signed?.size ?? 0,
    keptSize: kept.size,
    bytes: bytes + found.linesBytes + leavesBytes,
    torn: await findTorn(folder),
  };
}
