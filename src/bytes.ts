/** Encodings shared by the digest, the seal and the screens. Pure; integers are little-endian. */
import { timingSafeEqual } from "node:crypto";
import { assert } from "./assert.ts";
import { VramError } from "./errors.ts";

/** Lower-case hex of `bytes`. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Bytes of a hex string of exactly `byteLength` bytes, any case; `INVALID_ARGUMENT` otherwise. */
export function fromHex(text: string, byteLength: number, name: string): Uint8Array {
  if (text.length !== byteLength * 2 || !/^[0-9a-fA-F]*$/.test(text)) {
    throw new VramError("INVALID_ARGUMENT", `${name} must be ${byteLength * 2} hex digits`, {
      details: { argument: name },
    });
  }
  return new Uint8Array(Buffer.from(text, "hex"));
}

const HEX_DIGITS = "0123456789abcdef";

/**
 * Memory for a secret. V8 keeps arrays of up to 64 bytes on its own heap, where it moves them, and copies them when they
 * are handed to native code: what is overwritten then is one of several. A buffer of its own is not moved.
 */
export const secretBytes = (byteLength: number): Uint8Array => new Uint8Array(new ArrayBuffer(byteLength));

/** The lower-case hex digits of a secret, as bytes: text in JavaScript could not be erased. The caller zeroes them. */
export function toHexDigits(bytes: Uint8Array): Uint8Array {
  const digits = secretBytes(bytes.byteLength * 2);
  bytes.forEach((byte, index) => {
    digits[index * 2] = HEX_DIGITS.charCodeAt(byte >> 4);
    digits[index * 2 + 1] = HEX_DIGITS.charCodeAt(byte & 15);
  });
  return digits;
}

const BASE64_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** The standard base64 digits of a secret, as bytes, for the same reason. Whole groups of 3 bytes only. */
export function toBase64Digits(bytes: Uint8Array): Uint8Array {
  assert(bytes.byteLength % 3 === 0, "base64 without padding is of groups of 3 bytes");
  const digits = secretBytes((bytes.byteLength / 3) * 4);
  for (let from = 0, to = 0; from < bytes.byteLength; from += 3, to += 4) {
    const group = ((bytes[from] ?? 0) << 16) | ((bytes[from + 1] ?? 0) << 8) | (bytes[from + 2] ?? 0);
    for (let nth = 0; nth < 4; nth += 1) digits[to + nth] = BASE64_DIGITS.charCodeAt((group >> (18 - 6 * nth)) & 63);
  }
  return digits;
}

const hexValue = (code: number): number => {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  if (code >= 0x61 && code <= 0x66) return code - 0x57;
  if (code >= 0x41 && code <= 0x46) return code - 0x37;
  return -1;
};

/** The secret whose hex digits (any case) these bytes are; undefined unless there are exactly `byteLength` × 2. */
export function fromHexDigits(digits: Uint8Array, byteLength: number): Uint8Array | undefined {
  const bytes = secretBytes(byteLength);
  let valid = digits.byteLength === byteLength * 2;
  for (let index = 0; valid && index < byteLength; index += 1) {
    const high = hexValue(digits[index * 2] ?? 0);
    const low = hexValue(digits[index * 2 + 1] ?? 0);
    valid = high >= 0 && low >= 0;
    bytes[index] = (high << 4) | low;
  }
  if (valid) return bytes;
  bytes.fill(0);
  return undefined;
}

/** 4 bytes, little-endian. `value` is an integer in [0, 2^32). */
export function u32le(value: number): Uint8Array {
  const out = new Uint8Array(4);
  new DataView(out.buffer).setUint32(0, value, true);
  return out;
}

/** 8 bytes, little-endian. `value` is a non-negative safe integer. */
export function u64le(value: number): Uint8Array {
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, BigInt(value), true);
  return out;
}

/** The parts joined, each behind its byte count as u32-LE: unambiguous by construction. */
export function frame(parts: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(parts.flatMap((part) => [u32le(part.byteLength), part]));
}

/** Constant-time equality; lengths are not secret and differ at once. */
export function constantTimeEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && timingSafeEqual(a, b);
}

/** A value without members, as `JSON.stringify` writes it; `INTERNAL` for what RFC 8785 has no form for. */
function canonicalLeaf(value: unknown): string {
  const isPlain =
    value === null ||
    typeof value === "boolean" ||
    (typeof value === "number" && Number.isFinite(value)) ||
    (typeof value === "string" && value.isWellFormed());
  assert(isPlain, "only plain data has a canonical form");
  return JSON.stringify(value);
}

/**
 * RFC 8785 (JCS) form of plain data: keys sorted by UTF-16 code units, no white space. Members are written one by one:
 * a sorted object would not do, because JavaScript lists keys like "10" first, in the order of their numbers.
 * Members that are undefined do not count. Throws `INTERNAL` for anything else that JSON cannot hold.
 */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((part) => canonicalJson(part)).join(",")}]`;
  if (typeof value !== "object" || value === null) return canonicalLeaf(value);
  const members = Object.entries(value)
    .filter(([, part]) => part !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, part]) => `${canonicalLeaf(key)}:${canonicalJson(part)}`);
  return `{${members.join(",")}}`;
}

/** `value` rounded up to a multiple of `unit`; both positive safe integers. */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** A byte count for people: `378.2 KiB`. Programs get the number. */
export function formatBytes(byteLength: number): string {
  let value = byteLength;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${value.toFixed(1)} ${UNITS[unit] ?? ""}`;
}

/** Controls, what is there and cannot be seen (bidirectional marks, zero widths, tags), and separators of lines. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** A character by its number, as `printable` shows it. */
export const escaped = (char: string): string => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;

/** Text safe to print: characters that steer a terminal, turn text around or cannot be seen become `\u{…}`. */
export function printable(text: string): string {
  return text.replace(UNSEEN, escaped);
}
