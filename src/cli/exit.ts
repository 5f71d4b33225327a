/** Exit codes (design §5, "CLI"): the one place that knows them. */
import { type ErrorCode, toVramError } from "../errors.ts";

export const EXIT = {
  ok: 0,
  error: 1,
  usage: 2,
  mismatch: 3,
  auth: 4,
  policy: 5,
  unreachable: 6,
  audit: 7,
  device: 8,
  interrupted: 130,
} as const;

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  INVALID_ARGUMENT: EXIT.usage,
  DIGEST_MISMATCH: EXIT.mismatch,
  MEASUREMENT_MISMATCH: EXIT.mismatch,
  REGISTRY_CORRUPT: EXIT.mismatch,
  SEAL_REFUSED: EXIT.auth,
  UNAUTHENTICATED: EXIT.auth,
  FORBIDDEN: EXIT.auth,
  SERVICE_UNREACHABLE: EXIT.unreachable,
  LEASE_NOT_FOUND: EXIT.policy,
  POLICY_VIOLATION: EXIT.policy,
  BACKEND_CHANGED: EXIT.policy,
  DEVICE_UNUSABLE: EXIT.policy,
  WORKER_STOPPED: EXIT.policy,
  SHARD_NOT_RESIDENT: EXIT.policy,
  AUDIT_UNAVAILABLE: EXIT.audit,
  MEASUREMENT_INVALID: EXIT.device,
  VRAM_UNREADABLE: EXIT.device,
  DEVICE_LOST: EXIT.device,
  DEVICE_STALLED: EXIT.device,
  ABORTED: EXIT.interrupted,
};

/** The exit code for anything thrown. */
export function exitCodeFor(thrown: unknown): number {
  return BY_CODE[toVramError(thrown).code] ?? EXIT.error;
}
