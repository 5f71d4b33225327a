/** `vram audit tail`: the last entries of the log, and those that are added. Reads, and judges nothing. */

import { type FSWatcher, watch } from "node:fs";
import { findTail, followLog, type LogFollower } from "../../audit/log-tail.ts";
import { parseLine } from "../../audit/parse-line.ts";
import { printable } from "../../bytes.ts";
import { firstOf } from "../../clock.ts";
import { EXIT } from "../exit.ts";
import { type Colors, colorsFor, type Host } from "../host.ts";
import { parseWhole } from "../numbers.ts";
import { type LogOptions, logFolderOf } from "../state-dir.ts";
import { tellLine } from "./audit-sentence.ts";

export interface AuditTailOptions extends LogOptions {
  readonly json?: true;
  readonly lines?: string;
  readonly follow?: true;
}

const LINES_DEFAULT = 10;
const LINES_MAX = 1_000_000_000;
/** Where the system tells of no change (network file systems), the log is looked at this often. */
const LOOK_AGAIN_MS = 400;
/** Nothing later is a date in JavaScript (ECMA-262, "Time Values"). */
const TIME_MAX = 8.64e15;

const timeOf = (timeMs: number): string => (timeMs > TIME_MAX ? String(timeMs) : new Date(timeMs).toISOString());

/** One line for a person; not a line of the log at all is told as such. */
function readable(bytes: Uint8Array, colors: Colors): string {
  const parsed = parseLine(bytes);
  if (!parsed.ok) {
    const what = `not a line of a log: ${parsed.fault} at byte ${parsed.offset}; see \`vram audit verify\``;
    return `${colors.red(what)}\n`;
  }
  const { seq, timeMs, type } = parsed.line;
  const { sentence, tone } = tellLine(parsed.line);
  const paint = { plain: (text: string) => text, good: colors.green, bad: colors.red }[tone];
  return `${String(seq).padStart(6)}  ${colors.dim(timeOf(timeMs))}  ${paint(type)}  ${sentence}\n`;
}

/** Prints lines in the form that was asked for. */
function printer(host: Host, options: AuditTailOptions): (bytes: Uint8Array) => void {
  const colors = colorsFor(host, host.outIsTerminal);
  if (host.outIsTerminal && options.json !== true) return (bytes) => host.out(readable(bytes, colors));
  return (bytes) => {
    const parsed = parseLine(bytes);
    const text = Buffer.from(bytes).toString("utf8");
    // Whoever reads JSON Lines gets nothing else. A line of the log is UTF-8, so that its bytes stay as they are.
    if (parsed.ok) host.out(`${host.outIsTerminal ? printable(text) : text}\n`);
    else host.err(`left out what is not a line of a log: ${parsed.fault} at byte ${parsed.offset}\n`);
  };
}

/** Wakes whoever waits for a change in a folder. */
interface Waker {
  /** Resolves at the next change, or at once if there was one since the last wait. */
  wait(): Promise<void>;
  close(): void;
}

function openWaker(folder: string, stop: AbortSignal): Waker {
  let hasRung = false;
  let wake: (() => void) | undefined;
  const ring = (): void => {
    hasRung = true;
    wake?.();
  };
  let watcher: FSWatcher | undefined;
  try {
    // What cannot be watched is looked at again and again.
    watcher = watch(folder, ring).on("error", ring);
  } catch {
    watcher = undefined;
  }
  const timer = setInterval(ring, LOOK_AGAIN_MS);
  stop.addEventListener("abort", ring, { once: true });
  return {
    wait: () =>
      new Promise<void>((resolve) => {
        wake = resolve;
        if (hasRung) resolve();
      }).then(() => {
        wake = undefined;
        hasRung = false;
      }),
    close: () => {
      watcher?.close();
      clearInterval(timer);
      stop.removeEventListener("abort", ring);
    },
  };
}

async function printNew(follower: LogFollower, print: (bytes: Uint8Array) => void, stop?: AbortSignal): Promise<void> {
  for (let lines = await follower.read(); lines.length > 0; lines = await follower.read()) {
    for (const line of lines) print(line);
    if (stop?.aborted === true) return;
  }
}

/** Runs the command. With -f exit 130 when interrupted, 0 when whoever read the lines went away. */
export async function runAuditTail(host: Host, _words: readonly string[], options: AuditTailOptions): Promise<number> {
  const count = parseWhole(options.lines ?? String(LINES_DEFAULT), "--lines", LINES_MAX);
  const { folder } = await logFolderOf(options, host.env);
  const follower = followLog(folder, await findTail(folder, count));
  const print = printer(host, options);
  if (options.follow !== true) {
    await printNew(follower, print);
    return EXIT.ok;
  }
  const ends = [host.signal, ...(host.outEnded === undefined ? [] : [host.outEnded])];
  const stop = firstOf(...ends);
  const waker = openWaker(folder, stop);
  try {
    while (!stop.aborted) {
      await printNew(follower, print, stop);
      await waker.wait();
    }
  } finally {
    waker.close();
  }
  return host.outEnded?.aborted === true ? EXIT.ok : EXIT.interrupted;
}
