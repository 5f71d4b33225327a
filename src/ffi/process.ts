/** What the kernel is told about this process. */
import { openLibrary } from "./library.ts";

/** `PR_SET_PDEATHSIG`, `PR_SET_DUMPABLE` (linux/prctl.h), `SIGKILL` (signal.h), `RLIMIT_CORE` (asm-generic/resource.h). */
const PR_SET_PDEATHSIG = 1;
const PR_SET_DUMPABLE = 4;
const SIGKILL = 9n;
const RLIMIT_CORE = 4;

/**
 * Has the kernel kill this process when its parent dies: one that hangs in a driver call never learns that the channel
 * to its parent is gone (measured: it outlived it by 6 s). Does nothing where there is no glibc on Linux.
 */
export function dieWithParent(parentPid: number): void {
  try {
    const { prctl } = openLibrary("libc.so.6").bindPresent({ prctl: "int prctl(int option, uint64_t argument)" });
    prctl?.(PR_SET_PDEATHSIG, SIGKILL);
  } catch {
    // Without it the end of the channel has to do.
  }
  // It may have died before it was asked to be watched.
  if (process.ppid !== parentPid) process.exit();
}

/**
 * Neither a core file nor another process of this user (`ptrace`, `/proc/PID/mem`) gets at what is in memory here. Does
 * nothing where there is no glibc on Linux.
 */
export function keepMemoryPrivate(): void {
  try {
    const libc = openLibrary("libc.so.6").bindPresent({
      prctl: "int prctl(int option, uint64_t argument)",
      setrlimit: "int setrlimit(int resource, void *limits)",
    });
    libc.setrlimit?.(RLIMIT_CORE, new Uint8Array(16));
    libc.prctl?.(PR_SET_DUMPABLE, 0n);
  } catch {
    // A machine without them keeps to its own rules.
  }
}
