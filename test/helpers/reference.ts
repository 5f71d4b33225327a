/** The fs-verity digest of bytes in memory, by another implementation of SHA-256 and a plain reading of the text. */
import { sha256 } from "@noble/hashes/sha2.js";

/** Digest of `data`; `salt` is 1–32 bytes. Source: Linux Documentation/filesystems/fsverity.rst. */
export function digestOf(data: Uint8Array, salt: Uint8Array = new Uint8Array(0)): Uint8Array {
  const prefix = new Uint8Array(salt.length === 0 ? 0 : 64);
  prefix.set(salt);
  const hashBlock = (block: Uint8Array): Uint8Array => {
    const padded = new Uint8Array(prefix.length + 4096);
    padded.set(prefix);
    padded.set(block, prefix.length);
    return sha256(padded);
  };
  let level = data;
  if (data.length > 0) {
    do {
      const hashes: Uint8Array[] = [];
      for (let at = 0; at < level.length; at += 4096) hashes.push(hashBlock(level.subarray(at, at + 4096)));
      level = Buffer.concat(hashes);
    } while (level.length > 32);
  }
  const descriptor = new Uint8Array(256);
  descriptor.set([1, 1, 12, salt.length]);
  new DataView(descriptor.buffer).setBigUint64(8, BigInt(data.length), true);
  if (data.length > 0) descriptor.set(level, 16);
  descriptor.set(salt, 80);
  return sha256(descriptor);
}
