/** Descriptors of this process: who else may have them, and what the kernel keeps for whoever holds one. */
import { VramError } from "../errors.ts";
import { lastError, openLibrary } from "./library.ts";

const LOCK_EX_NB = 2 | 4;

/**
 * `flock(fd, LOCK_EX | LOCK_NB)`: whether this open file is ours alone now. It stays so until it is closed, and the
 * kernel closes it for a process that dies.
 */
export function lockFile(fd: number): boolean {
  return openLibrary("libc.so.6").bind({ flock: "int flock(int fd, int operation)" }).flock(fd, LOCK_EX_NB) === 0;
}

const F_SETFD = 2;
const FD_CLOEXEC = 1;

/** `fcntl(fd, F_SETFD, FD_CLOEXEC)`: a process that is started later does not inherit it. */
export function setCloseOnExec(fd: number): void {
  const libc = openLibrary("libc.so.6").bind({ fcntl: "int fcntl(int fd, int command, ...)" });
  if (libc.fcntl(fd, F_SETFD, "int", FD_CLOEXEC) !== 0) throw new VramError("INTERNAL", "fcntl refused FD_CLOEXEC");
}

const F_DUPFD_CLOEXEC = 1030;

/** `fcntl(fd, F_DUPFD_CLOEXEC)`: another descriptor of the same open file. The caller closes it. */
export function duplicate(fd: number): number {
  const libc = openLibrary("libc.so.6").bind({ fcntl: "int fcntl(int fd, int command, ...)" });
  const copy = libc.fcntl(fd, F_DUPFD_CLOEXEC, "int", 3);
  if (copy < 0) throw new VramError("INTERNAL", `a descriptor cannot be duplicated: ${lastError()}`);
  return copy;
}
