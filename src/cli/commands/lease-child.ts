/**
 * A command as our child: it inherits standard input, output and error, and hears of the signals that ask us to end. How
 * it ends is how we end, as shells tell it: its exit status, or 128 and the signal that killed it.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { isSystemError } from "../../files.ts";
import type { Host } from "../host.ts";

export interface ChildEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Child {
  /** Resolves when it is gone. */
  readonly ended: Promise<ChildEnd>;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, and SIGKILL if it is still there after `graceMs`. */
  terminate(graceMs: number): void;
}

/** Exit status of shells for a command that is not there, and for one that cannot be run (POSIX, "Exit Status"). */
const NOT_FOUND = 127;
const NOT_RUNNABLE = 126;

/** What to end with when the child did. */
export const statusOf = ({ code, signal }: ChildEnd): number =>
  code ?? 128 + (signal === null ? 0 : constants.signals[signal]);

/** What to end with, and what to say, if it could not be started; undefined for what is no such reason. */
export function unstartable(cause: unknown, command: string): { status: number; message: string } | undefined {
  if (isSystemError(cause, "ENOENT")) return { status: NOT_FOUND, message: `${command}: command not found` };
  if (isSystemError(cause, "EACCES")) return { status: NOT_RUNNABLE, message: `${command}: may not be run` };
  return undefined;
}

/** Starts a command; rejects with the system's error if that fails. */
export async function startChild([command = "", ...args]: readonly string[], env: NodeJS.ProcessEnv): Promise<Child> {
  const child = spawn(command, args, { stdio: "inherit", env });
  const ended = new Promise<ChildEnd>((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
  });
  const kill = (signal: NodeJS.Signals): void => void child.kill(signal);
  const terminate = (graceMs: number): void => {
    kill("SIGTERM");
    const timer = setTimeout(() => kill("SIGKILL"), graceMs);
    void ended.then(() => clearTimeout(timer));
  };
  return new Promise((resolve, reject) => {
    // Also of a signal that could not be sent: then the child is gone, or not ours.
    child.on("error", reject);
    child.once("spawn", () => resolve({ ended, kill, terminate }));
  });
}

/**
 * Whether this process is in the foreground of a terminal, by its `/proc/PID/stat` (proc(5): fields pgrp and tpgid).
 * Then Ctrl-C and the end of the terminal reach the child as well, and twice is once too often: a second SIGINT makes
 * many programs stop at once.
 */
export function isForeground(stat: string): boolean {
  const [, , pgrp, , , tpgid] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return pgrp !== undefined && pgrp === tpgid;
}

function sharesTerminal(): boolean {
  try {
    return isForeground(readFileSync("/proc/self/stat", "latin1"));
  } catch {
    return false;
  }
}

/** Hands on the signals that ask us to end; returns how to stop that. */
export function passSignals(host: Host, child: Child, isShared: () => boolean = sharesTerminal): () => void {
  const pass = (signal: NodeJS.Signals): void => {
    if (signal === "SIGTERM" || !isShared()) child.kill(signal);
  };
  if (host.onSignal !== undefined) return host.onSignal(pass);
  const onAbort = (): void => pass("SIGTERM");
  host.signal.addEventListener("abort", onAbort, { once: true });
  return () => host.signal.removeEventListener("abort", onAbort);
}
