/** Ids and names (design §5, "Shard ids and names"): what may be one, and where generated ones come from. */
import { randomBytes } from "node:crypto";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

const invalid = (argument: string, why: string): VramError =>
  new VramError("INVALID_ARGUMENT", why, { details: { argument } });

/** Throws unless `value` is a shard id: 1–256 of `A–Z a–z 0–9 . _ -`, first alphanumeric, no `..`. Returns it. */
export function requireShardId(value: string): string {
  const valid = value.length <= LIMITS.idLength && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(value) && !value.includes("..");
  if (!valid) {
    throw invalid("shardId", "a shard id is 1 to 256 of A–Z a–z 0–9 . _ - starting with a letter or digit, without ..");
  }
  return value;
}

/** Throws unless `value` is a name: 1–1024 bytes of well-formed text without control characters. Returns it. */
export function requireName(value: string): string {
  const byteLength = Buffer.byteLength(value, "utf8");
  // \p{Cc} controls, \p{Cs} lone surrogates, \p{Cf} invisible formatting such as bidirectional overrides.
  const valid = byteLength >= 1 && byteLength <= LIMITS.nameBytes && !/[\p{Cc}\p{Cs}\p{Cf}\u2028\u2029]/u.test(value);
  if (!valid) {
    throw invalid("name", `a name is 1 to ${LIMITS.nameBytes} bytes of text without control or invisible characters`);
  }
  return value;
}

/** A file's base name made fit to be a name: what is not allowed becomes `_`. */
export function cleanName(baseName: string): string {
  // Every character has at least one byte, so what lies beyond that many is cut anyway.
  const short = baseName.slice(0, LIMITS.nameBytes).toWellFormed();
  let cleaned = short.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "_");
  while (Buffer.byteLength(cleaned, "utf8") > LIMITS.nameBytes) cleaned = Array.from(cleaned).slice(0, -1).join("");
  return cleaned.length === 0 ? "unnamed" : cleaned;
}

const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

/** A generated id: what it is of, and 26 base32 characters (130 bits) from a CSPRNG. */
export function createId(kind: "shard" | "lease" | "op" | "export" | "statement"): string {
  const tail = [...randomBytes(26)].map((byte) => BASE32.charAt(byte & 31)).join("");
  return `${kind}-${tail}`;
}

export const createShardId = (): string => createId("shard");
