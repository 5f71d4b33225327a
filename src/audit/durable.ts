/**
 * The order of system calls that makes the log survive a crash at any point: what is acknowledged is there, and every
 * state in between is one that `recover.ts` continues from. Each line is one call or two; an arrow is an await.
 *
 *     commit        pwrite lines → fdatasync → acknowledged → pwrite leaf hashes (not synced: they follow from the lines)
 *     sign          write checkpoint.tmp → fdatasync → rename over `checkpoint`
 *     close epoch   sign → fsync folder → pwrite the same note to `checkpoints` → fdatasync
 *     next epoch    close epoch → commit `epoch_started` → replace K (key-files.ts)
 *     next segment  close epoch → fdatasync leaf hashes → create lines, create leaf hashes → fsync folder → next epoch
 *     prune         commit `audit_pruned` → unlink lines → fsync folder
 *
 * A write that fails has written nothing: the file is cut back to what was acknowledged, and the next try may succeed
 * (a full disk). An fsync that fails ends everything: the kernel has forgotten which pages were lost, and the next
 * fsync would lie (postgresql.org/wiki/Fsync_Errors). That error is `final`.
 */
import { constants, promises } from "node:fs";
import { join } from "node:path";
import { VramError } from "../errors.ts";
import { isSystemError, syncFolder } from "../files.ts";
import { segmentFile } from "./segments.ts";
import { CHECKPOINT_FILE, CHECKPOINTS_FILE } from "./stored-checkpoints.ts";

/** How files are opened; tests hand in a disk that is full or fails. */
export type OpenFile = (path: string, flags: number, mode: number) => Promise<promises.FileHandle>;

/** The files of a log that is being written. One call at a time. */
export interface LogFiles {
  /** Bytes of lines in the last segment. */
  readonly segmentBytes: number;
  readonly segment: number;
  /** Appends whole lines; they are on disk when it returns. */
  appendLines(lines: Uint8Array): Promise<void>;
  /** Appends leaf hashes. What cannot be written now is written with the next ones. */
  appendLeaves(leaves: readonly Uint8Array[]): Promise<void>;
  /** Replaces the newest log checkpoint. */
  replaceCheckpoint(note: Uint8Array): Promise<void>;
  /** Appends the log checkpoint of a closed epoch. */
  keepCheckpoint(note: Uint8Array): Promise<void>;
  /** Closes the last segment and begins the next. */
  nextSegment(): Promise<void>;
  /** Removes the lines of a closed segment. */
  removeLines(segment: number): Promise<void>;
  close(): Promise<void>;
}

/** What the system said, without the path: this goes into entries. */
function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  if (!("syscall" in cause)) return cause.message;
  return cause.message.replace(/, [a-z]+ '.*$/s, "");
}

/** The refusal of an entry. `final`: this process writes no more of them. */
export function auditUnavailable(message: string, final: boolean, cause?: unknown): VramError {
  const why = cause === undefined ? message : `${message}: ${reasonOf(cause)}`;
  return new VramError("AUDIT_UNAVAILABLE", why, {
    cause,
    details: { final },
    fix: final ? "check the disk, then restart" : "make room on the disk of the state directory, then try again",
  });
}

/** Whether nothing is written any more after this error: an fsync that failed, and whatever nobody has foreseen. */
export function isFinal(error: unknown): boolean {
  if (!(error instanceof VramError)) return true;
  return error.code !== "INVALID_ARGUMENT" && error.details["final"] !== false;
}

/** The system has no room, and said so before anything had to be synced. */
export function isFull(error: unknown): boolean {
  const isSync = error instanceof Error && "syscall" in error && /sync$/.test(String(error.syscall));
  return !isSync && (isSystemError(error, "ENOSPC") || isSystemError(error, "EDQUOT"));
}

const APPEND = constants.O_WRONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
const CREATE = APPEND | constants.O_CREAT | constants.O_EXCL;
const REPLACE = APPEND | constants.O_CREAT | constants.O_TRUNC;

/** A file that only grows, and how much of it counts. */
interface Growing {
  readonly file: promises.FileHandle;
  length: number;
}

/** Writes all of `bytes` at the end, or nothing. */
async function append(at: Growing, bytes: Uint8Array): Promise<void> {
  try {
    for (let done = 0; done < bytes.byteLength; ) {
      const { bytesWritten } = await at.file.write(bytes, done, bytes.byteLength - done, at.length + done);
      if (bytesWritten === 0) throw new Error("nothing was written");
      done += bytesWritten;
    }
  } catch (cause) {
    await at.file.truncate(at.length).catch((second: unknown) => {
      throw auditUnavailable("the log could not be cut back after a write that failed", true, second);
    });
    throw auditUnavailable("the log could not be written", false, cause);
  }
}

async function sync(at: Growing): Promise<void> {
  await at.file.datasync().catch((cause: unknown) => {
    throw auditUnavailable("the log could not be synced", true, cause);
  });
}

/** What recovery found: where the files end. */
export interface LogEnds {
  readonly segment: number;
  readonly segmentBytes: number;
  readonly leavesBytes: number;
  readonly checkpointsBytes: number;
}

/** Opens the files of a log behind `ends`. Files of its last segment are made where they are missing. */
export async function openLogFiles(
  folder: string,
  ends: LogEnds,
  openFile: OpenFile = promises.open,
): Promise<LogFiles> {
  const grow = async (name: string, length: number): Promise<Growing> => {
    const file = await openFile(join(folder, name), APPEND | constants.O_CREAT, 0o600);
    return { file, length };
  };
  const { segment } = ends;
  const open: Growing[] = [];
  try {
    const lines = await grow(segmentFile(segment, "jsonl"), ends.segmentBytes);
    open.push(lines);
    const leaves = await grow(segmentFile(segment, "leaves"), ends.leavesBytes);
    open.push(leaves);
    const kept = await grow(CHECKPOINTS_FILE, ends.checkpointsBytes);
    open.push(kept);
    await syncFolder(folder);
    return new LogFilesOnDisk(folder, openFile, segment, { lines, leaves, kept });
  } catch (cause) {
    for (const { file } of open) await file.close();
    throw auditUnavailable("the log could not be opened", true, cause);
  }
}

/** Opens or makes a file of the next segment, which is empty. */
async function createEmpty(path: string, openFile: OpenFile): Promise<Growing> {
  const file = await openFile(path, CREATE, 0o600).catch(async (cause: unknown) => {
    // A try before this one made the first of both, and the disk had no room for the second.
    if (isSystemError(cause, "EEXIST")) return openFile(path, APPEND, 0o600);
    throw auditUnavailable("the next segment could not be made", false, cause);
  });
  return { file, length: 0 };
}

class LogFilesOnDisk implements LogFiles {
  readonly #folder: string;
  readonly #openFile: OpenFile;
  #segment: number;
  #lines: Growing;
  #leaves: Growing;
  readonly #kept: Growing;
  /** Leaf hashes that are not written yet. */
  #owed: Uint8Array[] = [];

  constructor(
    folder: string,
    openFile: OpenFile,
    segment: number,
    files: { readonly lines: Growing; readonly leaves: Growing; readonly kept: Growing },
  ) {
    this.#folder = folder;
    this.#openFile = openFile;
    this.#segment = segment;
    this.#lines = files.lines;
    this.#leaves = files.leaves;
    this.#kept = files.kept;
  }

  get segment(): number {
    return this.#segment;
  }

  get segmentBytes(): number {
    return this.#lines.length;
  }

  async appendLines(bytes: Uint8Array): Promise<void> {
    await append(this.#lines, bytes);
    await sync(this.#lines);
    this.#lines.length += bytes.byteLength;
  }

  async appendLeaves(leaves: readonly Uint8Array[]): Promise<void> {
    this.#owed.push(...leaves);
    await this.#payLeaves();
  }

  async #payLeaves(): Promise<void> {
    if (this.#owed.length === 0) return;
    const bytes = Buffer.concat(this.#owed);
    await append(this.#leaves, bytes);
    this.#leaves.length += bytes.byteLength;
    this.#owed = [];
  }

  async replaceCheckpoint(note: Uint8Array): Promise<void> {
    const path = join(this.#folder, `${CHECKPOINT_FILE}.tmp`);
    const file = await this.#openFile(path, REPLACE, 0o600).catch((cause: unknown) => {
      throw auditUnavailable("the log checkpoint could not be written", false, cause);
    });
    const at = { file, length: 0 };
    try {
      await append(at, note);
      await sync(at);
      await promises.rename(path, join(this.#folder, CHECKPOINT_FILE)).catch((cause: unknown) => {
        throw auditUnavailable("the log checkpoint could not be replaced", !isFull(cause), cause);
      });
    } finally {
      await file.close();
    }
  }

  async keepCheckpoint(note: Uint8Array): Promise<void> {
    // The newest log checkpoint must not be the older one, whatever order the disk prefers.
    await syncFolder(this.#folder).catch((cause: unknown) => {
      throw auditUnavailable("the log's folder could not be synced", true, cause);
    });
    const bytes = Buffer.concat([note, Buffer.from("\n")]);
    await append(this.#kept, bytes);
    await sync(this.#kept);
    this.#kept.length += bytes.byteLength;
  }

  async nextSegment(): Promise<void> {
    await this.#payLeaves();
    await sync(this.#leaves);
    const next = this.#segment + 1;
    const lines = await createEmpty(join(this.#folder, segmentFile(next, "jsonl")), this.#openFile);
    const leaves = await createEmpty(join(this.#folder, segmentFile(next, "leaves")), this.#openFile).catch(
      async (error: unknown) => {
        await lines.file.close();
        throw error;
      },
    );
    await this.#syncFolder();
    await this.#lines.file.close();
    await this.#leaves.file.close();
    this.#segment = next;
    this.#lines = lines;
    this.#leaves = leaves;
  }

  async #syncFolder(): Promise<void> {
    await syncFolder(this.#folder).catch((cause: unknown) => {
      throw auditUnavailable("the log's folder could not be synced", true, cause);
    });
  }

  async removeLines(segment: number): Promise<void> {
    await promises.rm(join(this.#folder, segmentFile(segment, "jsonl")), { force: true }).catch((cause: unknown) => {
      throw auditUnavailable("a segment could not be removed", false, cause);
    });
    await this.#syncFolder();
  }

  async close(): Promise<void> {
    try {
      await this.#payLeaves();
      await this.#leaves.file.datasync();
      await syncFolder(this.#folder);
    } catch {
      // Leaf hashes follow from the lines, and any log checkpoint of ours is as good: the next start does without.
    }
    for (const { file } of [this.#lines, this.#leaves, this.#kept]) await file.close();
  }
}
