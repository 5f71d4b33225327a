/**
 * The shape of an fs-verity Merkle tree, as arithmetic only: SHA-256, 4096-byte blocks, 128 hashes to a block.
 * Source: Linux Documentation/filesystems/fsverity.rst, "Merkle tree".
 *
 * Level 0 holds one hash per 4 KiB block of data; level k + 1 one hash per 4 KiB block of level k; the last level has
 * one hash, the root. *Level 1* (32 bytes per 512 KiB) is what we keep on the host: enough to say where damage is.
 */
import { requireInteger } from "../assert.ts";

/** Bytes per tree block. */
export const BLOCK_BYTES = 4096;
/** Bytes per SHA-256 hash. */
export const HASH_BYTES = 32;
/** Hashes per tree block. */
export const HASHES_PER_BLOCK = BLOCK_BYTES / HASH_BYTES;
/** Data covered by one hash of level 1: 128 blocks = 512 KiB. */
export const RANGE_BYTES = BLOCK_BYTES * HASHES_PER_BLOCK;

export interface Geometry {
  /** Bytes of data. */
  readonly byteLength: number;
  /** Hashes on each level, level 0 first. The last is 1; empty for zero bytes. */
  readonly hashCounts: readonly number[];
}

/** The tree over `byteLength` bytes, 0 … 2^53 − 1. */
export function treeGeometry(byteLength: number): Geometry {
  requireInteger(byteLength, "byteLength", 0, Number.MAX_SAFE_INTEGER);
  const hashCounts: number[] = [];
  let count = blockCount(byteLength);
  while (count > 0) {
    hashCounts.push(count);
    count = count === 1 ? 0 : Math.ceil(count / HASHES_PER_BLOCK);
  }
  return { byteLength, hashCounts };
}

/** 4 KiB blocks that hold `byteLength` bytes; the last may be partial. */
export function blockCount(byteLength: number): number {
  // Division first rounds above 2^53 − 4096; the remainder does not.
  const tail = byteLength % BLOCK_BYTES;
  return (byteLength - tail) / BLOCK_BYTES + (tail === 0 ? 0 : 1);
}

/**
 * Hashes on the level that is kept: level 1, or level 0 where the tree ends there (one block or less).
 * Each covers `RANGE_BYTES` of data.
 */
export function keptHashCount(byteLength: number): number {
  const { hashCounts } = treeGeometry(byteLength);
  return hashCounts[1] ?? hashCounts[0] ?? 0;
}
