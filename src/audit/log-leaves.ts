/**
 * The leaf hashes of a log in the order of seq: what proofs are made of. Those of a closed segment were kept in a file;
 * those of the last one may lag behind its lines, so its lines are hashed. Nothing here is believed: whoever makes a
 * proof holds it against a signed root. One segment is in memory at a time, 9 MiB, and the last one.
 */
import { closeSync, constants, fstatSync, openSync, promises, readSync } from "node:fs";
import { join } from "node:path";
import { assert } from "../assert.ts";
import { LIMITS } from "../limits.ts";
import { listSegments, readLines, type Segment, segmentFile, unreadable } from "./segments.ts";
import { leafHash, NODE_BYTES } from "./tree.ts";

export interface LogLeaves {
  /** Entries whose leaf hash is known. */
  readonly size: number;
  /** The leaf hashes [start, end), joined. Reads files, and does not wait: proofs are made in one go. */
  read(start: number, end: number): Uint8Array;
  /** The line at `seq` without its line feed; undefined if it was pruned, empty if it is not where it should be. */
  line(seq: number): Promise<Uint8Array | undefined>;
}

/** Where the leaf hashes of a segment are. */
interface Part {
  readonly segment: Segment;
  readonly firstSeq: number;
  readonly count: number;
  /** Hashed from the lines; undefined if they lie in the segment's file. */
  readonly hashed: Uint8Array | undefined;
}

async function hashLines(folder: string, number: number): Promise<Uint8Array> {
  const leaves: Uint8Array[] = [];
  for await (const { lines } of readLines(folder, number)) {
    for (const line of lines) leaves.push(leafHash(line));
  }
  return Buffer.concat(leaves);
}

/** Whole leaf hashes that were kept; undefined where lines are there and tell more. */
async function countKept(folder: string, { number, hasLines, hasLeaves }: Segment): Promise<number | undefined> {
  if (!hasLeaves) return undefined;
  const path = join(folder, segmentFile(number, "leaves"));
  const stats = await promises.lstat(path).catch((cause: unknown) => {
    throw unreadable(path, cause);
  });
  if (!stats.isFile() || stats.size > LIMITS.auditLeavesBytes) throw unreadable(path);
  const { size } = stats;
  return hasLines && (size === 0 || size % NODE_BYTES !== 0) ? undefined : Math.floor(size / NODE_BYTES);
}

/** The file of a segment's leaf hashes, read at once and without waiting. */
function readKept(folder: string, { segment, count }: Part): Uint8Array {
  const path = join(folder, segmentFile(segment.number, "leaves"));
  const bytes = new Uint8Array(count * NODE_BYTES);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (cause) {
    throw unreadable(path, cause);
  }
  try {
    let filled = 0;
    while (fstatSync(fd).isFile() && filled < bytes.byteLength) {
      const bytesRead = readSync(fd, bytes, filled, bytes.byteLength - filled, filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    if (filled < bytes.byteLength) throw unreadable(path);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

async function findLine(folder: string, { segment, firstSeq }: Part, seq: number): Promise<Uint8Array | undefined> {
  if (!segment.hasLines) return undefined;
  let next = firstSeq;
  for await (const { lines } of readLines(folder, segment.number)) {
    const line = lines[seq - next];
    if (line !== undefined) return line;
    next += lines.length;
  }
  return new Uint8Array(0);
}

/** Lists the leaf hashes of the log in `folder`. `STATE_INVALID` if it cannot be read. */
export async function openLogLeaves(folder: string): Promise<LogLeaves> {
  const { segments } = await listSegments(folder);
  const parts: Part[] = [];
  let size = 0;
  for (const segment of segments) {
    const isLast = segment === segments.at(-1);
    const kept = isLast && segment.hasLines ? undefined : await countKept(folder, segment);
    const hashed = kept === undefined ? await hashLines(folder, segment.number) : undefined;
    const count = kept ?? (hashed?.byteLength ?? 0) / NODE_BYTES;
    parts.push({ segment, firstSeq: size, count, hashed });
    size += count;
  }
  const partOf = (seq: number): Part => {
    const part = parts.find(({ firstSeq, count }) => seq < firstSeq + count);
    assert(part !== undefined, "the leaf is within the log");
    return part;
  };
  let cached: { readonly part: Part; readonly leaves: Uint8Array } | undefined;
  const leavesOf = (part: Part): Uint8Array => {
    if (part.hashed !== undefined) return part.hashed;
    if (cached?.part !== part) cached = { part, leaves: readKept(folder, part) };
    return cached.leaves;
  };
  return {
    size,
    read: (start, end) => {
      const out = new Uint8Array((end - start) * NODE_BYTES);
      for (let seq = start; seq < end; ) {
        const part = partOf(seq);
        const until = Math.min(end, part.firstSeq + part.count);
        const [from, to] = [(seq - part.firstSeq) * NODE_BYTES, (until - part.firstSeq) * NODE_BYTES];
        out.set(leavesOf(part).subarray(from, to), (seq - start) * NODE_BYTES);
        seq = until;
      }
      return out;
    },
    line: (seq) => findLine(folder, partOf(seq), seq),
  };
}
