/**
 * The files of an audit log, read while a writer may be adding to them (docs/audit.md). In STATE/audit:
 *
 *     000001.jsonl, 000002.jsonl, …   lines; the last one grows, the others are closed
 *     000001.leaves, …                the leaf hash of each of those lines, 32 bytes each, kept when the lines are pruned
 *     checkpoint, checkpoints, log.vkey   stored-checkpoints.ts
 *
 * Lines come as bytes, in pieces of 1 MiB: a log does not have to fit into memory. Nothing is ever written here. What
 * cannot be read is `STATE_INVALID`; what can be read and is wrong is for the caller to judge.
 */
import { constants, promises } from "node:fs";
import { join } from "node:path";
import { VramError } from "../errors.ts";
import { isSystemError } from "../files.ts";
import { LIMITS } from "../limits.ts";

/** The files of one segment. One of both is there. */
export interface Segment {
  /** 1, 2, … */
  readonly number: number;
  readonly hasLines: boolean;
  readonly hasLeaves: boolean;
}

const SEGMENT_FILE = /^([0-9]{6})\.(jsonl|leaves)$/;
const LF = 0x0a;

/** The name of a segment's file: `000001.jsonl`. */
export function segmentFile(number: number, kind: "jsonl" | "leaves"): string {
  return `${String(number).padStart(6, "0")}.${kind}`;
}

export const unreadable = (path: string, cause?: unknown): VramError =>
  new VramError("STATE_INVALID", `${path}: cannot be read as a part of an audit log`, { cause });

/** The segments of a log by number, and file names that look like segments but are none. */
export interface Segments {
  readonly segments: readonly Segment[];
  readonly strays: readonly string[];
}

/** Lists the segments in `folder`. */
export async function listSegments(folder: string): Promise<Segments> {
  const names = await promises.readdir(folder).catch((cause: unknown) => {
    throw unreadable(folder, cause);
  });
  const kinds = new Map<number, Set<string>>();
  const strays: string[] = [];
  for (const name of names.sort()) {
    const [, digits = "", kind = ""] = SEGMENT_FILE.exec(name) ?? [];
    const number = Number(digits);
    if (number > 0) kinds.set(number, (kinds.get(number) ?? new Set()).add(kind));
    else if (/\.(?:jsonl|leaves)$/.test(name)) strays.push(name);
  }
  const segments = [...kinds]
    .sort(([a], [b]) => a - b)
    .map(([number, kind]) => ({ number, hasLines: kind.has("jsonl"), hasLeaves: kind.has("leaves") }));
  return { segments, strays };
}

/** Opens a regular file, following no last link and waiting for nothing. */
export async function openFile(path: string): Promise<promises.FileHandle> {
  try {
    const file = await promises.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (cause) {
    throw unreadable(path, cause);
  }
  throw unreadable(path);
}

/** All bytes of a file of at most `limit` bytes; undefined if there is no such file. */
export async function readWhole(path: string, limit: number): Promise<Uint8Array | undefined> {
  const exists = await promises.lstat(path).then(
    () => true,
    (cause: unknown) => {
      if (isSystemError(cause, "ENOENT")) return false;
      throw unreadable(path, cause);
    },
  );
  if (!exists) return undefined;
  const file = await openFile(path);
  try {
    // A file that grows meanwhile is read as far as it went.
    const { size } = await file.stat();
    if (size > limit) throw unreadable(path);
    const buffer = Buffer.alloc(size);
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(buffer, filled, size - filled, filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return buffer.subarray(0, filled);
  } finally {
    await file.close();
  }
}

/** The leaf hashes of a segment, joined. The file may end within a hash: its writer may be at work. */
export async function readLeaves(folder: string, number: number): Promise<Uint8Array> {
  const path = join(folder, segmentFile(number, "leaves"));
  return (await readWhole(path, LIMITS.auditLeavesBytes)) ?? new Uint8Array(0);
}

/** Some lines of a segment. The bytes are not written to again. */
export interface LineBatch {
  /** Without line feeds. A line that is too long comes cut to 65,535 bytes, which no line has. */
  readonly lines: readonly Uint8Array[];
  /** What stands behind the last line feed; only in the last batch of a segment, which always comes. */
  readonly tail: Uint8Array | undefined;
}

/** Takes pieces of a file and gives lines. */
function createSplitter(): { carry: Uint8Array; split(bytes: Uint8Array): Uint8Array[] } {
  let isSkipping = false;
  const splitter = {
    carry: new Uint8Array(0) as Uint8Array,
    /** `bytes` begins with what was carried. */
    split: (bytes: Uint8Array): Uint8Array[] => {
      const lines: Uint8Array[] = [];
      // A Buffer finds bytes faster, a Uint8Array makes parts faster.
      const searched = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      let start = 0;
      for (let end = searched.indexOf(LF); end !== -1; end = searched.indexOf(LF, start)) {
        if (!isSkipping) lines.push(bytes.subarray(start, Math.min(end, start + LIMITS.auditLineBytes)));
        isSkipping = false;
        start = end + 1;
      }
      splitter.carry = isSkipping ? bytes.subarray(0, 0) : bytes.subarray(start);
      if (splitter.carry.byteLength >= LIMITS.auditLineBytes) {
        lines.push(splitter.carry.subarray(0, LIMITS.auditLineBytes));
        splitter.carry = bytes.subarray(0, 0);
        isSkipping = true;
      }
      return lines;
    },
  };
  return splitter;
}

/** Reads the lines of a segment as far as the file goes. */
export async function* readLines(folder: string, number: number): AsyncGenerator<LineBatch> {
  const path = join(folder, segmentFile(number, "jsonl"));
  const file = await openFile(path);
  try {
    const splitter = createSplitter();
    for (let bytesRead = 1; bytesRead > 0; ) {
      const { carry } = splitter;
      // Each piece has memory of its own: its lines are looked at after the next one was read.
      const buffer = new Uint8Array(carry.byteLength + LIMITS.auditReadBytes);
      buffer.set(carry);
      ({ bytesRead } = await file.read(buffer, carry.byteLength, LIMITS.auditReadBytes, null));
      const lines = splitter.split(buffer.subarray(0, carry.byteLength + bytesRead));
      yield { lines, tail: bytesRead === 0 ? splitter.carry : undefined };
    }
  } finally {
    await file.close();
  }
}
