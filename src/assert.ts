/**
 * Checks that hold unless this program is wrong (`assert`), and checks of what a caller handed in (`requireInteger`).
 * The first throw `INTERNAL`, the second `INVALID_ARGUMENT`. Nothing here clamps.
 */
import { VramError } from "./errors.ts";

/** Throws `INTERNAL` unless `condition` holds. */
export function assert(condition: boolean, what: string): asserts condition {
  if (!condition) throw new VramError("INTERNAL", `assertion failed: ${what}`);
}

/** The value, or `INTERNAL` if it is absent: for lookups that cannot miss. */
export function present<T>(value: T | undefined | null, what: string): T {
  if (value === undefined || value === null) throw new VramError("INTERNAL", `assertion failed: ${what} is absent`);
  return value;
}

/** For the default arm of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new VramError("INTERNAL", `assertion failed: unexpected case ${JSON.stringify(value)}`);
}

/** Throws `INVALID_ARGUMENT` unless `value` is an integer within [min, max]. Returns it. */
export function requireInteger(value: unknown, name: string, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
    throw new VramError("INVALID_ARGUMENT", `${name} must be an integer from ${min} to ${max}`, {
      details: { argument: name },
    });
  }
  return value;
}

/**
 * Throws `OUT_OF_BOUNDS` unless [offset, offset + byteLength) is a non-empty range within [0, limit). Units: bytes.
 * Every copy and kernel argument passes through here (VR-MEM-02).
 */
export function requireRange(offset: number, byteLength: number, limit: number, what: string): void {
  const valid =
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(byteLength) &&
    offset >= 0 &&
    byteLength > 0 &&
    offset <= limit &&
    byteLength <= limit - offset;
  if (!valid) {
    throw new VramError(
      "OUT_OF_BOUNDS",
      `${what}: offset ${offset} + length ${byteLength} is not within ${limit} bytes`,
      {
        details: { offset, byteLength, limit },
      },
    );
  }
}
