/** `vram completion`: prints the script that completes command lines in a shell. Nothing is installed by it. */
import type { CommonOptions } from "../command.ts";
import type { CommandShape } from "../completion.ts";
import { bashCompletion } from "../completion-bash.ts";
import { zshCompletion } from "../completion-zsh.ts";
import { EXIT } from "../exit.ts";
import type { Host } from "../host.ts";
import { printJson } from "../json.ts";

/** Runs the command; `shape` is that of all commands. */
export async function runCompletion(
  host: Host,
  [shell]: readonly string[],
  { json }: CommonOptions,
  shape: CommandShape,
): Promise<number> {
  const script = shell === "zsh" ? zshCompletion(shape) : bashCompletion(shape);
  if (json === true) printJson(host, "completion", { ok: true, shell, script });
  else host.out(script);
  return EXIT.ok;
}
