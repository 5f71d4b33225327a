/**
 * Reads the segments of a log in their order and hands every line to the chain: whole, by its kept leaf hash where the
 * line was pruned or is not asked for, or not at all. Judges what is wrong with the files themselves: a missing one, a
 * line that is cut off, kept leaf hashes that are not as many as the lines.
 */
import { isSystemError } from "../files.ts";
import type { KeptLeaves, LineChain } from "./line-chain.ts";
import type { ProblemList } from "./log-report.ts";
import { listSegments, readLeaves, readLines, type Segment } from "./segments.ts";
import { NODE_BYTES } from "./tree.ts";

/** A log that is being read: what was asked for, and what was found so far. */
export interface LogReading {
  readonly folder: string;
  readonly problems: ProblemList;
  readonly chain: LineChain;
  /** Entries that stored log checkpoints cover, by what they say. */
  readonly signedSize: number;
  readonly from: number;
  readonly to: number;
  linesRead: number;
  prunedEntries: number;
  /** Entries that were taken by their kept hashes because they lie before `from`. */
  skippedEntries: number;
  inProgressBytes: number;
  endedEarly: boolean;
}

const wholeHashes = (leaves: Uint8Array): number => Math.floor(leaves.byteLength / NODE_BYTES);

/** Takes a segment by its kept leaf hashes. */
function skipSegment(run: LogReading, { number, hasLines }: Segment, leaves: Uint8Array): void {
  const first = run.chain.pushed;
  run.chain.skip(leaves);
  const last = run.chain.next - 1;
  if (leaves.byteLength % NODE_BYTES !== 0) {
    run.chain.breakOff();
    const message = `segment ${number}: its kept leaf hashes end within a hash`;
    run.problems.add({ reason: "leaves", seq: last + 1, lastSeq: last + 1, message });
  }
  if (hasLines) {
    run.skippedEntries += last + 1 - first;
  } else if (run.linesRead + run.skippedEntries > 0) {
    const message = `segment ${number}: its lines are gone, and lines before it are there`;
    run.problems.add({ reason: "missing", seq: first, lastSeq: Math.max(first, last), message });
  } else {
    run.prunedEntries += last + 1 - first;
  }
}

/** What stands behind the last line feed of a segment. */
function judgeTail(run: LogReading, { number }: Segment, isLast: boolean, tail: Uint8Array): void {
  if (tail.byteLength === 0) return;
  if (isLast) run.chain.flush();
  const seq = run.chain.pushed;
  if (isLast && seq >= run.signedSize) {
    run.inProgressBytes = tail.byteLength;
    return;
  }
  run.chain.breakOff();
  run.problems.add({ reason: "tail", seq, lastSeq: seq, message: `segment ${number}: its last line is cut off` });
}

/** Compares how many leaf hashes were kept with how many lines there are. */
function judgeKept(run: LogReading, kept: KeptLeaves, lineCount: number, number: number, isLast: boolean): void {
  const count = wholeHashes(kept.leaves);
  const isComplete = count === lineCount && kept.leaves.byteLength % NODE_BYTES === 0;
  // Those of the last segment are written behind the lines. And what was found already is not told twice.
  if (isComplete || (isLast && count <= lineCount) || run.problems.total > 0) return;
  const seq = kept.firstSeq + Math.min(count, lineCount);
  const lastSeq = Math.max(seq, kept.firstSeq + Math.max(count, lineCount) - 1);
  const message = `segment ${number}: ${lineCount} lines and ${count} kept leaf hashes`;
  run.problems.add({ reason: "leaves", seq, lastSeq, message });
}

/** Segments that were pruned after they were listed, by a writer at work, are taken by their kept leaf hashes. */
async function readUnlessPruned(
  run: LogReading,
  segment: Segment,
  isLast: boolean,
  kept: KeptLeaves | undefined,
): Promise<void> {
  try {
    await readSegment(run, segment, isLast, kept);
  } catch (error) {
    const isGone = error instanceof Error && isSystemError(error.cause, "ENOENT");
    if (!isGone || kept === undefined) throw error;
    const { segments } = await listSegments(run.folder);
    if (segments.some(({ number, hasLines }) => hasLines && number <= segment.number)) throw error;
    skipSegment(run, segment, kept.leaves);
  }
}

async function readSegment(
  run: LogReading,
  segment: Segment,
  isLast: boolean,
  kept: KeptLeaves | undefined,
): Promise<void> {
  const { number } = segment;
  let lineCount = 0;
  for await (const { lines, tail } of readLines(run.folder, number)) {
    for (const bytes of lines) {
      run.endedEarly = run.chain.next > run.to;
      if (run.endedEarly) return;
      lineCount += 1;
      run.linesRead += 1;
      run.chain.push(bytes, number, lineCount, kept);
    }
    if (tail !== undefined) judgeTail(run, segment, isLast, tail);
  }
  if (isLast) run.chain.flush();
  if (kept !== undefined) judgeKept(run, kept, lineCount, number, isLast);
}

/** Reads the segments in order, as far as was asked for. */
export async function readSegments(run: LogReading): Promise<void> {
  const { segments, strays } = await listSegments(run.folder);
  for (const name of strays) {
    run.problems.add({ reason: "file", seq: 0, lastSeq: 0, message: `${name}: not the name of a segment` });
  }
  const lastNumber = segments.at(-1)?.number;
  let number = 0;
  // By the kept leaf hashes themselves: lines that were put in or taken out do not move them.
  let keptSeq = 0;
  for (const segment of segments) {
    number += 1;
    if (segment.number !== number) {
      const seq = run.chain.pushed;
      run.chain.breakOff();
      const message = `segment ${number} is missing, and segment ${segment.number} is there`;
      run.problems.add({ reason: "segment", seq, lastSeq: seq, message });
      number = segment.number;
    }
    const isLast = number === lastNumber;
    const leaves = segment.hasLeaves ? await readLeaves(run.folder, number) : undefined;
    const kept = leaves === undefined ? undefined : { firstSeq: keptSeq, leaves, mayLag: isLast };
    const keptEnd = keptSeq + (leaves === undefined ? 0 : wholeHashes(leaves));
    const isBefore = !isLast && keptEnd <= run.from;
    if (leaves !== undefined && (isBefore || !segment.hasLines)) skipSegment(run, segment, leaves);
    else await readUnlessPruned(run, segment, isLast, kept);
    keptSeq = leaves === undefined ? run.chain.pushed : keptEnd;
    run.endedEarly ||= run.chain.next > run.to && !isLast;
    if (run.endedEarly) return;
  }
  run.chain.flush();
}
