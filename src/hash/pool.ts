/**
 * A pool of hashing threads. Data is handed over as shared memory, never copied: the ring's slots and the emulated
 * device's granules are `SharedArrayBuffer`s. With no threads the same loop runs on the caller's, which is what tests
 * from source do (a worker cannot be started from TypeScript).
 */
import { readSync } from "node:fs";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { assert } from "../assert.ts";
import { closedError, countHandle } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { hashBlocks } from "./blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES } from "./geometry.ts";

/** An open file of this process, and where in it. */
export interface FileRange {
  readonly fd: number;
  /** In bytes. */
  readonly offset: number;
}

/** Hash every 4 KiB block of `data` (the last may be partial) into `out`, 32 bytes each. */
export interface HashTask {
  /** Fill `data` from here first: a thread that reads what it hashes finds it in its cache. */
  readonly from?: FileRange;
  readonly data: Uint8Array;
  readonly out: Uint8Array;
  /** 64 bytes that precede every block: a padded salt. */
  readonly padded?: Uint8Array;
}

export interface HashPool {
  /** Threads in use; 0 means the calling thread. */
  readonly threads: number;
  /** Resolves when every task is done. Until then neither data nor out may be touched. */
  hash(tasks: readonly HashTask[]): Promise<void>;
  /** Ends the threads. Tasks in flight are rejected with `CLOSED`. */
  close(): Promise<void>;
}

/** Tasks are cut to this size, so that all threads share a slot: 1 MiB takes about 0.7 ms. */
const PIECE_BYTES = 256 * BLOCK_BYTES;

/** What a thread is sent. Fields are views on shared memory. */
export interface ThreadRequest extends HashTask {
  readonly ticket: number;
}

/** A thread's answer. `unread`: `from` could not be read; what the system called it, or `short`. */
export interface ThreadAnswer {
  readonly ticket: number;
  readonly unread?: string;
}

/** Fills `data`. Returns why it could not be, if so. */
function fill(data: Uint8Array, { fd, offset }: FileRange): string | undefined {
  try {
    for (let filled = 0; filled < data.byteLength; ) {
      const count = readSync(fd, data, filled, data.byteLength - filled, offset + filled);
      if (count === 0) return "short";
      filled += count;
    }
    return undefined;
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}

/** A thread's whole logic: read if need be, hash, answer with the ticket. Called by `pool-thread.ts`. */
export function serveRequest(request: ThreadRequest, answer: (answer: ThreadAnswer) => void): void {
  const { ticket, data, out, padded, from } = request;
  const unread = from === undefined ? undefined : fill(data, from);
  if (unread === undefined) hashBlocks(data, out, padded);
  answer(unread === undefined ? { ticket } : { ticket, unread });
}

const pieces = (task: HashTask): HashTask[] =>
  Array.from({ length: Math.ceil(task.data.byteLength / PIECE_BYTES) }, (_, index) => {
    const data = task.data.subarray(index * PIECE_BYTES, (index + 1) * PIECE_BYTES);
    const start = index * (PIECE_BYTES / BLOCK_BYTES) * HASH_BYTES;
    const out = task.out.subarray(start, start + blockCount(data.byteLength) * HASH_BYTES);
    const { padded, from } = task;
    return {
      data,
      out,
      ...(padded === undefined ? {} : { padded }),
      ...(from === undefined ? {} : { from: { fd: from.fd, offset: from.offset + index * PIECE_BYTES } }),
    };
  });

const yieldToLoop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function inlinePool(): HashPool {
  return {
    threads: 0,
    hash: async (tasks) => {
      for (const piece of tasks.flatMap(pieces)) {
        assert(piece.from === undefined, "files are read by threads only");
        hashBlocks(piece.data, piece.out, piece.padded);
        if (piece.data.byteLength === PIECE_BYTES) await yieldToLoop();
      }
    },
    close: async () => undefined,
  };
}

function readFailure(unread: string): VramError {
  if (unread === "short") return new VramError("SOURCE_CHANGED", "the file became shorter while it was being read");
  return new VramError("SOURCE_READ_FAILED", `reading the file failed: ${unread}`, { cause: { errno: unread } });
}

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: VramError) => void;
}

/** One thread and the requests it has not answered. */
function startThread(entry: URL): { send(piece: HashTask): Promise<void>; load(): number; end(): Promise<void> } {
  // The flags and environment of the process are none of a hashing thread's business; some would even stop it.
  const worker = new Worker(entry, { name: "vram-hash", execArgv: [], env: {} });
  worker.unref();
  const waiting = new Map<number, Waiting>();
  let ticket = 0;
  let failure: VramError | undefined;

  const fail = (error: VramError): void => {
    failure ??= error;
    for (const { reject } of waiting.values()) reject(failure);
    waiting.clear();
    worker.unref();
  };
  worker.on("message", ({ ticket: done, unread }: ThreadAnswer) => {
    if (unread === undefined) waiting.get(done)?.resolve();
    else waiting.get(done)?.reject(readFailure(unread));
    waiting.delete(done);
    if (waiting.size === 0) worker.unref();
  });
  worker.on("error", (cause) => fail(new VramError("INTERNAL", "a hashing thread failed", { cause })));
  worker.on("exit", () => fail(new VramError("CLOSED", "the hashing threads are closed")));

  return {
    load: () => waiting.size,
    send: (piece) =>
      new Promise((resolve, reject) => {
        if (failure !== undefined) {
          reject(failure);
          return;
        }
        ticket += 1;
        waiting.set(ticket, { resolve, reject });
        worker.ref();
        worker.postMessage({ ...piece, ticket } satisfies ThreadRequest);
      }),
    end: async () => {
      await worker.terminate();
    },
  };
}

/**
 * Opens a pool of `threads` hashing threads (default: one per core; 0 hashes on the calling thread). They start with the
 * first work that is worth a thread: up to `inlineBytes` are hashed where it is asked for. `entry` is the thread's
 * file; only tests name another.
 */
export function openHashPool(
  threads: number = availableParallelism(),
  entry: URL = new URL("./pool-thread.js", import.meta.url),
  inlineBytes: number = PIECE_BYTES,
): HashPool {
  const inline = inlinePool();
  if (threads === 0) return inline;
  let crew: ReturnType<typeof startThread>[] = [];
  let open = true;
  const gone = countHandle("hash-pool");
  return {
    threads,
    hash: async (tasks) => {
      if (!open) throw closedError("the hash pool");
      const byteLength = tasks.reduce((sum, task) => sum + task.data.byteLength, 0);
      if (byteLength <= inlineBytes && tasks.every(({ from }) => from === undefined)) {
        await inline.hash(tasks);
        return;
      }
      if (crew.length === 0) crew = Array.from({ length: threads }, () => startThread(entry));
      // All of them, whatever becomes of one: no thread may still write to `out` when this settles.
      const outcomes = await Promise.allSettled(
        tasks.flatMap(pieces).map((piece) => {
          assert(piece.data.buffer instanceof SharedArrayBuffer, "hashing threads are given shared memory");
          assert(piece.out.buffer instanceof SharedArrayBuffer, "hashing threads write to shared memory");
          const idlest = crew.reduce((best, thread) => (thread.load() < best.load() ? thread : best));
          return idlest.send(piece);
        }),
      );
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    },
    close: async () => {
      open = false;
      await Promise.all(crew.map((thread) => thread.end()));
      gone();
    },
  };
}
