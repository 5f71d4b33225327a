/**
 * How an operation ended, in words. Success is for debugging; a refused input is `validate_failed`; what an entry of its
 * own has told already is not told twice. The sentence comes from the table of errors: the message of an error may hold
 * a path, its meaning never does.
 */
import { ERROR_TABLE, type ErrorCode } from "../errors.ts";
import type { Entry } from "../journal/entry.ts";
import { DEBUG, inMs, type Level, type Line, line } from "./line.ts";

type Ended = Extract<Entry, { readonly type: "operation_ended" }>;

/** Codes that mean: what was handed in is not what the call accepts. */
const REFUSED_INPUT: readonly ErrorCode[] = [
  "INVALID_ARGUMENT",
  "OUT_OF_BOUNDS",
  "SOURCE_NOT_FOUND",
  "SOURCE_REFUSED",
  "SOURCE_CHANGED",
  "SOURCE_EMPTY",
  "SOURCE_TOO_LARGE",
  "MODEL_MALFORMED",
  "NAME_CONFLICT",
  "SHARD_NOT_FOUND",
  "LEASE_NOT_FOUND",
  "OPERATION_NOT_FOUND",
  "DEVICE_NOT_FOUND",
];

/** Codes whose cause has an entry: `seal_refused`, `seal_verification_failed`, `auth_failed` and so on. */
const TOLD_BEFORE: readonly ErrorCode[] = [
  "DIGEST_MISMATCH",
  "MEASUREMENT_MISMATCH",
  "REGISTRY_CORRUPT",
  "SEAL_REFUSED",
  "UNAUTHENTICATED",
  "FORBIDDEN",
  "REQUEST_REFUSED",
  "POLICY_VIOLATION",
  "OUT_OF_VRAM",
];

/** Failures of the program or the device rather than of this one call. */
const GRAVE: readonly ErrorCode[] = [
  "VRAM_UNREADABLE",
  "DEVICE_LOST",
  "DEVICE_STALLED",
  "AUDIT_UNAVAILABLE",
  "INTERNAL",
];

function levelOf(code: ErrorCode): Level {
  if (TOLD_BEFORE.includes(code)) return "debug";
  if (GRAVE.includes(code)) return "error";
  return code === "ABORTED" ? "info" : "warn";
}

/** The line for an operation that ended. */
export function outcomeLine({ operation, durationMs, code, argument }: Ended): Line {
  const what = operation.replace("_", " ");
  if (code === undefined) {
    const human = `${what} took ${inMs(durationMs)}`;
    return line(["vram-residency", "operation_done", "done"], operation, human, { ...DEBUG, durationMs });
  }
  const { meaning } = ERROR_TABLE[code];
  const extra = { level: levelOf(code), tone: "bad", durationMs, errorKind: code } as const;
  if (REFUSED_INPUT.includes(code)) {
    const which = argument === undefined ? "" : ` (${argument})`;
    const human = `${what} was refused: ${meaning}${which}`;
    return line(["vram-residency", "validate_failed", "refused"], argument ?? operation, human, extra);
  }
  return line(["vram-residency", "operation_failed", "failed"], operation, `${what} failed: ${meaning}`, extra);
}
