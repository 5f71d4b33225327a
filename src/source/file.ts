/**
 * Opening a model file so that what was checked is what is read (VR-IN-03). The path is resolved (links of the
 * Hugging Face cache work), the resolved file must lie under an allowed root, and is opened once: without following a
 * last link (it was swapped if there is one now), without blocking (a FIFO would hang a pool thread), and then asked
 * by `/proc/self/fd` where it really is. Its identity is taken at open and compared after the last read.
 */
import type { BigIntStats } from "node:fs";
import { constants, promises } from "node:fs";
import { basename, sep } from "node:path";
import { VramError } from "../errors.ts";

/** An open file, as far as it is needed here. Node's `FileHandle` is one. */
export interface FileDescriptor {
  /** The system's number. */
  readonly fd: number;
  /** As `FileHandle.stat`. */
  stat(options: { bigint: true }): Promise<BigIntStats>;
  /** As `FileHandle.read`. */
  read(
    into: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): Promise<{
    /** 0 at the end of the file. */
    bytesRead: number;
  }>;
  /** As `FileHandle.close`. */
  close(): Promise<void>;
}

/** The file-system calls of the journey. Fault sweeps supply their own. */
export interface FileSystem {
  /** As `fs.promises.realpath`. */
  realpath(path: string): Promise<string>;
  /** As `fs.promises.readlink`. */
  readlink(path: string): Promise<string>;
  /** As `fs.promises.open`. */
  open(path: string, flags: number): Promise<FileDescriptor>;
}

/** The machine's file system. */
export const nodeFileSystem: FileSystem = {
  realpath: (path) => promises.realpath(path),
  readlink: (path) => promises.readlink(path),
  open: (path, flags) => promises.open(path, flags),
};

/** What makes a file the same file, unchanged. Plain data, so that a plan can name the file it was made from. */
export interface FileIdentity {
  readonly dev: string;
  readonly ino: string;
  readonly size: string;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
}

export interface ReadableFile {
  readonly identity: FileIdentity;
  /** Its descriptor, for threads of this process; absent where a test stands in for the file system. */
  readonly fd?: number;
  /** Base name of the path as the caller gave it. */
  readonly baseName: string;
  readonly byteLength: number;
  /** Fills `into` from `position`; throws `SOURCE_CHANGED` if the file ends early. Returns the bytes read. */
  readAt(into: Uint8Array, position: number): Promise<number>;
  /** Throws `SOURCE_CHANGED` unless device, inode, size, mtime and ctime are as they were at open. */
  requireUnchanged(): Promise<void>;
  close(): Promise<void>;
}

const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;

const errnoOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";

/** What is kept of a file-system error. The error itself shows the resolved path, which the caller did not give. */
const causeOf = (error: unknown): { readonly errno: string } => ({ errno: errnoOf(error) || "unknown" });

const refused = (path: string, why: string, error?: unknown): VramError => {
  const cause = error === undefined ? {} : { cause: causeOf(error) };
  return new VramError("SOURCE_REFUSED", `${path}: ${why}`, { ...cause, details: { path } });
};

/** The refusal of a path that could not be resolved, opened or listed because of `error`. */
export function openFailure(path: string, error: unknown): VramError {
  switch (errnoOf(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return new VramError("SOURCE_NOT_FOUND", `${path}: no such file`, { cause: causeOf(error), details: { path } });
    case "ELOOP":
      return refused(path, "it became a symbolic link while it was being opened, or its links form a loop", error);
    case "EACCES":
    case "EPERM":
      return refused(path, "this user may not read it", error);
    case "ENXIO":
      return refused(path, "it is not a regular file", error);
    case "ENAMETOOLONG":
      return refused(path, "the path is too long", error);
    default:
      return new VramError("SOURCE_READ_FAILED", `${path}: cannot be opened (${errnoOf(error) || "unknown"})`, {
        cause: causeOf(error),
        details: { path },
      });
  }
}

const liesUnder = (resolved: string, root: string): boolean =>
  resolved === root || resolved.startsWith(root.endsWith(sep) ? root : root + sep);

/** The path with its links resolved; `SOURCE_REFUSED` unless it lies under one of `roots`. */
export async function resolveUnderRoots(path: string, roots: readonly string[], fs: FileSystem): Promise<string> {
  if (path.length === 0 || path.includes("\0")) {
    throw new VramError("INVALID_ARGUMENT", "a path must not be empty or contain NUL", {
      details: { argument: "path" },
    });
  }
  let resolved: string;
  try {
    resolved = await fs.realpath(path);
  } catch (error) {
    throw openFailure(path, error);
  }
  const allowed = await Promise.all(roots.map((root) => fs.realpath(root).catch(() => undefined)));
  if (!allowed.some((root) => root !== undefined && liesUnder(resolved, root))) {
    throw refused(path, "it does not lie under an allowed root");
  }
  return resolved;
}

function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: BigIntStats): FileIdentity {
  return { dev: `${dev}`, ino: `${ino}`, size: `${size}`, mtimeNs: `${mtimeNs}`, ctimeNs: `${ctimeNs}` };
}

/** Whether two identities are the same in every part. */
export function sameIdentity(a: FileIdentity, b: FileIdentity): boolean {
  return (Object.keys(a) as (keyof FileIdentity)[]).every((part) => a[part] === b[part]);
}

/** Checks an opened descriptor: it is a regular file, and it is where its path says. */
async function requireRegularAt(
  handle: FileDescriptor,
  resolved: string,
  path: string,
  fs: FileSystem,
): Promise<BigIntStats> {
  const stats = await handle.stat({ bigint: true });
  if (!stats.isFile()) throw refused(path, "it is not a regular file");
  if ((await fs.readlink(`/proc/self/fd/${handle.fd}`)) !== resolved) {
    throw refused(path, "it was moved or replaced while it was being opened");
  }
  if (stats.size > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(path, "it is larger than 2^53 bytes");
  return stats;
}

function readable(handle: FileDescriptor, stats: BigIntStats, path: string, isReal: boolean): ReadableFile {
  const byteLength = Number(stats.size);
  const identity = identityOf(stats);
  const changed = (what: string): VramError =>
    new VramError("SOURCE_CHANGED", `${path}: ${what}`, { details: { path } });
  const failed = (what: string, error: unknown, details: object = {}): VramError =>
    new VramError("SOURCE_READ_FAILED", `${path}: ${what} failed (${errnoOf(error) || "unknown"})`, {
      cause: causeOf(error),
      details: { path, ...details },
    });
  let open = true;
  return {
    identity,
    ...(isReal ? { fd: handle.fd } : {}),
    baseName: basename(path),
    byteLength,
    readAt: async (into, position) => {
      const wanted = Math.min(into.byteLength, byteLength - position);
      let filled = 0;
      while (filled < wanted) {
        const { bytesRead } = await handle
          .read(into, filled, wanted - filled, position + filled)
          .catch((error: unknown) => {
            throw failed("reading", error, { position: position + filled });
          });
        if (bytesRead === 0) throw changed("it became shorter while it was being read");
        filled += bytesRead;
      }
      return filled;
    },
    requireUnchanged: async () => {
      const now = await handle.stat({ bigint: true }).catch((error: unknown) => {
        throw failed("asking whether it changed", error);
      });
      if (!sameIdentity(identity, identityOf(now))) {
        throw changed("its size, times or identity changed while it was being read");
      }
    },
    close: async () => {
      if (!open) return;
      open = false;
      await handle.close().catch((error: unknown) => {
        throw failed("closing", error);
      });
    },
  };
}

/** Opens `path` for reading under one of `roots`. The caller closes it. */
export async function openFile(path: string, roots: readonly string[], fs: FileSystem): Promise<ReadableFile> {
  const resolved = await resolveUnderRoots(path, roots, fs);
  let handle: FileDescriptor;
  try {
    handle = await fs.open(resolved, OPEN_FLAGS);
  } catch (error) {
    throw openFailure(path, error);
  }
  try {
    return readable(handle, await requireRegularAt(handle, resolved, path, fs), path, fs === nodeFileSystem);
  } catch (error) {
    // Nothing was read yet: a close that fails changes nothing, and must not hide why the file was refused.
    await handle.close().catch(() => undefined);
    throw error instanceof VramError ? error : openFailure(path, error);
  }
}
