/** The three kinds of source as bytes in order, each read once. `source.ts` puts the header in front of them. */
import { throwIfAborted, VramError } from "../errors.ts";
import type { FileIdentity, ReadableFile } from "./file.ts";

/** Something with bytes in order. */
export interface ByteReader {
  readonly identity?: FileIdentity;
  /** The open file, if it is one of this process and the bytes are all of it. */
  readonly fd?: number;
  readonly byteLength: number;
  readonly baseName: string;
  /** Fills `into` from the current position; fewer bytes only at the end. */
  read(into: Uint8Array, signal?: AbortSignal): Promise<number>;
  finish(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** Reads `bytes` from their start. */
export function bytesReader(bytes: Uint8Array, name: string): ByteReader {
  let position = 0;
  return {
    byteLength: bytes.byteLength,
    baseName: name,
    read: async (into) => {
      const part = bytes.subarray(position, position + into.byteLength);
      into.set(part);
      position += part.byteLength;
      return part.byteLength;
    },
    finish: async () => undefined,
    close: async () => undefined,
  };
}

/** `promise`, or `ABORTED` as soon as `signal` fires. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new VramError("ABORTED", "the operation was aborted", { cause: signal.reason }));
    // What made the promise may have fired it already, and no event tells of that any more.
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** Empty chunks in a row; more of them would keep everything else from running. */
const EMPTY_CHUNKS_MAX = 1000;

/** Reads an iterable that must yield exactly `byteLength` bytes. */
export function chunksReader(chunks: AsyncIterable<Uint8Array>, byteLength: number, name: string): ByteReader {
  const iterator = chunks[Symbol.asyncIterator]();
  let pending: Uint8Array = new Uint8Array(0);
  let position = 0;
  const pull = async (): Promise<IteratorResult<Uint8Array>> => {
    try {
      return await iterator.next();
    } catch (cause) {
      if (cause instanceof VramError) throw cause;
      throw new VramError("SOURCE_READ_FAILED", `the source failed after ${position} of ${byteLength} bytes`, {
        cause,
      });
    }
  };
  let emptyInARow = 0;
  const refill = async (signal?: AbortSignal): Promise<boolean> => {
    // Before the iterator is asked: a promise that nobody waits for any more would be an unhandled rejection.
    throwIfAborted(signal);
    const next = await unlessAborted(pull(), signal);
    if (next.done === true) return false;
    if (!(next.value instanceof Uint8Array)) {
      throw new VramError("INVALID_ARGUMENT", "a source iterable must yield Uint8Array chunks");
    }
    pending = next.value;
    emptyInARow = pending.byteLength === 0 ? emptyInARow + 1 : 0;
    if (emptyInARow > EMPTY_CHUNKS_MAX) {
      throw new VramError("SOURCE_READ_FAILED", `the source yields nothing after ${position} of ${byteLength} bytes`);
    }
    return true;
  };
  return {
    byteLength,
    baseName: name,
    read: async (into, signal) => {
      const wanted = Math.min(into.byteLength, byteLength - position);
      let filled = 0;
      while (filled < wanted) {
        if (pending.byteLength === 0 && !(await refill(signal))) {
          throw new VramError("SOURCE_READ_FAILED", `the source ended after ${position} of ${byteLength} bytes`);
        }
        const part = pending.subarray(0, wanted - filled);
        into.set(part, filled);
        pending = pending.subarray(part.byteLength);
        filled += part.byteLength;
        position += part.byteLength;
      }
      return filled;
    },
    finish: async (signal) => {
      while (pending.byteLength === 0) if (!(await refill(signal))) return;
      throw new VramError("SOURCE_READ_FAILED", `the source has more than the ${byteLength} bytes it announced`);
    },
    // Not awaited: a generator that is stuck in `next` would never answer.
    close: async () => {
      void iterator.return?.().catch(() => undefined);
    },
  };
}

/** Reads a part of an open file; default all of it. */
export function fileReader(file: ReadableFile, offset = 0, byteLength = file.byteLength): ByteReader {
  let position = 0;
  return {
    identity: file.identity,
    ...(offset === 0 && byteLength === file.byteLength && file.fd !== undefined ? { fd: file.fd } : {}),
    byteLength,
    baseName: file.baseName,
    read: async (into) => {
      const count = await file.readAt(into.subarray(0, byteLength - position), offset + position);
      position += count;
      return count;
    },
    finish: () => file.requireUnchanged(),
    close: () => file.close(),
  };
}
