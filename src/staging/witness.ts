/** The host's own digest of the very bytes that stand in the slots: fs-verity on the pool, SHA-256 flat beside it. */
import { createHash } from "node:crypto";
import { saltBlock } from "../hash/blocks.ts";
import { blockCount, HASH_BYTES } from "../hash/geometry.ts";
import type { FileRange, HashPool } from "../hash/pool.ts";
import { createTreeBuilder, type Tree } from "../hash/tree.ts";
import type { Slot } from "./slots.ts";

export interface WitnessOptions {
  /** Compute the fs-verity tree. */
  readonly tree: boolean;
  /** Compute the plain SHA-256. */
  readonly sha256: boolean;
  /** Salt of the tree, 1–32 bytes. */
  readonly salt?: Uint8Array;
}

export interface Witness {
  /** Hashes a slot's blocks; slots may overlap. `from`: the slot is still empty, and the threads are to fill it. */
  start(slot: Slot, count: number, from?: FileRange): Promise<void>;
  /** Takes the slot's hashes into the tree; in order. */
  finish(slot: Slot, count: number): Promise<void>;
  /** After the last slot. */
  result(): { readonly tree?: Tree; readonly sha256?: Uint8Array };
}

/** A flat hash is fed this much at a time, so that the event loop is not held longer than about 1 ms. */
const FLAT_PIECE_BYTES = 1024 * 1024;

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A witness over a source of `byteLength` bytes. */
export function createWitness(pool: HashPool, byteLength: number, options: WitnessOptions): Witness {
  const padded = options.salt === undefined ? undefined : sharedCopy(saltBlock(options.salt));
  const builder = options.tree ? createTreeBuilder(byteLength, options.salt) : undefined;
  const flat = options.sha256 ? createHash("sha256") : undefined;
  return {
    start: async (slot, count, from) => {
      if (builder === undefined) return;
      const task = { data: slot.bytes.subarray(0, count), out: slot.leaves };
      await pool.hash([
        { ...task, ...(padded === undefined ? {} : { padded }), ...(from === undefined ? {} : { from }) },
      ]);
    },
    finish: async (slot, count) => {
      builder?.appendLeaves(slot.leaves.subarray(0, blockCount(count) * HASH_BYTES));
      if (flat === undefined) return;
      for (let at = 0; at < count; at += FLAT_PIECE_BYTES) {
        flat.update(slot.bytes.subarray(at, Math.min(at + FLAT_PIECE_BYTES, count)));
        await nextTurn();
      }
    },
    result: () => ({
      ...(builder === undefined ? {} : { tree: builder.finish() }),
      ...(flat === undefined ? {} : { sha256: new Uint8Array(flat.digest()) }),
    }),
  };
}

/** A copy in shared memory, so that sending it to a thread copies nothing. */
function sharedCopy(bytes: Uint8Array): Uint8Array {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.byteLength));
  shared.set(bytes);
  return shared;
}
