/**
 * What one narrated line is made of, and how figures and foreign text are put into it. Whatever comes from outside
 * (names, tensors, reasons) is made printable once, here and in the narrator, so that no name can forge a line or turn a
 * terminal round.
 */
import { printable } from "../bytes.ts";

export const LEVELS = ["debug", "info", "warn", "error"] as const;

export type Level = (typeof LEVELS)[number];

/** Who acts: the program as a whole, the worker of one device, the audit log, or the command that was typed. */
export type Actor = "vram-residency" | "worker" | "audit" | "command";

/** One line before it is written. `human` says it in words; `word` and `tone` are for the readable form. */
export interface Line {
  readonly actor: Actor;
  /** What happened, in one stable word: programs match on it. */
  readonly action: string;
  readonly level: Level;
  /** What it happened to: a shard's name, a device's UUID, an operation. */
  readonly target: string;
  readonly human: string;
  /** At most ten letters, so that sentences stand below each other. */
  readonly word: string;
  readonly tone: "plain" | "good" | "bad";
  readonly durationMs?: number;
  /** A code of the table of errors, or the kind of a failed verification. */
  readonly errorKind?: string;
}

/** Fields that a row of the table may leave out. */
type Extra = Partial<Pick<Line, "level" | "tone" | "durationMs" | "errorKind">>;

/** A line at level info in a plain tone, unless `extra` says otherwise. */
export const line = (
  [actor, action, word]: readonly [Actor, string, string],
  target: string,
  human: string,
  extra: Extra = {},
): Line => ({ actor, action, word, target, human, level: "info", tone: "plain", ...extra });

export const DEBUG: Extra = { level: "debug" };
export const GOOD: Extra = { tone: "good" };
export const WARNING: Extra = { level: "warn", tone: "bad" };
export const FAILURE: Extra = { level: "error", tone: "bad" };

/** `12 ms`; below ten with a decimal. */
export const inMs = (durationMs: number): string => `${durationMs.toFixed(durationMs < 10 ? 1 : 0)} ms`;

/** `60 s`, `1.5 s`: what is agreed in seconds. */
export const inSeconds = (durationMs: number): string => `${Number((durationMs / 1000).toFixed(1))} s`;

/** ` (1.90 GB/s)`; empty when the time was too short to say. */
export const rate = (byteLength: number, durationMs: number): string =>
  durationMs < 1 ? "" : ` (${(byteLength / durationMs / 1e6).toFixed(2)} GB/s)`;

/** `1 tensor`, `75 tensors`. */
export const count = (figure: number, noun: string): string => `${figure} ${noun}${figure === 1 ? "" : "s"}`;

/** Characters of one tensor name in a sentence: the longest real ones have about 100. */
const TENSOR_CHARACTERS = 200;
/** Tensors that a sentence names. */
const TENSORS_NAMED = 3;

/** The first tensors by name, and how many there are besides; empty without any. */
export function tensorList(tensors: readonly string[], total: number): string {
  const named = tensors.slice(0, TENSORS_NAMED).map((name) => Array.from(name).slice(0, TENSOR_CHARACTERS).join(""));
  const others = total - named.length;
  return named.join(", ") + (named.length > 0 && others > 0 ? ` and ${others} more` : "");
}

/**
 * The message of a foreign error without the paths in it: everything from the first word with a slash on is left out,
 * because nothing says where a path with spaces ends. `i/o`, as in `EIO: i/o error, fdatasync`, is no path.
 */
export function withoutPaths(message: string): string {
  const slash = message.search(/(?<!\bi)\/|\/(?!o\b)/);
  return slash === -1 ? message : `${message.slice(0, message.lastIndexOf(" ", slash) + 1)}…`;
}

/** The line with every text in it made printable. */
export const printableLine = (told: Line): Line => ({
  ...told,
  target: printable(told.target),
  human: printable(told.human),
});
