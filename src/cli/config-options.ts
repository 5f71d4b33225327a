/** Options that set the configuration, and the configuration that they, the environment and the files give. */
import { existsSync, realpathSync } from "node:fs";
import { type Command, Option } from "commander";
import type { Config } from "../config/config.ts";
import type { GivenFlag } from "../config/layers.ts";
import { type Place, SYSTEM_CONFIG } from "../config/places.ts";
import { CONFIG_KEYS, flagOf, rowOf } from "../config/table.ts";
import { VramError } from "../errors.ts";
import type { Host } from "./host.ts";

/** What the options leave in a command's options: flags of single keys stand under the name of their key. */
export interface ConfigOptions {
  readonly config?: string;
  readonly set?: readonly string[];
  readonly [key: string]: unknown;
}

export const configFileOption = (): Option =>
  new Option("--config <file>", "configuration file instead of the user's own; /etc still stands behind it");

const collect = (text: string, before: readonly string[] = []): readonly string[] => [...before, text];

/** Adds `--config`, `--set`, and the flags of keys that have one. */
export function addConfigOptions(command: Command): Command {
  command
    .addOption(configFileOption())
    .addOption(
      new Option("--set <key=value>", "set any key, as a variable would; may be given again").argParser(collect),
    );
  for (const key of CONFIG_KEYS) {
    const flag = flagOf(key);
    const { kind, means } = rowOf(key);
    if (flag === undefined) continue;
    const value = kind.accepts === "true or false" ? "" : " <value>";
    command.addOption(new Option(`${flag}${value}`, means));
  }
  return command;
}

function givenFlags(options: ConfigOptions): GivenFlag[] {
  const named = CONFIG_KEYS.flatMap((key): GivenFlag[] => {
    const [flag, value] = [flagOf(key), options[key]];
    // A flag without a value is given as true.
    if (flag === undefined || (typeof value !== "string" && value !== true)) return [];
    return [{ key, text: value === true ? "true" : value, flag }];
  });
  const set = (options.set ?? []).map((pair): GivenFlag => {
    const at = pair.indexOf("=");
    if (at > 0) return { key: pair.slice(0, at), text: pair.slice(at + 1), flag: `--set ${pair.slice(0, at)}` };
    throw new VramError("INVALID_ARGUMENT", "--set takes KEY=VALUE", { details: { argument: "set" } });
  });
  return [...named, ...set];
}

function realpath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}

/** What defaults and relative paths depend on, here. */
export const placeOf = (host: Host): Place => ({
  env: host.env,
  cwd: process.cwd(),
  uid: process.getuid?.() ?? 0,
  exists: existsSync,
  realpath,
});

/** The configuration of this command. */
export async function loadHostConfig(host: Host, options: ConfigOptions): Promise<Config> {
  const { loadConfig } = await import("../config/config.ts");
  return loadConfig({
    systemFile: host.systemConfig ?? SYSTEM_CONFIG,
    ...(options.config === undefined ? {} : { namedFile: options.config }),
    flags: givenFlags(options),
    place: placeOf(host),
  });
}
