/**
 * The one table of errors. Codes are API: programs match on them, the command line maps them to exit codes, the
 * service (in one file of its own) to HTTP statuses. Every refusal anywhere in the journey is a `VramError`.
 *
 * What may stand in a message: numbers, digests, names and paths the caller gave. Never a pointer, a key, or a path
 * the caller did not give.
 */
import { constants } from "node:os";
import { getSystemErrorMap } from "node:util";

interface ErrorRow {
  /** What this code stands for, in one line. */
  readonly meaning: string;
  /** Whether the same call may succeed later without anything being mended. */
  readonly retriable: boolean;
  /** Whether the device can no longer be used by this process. */
  readonly fatal: boolean;
  /** What the reader can do about it. */
  readonly fix: string;
}

const row = (meaning: string, fix: string, flags: { retriable?: true; fatal?: true } = {}): ErrorRow => ({
  meaning,
  fix,
  retriable: flags.retriable ?? false,
  fatal: flags.fatal ?? false,
});

export const ERROR_TABLE = {
  INVALID_ARGUMENT: row("an argument is not what the call accepts", "correct the argument the message names"),
  OUT_OF_BOUNDS: row("an offset or length lies outside its allocation", "keep offset + length within the allocation"),
  SOURCE_NOT_FOUND: row("the model file does not exist", "check the path"),
  SOURCE_REFUSED: row(
    "the path does not lead to a file that may be read",
    "give a regular file under an allowed root, readable by this user",
  ),
  SOURCE_CHANGED: row("the file changed while it was being read", "wait until the file is complete, then try again", {
    retriable: true,
  }),
  SOURCE_READ_FAILED: row("reading the source failed", "check the disk and the file, then try again", {
    retriable: true,
  }),
  SOURCE_EMPTY: row("a source of zero bytes cannot be sealed", "give a file with content; `vram digest` digests it"),
  SOURCE_TOO_LARGE: row("the source exceeds the model size limit", "raise `maxModelBytes` if this model is wanted"),
  MODEL_MALFORMED: row(
    "the model file breaks a rule of its format",
    "fetch the file again; to seal its bytes as they are, ask for the format raw",
  ),
  NAME_CONFLICT: row("the name belongs to a shard with another digest", "choose another name or evict that shard"),
  SEAL_IN_PROGRESS: row("a shard of this name is being sealed right now", "wait for it, then try again", {
    retriable: true,
  }),
  SHARD_NOT_FOUND: row("no shard has this id or name", "list the shards to see what is resident"),
  SHARD_NOT_RESIDENT: row("the shard can no longer be relied on", "evict it and seal its source again"),
  SHARD_BUSY: row("the shard is in use", "release its leases, then try again", { retriable: true }),
  DIGEST_MISMATCH: row(
    "the bytes are not the expected ones, so nothing was sealed",
    "check where the file came from; `vram digest FILE` shows what it is",
  ),
  MEASUREMENT_MISMATCH: row(
    "the bytes in VRAM are no longer the sealed ones",
    "evict the shard, find out who could have written it, resume, seal it again",
  ),
  MEASUREMENT_INVALID: row(
    "the measurement itself did not work, so nothing can be said about the bytes",
    "verify again; if it persists, the GPU or its driver is faulty",
    { retriable: true },
  ),
  VRAM_UNREADABLE: row(
    "a part of the shard's memory could not be read",
    "check the GPU's error counters, restart, then seal again",
    { fatal: true },
  ),
  REGISTRY_CORRUPT: row(
    "our own record of a shard does not carry a valid mac",
    "something wrote to this process's memory: restart on a machine you trust, then seal again",
  ),
  SEAL_REFUSED: row("the seal was refused", "use the seal that the last seal call of this instance returned"),
  OUT_OF_VRAM: row("not enough VRAM", "evict a shard or stop another process on this GPU, then try again", {
    retriable: true,
  }),
  DEVICE_NOT_FOUND: row("no such device", "`vram doctor` lists the devices"),
  DEVICE_UNUSABLE: row(
    "a GPU is present but cannot be used",
    "`vram doctor` says what is missing; `--backend emulated` emulates one on purpose",
  ),
  DEVICE_LOST: row("the device reported a fatal error and is lost to this process", "restart, then seal again", {
    fatal: true,
  }),
  DEVICE_STALLED: row("the device did not answer within its deadline", "check the GPU, then restart", {
    fatal: true,
  }),
  DEVICE_BUSY: row(
    "the device's process belongs to another service, or has too many calls to answer",
    "wait, or stop the process that has it, then try again",
    { retriable: true },
  ),
  CUDA_FAILED: row("a driver call was refused", "`vram doctor` checks the device", { retriable: true }),
  POLICY_VIOLATION: row("the memory or device breaks the VRAM-only policy", "the message names the fact; mend it"),
  BACKEND_CHANGED: row(
    "the state directory belongs to another backend or GPU",
    "use a state directory of its own for each backend and GPU",
  ),
  WORKER_STOPPED: row(
    "the worker of this device is stopped: a verification failed, or its process did not come back",
    "find out why, then resume it with the reason: `vram resume --reason TEXT`, or `resume` of the library",
  ),
  STATE_BUSY: row(
    "another process uses the state directory",
    "wait for it or stop it, or use a state directory of your own",
    { retriable: true },
  ),
  STATE_INVALID: row(
    "the state directory cannot be used as it is",
    "the message names the file; mend it, or move the whole directory away and begin anew",
  ),
  LEASE_NOT_FOUND: row(
    "no lease has this id: it was released, revoked or ran out, or the service was restarted",
    "take another lease",
  ),
  OPERATION_NOT_FOUND: row(
    "no operation has this id: it ended long ago, or the service was restarted",
    "`vram ps` shows what is resident and what is being sealed",
  ),
  UNAUTHENTICATED: row("the service does not know the caller", "send a token: `vram token add` makes one"),
  FORBIDDEN: row(
    "the caller may not do this",
    "sealing, evicting, resuming, new signing keys and reading the audit log take the scope `operate`",
  ),
  REQUEST_REFUSED: row("the request is not one that the service answers", "the message says what is wrong with it"),
  SERVICE_BUSY: row("the service has too much to do already", "wait as long as `Retry-After` says, then try again", {
    retriable: true,
  }),
  SERVICE_STOPPING: row("the service is about to end", "wait until it runs again, then try again", {
    retriable: true,
  }),
  SERVICE_UNREACHABLE: row(
    "no service answers",
    "start one with `vram serve`, or name its socket with --socket or VRAM_SOCKET",
    { retriable: true },
  ),
  AUDIT_UNAVAILABLE: row(
    "the entry could not be recorded, so the operation was undone",
    "make room on the disk of the state directory, or mend it; `vram audit verify` checks what is there",
    { retriable: true },
  ),
  ABORTED: row("the caller asked to stop", "nothing was left behind; run it again when wanted", { retriable: true }),
  CLOSED: row("the object was used after it was closed", "open a new one"),
  INTERNAL: row("an assumption of this program did not hold", "please report it with the message"),
} as const satisfies Record<string, ErrorRow>;

/** A stable error code; docs/errors.md has the meaning, the exit code and the fix of each. @useDeclaredType */
export type ErrorCode = keyof typeof ERROR_TABLE;

/**
 * What to do about what the system refused. None of it says to remove anything: what cannot be read or written may be
 * evidence, or the only key.
 */
const SYSTEM_FIXES: Readonly<Record<string, string>> = {
  ENOSPC: "make room on that file system",
  EDQUOT: "make room: this user's quota on that file system is used up",
  EROFS: "the file system is read-only: make it writable, or name a place on another one",
  EACCES: "let this user read and write there: check the owner and mode of it and of the folders above",
  EPERM: "let this user read and write there: check the owner, mode and attributes of it and of the folders above",
  EIO: "check the disk: it does not read or write what it should",
  EMFILE: "raise the limit of open files (ulimit -n)",
  ENFILE: "this machine has too many open files: close some, or raise its limit",
};

/** The name of the system's error that `cause` is, `ENOSPC` and so on; undefined for anything else. */
export function systemName(cause: unknown): string | undefined {
  if (!(cause instanceof Error) || !("code" in cause) || typeof cause.code !== "string") return undefined;
  const { errno } = constants;
  if (Object.hasOwn(errno, cause.code)) return cause.code;
  // Node has no name for what libuv does not know (EDQUOT); the number is the system's.
  const number = "errno" in cause ? cause.errno : undefined;
  return Object.entries(errno).find(([, value]) => -value === number)?.[0];
}

/** What the system said, `ENOSPC: no space left on device`, without the path; undefined if it was not the system. */
export function systemReason(cause: unknown): string | undefined {
  const name = systemName(cause);
  const text = [...getSystemErrorMap().values()].find(([known]) => known === name)?.[1];
  return text === undefined ? name : `${name}: ${text}`;
}

/** What to do about an error of the system; undefined if nothing is known about it. */
export function systemFix(cause: unknown): string | undefined {
  const name = systemName(cause) ?? "";
  return Object.hasOwn(SYSTEM_FIXES, name) ? SYSTEM_FIXES[name] : undefined;
}

/** Plain data that belongs to an error: numbers, digests, ranges. Shown by `--json`. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/** The only error this package throws on purpose. */
export class VramError extends Error {
  /** Tells it from other errors where `instanceof` cannot: across copies of this package. */
  override readonly name = "VramError";
  /** What programs match on; stable. */
  readonly code: ErrorCode;
  /** Whether the same call may succeed later without anything being mended. */
  readonly retriable: boolean;
  /** Whether the device can no longer be used by this process. */
  readonly fatal: boolean;
  /** What to do about it. */
  readonly fix: string;
  /** Numbers, digests and names that belong to the message; `{}` if there are none. */
  readonly details: ErrorDetails;

  /** `fix` replaces the code's own; `cause` may name what the system refused, and then its fix is taken. */
  constructor(
    code: ErrorCode,
    message: string,
    options: { readonly cause?: unknown; readonly details?: ErrorDetails; readonly fix?: string } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const entry: ErrorRow = ERROR_TABLE[code];
    this.code = code;
    this.retriable = entry.retriable;
    this.fatal = entry.fatal;
    // What the system refused says more than the code.
    this.fix = options.fix ?? systemFix(options.cause) ?? entry.fix;
    this.details = options.details ?? {};
  }

  /** The error as plain data: what `--json` prints. */
  toJSON(): {
    /** As on the error. */
    code: ErrorCode;
    /** As on the error. */
    message: string;
    /** As on the error. */
    fix: string;
    /** As on the error. */
    retriable: boolean;
    /** As on the error. */
    details: ErrorDetails;
  } {
    return {
      code: this.code,
      message: this.message,
      fix: this.fix,
      retriable: this.retriable,
      details: this.details,
    };
  }
}

/** Turns anything thrown into a `VramError`: foreign errors become `INTERNAL`, aborts become `ABORTED`. */
export function toVramError(thrown: unknown): VramError {
  if (thrown instanceof VramError) return thrown;
  if (thrown instanceof Error && thrown.name === "AbortError") {
    return new VramError("ABORTED", "the operation was aborted", { cause: thrown });
  }
  const what = thrown instanceof Error ? thrown.message : String(thrown);
  return new VramError("INTERNAL", `unexpected failure: ${what}`, { cause: thrown });
}

/** Throws `ABORTED` if `signal` has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw new VramError("ABORTED", "the operation was aborted", { cause: signal.reason });
  }
}
