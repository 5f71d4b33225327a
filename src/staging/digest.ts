/** Digests a source without a device: what `vram digest` does, and what a name that is taken already is checked by. */
import type { HashPool } from "../hash/pool.ts";
import type { OpenedSource } from "../source/source.ts";
import { passThrough } from "./pipeline.ts";
import { createSlotRing, leavesFor, type Slot } from "./slots.ts";
import { createWitness, type Witness, type WitnessOptions } from "./witness.ts";

export interface DigestWatch {
  readonly signal?: AbortSignal;
  readonly onProgress?: (bytesDone: number) => void;
}

/** Three slots of 8 MiB: one is read, one hashed, one to spare. */
const SLOTS = 3;
const SLOT_BYTES = 8 * 1024 * 1024;

/** Reads the source to its end and digests it. The caller closes it. */
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
  await passThrough(
    source,
    ring,
    {
      start: (slot, _offset, count) => witness.start(slot, count),
      finish: async (slot, offset, count) => {
        await witness.finish(slot, count);
        watch.onProgress?.(offset + count);
      },
    },
    watch.signal,
  );
  return witness.result();
}
