/** Digests a source without a device: what `vram digest` does, and what a name that is taken already is checked by. */
import type { HashPool } from "../hash/pool.ts";
import type { OpenedSource } from "../source/source.ts";
import { passThrough } from "./pipeline.ts";
import { createSlotRing, leavesFor, type Slot } from "./slots.ts";
import { createWitness, type Witness, type WitnessOptions } from "./witness.ts";

/** How digesting a source is watched and called off. */
export interface DigestWatch {
  /** Fires: reading stops, and the call throws `ABORTED`. */
  readonly signal?: AbortSignal;
  /** Bytes digested so far; never fewer than before. */
  readonly onProgress?: (bytesDone: number) => void;
}

/** Three slots of 8 MiB: one is read, one hashed, one to spare. */
const SLOTS = 3;
const SLOT_BYTES = 8 * 1024 * 1024;

/** The source as a count of bytes: hashing threads read them themselves. */
function unread(source: OpenedSource): OpenedSource {
  let left = source.info.byteLength;
  return {
    ...source,
    read: async (into) => {
      const count = Math.min(left, into.byteLength);
      left -= count;
      return count;
    },
  };
}

/**
 * Reads the source to its end and digests it. The caller closes it. A file without a header is read by the hashing
 * threads, each what it hashes; a plain SHA-256 needs the bytes in order, and here.
 */
export async function digestOpened(
  source: OpenedSource,
  pool: HashPool,
  options: WitnessOptions,
  watch: DigestWatch = {},
): Promise<ReturnType<Witness["result"]>> {
  const ring = createSlotRing<Slot>(
    Array.from({ length: SLOTS }, () => ({
      bytes: new Uint8Array(new SharedArrayBuffer(SLOT_BYTES)),
      leaves: leavesFor(SLOT_BYTES),
    })),
  );
  const witness = createWitness(pool, source.info.byteLength, options);
  const fd = options.sha256 || pool.threads === 0 ? undefined : source.rawFd;
  await passThrough(
    fd === undefined ? source : unread(source),
    ring,
    {
      start: (slot, offset, count) => witness.start(slot, count, fd === undefined ? undefined : { fd, offset }),
      finish: async (slot, offset, count) => {
        await witness.finish(slot, count);
        watch.onProgress?.(offset + count);
      },
    },
    watch.signal,
  );
  return witness.result();
}
