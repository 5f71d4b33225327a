/**
 * The end of a log, and what is added to it: for people who look on. Finds the last lines from behind, in pieces, and
 * reads forward from there, over segment changes, as often as asked. Only whole lines are given out. Nothing is judged
 * here: whoever wants to rely on a line verifies the log.
 */
import { join } from "node:path";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { listSegments, openFile, segmentFile } from "./segments.ts";

const LF = 0x0a;

/** A place between two lines. */
export interface LogPlace {
  readonly segment: number;
  /** Bytes of the segment before it. */
  readonly offset: number;
}

/** Read at a time from behind: some hundred lines. */
const PIECE_BYTES = 64 * 1024;

async function segmentNumbers(folder: string): Promise<readonly number[]> {
  const { segments } = await listSegments(folder);
  return segments.filter(({ hasLines }) => hasLines).map(({ number }) => number);
}

/** What was found in one segment: where the last `count` lines begin, or how many lines it has if they are fewer. */
type FromBehind = { readonly offset: number } | { readonly lineCount: number };

/** Goes back over `count` + 1 line feeds: the last lines begin behind the one that was found last. */
async function lookBack(path: string, count: number): Promise<FromBehind> {
  const file = await openFile(path);
  try {
    const piece = Buffer.alloc(PIECE_BYTES);
    let lineCount = 0;
    for (let end = (await file.stat()).size; end > 0; ) {
      const start = Math.max(0, end - PIECE_BYTES);
      const { bytesRead } = await file.read(piece, 0, end - start, start);
      for (let at = piece.subarray(0, bytesRead).lastIndexOf(LF); at !== -1; ) {
        if (lineCount === count) return { offset: start + at + 1 };
        lineCount += 1;
        at = at === 0 ? -1 : piece.lastIndexOf(LF, at - 1);
      }
      end = start;
    }
    return { lineCount };
  } finally {
    await file.close();
  }
}

/** Where the last `count` whole lines of the log begin; its beginning if it has fewer. */
export async function findTail(folder: string, count: number): Promise<LogPlace> {
  const numbers = await segmentNumbers(folder);
  let wanted = count;
  for (const segment of numbers.toReversed()) {
    const found = await lookBack(join(folder, segmentFile(segment, "jsonl")), wanted);
    if ("offset" in found) return { segment, offset: found.offset };
    wanted -= found.lineCount;
  }
  return { segment: numbers[0] ?? 1, offset: 0 };
}

/** Reads on from a place, as far as the log goes at that moment. */
export interface LogFollower {
  /**
   * The next whole lines without their line feeds, in order; none if there are no more yet. A line that is too long
   * comes cut to 65,535 bytes. `STATE_INVALID` if what was given out before is gone.
   */
  read(): Promise<readonly Uint8Array[]>;
}

interface Following {
  readonly folder: string;
  place: LogPlace;
  /** Within a line that was too long. */
  isSkipping: boolean;
}

/** Bytes of the segment from the place on, at most 1 MiB; none if there is no such segment yet. */
async function readPiece({ folder, place }: Following): Promise<Uint8Array> {
  const path = join(folder, segmentFile(place.segment, "jsonl"));
  const file = await openFile(path);
  try {
    if ((await file.stat()).size < place.offset) {
      throw new VramError("STATE_INVALID", `${path}: became shorter than what was read of it`, {
        fix: "`vram audit verify` says what is wrong with the log",
      });
    }
    const bytes = new Uint8Array(LIMITS.auditReadBytes);
    const { bytesRead } = await file.read(bytes, 0, bytes.byteLength, place.offset);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Takes whole lines from the front of what was read, and moves behind them. */
function takeLines(following: Following, bytes: Uint8Array): Uint8Array[] {
  const searched = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lines: Uint8Array[] = [];
  let start = 0;
  for (let end = searched.indexOf(LF); end !== -1; end = searched.indexOf(LF, start)) {
    if (!following.isSkipping) lines.push(bytes.subarray(start, Math.min(end, start + LIMITS.auditLineBytes)));
    following.isSkipping = false;
    start = end + 1;
  }
  if (bytes.byteLength - start >= LIMITS.auditLineBytes) {
    if (!following.isSkipping) lines.push(bytes.subarray(start, start + LIMITS.auditLineBytes));
    following.isSkipping = true;
    start = bytes.byteLength;
  }
  const { segment, offset } = following.place;
  following.place = { segment, offset: offset + start };
  return lines;
}

async function readOn(following: Following): Promise<readonly Uint8Array[]> {
  for (;;) {
    const { segment, offset } = following.place;
    // Asked first: a segment that has a successor has all of its lines.
    const numbers = await segmentNumbers(following.folder);
    const bytes = numbers.includes(segment) ? await readPiece(following) : new Uint8Array(0);
    const lines = takeLines(following, bytes);
    if (lines.length > 0) return lines;
    if (following.place.offset > offset) continue;
    const next = numbers.find((number) => number > segment);
    if (next === undefined) return [];
    following.place = { segment: next, offset: 0 };
    following.isSkipping = false;
  }
}

/** Reads the log in `folder` on from `place`. */
export function followLog(folder: string, place: LogPlace): LogFollower {
  const following: Following = { folder, place, isSkipping: false };
  return { read: () => readOn(following) };
}
