/** The process at the other end of an export, told from a later one that has its number. */
import { readFileSync } from "node:fs";
import type { Peer } from "../journal/service-body.ts";

/** Of the fields behind the name of `/proc/PID/stat`, which begin with the state: `starttime` is the 22nd (proc(5)). */
const START_TIME = 22 - 3;

/** When the process of this number started, in clock ticks since the machine did; 0 if there is none. */
export function startTicksOf(pid: number): number {
  if (pid <= 0) return 0;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name is in parentheses, and may have some of its own.
    const [state, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (state === "Z" || state === "X") return 0;
    const ticks = Number(rest[START_TIME - 1]);
    return Number.isSafeInteger(ticks) ? ticks : 0;
  } catch {
    return 0;
  }
}

/** The process of this number, as it is now. */
export const peerOf = (pid: number): Peer => ({ pid, startTicks: startTicksOf(pid) });

/** Whether that very process is still there. Of one whose start was not known nobody can say so. */
export const isAlive = ({ pid, startTicks }: Peer): boolean => startTicks !== 0 && startTicksOf(pid) === startTicks;
