/**
 * What each layer sets: files, variables of the environment, flags. Names are judged here: what is no key is refused
 * with what was probably meant, because a setting that is silently ignored is worse than none.
 */
import { VramError } from "../errors.ts";
import type { Origin, Setting } from "./origin.ts";
import { originWords } from "./origin.ts";
import type { Place } from "./places.ts";
import { suggest } from "./suggest.ts";
import { CONFIG_KEYS, type ConfigKey, isConfigKey, rowOf, variableOf } from "./table.ts";

/** Variables of ours that set no key. */
const OTHER_VARIABLES = ["VRAM_CONFIG"];
const VARIABLES = new Map(CONFIG_KEYS.map((key) => [variableOf(key), key]));

const unknown = (what: string, meant: string | undefined, details: Readonly<Record<string, unknown>>): VramError =>
  new VramError("INVALID_ARGUMENT", `${what}${meant === undefined ? "" : `; did you mean ${meant}?`}`, {
    fix: "correct or remove it; `vram config show` and docs/config.md list the keys",
    details: { ...details, ...(meant === undefined ? {} : { suggestion: meant }) },
  });

/** The setting if its key exists; `INVALID_ARGUMENT` naming where it stands, and what was probably meant. */
export function requireKnown(setting: Setting): Setting & { readonly key: ConfigKey } {
  const { key, origin } = setting;
  if (isConfigKey(key)) return { ...setting, key };
  const inside = CONFIG_KEYS.filter((known) => known.startsWith(`${key}.`));
  const where = originWords(origin);
  // A key is what somebody typed: shown as JSON, and not all of a very long one.
  const named = JSON.stringify(key.slice(0, 100));
  if (inside.length > 0) {
    throw unknown(`${where}: ${named} is a table, which may hold ${inside.join(", ")}`, undefined, { argument: key });
  }
  throw unknown(`${where}: there is no key ${named}`, suggest(key, CONFIG_KEYS), { argument: key });
}

/**
 * What variables set; empty ones count as unset. A variable that is nearly one of ours is refused: a policy that was
 * meant to hold does not, if its name is misspelt. Others that begin with VRAM_ are somebody else's.
 */
export function settingsOfEnvironment({ env, cwd }: Pick<Place, "env" | "cwd">): Setting[] {
  return Object.entries(env).flatMap(([variable, text]): Setting[] => {
    if (!variable.startsWith("VRAM_") || text === undefined || text === "") return [];
    const key = VARIABLES.get(variable);
    if (key !== undefined) {
      const origin: Origin = { layer: "environment", variable };
      return [{ key, value: rowOf(key).kind.fromText(text, cwd), origin }];
    }
    if (OTHER_VARIABLES.includes(variable)) return [];
    const meant = suggest(variable, [...VARIABLES.keys(), ...OTHER_VARIABLES]);
    if (meant === undefined) return [];
    throw unknown(`the variable ${variable} sets nothing`, meant, { argument: variable });
  });
}

/** Something a command line sets: the key, the text behind the flag, and the flag as it was written. */
export interface GivenFlag {
  readonly key: string;
  readonly text: string;
  readonly flag: string;
}

/** What flags set. A key that is set twice is refused: nobody can say which was meant. */
export function settingsOfFlags(given: readonly GivenFlag[], cwd: string): Setting[] {
  const seen = new Set<string>();
  return given.map(({ key, text, flag }) => {
    const origin: Origin = { layer: "flags", flag };
    if (seen.has(key)) throw unknown(`${flag}: ${key} is set twice`, undefined, { argument: key });
    seen.add(key);
    return { key, value: isConfigKey(key) ? rowOf(key).kind.fromText(text, cwd) : text, origin };
  });
}
