/**
 * Keys of the seal (design §5, "Keys"). One root key of 32 random bytes; everything else is derived from it with
 * HKDF-SHA256 and lives only as a `KeyObject`, which cannot be inspected, serialised or printed. Buffers that held key
 * bytes are zeroed here, in the function that made them.
 */
import { createSecretKey, hkdfSync, type KeyObject, randomBytes } from "node:crypto";
import { assert } from "../assert.ts";
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

const hexValue = (code: number): number => {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  if (code >= 0x61 && code <= 0x66) return code - 0x57;
  if (code >= 0x41 && code <= 0x46) return code - 0x37;
  return -1;
};

/**
 * Reads a root key from the bytes of its file: exactly 64 hex digits and nothing else. `text` is zeroed. The digits
 * never become a JavaScript string, which could not be erased.
 */
export function readRootKey(text: Uint8Array): KeyObject {
  const bytes = new Uint8Array(KEY_BYTES);
  try {
    const digits = new DataView(text.buffer, text.byteOffset, text.byteLength);
    let valid = text.byteLength === KEY_BYTES * 2;
    for (let index = 0; valid && index < KEY_BYTES; index += 1) {
      const high = hexValue(digits.getUint8(index * 2));
      const low = hexValue(digits.getUint8(index * 2 + 1));
      valid = high >= 0 && low >= 0;
      bytes[index] = (high << 4) | low;
    }
    if (!valid) throw new VramError("STATE_INVALID", "root.key must hold exactly 64 hex digits");
    return takeKey(bytes);
  } finally {
    text.fill(0);
    bytes.fill(0);
  }
}

/** The 64 hex digits of a fresh root key, as bytes for its file. The caller zeroes them. */
export function writeRootKey(): Uint8Array {
  const bytes = randomBytes(KEY_BYTES);
  const text = new Uint8Array(KEY_BYTES * 2);
  bytes.forEach((byte, index) => {
    text[index * 2] = "0123456789abcdef".charCodeAt(byte >> 4);
    text[index * 2 + 1] = "0123456789abcdef".charCodeAt(byte & 15);
  });
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
