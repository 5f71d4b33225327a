/** From the source into VRAM: read into a pinned slot, copy from it, and (witnessed) digest the same slot meanwhile. */
import type { Mapped } from "../handles/mapped.ts";
import type { Stream } from "../handles/stream.ts";
import type { OpenedSource } from "../source/source.ts";
import type { DigestWatch } from "./digest.ts";
import { passThrough } from "./pipeline.ts";
import type { PinnedRing } from "./ring.ts";
import type { Witness } from "./witness.ts";

/** Copies the whole source to `target`, a writable range of the source's length. */
export async function pump(
  source: OpenedSource,
  target: Mapped,
  stream: Stream,
  ring: PinnedRing,
  witness: Witness,
  watch: DigestWatch,
): Promise<void> {
  await passThrough(
    source,
    ring,
    {
      start: async (slot, offset, count) => {
        stream.copyToDevice(target, offset, slot.pinned, 0, count);
        slot.mark.record();
        // Both, whatever becomes of either: the slot may not be given back while one of them still reads it.
        const outcomes = await Promise.allSettled([slot.mark.wait(count), witness.start(slot, count)]);
        for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
      },
      finish: async (slot, offset, count) => {
        await witness.finish(slot, count);
        watch.onProgress?.(offset + count);
      },
    },
    watch.signal,
  );
}
