/**
 * `--metrics FILE`: the figures of one command in the Prometheus text format, as node_exporter's textfile collector reads
 * them. A file is replaced as a whole when the command ends, also when it fails. A character device or a FIFO is written
 * into, and stays what it is. What cannot be written is refused before the command does anything.
 */
import { constants, fstatSync, promises, type Stats } from "node:fs";
import { dirname } from "node:path";
import { systemClock } from "../clock.ts";
import { systemFix, systemReason, VramError } from "../errors.ts";
import { isSystemError, replaceFile } from "../files.ts";
import type { JournalReader } from "../journal/journal.ts";
import { EXIT } from "./exit.ts";
import { type Host, printUnwritten } from "./host.ts";

export interface MetricsFile {
  /** What the journal is read with: nothing, if no file was asked for. */
  readonly readers: readonly JournalReader[];
  /** Writes the file. Resolves to the exit code: `code`, or 1 if that was 0 and the file could not be written. */
  finish(code: number): Promise<number>;
}

/** Readable by others: whoever collects metrics is another user. Nothing in them is secret. */
const MODE = 0o644;
/** A pipe holds 64 KiB (pipe(7)), and its reader may be slow. */
const READER_WAIT_MS = 10_000;
const READER_POLL_MS = 20;

/** Where figures go; called once. */
type Write = (text: string) => Promise<void>;

const PLACE_FIX = "name a file, new or old, in a folder that this user may write to";

function refused(path: string, why: string, cause?: unknown, fix = systemFix(cause) ?? PLACE_FIX): VramError {
  const message = `--metrics: ${path}: ${why}`;
  return new VramError("INVALID_ARGUMENT", message, { cause, fix, details: { argument: "metrics" } });
}

const reasonOf = (cause: unknown): string => systemReason(cause) ?? String(cause);

/** Writes all of it. `EAGAIN` says that the reader of a FIFO has not taken what was written before. */
async function writeAll(file: promises.FileHandle, text: string): Promise<void> {
  const bytes = Buffer.from(text);
  const deadline = systemClock.monotonicMs() + READER_WAIT_MS;
  for (let at = 0; at < bytes.byteLength; ) {
    try {
      at += (await file.write(bytes, at)).bytesWritten;
    } catch (error) {
      if (!isSystemError(error, "EAGAIN") || systemClock.monotonicMs() > deadline) throw error;
      await systemClock.sleep(READER_POLL_MS);
    }
  }
}

/** Opened before the command begins: a reader that waits is not kept waiting for somebody who never comes. */
async function openStream(path: string, kind: string): Promise<Write> {
  const flags = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
  const file = await promises.open(path, flags).catch((cause: unknown) => {
    if (kind !== "FIFO" || !isSystemError(cause, "ENXIO")) throw refused(path, reasonOf(cause), cause);
    throw refused(path, "nobody reads from this FIFO", cause, "start its reader first, or name a file");
  });
  return (text) => writeAll(file, text).finally(() => file.close());
}

function kindOf(stats: Stats): "file" | "device" | "FIFO" | "directory" | "socket" | "block device" {
  if (stats.isFile()) return "file";
  if (stats.isCharacterDevice()) return "device";
  if (stats.isFIFO()) return "FIFO";
  if (stats.isSocket()) return "socket";
  return stats.isDirectory() ? "directory" : "block device";
}

/** Whether it is where our own data or talk goes (`/dev/stdout` of a command whose output goes to a file). */
function isOwnOutput({ dev, ino }: Stats): boolean {
  return [1, 2].some((fd) => {
    const own = fstatSync(fd);
    return own.dev === dev && own.ino === ino;
  });
}

/** A file that is replaced, or made, in its folder; `path` is no link. */
async function openReplaced(path: string, given: string): Promise<Write> {
  const folder = dirname(path);
  await promises.access(folder, constants.W_OK | constants.X_OK).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) throw refused(given, "its folder does not exist", cause, PLACE_FIX);
    throw refused(given, `nothing can be made in its folder: ${reasonOf(cause)}`, cause);
  });
  return async (text) => {
    const stats = await promises.lstat(path).catch(() => undefined);
    if (stats !== undefined && !stats.isFile()) throw new Error("something else than a file stands there by now");
    await replaceFile(path, text, MODE);
  };
}

/** Finds out what stands at `path`, and that it can be written. `INVALID_ARGUMENT` with the reason if it cannot. */
async function openTarget(path: string): Promise<Write> {
  if (path === "") throw new VramError("INVALID_ARGUMENT", "--metrics must name a file", { fix: PLACE_FIX });
  // Through links, those of /dev/fd too, which lead to what has no path.
  const stats = await promises.stat(path).catch(async (cause: unknown) => {
    if (!isSystemError(cause, "ENOENT")) throw refused(path, reasonOf(cause), cause);
    const link = await promises.lstat(path).catch(() => undefined);
    if (link !== undefined) throw refused(path, "the link leads nowhere", cause);
    return undefined;
  });
  if (stats === undefined && path.endsWith("/")) throw refused(path, "it ends like the name of a directory");
  const kind = stats === undefined ? "file" : kindOf(stats);
  if (kind === "device" || kind === "FIFO") return openStream(path, kind);
  if (kind !== "file") throw refused(path, `it is a ${kind}`);
  if (stats !== undefined && isOwnOutput(stats)) throw refused(path, "it is where the output of this command goes");
  if (stats === undefined) return openReplaced(path, path);
  const resolved = await promises.realpath(path).catch((cause: unknown) => {
    throw refused(path, reasonOf(cause), cause);
  });
  return openReplaced(resolved, path);
}

/** Collects figures if `path` is given; it can be written, as far as can be known before. */
export async function openMetricsFile(host: Host, path: string | undefined): Promise<MetricsFile> {
  if (path === undefined) return { readers: [], finish: (code) => Promise.resolve(code) };
  const { createMetrics } = await import("../metrics/metrics.ts");
  const metrics = await createMetrics();
  const write = await openTarget(path);
  return {
    readers: [metrics.reader],
    finish: async (code) => {
      try {
        await write(await metrics.text());
        return code;
      } catch (cause) {
        printUnwritten(host, `--metrics: ${path}`, cause);
        return code === EXIT.ok ? EXIT.error : code;
      }
    },
  };
}
