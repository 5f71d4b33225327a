/**
 * The one loop over 4 KiB blocks on the CPU. Runs on hashing threads (`pool.ts`) and, when there are none, here.
 * With a salt, every block is preceded by the salt zero-padded to 64 bytes, one SHA-256 input block
 * (Linux Documentation/filesystems/fsverity.rst, "Merkle tree").
 */
import { hash } from "node:crypto";
import { assert } from "../assert.ts";
import { SALT_BYTES_MAX } from "./descriptor.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES } from "./geometry.ts";

/** Salts are padded to one SHA-256 input block. */
export const SALT_BLOCK_BYTES = 64;

/** The salt (1–32 bytes) zero-padded to 64 bytes: what precedes every block. */
export function saltBlock(salt: Uint8Array): Uint8Array {
  // An empty one would put 64 zeros before every block, which is no fs-verity tree at all.
  assert(salt.byteLength >= 1 && salt.byteLength <= SALT_BYTES_MAX, "a salt is 1 to 32 bytes");
  const padded = new Uint8Array(SALT_BLOCK_BYTES);
  padded.set(salt);
  return padded;
}

/**
 * Hashes each 4 KiB block of `data` into 32 bytes of `out`, from its start. A partial last block is zero-padded.
 * `padded` is a salt block of 64 bytes. `out` holds at least 32 × blocks bytes.
 */
export function hashBlocks(data: Uint8Array, out: Uint8Array, padded?: Uint8Array): void {
  const prefix = padded?.byteLength ?? 0;
  const scratch = new Uint8Array(prefix + BLOCK_BYTES);
  if (padded !== undefined) scratch.set(padded);
  const count = blockCount(data.byteLength);
  const hashes = Buffer.from(out.buffer, out.byteOffset, out.byteLength);
  for (let block = 0; block < count; block += 1) {
    let input = data.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    if (prefix > 0 || input.byteLength < BLOCK_BYTES) {
      scratch.fill(0, prefix);
      scratch.set(input, prefix);
      input = scratch;
    }
    // As a string, one character a byte: asking for a Buffer makes one per block, which costs a third of the hashing.
    hashes.write(hash("sha256", input, "binary"), block * HASH_BYTES, "binary");
  }
}
