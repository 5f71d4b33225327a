/**
 * Keys of the seal (design §5, "Keys"). One root key of 32 random bytes; everything else is derived from it with
 * HKDF-SHA256 and lives only as a `KeyObject`, which cannot be inspected, serialised or printed. Buffers that held key
 * bytes are zeroed here, in the function that made them.
 */
import { createSecretKey, hkdfSync, type KeyObject, randomBytes } from "node:crypto";
import { assert } from "../assert.ts";
import { fromHexDigits, toHexDigits } from "../bytes.ts";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";

/** Bytes of the root key and of every key derived from it. */
export const KEY_BYTES = 32;
/** Bytes of a key id: the first of `seal-id`. */
const KEY_ID_BYTES = 16;

const HKDF_SALT = "vram-residency/v1";

/** What a derived key is for. `seal` and `seal-id` belong to one device, `set` and `wanted` to none. */
export type KeyPurpose = "seal" | "seal-id" | "set" | "wanted";

/** The keys of one worker. */
export interface WorkerKeys {
  /** HMAC-SHA256 key of the seals of this device and backend. */
  readonly seal: KeyObject;
  /** 16 bytes that name the key without telling it. */
  readonly keyId: Uint8Array;
}

/** A key object from `bytes`, which are zeroed. */
function takeKey(bytes: Uint8Array): KeyObject {
  try {
    return createSecretKey(bytes);
  } finally {
    bytes.fill(0);
  }
}

/** A fresh root key that is kept in memory only. */
export function createRootKey(): KeyObject {
  return takeKey(randomBytes(KEY_BYTES));
}

/**
 * Reads a root key from the bytes of its file: exactly 64 hex digits and nothing else. `text` is zeroed. The digits
 * never become a JavaScript string, which could not be erased.
 */
export function readRootKey(text: Uint8Array): KeyObject {
  const bytes = fromHexDigits(text, KEY_BYTES);
  text.fill(0);
  if (bytes === undefined) throw new VramError("STATE_INVALID", "root.key must hold exactly 64 hex digits");
  return takeKey(bytes);
}

/** The 64 hex digits of a fresh root key, as bytes for its file. The caller zeroes them. */
export function writeRootKey(): Uint8Array {
  const bytes = randomBytes(KEY_BYTES);
  const text = toHexDigits(bytes);
  bytes.fill(0);
  return text;
}

/** `info` of HKDF: purpose, backend and worker id, each behind its length in one byte. */
function keyInfo(parts: readonly string[]): Uint8Array {
  return Buffer.concat(
    parts.map((part) => {
      const bytes = Buffer.from(part, "utf8");
      assert(bytes.byteLength < 256, "a part of a key's info is shorter than 256 bytes");
      return Buffer.concat([Uint8Array.of(bytes.byteLength), bytes]);
    }),
  );
}

function derive(root: KeyObject, purpose: KeyPurpose, backend: Backend, workerId: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", root, HKDF_SALT, keyInfo([purpose, backend, workerId]), KEY_BYTES));
}

/** The key for `purpose`; `workerId` is a device's UUID, or empty. */
export function deriveKey(root: KeyObject, purpose: KeyPurpose, backend: Backend, workerId: string): KeyObject {
  return takeKey(derive(root, purpose, backend, workerId));
}

/** The keys of the worker of the device with this UUID. */
export function deriveWorkerKeys(root: KeyObject, backend: Backend, deviceUuid: string): WorkerKeys {
  const id = derive(root, "seal-id", backend, deviceUuid);
  const keyId = id.slice(0, KEY_ID_BYTES);
  id.fill(0);
  return { seal: deriveKey(root, "seal", backend, deviceUuid), keyId };
}
