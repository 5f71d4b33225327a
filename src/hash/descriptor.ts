/**
 * From a root to a digest: the 256-byte descriptor of fs-verity, version 1, and the way digests are written.
 * Source: Linux Documentation/filesystems/fsverity.rst, "fs-verity descriptor".
 */
import { hash } from "node:crypto";
import { assert, requireInteger } from "../assert.ts";
import { fromHex, toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { HASH_BYTES } from "./geometry.ts";

/** The name of the digest in seals, statements and records. */
export const DIGEST_ALGORITHM = "fsverity-sha256-4096";
/** A salt has at most this many bytes; 0 means none. */
export const SALT_BYTES_MAX = 32;

const DESCRIPTOR_BYTES = 256;
const HASH_ALGORITHM_SHA256 = 1;
const LOG2_BLOCK_BYTES = 12;

/** SHA-256 of `bytes`. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer");
}

/**
 * The fs-verity digest of `byteLength` bytes whose tree has `root` (32 bytes; zeros when there are no bytes):
 * version @0, algorithm @1, log2 block size @2, salt size @3, data size u64-LE @8, root @16, salt @80.
 */
export function fsverityDigest(root: Uint8Array, byteLength: number, salt?: Uint8Array): Uint8Array {
  requireInteger(byteLength, "byteLength", 0, Number.MAX_SAFE_INTEGER);
  assert(root.byteLength === HASH_BYTES, "a root is one hash");
  const saltBytes = salt?.byteLength ?? 1;
  assert(saltBytes >= 1 && saltBytes <= SALT_BYTES_MAX, "a salt is 1 to 32 bytes");
  const descriptor = new Uint8Array(DESCRIPTOR_BYTES);
  descriptor.set([1, HASH_ALGORITHM_SHA256, LOG2_BLOCK_BYTES, salt?.byteLength ?? 0], 0);
  new DataView(descriptor.buffer).setBigUint64(8, BigInt(byteLength), true);
  descriptor.set(root, 16);
  if (salt !== undefined) descriptor.set(salt, 80);
  return sha256(descriptor);
}

/** Parses a salt: 1–32 bytes of hex, as `fsverity digest --salt` takes it. */
export function parseSalt(text: string): Uint8Array {
  const byteLength = text.length / 2;
  if (!Number.isInteger(byteLength) || byteLength < 1 || byteLength > SALT_BYTES_MAX) {
    throw new VramError("INVALID_ARGUMENT", `a salt is 1 to ${SALT_BYTES_MAX} bytes of hex`, {
      details: { argument: "salt" },
    });
  }
  return fromHex(text, byteLength, "salt");
}

/** A digest with the name of what computed it. `bytes` are 32. */
export interface NamedDigest {
  /** `fsverity`: `DIGEST_ALGORITHM`. `sha256`: of the bytes in one piece. */
  readonly kind: "fsverity" | "sha256";
  /** 32 bytes. */
  readonly bytes: Uint8Array;
}

/** Parses `fsverity:HEX`, `sha256:HEX` or 64 bare hex digits, which are fsverity. */
export function parseDigest(text: string): NamedDigest {
  const match = /^(?:(fsverity|sha256):)?([0-9a-f]{64})$/.exec(text);
  if (match?.[2] === undefined) {
    throw new VramError("INVALID_ARGUMENT", "a digest is fsverity:HEX or sha256:HEX with 64 lower-case hex digits", {
      details: { argument: "digest" },
    });
  }
  return { kind: match[1] === "sha256" ? "sha256" : "fsverity", bytes: fromHex(match[2], HASH_BYTES, "digest") };
}

/** Writes a digest as `parseDigest` reads it. */
export function formatDigest(kind: NamedDigest["kind"], bytes: Uint8Array): string {
  return `${kind}:${toHex(bytes)}`;
}
