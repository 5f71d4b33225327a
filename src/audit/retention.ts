/**
 * Which segments are old enough to be pruned (VR-AUD-05): the first ones, whole, closed, and older than what is kept. Age
 * is that of the last line, by the clock it was written with. Leaf hashes stay for the log's life.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../limits.ts";
import { parseLine } from "./parse-line.ts";
import { listSegments, segmentFile } from "./segments.ts";
import { NODE_BYTES } from "./tree.ts";

export const DAY_MS = 24 * 3600 * 1000;

/** What pruning does to a log, and whom it tells. */
export interface Pruning {
  readonly folder: string;
  /** The segment that is being written. */
  current(): number;
  /** Lines whose segment ends before this may go. Milliseconds since 1970. */
  oldestMs(): number;
  /** Puts on record what is about to be removed. */
  record(told: Pick<Expired, "entries" | "prunedEntries"> & { readonly lastSegment: number }): Promise<void>;
  remove(segment: number): Promise<void>;
  /** What cannot be pruned now is tried again with the next segment, or tomorrow. */
  onFailure(thrown: unknown): void;
}

/** Prunes what is too old. Resolves to the bytes of lines that are gone; asked again while it works, to 0 at once. */
export function createPruner(pruning: Pruning): () => Promise<number> {
  let isPruning = false;
  return async () => {
    if (isPruning) return 0;
    isPruning = true;
    try {
      const { segments, byteLength, ...counts } = await findExpired(
        pruning.folder,
        pruning.current(),
        pruning.oldestMs(),
      );
      const lastSegment = segments.at(-1);
      if (lastSegment === undefined) return 0;
      await pruning.record({ ...counts, lastSegment });
      for (const segment of segments) await pruning.remove(segment);
      return byteLength;
    } catch (thrown) {
      pruning.onFailure(thrown);
      return 0;
    } finally {
      isPruning = false;
    }
  };
}

/** Segments to be pruned. */
export interface Expired {
  readonly segments: readonly number[];
  /** Entries in them. */
  readonly entries: number;
  /** Entries pruned since the log began, these included. */
  readonly prunedEntries: number;
  /** Bytes of lines in them. */
  readonly byteLength: number;
}

/** Milliseconds since 1970 of the last line of a closed segment; undefined if it has none that can be read. */
async function lastTimeOf(path: string): Promise<number | undefined> {
  const file = await promises.open(path, "r");
  try {
    const { size } = await file.stat();
    const length = Math.min(size, 2 * LIMITS.auditLineBytes);
    const bytes = Buffer.alloc(length);
    await file.read(bytes, 0, length, size - length);
    const start = bytes.lastIndexOf("\n", -2) + 1;
    const parsed = parseLine(bytes.subarray(start, -1));
    return parsed.ok ? parsed.line.timeMs : undefined;
  } finally {
    await file.close();
  }
}

/** The segments before `current` whose last line is older than `beforeMs`. The first that is not ends the search. */
export async function findExpired(folder: string, current: number, beforeMs: number): Promise<Expired> {
  const { segments } = await listSegments(folder);
  const expired: number[] = [];
  let entries = 0;
  let prunedEntries = 0;
  let byteLength = 0;
  for (const { number, hasLines, hasLeaves } of segments) {
    if (number >= current || !hasLeaves) break;
    const count = (await promises.stat(join(folder, segmentFile(number, "leaves")))).size / NODE_BYTES;
    if (hasLines) {
      const path = join(folder, segmentFile(number, "jsonl"));
      const timeMs = await lastTimeOf(path);
      if (timeMs === undefined || timeMs >= beforeMs) break;
      expired.push(number);
      entries += count;
      byteLength += (await promises.stat(path)).size;
    }
    prunedEntries += count;
  }
  return { segments: expired, entries, prunedEntries, byteLength };
}
