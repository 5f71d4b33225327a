/**
 * The fs-verity tree, streaming: level-0 hashes go in, in order; one partial block per level is held; level 1 is kept.
 * The hashing of data blocks (99 % of the work) happens elsewhere, on threads or on the GPU.
 */
import { assert } from "../assert.ts";
import { constantTimeEqual } from "../bytes.ts";
import { hashBlocks, saltBlock } from "./blocks.ts";
import { fsverityDigest } from "./descriptor.ts";
import { BLOCK_BYTES, HASH_BYTES, keptHashCount, treeGeometry } from "./geometry.ts";

/** A finished tree. */
export interface Tree {
  readonly byteLength: number;
  /** The root hash; 32 zero bytes for no data. */
  readonly root: Uint8Array;
  /** fs-verity digest: SHA-256 of the descriptor. */
  readonly digest: Uint8Array;
  /** Level 1, 32 bytes per 512 KiB of data (level 0 for one block or less). */
  readonly kept: Uint8Array;
}

export interface TreeBuilder {
  /** Appends level-0 hashes, 32 bytes each, in order of their blocks. */
  appendLeaves(hashes: Uint8Array): void;
  /** The tree. Every leaf must have been appended. */
  finish(): Tree;
}

/** A level while it is built. */
interface Level {
  /** Hashes that belong on it. */
  readonly hashCount: number;
  /** Where the hash of each full block goes; undefined for the root's level. */
  readonly above: Level | undefined;
  readonly block: Uint8Array;
  /** Bytes of `block` in use. */
  filled: number;
  /** Hashes so far. */
  hashes: number;
}

const createLevel = (hashCount: number, above: Level | undefined): Level => ({
  hashCount,
  above,
  block: new Uint8Array(BLOCK_BYTES),
  filled: 0,
  hashes: 0,
});

/** Builds the tree over `byteLength` bytes of data, salted with `salt` (1–32 bytes) if given. */
export function createTreeBuilder(byteLength: number, salt?: Uint8Array): TreeBuilder {
  const { hashCounts } = treeGeometry(byteLength);
  const padded = salt === undefined ? undefined : saltBlock(salt);
  const kept = new Uint8Array(keptHashCount(byteLength) * HASH_BYTES);
  // Without data there is a root's level as well, which stays empty: zeros.
  const top = createLevel(Math.min(1, hashCounts.length), undefined);
  const leaves = hashCounts.slice(0, -1).reduceRight((above, hashCount) => createLevel(hashCount, above), top);
  const keptLevel = leaves.above ?? leaves;

  const append = (level: Level, hashes: Uint8Array): void => {
    if (level === keptLevel) kept.set(hashes, level.hashes * HASH_BYTES);
    for (let at = 0; at < hashes.byteLength; ) {
      const part = hashes.subarray(at, at + BLOCK_BYTES - level.filled);
      level.block.set(part, level.filled);
      level.filled += part.byteLength;
      level.hashes += part.byteLength / HASH_BYTES;
      at += part.byteLength;
      if (level.filled === BLOCK_BYTES) flush(level);
    }
  };

  const flush = (level: Level): void => {
    if (level.filled === 0 || level.above === undefined) return;
    const up = new Uint8Array(HASH_BYTES);
    hashBlocks(level.block.subarray(0, level.filled), up, padded);
    level.filled = 0;
    append(level.above, up);
  };

  return {
    appendLeaves: (hashes) => {
      assert(hashes.byteLength % HASH_BYTES === 0, "leaves are whole hashes");
      const after = leaves.hashes + hashes.byteLength / HASH_BYTES;
      assert(after <= leaves.hashCount, "there is one leaf for each block");
      append(leaves, hashes);
    },
    finish: () => {
      for (let level: Level | undefined = leaves; level !== undefined; level = level.above) {
        assert(level.hashes === level.hashCount, "each level is complete once those below it are");
        flush(level);
      }
      const root = top.block.slice(0, HASH_BYTES);
      return { byteLength, root, digest: fsverityDigest(root, byteLength, salt), kept };
    },
  };
}

/** The tree above a kept level: what a measurement's level-1 hashes add up to. `kept` is 32 bytes per 512 KiB. */
export function foldKept(kept: Uint8Array, byteLength: number, salt?: Uint8Array): Tree {
  assert(kept.byteLength === keptHashCount(byteLength) * HASH_BYTES, "the kept level has one hash per range");
  const padded = salt === undefined ? undefined : saltBlock(salt);
  let level = kept;
  while (level.byteLength > HASH_BYTES) {
    const up = new Uint8Array(Math.ceil(level.byteLength / BLOCK_BYTES) * HASH_BYTES);
    hashBlocks(level, up, padded);
    level = up;
  }
  const root = level.byteLength === 0 ? new Uint8Array(HASH_BYTES) : level.slice();
  return { byteLength, root, digest: fsverityDigest(root, byteLength, salt), kept };
}

/** Whether the kept level still adds up to `digest`: it is checked before it is believed. */
export function keptAddsUp(kept: Uint8Array, byteLength: number, digest: Uint8Array): boolean {
  return constantTimeEqual(foldKept(kept, byteLength).digest, digest);
}
