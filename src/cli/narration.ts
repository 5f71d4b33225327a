/**
 * Narration on the talk output: which form, from which level on, and how it shares a terminal with the progress line.
 * Every command that tells what it does has the same three options. The narrator itself is loaded when it is used.
 */
import { type Command, Option } from "commander";
import { VramError } from "../errors.ts";
import type { JournalReader } from "../journal/journal.ts";
import { LEVELS, type Level, type Line } from "../narrate/line.ts";
import { colorsFor, type Host } from "./host.ts";
import { createProgress } from "./progress.ts";

const FORMATS = ["auto", "text", "json"] as const;

type Format = (typeof FORMATS)[number];

/** What the options leave in a command's options. */
export interface NarrationOptions {
  readonly logFormat?: Format;
  readonly logLevel?: Level;
  readonly quiet?: true;
}

/** Adds the options of narration to a command. */
export function addNarrationOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--log-format <format>",
        "form of the lines on stderr; default auto: text on a terminal, else json",
      ).choices(FORMATS),
    )
    .addOption(new Option("--log-level <level>", "least level that is told; default info").choices(LEVELS))
    .addOption(new Option("--quiet", "tell failures only").conflicts("logLevel"));
}

/** Narration of one command. */
export interface Narration {
  readonly reader: JournalReader;
  /** Says something that is no entry. */
  tell(told: Line): void;
  /** A title above the readable lines. */
  begin(title: string): void;
  /** An empty line below them. */
  end(): void;
}

/** The value of an environment variable if it is one of `choices`; `INVALID_ARGUMENT` for any other that is not empty. */
function fromEnvironment<T extends string>(host: Host, name: string, choices: readonly T[]): T | undefined {
  const text = host.env[name];
  if (text === undefined || text === "") return undefined;
  const chosen = choices.find((choice) => choice === text);
  if (chosen !== undefined) return chosen;
  throw new VramError("INVALID_ARGUMENT", `${name} must be ${choices.slice(0, -1).join(", ")} or ${choices.at(-1)}`, {
    details: { argument: name },
  });
}

/** Flags go before the environment, the environment before what the talk output is. */
function settings(host: Host, options: NarrationOptions): { format: "text" | "json"; level: Level } {
  const named = fromEnvironment(host, "VRAM_LOG_FORMAT", FORMATS);
  const least = fromEnvironment(host, "VRAM_LOG_LEVEL", LEVELS);
  const wish = options.logFormat ?? named ?? "auto";
  return {
    format: wish === "auto" ? (host.errIsTerminal ? "text" : "json") : wish,
    level: options.quiet === true ? "error" : (options.logLevel ?? least ?? "info"),
  };
}

/** Narration as the command line and the environment ask for it. */
export async function openNarration(host: Host, options: NarrationOptions): Promise<Narration> {
  const { format, level } = settings(host, options);
  const { createNarrator } = await import("../narrate/narrator.ts");
  const colors = colorsFor(host, host.errIsTerminal);
  const tones = { plain: (text: string) => text, good: colors.green, bad: colors.red };
  const write = (text: string): void => host.err(text);
  const narrator = await createNarrator({ format, level, write, paint: (tone, word) => tones[tone](word) });
  const isStory = format === "text" && (level === "info" || level === "debug");
  const progress = isStory ? createProgress(host) : undefined;
  const accept: JournalReader["accept"] = (entry) => {
    if (entry.type === "upload_progressed") progress?.update(entry.name, entry.bytesDone, entry.bytesTotal);
    else progress?.clear();
    return narrator.accept(entry);
  };
  return {
    reader: { required: false, accept },
    tell: (told) => {
      progress?.clear();
      narrator.tell(told);
    },
    begin: (title) => {
      if (isStory) host.err(`${title}\n\n`);
    },
    end: () => {
      progress?.clear();
      if (isStory) host.err("\n");
    },
  };
}
