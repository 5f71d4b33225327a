/** Errors as callers see them: what is about the inside of the service says its meaning only. */
import { ERROR_TABLE, type ErrorCode, type VramError } from "../errors.ts";

/** Codes whose messages may name files of the service, or tell how it is made. */
const INSIDE: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["STATE_BUSY", "STATE_INVALID", "CLOSED", "INTERNAL"]);

/** Plain data as JSON can say it; what it cannot is left out. A `bigint` may be an address. */
function plainDetails(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  try {
    const text = JSON.stringify(details, (_, value: unknown) => (typeof value === "bigint" ? undefined : value));
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return {};
  }
}

export interface PublicError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly fix: string;
  readonly retriable: boolean;
  readonly details: Record<string, unknown>;
}

/** What may be told of an error to whoever asks. The fix is kept: it says what to do, never where. */
export function publicError({ code, message, fix, retriable, details }: VramError): PublicError {
  if (!INSIDE.has(code)) return { code, message, fix, retriable, details: plainDetails(details) };
  const { meaning } = ERROR_TABLE[code];
  return { code, message: meaning, fix: fix.includes("/") ? ERROR_TABLE[code].fix : fix, retriable, details: {} };
}
