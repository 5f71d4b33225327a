/**
 * Where bytes come from: a file, bytes in memory, or an async iterable of known length. A source is opened once and
 * each of its bytes is read once; what the parser saw are the very bytes that are uploaded (VR-IN-02). `openSource`
 * runs in the process that pumps (design §2, decision 7), so a specification of a path is plain data.
 */
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Part } from "./cut.ts";
import { type FileIdentity, type FileSystem, openFile, sameIdentity } from "./file.ts";
import { parseGguf } from "./gguf.ts";
import { type ByteReader, bytesReader, chunksReader, fileReader } from "./readers.ts";
import { parseSafetensors } from "./safetensors.ts";
import type { HeaderParse, SourceFormat, Tensor } from "./tensors.ts";

/** What to seal. */
export type SourceSpec =
  | {
      readonly kind: "path";
      readonly path: string;
      /** The resolved file must lie under one of these; default `/`. */
      readonly roots?: readonly string[];
      /** Only this part of it: a shard of a file that was cut. */
      readonly part?: SourcePart;
    }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array; readonly name?: string }
  | {
      readonly kind: "chunks";
      readonly chunks: AsyncIterable<Uint8Array>;
      readonly byteLength: number;
      readonly name?: string;
    };

/** A part of one very file, as it was planned. Offsets of its tensors count from its own start. */
export interface SourcePart extends Part {
  readonly identity: FileIdentity;
  readonly format: SourceFormat;
}

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
  /** Of a whole file. */
  readonly identity?: FileIdentity;
}

/** An opened source: read from its start to its end, once. */
export interface OpenedSource {
  readonly info: SourceInfo;
  /** The open file, if the source is all of one and has no header: its bytes may be read from there, too. */
  readonly rawFd?: number;
  /** Fills `into` with the next bytes; fewer only at the end. Returns how many. Nothing is written after it settles. */
  read(into: Uint8Array, signal?: AbortSignal): Promise<number>;
  /** After the last read: throws `SOURCE_CHANGED` unless the source is still the one that was opened. */
  finish(signal?: AbortSignal): Promise<void>;
  /** May be called twice. */
  close(): Promise<void>;
}

/** A path may lead anywhere unless the caller says otherwise. */
const rootsOf = (spec: { readonly roots?: readonly string[] }): readonly string[] => spec.roots ?? ["/"];

/** First bytes read to look for a header; most headers are shorter. */
const FIRST_PREFIX_BYTES = 256 * 1024;

async function openReader(spec: SourceSpec, fs: FileSystem): Promise<ByteReader> {
  switch (spec.kind) {
    case "path":
      return fileReader(await openFile(spec.path, rootsOf(spec), fs));
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
  signal: AbortSignal | undefined,
): Promise<{ prefix: Uint8Array; format: SourceFormat; tensors: readonly Tensor[] }> {
  let prefix: Uint8Array = new Uint8Array(0);
  let room = new Uint8Array(Math.min(FIRST_PREFIX_BYTES, reader.byteLength));
  const grow = async (byteLength: number, capacity: number): Promise<void> => {
    if (byteLength > room.byteLength) {
      room = new Uint8Array(Math.min(Math.max(byteLength, capacity), reader.byteLength));
      room.set(prefix);
    }
    const count = await reader.read(room.subarray(prefix.byteLength, byteLength), signal);
    prefix = room.subarray(0, prefix.byteLength + count);
  };
  await grow(FIRST_PREFIX_BYTES, 0);
  const format =
    options.format === undefined || options.format === "auto" ? detectFormat(prefix, reader) : options.format;
  for (;;) {
    const parsed = parseHeader(format, prefix, reader.byteLength, options);
    if (parsed.kind === "complete") return { prefix, format, tensors: parsed.tensors };
    const before = prefix.byteLength;
    // Room for the longest header at once: pages never written take no memory, shorter prefixes left behind would.
    await grow(parsed.byteLength, format === "gguf" ? LIMITS.ggufHeaderBytes : 0);
    if (prefix.byteLength === before) {
      throw new VramError("SOURCE_CHANGED", "the source ended before its header did");
    }
  }
}

/** Opens a planned part: its header was read when it was planned, so the file must still be that file. */
async function openPart(
  path: string,
  roots: readonly string[],
  part: SourcePart,
  fs: FileSystem,
): Promise<OpenedSource> {
  const file = await openFile(path, roots, fs);
  if (!sameIdentity(file.identity, part.identity)) {
    await file.close();
    throw new VramError("SOURCE_CHANGED", `${path}: it changed since it was cut into shards`, { details: { path } });
  }
  const reader = fileReader(file, part.offset, part.byteLength);
  const { format, byteLength, tensors } = part;
  return { ...reader, info: { name: reader.baseName, format, byteLength, tensors } };
}

/** Opens a source, reads and checks its header. The caller closes it. */
export async function openSource(
  spec: SourceSpec,
  options: FormatOptions,
  fs: FileSystem,
  signal?: AbortSignal,
): Promise<OpenedSource> {
  if (spec.kind === "path" && spec.part !== undefined) return openPart(spec.path, rootsOf(spec), spec.part, fs);
  const reader = await openReader(spec, fs);
  try {
    const { prefix, format, tensors } = await readHeader(reader, options, signal);
    let taken = 0;
    return {
      info: {
        name: reader.baseName,
        format,
        byteLength: reader.byteLength,
        tensors,
        ...(reader.identity === undefined ? {} : { identity: reader.identity }),
      },
      ...(format === "raw" && reader.fd !== undefined ? { rawFd: reader.fd } : {}),
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
