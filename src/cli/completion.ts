/**
 * What a shell has to know to complete a command line: commands, options, and what kind of value stands where. It is taken
 * from the commands as they are declared, so that a new one is completed without being named here. The scripts are made
 * of it in `completion-bash.ts` and `completion-zsh.ts`.
 */
import { Argument, type Command, type Option } from "commander";
import type { Add } from "./command.ts";

/** What may stand for a value. `shard`: a name that `vram ps` lists; `command`: a program and its arguments. */
export type Value =
  | { readonly kind: "words"; readonly words: readonly string[] }
  | { readonly kind: "files" | "folders" | "shards" | "command" | "text" };

export interface OptionShape {
  /** `--lines`, and `-n` where it has a short form. */
  readonly long: string;
  readonly short?: string;
  readonly means: string;
  /** Absent if it takes none. */
  readonly value?: Value;
  /** May be given more than once. */
  readonly again: boolean;
}

export interface ArgumentShape {
  readonly name: string;
  readonly value: Value;
  /** It stands for all that follow, too. */
  readonly variadic: boolean;
}

export interface CommandShape {
  /** The words that lead here, `vram` first. */
  readonly path: readonly string[];
  readonly means: string;
  readonly commands: readonly CommandShape[];
  readonly options: readonly OptionShape[];
  readonly arguments: readonly ArgumentShape[];
}

/** What placeholders of the help stand for; one that is not here is text. */
const KINDS: Readonly<Record<string, Exclude<Value["kind"], "words">>> = {
  file: "files",
  files: "files",
  path: "files",
  sums: "files",
  dir: "folders",
  command: "command",
};

function valueFor(placeholder: string, choices: readonly string[] | undefined, means: string): Value {
  if (choices !== undefined) return { kind: "words", words: choices };
  // How every command describes what it takes of the service.
  if (/^names? or ids?$/.test(means)) return { kind: "shards" };
  return { kind: KINDS[placeholder] ?? "text" };
}

function optionShape({ flags, long, short, description, argChoices, parseArg, variadic }: Option): OptionShape {
  const [, placeholder] = /[<[]([^\]>.]+)/.exec(flags) ?? [];
  return {
    long: long ?? flags,
    ...(short === undefined ? {} : { short }),
    means: description,
    ...(placeholder === undefined ? {} : { value: valueFor(placeholder, argChoices, description) }),
    // Choices are a parser, too, and nothing is collected by them.
    again: variadic || (parseArg !== undefined && argChoices === undefined),
  };
}

const argumentShape = (argument: Argument): ArgumentShape => ({
  name: argument.name(),
  value: valueFor(argument.name(), argument.argChoices, argument.description),
  variadic: argument.variadic,
});

function commandShape(command: Command, above: readonly string[]): CommandShape {
  const path = [...above, command.name()];
  const help = command.createHelp();
  return {
    path,
    means: command.description(),
    commands: help.visibleCommands(command).map((one) => commandShape(one, path)),
    options: help.visibleOptions(command).map(optionShape),
    arguments: command.registeredArguments.map(argumentShape),
  };
}

/** A command and all below it, itself first. */
export const allOf = (shape: CommandShape): readonly CommandShape[] => [shape, ...shape.commands.flatMap(allOf)];

/**
 * A flag of the configuration only says `<value>`. Where another command declares the same option with more, that is what
 * it takes.
 */
function fillFrom(known: ReadonlyMap<string, Value>, shape: CommandShape): CommandShape {
  const options = shape.options.map((option) => {
    const value = option.value?.kind === "text" ? known.get(option.long) : undefined;
    return value === undefined ? option : { ...option, value };
  });
  return { ...shape, options, commands: shape.commands.map((one) => fillFrom(known, one)) };
}

/** The commands of `program`, all the way down. */
export function describeCommands(program: Command): CommandShape {
  const shape = commandShape(program, []);
  const known = new Map<string, Value>();
  for (const { long, value } of allOf(shape).flatMap(({ options }) => options)) {
    if (value !== undefined && value.kind !== "text") known.set(long, value);
  }
  return fillFrom(known, shape);
}

/** Declares `vram completion`. */
export function addCompletionCommand(program: Command, add: Add): void {
  add(
    "completion",
    "Print a script that completes command lines of vram in bash or zsh.",
    ["source <(vram completion bash)", "vram completion zsh > ~/.zfunc/_vram"],
    async (host, words, options) =>
      (await import("./commands/completion.ts")).runCompletion(host, words, options, describeCommands(program)),
  ).addArgument(new Argument("<shell>", "the shell").choices(["bash", "zsh"]));
}
