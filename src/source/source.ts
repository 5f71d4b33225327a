/**
 * Where bytes come from: a file, bytes in memory, or an async iterable of known length. A source is opened once and
 * each of its bytes is read once; what the parser saw are the very bytes that are uploaded (VR-IN-02). `openSource`
 * runs in the process that pumps (design §2, decision 7), so a specification of a path is plain data.
 */
import { requireInteger } from "../assert.ts";
import { throwIfAborted, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { type FileSystem, openFile, type ReadableFile } from "./file.ts";
import { parseGguf } from "./gguf.ts";
import { parseSafetensors } from "./safetensors.ts";
import type { HeaderParse, SourceFormat, Tensor } from "./tensors.ts";

/** What to seal. */
export type SourceSpec =
  | {
      readonly kind: "path";
      readonly path: string;
      /** The resolved file must lie under one of these; default `/`. */
      readonly roots?: readonly string[];
    }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array; readonly name?: string }
  | {
      readonly kind: "chunks";
      readonly chunks: AsyncIterable<Uint8Array>;
      readonly byteLength: number;
      readonly name?: string;
    };

/** How to read a header. `auto` decides by the file's beginning and its extension. */
export interface FormatOptions {
  readonly format?: "auto" | SourceFormat;
  readonly maxSafetensorsHeaderBytes?: number;
}

/** What is known about a source before its bytes are uploaded. Plain data. */
export interface SourceInfo {
  /** The file's base name, or the name the caller gave. */
  readonly name: string;
  readonly format: SourceFormat;
  readonly byteLength: number;
  readonly tensors: readonly Tensor[];
}

/** An opened source: read from its start to its end, once. */
export interface OpenedSource {
  readonly info: SourceInfo;
  /** Fills `into` with the next bytes; fewer only at the end. Returns how many. Nothing is written after it settles. */
  read(into: Uint8Array, signal?: AbortSignal): Promise<number>;
  /** After the last read: throws `SOURCE_CHANGED` unless the source is still the one that was opened. */
  finish(signal?: AbortSignal): Promise<void>;
  /** May be called twice. */
  close(): Promise<void>;
}

/** First bytes read to look for a header; most headers are shorter. */
const FIRST_PREFIX_BYTES = 256 * 1024;

/** Something with bytes in order. */
interface ByteReader {
  readonly byteLength: number;
  readonly baseName: string;
  /** Fills `into` from the current position; fewer bytes only at the end. */
  read(into: Uint8Array, signal?: AbortSignal): Promise<number>;
  finish(signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

function bytesReader(bytes: Uint8Array, name: string): ByteReader {
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
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new VramError("ABORTED", "the operation was aborted", { cause: signal.reason }));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener("abort", onAbort);
  }
}

function chunksReader(chunks: AsyncIterable<Uint8Array>, byteLength: number, name: string): ByteReader {
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
  const refill = async (signal?: AbortSignal): Promise<boolean> => {
    // Before the iterator is asked: a promise that nobody waits for any more would be an unhandled rejection.
    throwIfAborted(signal);
    const next = await unlessAborted(pull(), signal);
    if (next.done === true) return false;
    if (!(next.value instanceof Uint8Array)) {
      throw new VramError("INVALID_ARGUMENT", "a source iterable must yield Uint8Array chunks");
    }
    pending = next.value;
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

function fileReader(file: ReadableFile): ByteReader {
  let position = 0;
  return {
    byteLength: file.byteLength,
    baseName: file.baseName,
    read: async (into) => {
      const count = await file.readAt(into, position);
      position += count;
      return count;
    },
    finish: () => file.requireUnchanged(),
    close: () => file.close(),
  };
}

async function openReader(spec: SourceSpec, fs: FileSystem): Promise<ByteReader> {
  switch (spec.kind) {
    case "path":
      return fileReader(await openFile(spec.path, spec.roots ?? ["/"], fs));
    case "bytes":
      return bytesReader(spec.bytes, spec.name ?? "bytes");
    case "chunks":
      requireInteger(spec.byteLength, "byteLength", 0, Number.MAX_SAFE_INTEGER);
      return chunksReader(spec.chunks, spec.byteLength, spec.name ?? "stream");
  }
}

/** The format a file claims: by magic or extension for GGUF, by extension or plausible length for safetensors. */
function detectFormat(prefix: Uint8Array, reader: ByteReader): SourceFormat {
  const { baseName, byteLength } = reader;
  const magic = Buffer.from(prefix.subarray(0, 4)).toString("latin1");
  if (magic === "GGUF" || magic === "FUGG" || baseName.endsWith(".gguf")) return "gguf";
  if (baseName.endsWith(".safetensors")) return "safetensors";
  if (prefix.byteLength > 8 && prefix[8] === 0x7b) {
    const header = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
    if (header >= 2n && header <= BigInt(byteLength - 8)) return "safetensors";
  }
  return "raw";
}

function parseHeader(
  format: SourceFormat,
  prefix: Uint8Array,
  byteLength: number,
  options: FormatOptions,
): HeaderParse {
  switch (format) {
    case "gguf":
      return parseGguf(prefix, byteLength);
    case "safetensors": {
      const maxHeaderBytes = options.maxSafetensorsHeaderBytes ?? LIMITS.safetensorsHeaderBytes;
      return parseSafetensors(prefix, byteLength, { maxHeaderBytes });
    }
    case "raw":
      return { kind: "complete", headerByteLength: 0, tensors: [] };
  }
}

/** Reads as much of the beginning as the header needs. Returns those bytes with the table. */
async function readHeader(
  reader: ByteReader,
  options: FormatOptions,
): Promise<{ prefix: Uint8Array; format: SourceFormat; tensors: readonly Tensor[] }> {
  let prefix: Uint8Array = new Uint8Array(0);
  const grow = async (byteLength: number): Promise<void> => {
    const larger = new Uint8Array(Math.min(byteLength, reader.byteLength));
    larger.set(prefix);
    const count = await reader.read(larger.subarray(prefix.byteLength));
    prefix = larger.subarray(0, prefix.byteLength + count);
  };
  await grow(FIRST_PREFIX_BYTES);
  const format =
    options.format === undefined || options.format === "auto" ? detectFormat(prefix, reader) : options.format;
  for (;;) {
    const parsed = parseHeader(format, prefix, reader.byteLength, options);
    if (parsed.kind === "complete") return { prefix, format, tensors: parsed.tensors };
    const before = prefix.byteLength;
    await grow(parsed.byteLength);
    if (prefix.byteLength === before) {
      throw new VramError("SOURCE_CHANGED", "the file ended before its recorded size");
    }
  }
}

/** Opens a source, reads and checks its header. The caller closes it. */
export async function openSource(spec: SourceSpec, options: FormatOptions, fs: FileSystem): Promise<OpenedSource> {
  const reader = await openReader(spec, fs);
  try {
    const { prefix, format, tensors } = await readHeader(reader, options);
    let taken = 0;
    return {
      info: { name: reader.baseName, format, byteLength: reader.byteLength, tensors },
      read: async (into, signal) => {
        const head = prefix.subarray(taken, taken + into.byteLength);
        into.set(head);
        taken += head.byteLength;
        if (head.byteLength === into.byteLength) return head.byteLength;
        return head.byteLength + (await reader.read(into.subarray(head.byteLength), signal));
      },
      finish: (signal) => reader.finish(signal),
      close: () => reader.close(),
    };
  } catch (error) {
    await reader.close().catch(() => undefined);
    throw error;
  }
}
