/** What a command may touch of the outside: two text outputs, the environment, and a signal to stop. */
import { fstatSync, writeSync } from "node:fs";
import { isatty } from "node:tty";
import pc from "picocolors";
import { printable } from "../bytes.ts";
import { prepareForCuda } from "../environment.ts";
import { systemFix, systemReason, toVramError } from "../errors.ts";
import type { ServiceOptions } from "../service/ground.ts";
import type { OpenService } from "../service/open-service.ts";
import { EXIT } from "./exit.ts";

export interface Host {
  /** Data. */
  out(text: string): void;
  /** Talk: errors, warnings, progress. */
  err(text: string): void;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Whether the outputs are terminals: decides on colour and progress. */
  readonly outIsTerminal: boolean;
  readonly errIsTerminal: boolean;
  /** Width of the terminal, in columns. */
  readonly columns: number;
  readonly signal: AbortSignal;
  /** Fires on a second signal, for a command that takes its time to stop. Unless it is asked for, that ends the process. */
  readonly urgent?: AbortSignal;
  /**
   * Tells of every SIGINT, SIGTERM and SIGHUP from now on, also of later ones; none of them ends this process any more.
   * Returns how to stop that.
   */
  onSignal?(listener: (signal: NodeJS.Signals) => void): () => void;
  /** Fires when a write has shown that nobody takes our data any more. */
  readonly outEnded?: AbortSignal;
  /** Why data could not be written, other than to a reader that went away; undefined if it could. */
  outFailure?(): unknown;
  /** Another file than `/etc/vram-residency/config.toml`. Tests supply it; nothing a user can set does. */
  readonly systemConfig?: string;
  /** Other devices of a service. Tests supply them; nothing a user can set does. */
  readonly service?: ServiceHooks;
}

export interface ServiceHooks extends Pick<ServiceOptions, "openDevice"> {
  /** Told of the service when it is open. */
  readonly onOpen?: (opened: OpenService) => void;
}

export type Colors = ReturnType<typeof pc.createColors>;

/** Colours for an output, or none: not a terminal, `NO_COLOR` set, or a dumb terminal. */
export function colorsFor(host: Host, isTerminal: boolean): Colors {
  const noColor = (host.env["NO_COLOR"] ?? "") !== "" || host.env["TERM"] === "dumb";
  return pc.createColors(isTerminal && !noColor);
}

/** An error in words, with the way out of it. */
export function printError(host: Host, thrown: unknown): void {
  const error = toVramError(thrown);
  const colors = colorsFor(host, host.errIsTerminal);
  host.err(`${colors.red("error")} ${error.code}: ${printable(error.message)}\n`);
  host.err(`${colors.cyan("fix")}   ${printable(error.fix)}\n`);
}

/** Says that `what` could not be written, with the way out of it. */
export function printUnwritten(host: Host, what: string, cause: unknown): void {
  const colors = colorsFor(host, host.errIsTerminal);
  const reason = systemReason(cause) ?? (cause instanceof Error ? cause.message : String(cause));
  const fix = systemFix(cause) ?? "write to a place that takes it, and run the command again";
  host.err(`${colors.red("error")} ${printable(`${what} could not be written: ${reason}`)}\n`);
  host.err(`${colors.cyan("fix")}   ${fix}\n`);
}

/** The exit code of the process: nothing was done if what was found could not be told. A verdict stands. */
export function settledCode(host: Host, code: number): number {
  const failure = host.outFailure?.();
  if (failure === undefined) return code;
  printUnwritten(host, "the output", failure);
  return code === EXIT.ok ? EXIT.error : code;
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Listens for signals: `stop` fires on the first, what `urgent` gives on the second; without that, it is the system's. */
function stopOnSignals(urgent: () => AbortController | undefined): AbortController {
  const stop = new AbortController();
  for (const name of SIGNALS) {
    process.on(name, () => {
      const next = stop.signal.aborted ? urgent() : stop;
      if (next !== undefined) next.abort(name);
      else {
        process.removeAllListeners(name);
        process.kill(process.pid, name);
      }
    });
  }
  return stop;
}

function hearSignals(listener: (signal: NodeJS.Signals) => void): () => void {
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) process.on(name, listener);
  return () => {
    for (const name of names) process.off(name, listener);
  };
}

/** How data is written to standard output; `onError` is told of what went wrong, at once or later. */
function openOutput(onError: (error: NodeJS.ErrnoException) => void): (text: string) => void {
  if (!fstatSync(1).isFile()) {
    process.stdout.on("error", onError);
    return (text) => void process.stdout.write(text);
  }
  // Node's stream for files takes a write of a part, all that a full disk may do, for one of the whole.
  return (text) => {
    const bytes = Buffer.from(text);
    try {
      for (let at = 0; at < bytes.byteLength; ) at += writeSync(1, bytes, at);
    } catch (error) {
      onError(error as NodeJS.ErrnoException);
    }
  };
}

/** The host of a real process. `signal` fires on the first SIGINT or SIGTERM. */
export function processHost(): Host {
  prepareForCuda(process.env);
  let stop: AbortController | undefined;
  let urgent: AbortController | undefined;
  // Whoever read our output went away, or it cannot be written: the command still finishes, and its verdict stands.
  let failure: unknown;
  const outEnded = new AbortController();
  const out = openOutput((error) => {
    if (error.code !== "EPIPE") failure ??= error;
    outEnded.abort();
  });
  process.stderr.on("error", () => undefined);
  return {
    out,
    err: (text) => void process.stderr.write(text),
    env: process.env,
    outIsTerminal: isatty(1),
    errIsTerminal: isatty(2),
    columns: process.stderr.columns,
    // Listened for from the first use on, which comes after the driver is open: a driver call that hangs would keep a
    // listener from being run, and the signal from ending the process.
    get signal() {
      stop ??= stopOnSignals(() => urgent);
      return stop.signal;
    },
    get urgent() {
      urgent ??= new AbortController();
      return urgent.signal;
    },
    onSignal: hearSignals,
    outEnded: outEnded.signal,
    outFailure: () => failure,
  };
}
