/**
 * What an error looks like over HTTP: the one file that knows statuses. A problem (RFC 9457) has our code, fix and
 * details beside what the RFC asks for. What goes wrong inside the service is told by its code and nothing else: a path
 * of the state directory or a stack is nobody's business at the other end.
 */
import { ERROR_TABLE, type ErrorCode, VramError } from "../../errors.ts";
import type { AuthFailure } from "../../journal/service-body.ts";
import { publicError } from "../public-error.ts";
import type { Problem } from "../replies.ts";

interface StatusRow {
  readonly status: number;
  /** Seconds until it is worth trying again. */
  readonly retryAfter?: number;
}

const answer = (status: number): StatusRow => ({ status });
const later = (status: number, retryAfter: number): StatusRow => ({ status, retryAfter });

/** Every code. A measurement that does not match is an answer, not a failure of the service: never 5xx. */
const STATUSES = {
  INVALID_ARGUMENT: answer(400),
  OUT_OF_BOUNDS: answer(400),
  SOURCE_NOT_FOUND: answer(404),
  SOURCE_REFUSED: answer(403),
  SOURCE_CHANGED: answer(409),
  SOURCE_READ_FAILED: later(503, 5),
  SOURCE_EMPTY: answer(422),
  SOURCE_TOO_LARGE: answer(422),
  MODEL_MALFORMED: answer(422),
  NAME_CONFLICT: answer(409),
  SEAL_IN_PROGRESS: answer(409),
  SHARD_NOT_FOUND: answer(404),
  SHARD_NOT_RESIDENT: answer(409),
  SHARD_BUSY: answer(409),
  DIGEST_MISMATCH: answer(422),
  MEASUREMENT_MISMATCH: answer(409),
  MEASUREMENT_INVALID: later(503, 5),
  VRAM_UNREADABLE: answer(503),
  REGISTRY_CORRUPT: answer(409),
  SEAL_REFUSED: answer(422),
  OUT_OF_VRAM: answer(507),
  DEVICE_NOT_FOUND: answer(404),
  DEVICE_UNUSABLE: answer(503),
  DEVICE_LOST: later(503, 15),
  DEVICE_STALLED: later(503, 15),
  DEVICE_BUSY: later(503, 1),
  CUDA_FAILED: later(503, 5),
  POLICY_VIOLATION: answer(409),
  BACKEND_CHANGED: answer(409),
  WORKER_STOPPED: answer(409),
  STATE_BUSY: { status: 503, retryAfter: 5 },
  STATE_INVALID: { status: 503 },
  LEASE_NOT_FOUND: answer(404),
  OPERATION_NOT_FOUND: answer(404),
  UNAUTHENTICATED: answer(401),
  FORBIDDEN: answer(403),
  REQUEST_REFUSED: answer(400),
  SERVICE_BUSY: later(429, 1),
  SERVICE_STOPPING: later(503, 5),
  SERVICE_UNREACHABLE: later(503, 5),
  AUDIT_UNAVAILABLE: later(503, 5),
  ABORTED: answer(409),
  CLOSED: { status: 503, retryAfter: 5 },
  INTERNAL: { status: 500 },
} as const satisfies Record<ErrorCode, StatusRow>;

/** What `REQUEST_REFUSED` can mean in HTTP. */
const REFUSAL_STATUSES = [400, 403, 404, 405, 408, 413, 415, 417, 421, 431] as const;
export type RefusalStatus = (typeof REFUSAL_STATUSES)[number];

/** A request that is not one the service answers. `allow`: the methods that it would answer. */
export const refusal = (status: RefusalStatus, message: string, more: { readonly allow?: string } = {}): VramError =>
  new VramError("REQUEST_REFUSED", message, { details: { status, ...more } });

/** A caller who is not let in, or not that far. */
export function authRefusal(failure: AuthFailure, message: string): VramError {
  if (failure === "wrong-host") return new VramError("REQUEST_REFUSED", message, { details: { status: 421, failure } });
  if (failure === "cross-site") return new VramError("REQUEST_REFUSED", message, { details: { status: 403, failure } });
  const isUnknown = failure === "no-token" || failure === "bad-token";
  return new VramError(isUnknown ? "UNAUTHENTICATED" : "FORBIDDEN", message, { details: { failure } });
}

const AUTH_CODES: readonly ErrorCode[] = ["REQUEST_REFUSED", "UNAUTHENTICATED", "FORBIDDEN"];

/** How the caller was not let in; undefined for any other error. */
export const authFailureOf = ({ code, details }: VramError): AuthFailure | undefined =>
  AUTH_CODES.includes(code) ? (details["failure"] as AuthFailure | undefined) : undefined;

const rowOf = (code: ErrorCode): StatusRow => STATUSES[code];

/** The status that an error of this code has, unless it says more. */
export const statusOfCode = (code: ErrorCode): number => rowOf(code).status;

/** The status of an answer that is this error. */
export function statusOf({ code, details }: VramError): number {
  const refused = REFUSAL_STATUSES.find((status) => code === "REQUEST_REFUSED" && status === details["status"]);
  return refused ?? statusOfCode(code);
}

/** Whether a request was malformed, too large, too slow, or asked for what is refused to it: that goes on record. */
export function isRefused(error: VramError): boolean {
  if (authFailureOf(error) !== undefined) return false;
  return error.code === "REQUEST_REFUSED" || error.code === "SOURCE_REFUSED" || statusOf(error) === 400;
}

/** The error as a problem. `instance` is the correlation id of the request. */
export function problemOf(error: VramError, instance: string): Problem {
  const { message: detail, ...told } = publicError(error);
  const type = `urn:vram-residency:error:${error.code}`;
  return { type, title: ERROR_TABLE[error.code].meaning, status: statusOf(error), detail, instance, ...told };
}

/** The headers that belong to the status. */
export function problemHeaders(error: VramError): Record<string, string> {
  const { retryAfter } = rowOf(error.code);
  const { allow } = error.details;
  return {
    ...(retryAfter === undefined ? {} : { "Retry-After": String(retryAfter) }),
    ...(error.code === "UNAUTHENTICATED" ? { "WWW-Authenticate": "Bearer" } : {}),
    ...(statusOf(error) === 405 && typeof allow === "string" ? { Allow: allow } : {}),
  };
}
