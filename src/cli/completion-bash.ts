/**
 * The completion script for bash: a table that follows from the commands, and a driver that walks the words up to the
 * cursor. Nothing that was typed is ever evaluated, and only `vram` itself is run, to ask a service for names.
 */
import { type ArgumentShape, allOf, type CommandShape, type OptionShape, type Value } from "./completion.ts";

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

const replyOf = (value: Value): string => (value.kind === "words" ? `words ${value.words.join(" ")}` : value.kind);

const namesOf = ({ long, short }: OptionShape): readonly string[] => (short === undefined ? [long] : [long, short]);

/** Takes the names out of what `vram ps --json` prints (sed -nE): those that need no unescaping. Both scripts have it. */
export const NAMES_OF_SHARDS = String.raw`'/^  "(shards|missing)": \[$/,/^  \]/s/^      "name": "([^\\"]*)",?$/\1/p'`;

/** Seconds until a service has to have answered: whoever presses TAB waits for it. */
export const ASK_SECONDS = 2;

const arm = (key: string, reply: string): string => `    ${key}) REPLY=${quoted(reply)} ;;`;

function argumentArm(path: string, { value, variadic }: ArgumentShape, index: number): string {
  return arm(variadic ? `${quoted(`argument ${path} `)}*` : quoted(`argument ${path} ${index}`), replyOf(value));
}

/** The rows of one command: what may stand there, and what each option takes. */
function armsOf({ path, commands, options, arguments: args }: CommandShape): readonly string[] {
  const name = path.join(" ");
  const below = commands.map((command) => command.path.at(-1) ?? "");
  const valued = options.flatMap((option) => {
    const { value } = option;
    return value === undefined ? [] : namesOf(option).map((one) => arm(quoted(`value ${name} ${one}`), replyOf(value)));
  });
  return [
    ...(below.length === 0 ? [] : [arm(quoted(`commands ${name}`), below.join(" "))]),
    arm(quoted(`options ${name}`), options.flatMap(namesOf).join(" ")),
    ...valued,
    ...args.map((argument, index) => argumentArm(name, argument, index)),
  ];
}

/** `§{` stands for the `${` of the shell, which would mean something in a template. */
const DRIVER = String.raw`
# Names that a service lists; nothing if none answers. What says where it is, is passed on.
_vram_shards() {
  command timeout ${ASK_SECONDS} vram ps --json "$@" </dev/null 2>/dev/null | command sed -nE ${NAMES_OF_SHARDS}
}

# Keeps those of the lines on standard input that begin with what is typed, quoted for the shell.
_vram_keep() {
  local line
  while IFS= read -r line; do
    [[ $1 == quoted ]] && printf -v line %q "$line"
    [[ $line == "$cur"* ]] && COMPREPLY+=("$line")
  done
}

_vram_files() {
  compopt -o filenames 2>/dev/null
  local line
  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$1" -- "$cur")
}

# The command behind --, and its arguments: as if they stood alone, where bash-completion is there to do it.
_vram_command() {
  local at one
  if [[ -z $ended ]]; then
    _vram_keep plain <<<'--'
    return
  fi
  for ((at = 0; at < COMP_CWORD; at++)); do [[ §{COMP_WORDS[at]} == -- ]] && break; done
  for one in _comp_command_offset _command_offset; do
    declare -F "$one" >/dev/null && { "$one" $((at + 1)); return; }
  done
  if ((at + 1 == COMP_CWORD)); then _vram_files -c; else _vram_files -f; fi
}

_vram_offer() {
  case $1 in
    words*) local -a offered; read -ra offered <<<"§{1#words }"; _vram_keep plain < <(printf '%s\n' "§{offered[@]}") ;;
    files) _vram_files -f ;;
    folders) _vram_files -d ;;
    shards) _vram_keep quoted < <(_vram_shards "§{where[@]}") ;;
    command) _vram_command ;;
  esac
}

_vram() {
  local REPLY cur word given='' at=vram option='' ended='' place=0 glue='' head='' i
  local -a words=() where=()
  COMPREPLY=()
  # bash takes : and = for the ends of words; they are not.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    word=§{COMP_WORDS[i]}
    if ((i > 1)) && [[ -n $glue || $word == [:=]* ]]; then words[-1]+=$word; else words+=("$word"); fi
    glue=''
    [[ $word == *[:=] ]] && glue=1
  done
  cur=§{words[-1]}
  for word in "§{words[@]:1:§{#words[@]}-2}"; do
    if [[ -n $option || ( -z $ended && $word == --*=* ) ]]; then
      [[ -n $option ]] && given=$word || { option=§{word%%=*}; given=§{word#*=}; }
      _vram_table "value vram ps $option" && where+=("$option" "$given")
      option=''
    elif [[ -n $ended ]]; then ((place += 1))
    elif [[ $word == -- ]]; then ended=1
    elif [[ $word == -?* ]]; then _vram_table "value $at $word" && option=$word
    elif _vram_table "commands $at"; then at+=" $word"
    else ((place += 1)); fi
  done
  if [[ -z $option && -z $ended && $cur == --*=* ]]; then
    option=§{cur%%=*}
    cur=§{cur#*=}
  fi
  if [[ -n $option ]]; then _vram_table "value $at $option" && _vram_offer "$REPLY"
  elif [[ -z $ended && $cur == -* ]]; then
    _vram_table "options $at" && _vram_offer "words $REPLY"
    _vram_table "argument $at $place" && [[ $REPLY == command ]] && _vram_offer command
  elif _vram_table "commands $at"; then _vram_offer "words $REPLY"
  elif _vram_table "argument $at $place" && [[ $REPLY != text ]]; then _vram_offer "$REPLY"
  elif [[ -z $ended && -z $cur ]]; then _vram_table "options $at" && _vram_offer "words $REPLY"
  fi
  # Only what stands behind the last of them is replaced.
  [[ $COMP_WORDBREAKS == *:* ]] && head=§{cur%"§{cur##*[:=]}"}
  for i in "§{!COMPREPLY[@]}"; do COMPREPLY[i]=§{COMPREPLY[i]#"$head"}; done
  return 0
}

complete -F _vram vram
`.replaceAll("§", "$");

/** The script that completes the command lines of `shape` in bash 4.4 and later. */
export function bashCompletion(shape: CommandShape): string {
  return [
    "# bash completion for vram, made by `vram completion bash`; load it with: source <(vram completion bash)",
    "",
    "# What may stand at a place of the command line, in REPLY; fails where nothing is known of it.",
    "_vram_table() {",
    "  case $1 in",
    ...allOf(shape).flatMap(armsOf),
    "    *) return 1 ;;",
    "  esac",
    "}",
    DRIVER,
  ].join("\n");
}
