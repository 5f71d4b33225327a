/** What a command may touch of the outside: two text outputs, the environment, and a signal to stop. */
import { isatty } from "node:tty";
import pc from "picocolors";
import { printable } from "../bytes.ts";
import { prepareForCuda } from "../environment.ts";
import { toVramError } from "../errors.ts";

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
  /** Fires when a write has shown that nobody takes our data any more. */
  readonly outEnded?: AbortSignal;
  /** Another file than `/etc/vram-residency/config.toml`. Tests supply it; nothing a user can set does. */
  readonly systemConfig?: string;
  /** Whether data could not be written, other than to a reader that went away. */
  outFailed?(): boolean;
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

function stopOnSignals(): AbortController {
  const stop = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => stop.abort(name));
  return stop;
}

/** The host of a real process. `signal` fires on the first SIGINT or SIGTERM. */
export function processHost(): Host {
  prepareForCuda(process.env);
  let stop: AbortController | undefined;
  // Whoever read our output went away, or it cannot be written: the command still finishes, and its verdict stands.
  let unwritable = false;
  const outEnded = new AbortController();
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") unwritable = true;
    outEnded.abort();
  });
  process.stderr.on("error", () => undefined);
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    env: process.env,
    outIsTerminal: isatty(1),
    errIsTerminal: isatty(2),
    columns: process.stderr.columns,
    // Listened for from the first use on, which comes after the driver is open: a driver call that hangs would keep a
    // listener from being run, and the signal from ending the process.
    get signal() {
      stop ??= stopOnSignals();
      return stop.signal;
    },
    outEnded: outEnded.signal,
    outFailed: () => unwritable,
  };
}
