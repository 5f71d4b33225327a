/**
 * Waiting for what a service that was killed left behind. Its devices' processes are killed with it, but one lets go of
 * its GPU, and of the lock, only when the driver has taken everything down. Until then the next service is told
 * `DEVICE_BUSY`; it waits for such a holder, and for no other.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import type { Clock } from "../clock.ts";
import { throwIfAborted, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { ENTRY_NAME } from "./open-link.ts";

/**
 * Of a process: there is none (any more); it ends, or is a device's process whose service does, and was killed with it;
 * or neither.
 */
export type HolderState = "gone" | "going" | "other";

/** Reads a file of `/proc/PID`; undefined if it cannot be read. */
export type ReadProc = (pid: number, file: "stat" | "cmdline") => string | undefined;

export const readProc: ReadProc = (pid, file) => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return undefined;
  }
};

/** `PF_EXITING` (linux/sched.h), in field 9 of `stat` (proc(5)). */
const PF_EXITING = 4;

/** The parent of a process, and whether it ends; undefined if it has ended. */
function readStat(pid: number, read: ReadProc): { readonly parent: number; readonly ends: boolean } | undefined {
  const stat = read(pid, "stat");
  if (stat === undefined) return undefined;
  // The name before it may contain anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state = "", parent] = fields;
  const [flags, threads] = [Number(fields[6]), Number(fields[17])];
  // Its first thread is a zombie long before the last one has closed the files (measured, Linux 6.18: 97 ms for 1.5 GB).
  if (/[ZX]/.test(state) && !(threads > 1)) return undefined;
  return { parent: Number(parent), ends: (flags & PF_EXITING) !== 0 };
}

/** What `/proc` says of a process that has a GPU. Of one that ends it does not say any more what it was. */
export function holderState(pid: number, read: ReadProc = readProc): HolderState {
  const stat = readStat(pid, read);
  if (stat === undefined) return "gone";
  if (stat.ends) return "going";
  const [, entry = "", service] = (read(pid, "cmdline") ?? "").split("\0");
  if (basename(entry) !== ENTRY_NAME || !/^\d+$/.test(service ?? "")) return "other";
  // The kernel gives a process whose parent is gone to another.
  if (stat.parent !== Number(service)) return "going";
  return readStat(stat.parent, read)?.ends === false ? "other" : "going";
}

/** Who has the GPU, if that is why it was not opened. */
function holderIn(thrown: unknown): number | undefined {
  if (!(thrown instanceof VramError) || thrown.code !== "DEVICE_BUSY" || thrown.details["wedged"] === true) return;
  const { pid } = thrown.details;
  return typeof pid === "number" && Number.isSafeInteger(pid) ? pid : undefined;
}

export interface OrphanOptions {
  readonly clock: Pick<Clock, "monotonicMs" | "sleep">;
  /** Ends the waiting, with `ABORTED`. */
  readonly signal?: AbortSignal;
  /** Only tests have another. */
  readonly read?: ReadProc;
}

/**
 * Opens a device, as `open` does. If what a killed service left behind has it, waits until that is gone, 30 s at most,
 * and tries again. Rejects as `open` does.
 */
export async function openWhenFree<T>(
  open: () => Promise<T>,
  { clock, signal, read = readProc }: OrphanOptions,
): Promise<T> {
  let untilMs: number | undefined;
  let vanished: number | undefined;
  for (;;) {
    try {
      return await open();
    } catch (thrown) {
      const pid = holderIn(thrown);
      if (pid === undefined) throw thrown;
      untilMs ??= clock.monotonicMs() + LIMITS.deviceOrphanMs;
      while (holderState(pid, read) === "going" && clock.monotonicMs() < untilMs) {
        throwIfAborted(signal);
        await clock.sleep(LIMITS.deviceOrphanPollMs);
      }
      // One that has the lock and is not to be seen a second time is in another container, or has just taken it.
      if (holderState(pid, read) !== "gone" || pid === vanished) throw thrown;
      vanished = pid;
    }
  }
}
