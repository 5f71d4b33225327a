/** `vram config show`: every key with its value, where it comes from, and what `/etc` fixed. Nothing in it is secret. */
import { printable } from "../../bytes.ts";
import type { Config } from "../../config/config.ts";
import { originWords } from "../../config/origin.ts";
import { CONFIG_KEYS, type ConfigKey, rowOf } from "../../config/table.ts";
import { type ConfigOptions, loadHostConfig } from "../config-options.ts";
import { EXIT } from "../exit.ts";
import { colorsFor, type Host } from "../host.ts";
import { printJson } from "../json.ts";

export interface ConfigShowOptions extends ConfigOptions {
  readonly json?: true;
}

/** A value for people: where there is none, what that stands for. */
function shownValue(config: Config, key: ConfigKey): string {
  const value: unknown = config.values[key];
  const { kind, fallbackWords = "" } = rowOf(key);
  if (value !== undefined) return kind.show(value);
  return key === "stateDir" ? "unknown: neither XDG_STATE_HOME nor HOME says" : fallbackWords.replaceAll("`", "");
}

function printTable(host: Host, config: Config): void {
  const colors = colorsFor(host, host.outIsTerminal);
  const rows = CONFIG_KEYS.map((key) => ({ key, value: printable(shownValue(config, key)) }));
  const keyWidth = Math.max(...rows.map(({ key }) => key.length));
  // A long path pushes its own origin to the right, not everybody's.
  const valueWidth = Math.max(...rows.map(({ value }) => (value.length > 40 ? 0 : value.length)));
  for (const { layer, path, present } of config.files) {
    host.out(`${layer.padEnd(keyWidth)}  ${printable(path)}${present ? "" : ` ${colors.dim("(no such file)")}`}\n`);
  }
  host.out("\n");
  for (const { key, value } of rows) {
    const origin = config.origins[key];
    const fixed = config.fixed.get(key);
    const words = printable(originWords(origin));
    const shown = origin.layer === "default" ? colors.dim(words) : words;
    const by = fixed === undefined ? "" : `; fixed by ${printable(originWords(fixed.origin))}`;
    host.out(`${key.padEnd(keyWidth)}  ${value.padEnd(valueWidth)}  ${shown}${by}\n`);
  }
  for (const [key, { value }] of config.fixed) {
    const { kind, policy } = rowOf(key);
    host.out(`\n${key} is fixed to ${printable(kind.show(value))}: it may only ${policy?.rule ?? ""}`);
  }
  if (config.fixed.size > 0) host.out("\n");
}

/** Runs the command. */
export async function runConfigShow(
  host: Host,
  _words: readonly string[],
  options: ConfigShowOptions,
): Promise<number> {
  const config = await loadHostConfig(host, options);
  if (options.json !== true) {
    printTable(host, config);
    return EXIT.ok;
  }
  const keys = CONFIG_KEYS.map((key) => {
    const { policy } = rowOf(key);
    const fixed = config.fixed.get(key);
    return {
      key,
      value: config.values[key] ?? null,
      origin: config.origins[key],
      policy: policy !== undefined,
      ...(fixed === undefined ? {} : { fixed: { ...fixed, mayOnly: policy?.rule } }),
    };
  });
  printJson(host, "config-show", { ok: true, files: config.files, keys });
  return EXIT.ok;
}
