/**
 * The configuration of a service: defaults < /etc < the user's file < environment < flags. A later layer wins, except
 * that policy which `/etc` sets can only be tightened: a loosening is refused, never ignored, and the message says which
 * layer set what.
 */
import { canonicalJson, toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { sha256 } from "../hash/descriptor.ts";
import { requireConsistent } from "./checks.ts";
import { parseConfigFile, readConfigFile } from "./file.ts";
import { type GivenFlag, requireKnown, settingsOfEnvironment, settingsOfFlags } from "./layers.ts";
import { type Origin, originWords, type Setting } from "./origin.ts";
import { type Place, userConfig } from "./places.ts";
import { CONFIG_KEYS, type ConfigKey, type ConfigValues, rowOf } from "./table.ts";

/** A file that was looked for. */
export interface ConfigFile {
  readonly layer: "system" | "user";
  readonly path: string;
  readonly present: boolean;
}

/** A value that was set, and where. */
export interface Placed {
  readonly value: unknown;
  readonly origin: Origin;
}

export interface Config {
  readonly values: ConfigValues;
  readonly origins: Readonly<Record<ConfigKey, Origin>>;
  /** Policy that `/etc` sets, with its value there. */
  readonly fixed: ReadonlyMap<ConfigKey, Placed>;
  /** In the order of the layers. */
  readonly files: readonly ConfigFile[];
}

/** What a configuration is put together from. */
export interface ConfigSources {
  readonly systemFile: string;
  /** A file instead of the user's: `--config`; `VRAM_CONFIG` stands behind it. */
  readonly namedFile?: string;
  readonly flags: readonly GivenFlag[];
  readonly place: Place;
}

/** The value as its kind has it; `INVALID_ARGUMENT` naming the key, what is accepted, and what was found. */
function readValue({ key, value, origin }: Setting & { readonly key: ConfigKey }): unknown {
  const { kind } = rowOf(key);
  const parsed = kind.schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const found = typeof value === "object" ? (Array.isArray(value) ? "another list" : "a table or date") : undefined;
  const shown = found ?? JSON.stringify(String(value).slice(0, 100));
  throw new VramError("INVALID_ARGUMENT", `${originWords(origin)}: ${key} must be ${kind.accepts}, and is ${shown}`, {
    details: { argument: key, origin },
  });
}

/** Throws unless `later` is at least as tight as what `/etc` fixed. */
function requireTighter(key: ConfigKey, fixed: Placed, later: Placed): void {
  const { policy, kind } = rowOf(key);
  if (policy === undefined || policy.allows(fixed.value, later.value)) return;
  const [was, wanted] = [kind.show(fixed.value), kind.show(later.value)];
  throw new VramError(
    "INVALID_ARGUMENT",
    `${originWords(later.origin)} sets ${key} to ${wanted}, but ${originWords(fixed.origin)} fixes it to ${was}: ` +
      `it may only ${policy.rule}`,
    {
      fix: `remove it there, or have whoever keeps ${originWords(fixed.origin)} change the policy`,
      details: { argument: key, origin: later.origin, fixedBy: fixed.origin },
    },
  );
}

/** Folders that exist, with their links resolved. `absent` says what to make of one that does not. */
function resolveRoots(placed: Placed, place: Place, absent: (root: string) => string[]): Placed {
  const roots = Array.isArray(placed.value) ? (placed.value as readonly string[]) : [];
  return { ...placed, value: roots.flatMap((root) => place.realpath(root) ?? absent(root)) };
}

/**
 * Roots below those that are fixed, as they are compared and kept: a link under one of them may lead out of it, or be
 * turned elsewhere tomorrow. A fixed root that does not exist allows nothing.
 */
function settleRoots(first: Placed, rest: readonly Placed[], place: Place): readonly [Placed, ...Placed[]] {
  const later = rest.map((placed) =>
    resolveRoots(placed, place, (root) => {
      const why = `${root} does not exist, so that nobody can say whether it lies under those of ${originWords(first.origin)}`;
      throw new VramError("INVALID_ARGUMENT", `${originWords(placed.origin)}: modelRoots: ${why}`, {
        fix: "make the folder first",
        details: { argument: "modelRoots", origin: placed.origin, fixedBy: first.origin },
      });
    }),
  );
  return [resolveRoots(first, place, () => []), ...later];
}

/** The last value of a key, after every one was held against what `/etc` fixed. */
function settle(key: ConfigKey, placed: readonly Placed[], place: Place): { last: Placed; fixed?: Placed } {
  const [first, ...rest] = placed;
  if (first === undefined) return { last: { value: rowOf(key).fallback(place), origin: { layer: "default" } } };
  if (first.origin.layer !== "system" || rowOf(key).policy === undefined) return { last: rest.at(-1) ?? first };
  if (rest.length === 0) return { last: first, fixed: first };
  const [bound, ...later] = key === "modelRoots" ? settleRoots(first, rest, place) : [first, ...rest];
  for (const one of later) requireTighter(key, bound, one);
  return { last: later.at(-1) ?? first, fixed: first };
}

/** Puts the layers together; `settings` in the order of the layers. */
export function mergeSettings(settings: readonly Setting[], place: Place): Omit<Config, "files"> {
  const known = settings.map(requireKnown).map((setting) => ({ ...setting, value: readValue(setting) }));
  const values: Record<string, unknown> = {};
  const origins: Record<string, Origin> = {};
  const fixed = new Map<ConfigKey, Placed>();
  for (const key of CONFIG_KEYS) {
    const own = known.filter((setting) => setting.key === key).map(({ value, origin }) => ({ value, origin }));
    const settled = settle(key, own, place);
    values[key] = settled.last.value;
    origins[key] = settled.last.origin;
    if (settled.fixed !== undefined) fixed.set(key, settled.fixed);
  }
  // Every key of the type was read by the kind of its row.
  const config = { values: values as ConfigValues, origins: origins as Record<ConfigKey, Origin>, fixed };
  requireConsistent(config.values, config.origins);
  return config;
}

/** SHA-256 of the values as RFC 8785 JSON, hex: what the record says of the configuration a service started with. */
export const configDigest = (values: ConfigValues): string => toHex(sha256(Buffer.from(canonicalJson(values), "utf8")));

/** Reads all layers. Throws `INVALID_ARGUMENT` for the first thing that is not as it should be. */
export async function loadConfig({ systemFile, namedFile, flags, place }: ConfigSources): Promise<Config> {
  const named = namedFile ?? (place.env["VRAM_CONFIG"] === "" ? undefined : place.env["VRAM_CONFIG"]);
  const user = named ?? userConfig(place.env);
  const files: ConfigFile[] = [];
  const settings: Setting[] = [];
  const read = async (path: string, layer: "system" | "user", role: "system" | "user" | "named"): Promise<void> => {
    const text = await readConfigFile(path, role);
    files.push({ layer, path, present: text !== undefined });
    if (text !== undefined) settings.push(...parseConfigFile(text, path, layer));
  };
  await read(systemFile, "system", "system");
  if (user !== undefined) await read(user, "user", named === undefined ? "user" : "named");
  settings.push(...settingsOfEnvironment(place), ...settingsOfFlags(flags, place.cwd));
  return { ...mergeSettings(settings, place), files };
}
