/**
 * The completion script for zsh: a function for each command that tells `_arguments` what it takes, with the words of the
 * help. For the fpath, or to be evaluated behind `compinit`.
 */
import { type ArgumentShape, allOf, type CommandShape, type OptionShape, type Value } from "./completion.ts";
import { ASK_SECONDS, NAMES_OF_SHARDS } from "./completion-bash.ts";

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
/** Text where `[`, `]` and `:` would mean something. */
const escaped = (text: string): string => text.replaceAll(/[\\[\]:]/g, (sign) => `\\${sign}`);

const ACTIONS: Readonly<Record<Exclude<Value["kind"], "words">, string>> = {
  files: "_files",
  folders: "_files -/",
  shards: "__vram_shards",
  command: "_normal",
  text: " ",
};

const actionOf = (value: Value): string =>
  value.kind === "words" ? `(${value.words.join(" ")})` : ACTIONS[value.kind];

/** `_arguments` takes each form of an option apart; with one given, the other is not offered. */
function optionSpecs({ long, short, means, value, again }: OptionShape): readonly string[] {
  const names = short === undefined ? [long] : [short, long];
  const before = again ? "*" : names.length > 1 ? `(${names.join(" ")})` : "";
  const takes = value === undefined ? "" : `:${escaped(long.slice(2))}:${actionOf(value)}`;
  return names.map((name) => {
    const sign = value === undefined ? "" : name.startsWith("--") ? "=" : "+";
    return quoted(`${before}${name}${sign}[${escaped(means)}]${takes}`);
  });
}

function argumentSpec({ name, value, variadic }: ArgumentShape, index: number): string {
  // Three colons: the words of a command that follows are all there is, for whoever completes them.
  const place = variadic ? (value.kind === "command" ? "*::" : "*") : String(index + 1);
  return quoted(`${place}:${escaped(name)}:${actionOf(value)}`);
}

const functionOf = (path: readonly string[]): string => `_${path.join("_")}`;

/** A command that does something. */
function leaf({ path, options, arguments: args }: CommandShape): string {
  const specs = [...options.flatMap(optionSpecs), ...args.map(argumentSpec)];
  return `${functionOf(path)}() {\n  _arguments -s -S \\\n    ${specs.join(" \\\n    ")}\n}\n`;
}

/** A command that has others below it. */
function group({ path, commands, options }: CommandShape): string {
  const rows = commands.map(({ path: below, means }) => quoted(`${escaped(below.at(-1) ?? "")}:${means}`));
  const specs = [...options.flatMap(optionSpecs), quoted("1:command:->command"), quoted("*::argument:->rest")];
  const arms = commands.map(({ path: below }) => `        ${below.at(-1)}) ${functionOf(below)} && ret=0 ;;`);
  return `${functionOf(path)}() {
  local curcontext=$curcontext state state_descr ret=1
  local -a line commands
  local -A opt_args
  commands=(
    ${rows.join("\n    ")}
  )
  _arguments -C \\
    ${specs.join(" \\\n    ")} && ret=0
  case $state in
    command) _describe -t commands command commands && ret=0 ;;
    rest)
      case $line[1] in
${arms.join("\n")}
      esac
      ;;
  esac
  return ret
}
`;
}

const SHARDS = `# Names that a service lists; nothing if none answers. What says where it is, is passed on.
__vram_shards() {
  local option
  local -a names where
  for option in --socket --url; do
    (( \${+opt_args[$option]} )) && where+=($option \${(Q)opt_args[$option]})
  done
  names=(\${(f)"$(command timeout ${ASK_SECONDS} vram ps --json $where </dev/null 2>/dev/null | command sed -nE ${NAMES_OF_SHARDS})"})
  compadd -a names
}
`;

/** The script that completes the command lines of `shape` in zsh 5. */
export function zshCompletion(shape: CommandShape): string {
  const functions = allOf(shape).map((one) => (one.commands.length === 0 ? leaf(one) : group(one)));
  return [
    "#compdef vram",
    "# zsh completion for vram, made by `vram completion zsh`: put it into a folder of the fpath as _vram.",
    "",
    SHARDS,
    ...functions,
    '# As a file of the fpath this is the function itself; otherwise it is declared.\nif [[ $funcstack[1] == _vram ]]; then _vram "$@"; else compdef _vram vram; fi\n',
  ].join("\n");
}
