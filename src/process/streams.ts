/**
 * Bytes that the caller has, on their way to the process that seals them: it pulls, and gets at most one piece for each
 * pull. What is here is never more than what the caller's own iterator holds.
 */
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { SourceSpec } from "../source/source.ts";
import { toWire } from "./checks.ts";
import type { Request, WireSource } from "./protocol.ts";

export interface Streams {
  /** A source as it crosses; bytes and streams of the caller's get a number. */
  cross(spec: SourceSpec): WireSource;
  /** The other side wants more. Throws `INTERNAL` for what it cannot want. */
  pull(streamId: number): void;
  /** Nobody wants more. */
  drop(streamId: number): void;
  dropAll(): void;
}

interface Stream {
  readonly iterator: AsyncIterator<Uint8Array>;
  rest: Uint8Array;
  pulling: boolean;
}

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** The next piece; undefined at the end. */
async function nextPiece(stream: Stream): Promise<Uint8Array | undefined> {
  if (stream.rest.byteLength === 0) {
    const next = await stream.iterator.next();
    if (next.done === true) return undefined;
    if (!(next.value instanceof Uint8Array)) {
      throw new VramError("INVALID_ARGUMENT", "a source iterable must yield Uint8Array chunks");
    }
    stream.rest = next.value;
  }
  const piece = stream.rest.subarray(0, LIMITS.deviceChunkBytes);
  stream.rest = stream.rest.subarray(piece.byteLength);
  return piece;
}

export function openStreams(send: (request: Request) => void): Streams {
  const streams = new Map<number, Stream>();
  let lastId = 0;
  const add = (chunks: AsyncIterable<Uint8Array>): number => {
    const iterator = chunks[Symbol.asyncIterator]();
    lastId += 1;
    streams.set(lastId, { iterator, rest: new Uint8Array(0), pulling: false });
    return lastId;
  };
  const drop = (streamId: number): void => {
    const stream = streams.get(streamId);
    streams.delete(streamId);
    // Not awaited: a generator that is stuck in `next` would never answer.
    void stream?.iterator.return?.().catch(() => undefined);
  };
  const answer = async (streamId: number, stream: Stream): Promise<void> => {
    try {
      const bytes = await nextPiece(stream);
      stream.pulling = false;
      if (streams.has(streamId)) send({ kind: "chunk", streamId, ...(bytes === undefined ? {} : { bytes }) });
    } catch (thrown) {
      stream.pulling = false;
      const error = thrown instanceof VramError ? { error: toWire(thrown) } : {};
      if (streams.has(streamId)) send({ kind: "broken", streamId, ...error });
    }
  };
  return {
    cross: (spec) => {
      if (spec.kind === "path") return spec;
      const { byteLength } = spec.kind === "bytes" ? spec.bytes : spec;
      const name = spec.name ?? (spec.kind === "bytes" ? "bytes" : "stream");
      return {
        kind: "stream",
        streamId: add(spec.kind === "bytes" ? oneChunk(spec.bytes) : spec.chunks),
        byteLength,
        name,
      };
    },
    pull: (streamId) => {
      const stream = streams.get(streamId);
      // Dropped here while it was asked for there.
      if (stream === undefined && streamId <= lastId) return;
      if (stream === undefined || stream.pulling) {
        throw new VramError("INTERNAL", `stream ${streamId} has nothing to give`);
      }
      stream.pulling = true;
      void answer(streamId, stream);
    },
    drop,
    dropAll: () => {
      for (const streamId of streams.keys()) drop(streamId);
    },
  };
}
