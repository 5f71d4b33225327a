/** What a command of the command line is, and how one is declared: shared by `main.ts` and groups of commands. */
import type { Command } from "commander";
import type { Host } from "./host.ts";

export interface CommonOptions {
  readonly json?: true;
}

/** Runs a command and resolves to its exit code. `words` are its arguments. */
export type Run<Options> = (host: Host, words: readonly string[], options: Options) => Promise<number>;

/** What a command has that most have not. */
export interface CommandSetting {
  /** The group it belongs to; the program if absent. */
  readonly group?: Command;
  /** Whether it is what the group does when none of its commands is named. */
  readonly isDefault?: true;
  /**
   * What `--json` says in the help of a command that prints lines and no document. Its errors are in words, on the talk
   * output, whatever the form of its data.
   */
  readonly jsonLines?: string;
}

/** Declares a command; its arguments and options are added to what comes back. */
export type Add = <Options extends CommonOptions>(
  name: string,
  description: string,
  examples: readonly string[],
  run: Run<Options>,
  setting?: CommandSetting,
) => Command;
