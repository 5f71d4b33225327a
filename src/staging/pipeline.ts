/**
 * One pass over a source through a ring of slots: read, start the work on a slot, read the next one meanwhile, finish
 * slots in their order, give them back. Every failure, wherever it happens, ends the reading; the pass returns or
 * throws only when no slot is in use any more.
 */
import { throwIfAborted, VramError } from "../errors.ts";
import type { OpenedSource } from "../source/source.ts";
import type { Slot, SlotRing } from "./slots.ts";

/** What is done with a filled slot. `offset` is where its bytes stand in the source; `count` how many are filled. */
export interface PipelineStages<S extends Slot> {
  /** Work that may overlap with other slots'. Must not settle before it has let go of the slot. */
  start(slot: S, offset: number, count: number): Promise<void>;
  /** Work that must happen in order. */
  finish(slot: S, offset: number, count: number): void | Promise<void>;
}

/** Passes the whole source through `ring`. Throws `SOURCE_CHANGED` if it is not the announced size or changed. */
export async function passThrough<S extends Slot>(
  source: OpenedSource,
  ring: SlotRing<S>,
  stages: PipelineStages<S>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { byteLength } = source.info;
  let failure: { readonly error: unknown } | undefined;
  let tail: Promise<void> = Promise.resolve();

  const work = async (slot: S, offset: number, count: number, before: Promise<void>): Promise<void> => {
    try {
      await stages.start(slot, offset, count);
      await before;
      if (failure === undefined) await stages.finish(slot, offset, count);
    } catch (error) {
      failure ??= { error };
    } finally {
      ring.release(slot);
    }
  };

  const fill = async (): Promise<void> => {
    let offset = 0;
    while (offset < byteLength && failure === undefined) {
      throwIfAborted(signal);
      const slot = await ring.acquire();
      let count = 0;
      try {
        count = await source.read(slot.bytes, signal);
      } finally {
        if (count === 0) ring.release(slot);
      }
      if (count === 0) {
        throw new VramError("SOURCE_CHANGED", `the source ended after ${offset} of ${byteLength} bytes`);
      }
      tail = work(slot, offset, count, tail);
      offset += count;
    }
    throwIfAborted(signal);
    if (failure === undefined) await source.finish(signal);
  };

  try {
    await fill();
  } catch (error) {
    failure ??= { error };
  }
  await tail;
  if (failure !== undefined) throw failure.error;
}
