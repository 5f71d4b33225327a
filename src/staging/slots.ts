/**
 * A fixed number of buffers that bytes pass through. A slot has one owner at a time: whoever acquired it, until the
 * copy from it *and* the host's digest of it are done. Waiting for a slot is the backpressure of the whole journey.
 */
import { assert } from "../assert.ts";
import { BLOCK_BYTES, HASH_BYTES } from "../hash/geometry.ts";

export interface Slot {
  readonly bytes: Uint8Array;
  /** Room for the level-0 hashes of `bytes`; shared memory, so that hashing threads can write it. */
  readonly leaves: Uint8Array;
}

export interface SlotRing<S extends Slot> {
  /** Resolves when a slot is free; first come, first served. */
  acquire(): Promise<S>;
  release(slot: S): void;
}

/** Shared memory for the level-0 hashes of a slot of `slotBytes` bytes. */
export function leavesFor(slotBytes: number): Uint8Array {
  return new Uint8Array(new SharedArrayBuffer((slotBytes / BLOCK_BYTES) * HASH_BYTES));
}

/** A ring over `slots`. */
export function createSlotRing<S extends Slot>(slots: readonly S[]): SlotRing<S> {
  const free = [...slots];
  const waiting: ((slot: S) => void)[] = [];
  return {
    acquire: () =>
      new Promise((resolve) => {
        const slot = free.shift();
        if (slot === undefined) waiting.push(resolve);
        else resolve(slot);
      }),
    release: (slot) => {
      assert(!free.includes(slot), "a slot is released once");
      const next = waiting.shift();
      if (next === undefined) free.push(slot);
      else next(slot);
    },
  };
}
