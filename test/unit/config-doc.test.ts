/** `docs/config.md` and `docs/config.toml` against the table of keys, both ways. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { mergeSettings } from "../../src/config/config.ts";
import { parseConfigFile } from "../../src/config/file.ts";
import { DURATION_WORDS, SIZE_WORDS } from "../../src/config/kinds.ts";
import { LAYERS } from "../../src/config/origin.ts";
import { CONFIG_KEYS, type ConfigKey, flagOf, rowOf, variableOf } from "../../src/config/table.ts";
import { BYTE_UNITS, DURATION_UNITS } from "../../src/config/units.ts";
import { EMPTY_PLACE } from "../helpers/config.ts";

const read = (name: string): string => readFileSync(new URL(`../../docs/${name}`, import.meta.url), "utf8");
const PAGE = read("config.md");
const EXAMPLE = read("config.toml");

function rowsUnder(header: string): string[] {
  const [, rest = ""] = PAGE.split(`\n| ${header} |`);
  const rows = rest.split("\n").slice(2);
  return rows.slice(
    0,
    rows.findIndex((line) => !line.startsWith("|")),
  );
}

function documented(key: ConfigKey): string {
  const { kind, means, fallback, fallbackWords, policy } = rowOf(key);
  const usual = fallbackWords ?? `\`${kind.show(fallback(EMPTY_PLACE))}\``;
  const flag = flagOf(key);
  const cells = [
    `\`${key}\``,
    kind.accepts,
    usual,
    `\`${variableOf(key)}\``,
    flag === undefined ? "" : `\`${flag}\``,
    policy?.rule ?? "",
    means,
  ];
  return `| ${cells.join(" | ")} |`.replaceAll("|  |", "| |").replaceAll("|  |", "| |");
}

describe("docs/config.md", () => {
  it("has every key once, in the order of the table, with what it accepts, default, variable, flag and policy, and no other", () => {
    expect(rowsUnder("key | accepts")).toEqual(CONFIG_KEYS.map(documented));
  });

  it("has the layers and the units", () => {
    expect(rowsUnder("layer | where").map((row) => row.split("`")[1])).toEqual([...LAYERS]);
    expect(PAGE).toContain(`(${BYTE_UNITS.join(", ")})`);
    expect(PAGE).toContain(`(${DURATION_UNITS.join(", ")})`);
    expect(SIZE_WORDS + DURATION_WORDS).toContain('"15 min"');
  });

  it("speaks of keys and variables that exist only", () => {
    const variables = [...PAGE.matchAll(/VRAM_[A-Z_]+[A-Z]/g)].map(([name]) => name);
    const known = new Set(["VRAM_CONFIG", ...CONFIG_KEYS.map(variableOf)]);
    expect(variables.filter((name) => !known.has(name))).toEqual([]);
  });
});

describe("the variables", () => {
  it("are each of one key", () => {
    expect(new Set(CONFIG_KEYS.map(variableOf)).size).toBe(CONFIG_KEYS.length);
    expect(variableOf("lease.maxMs")).toBe("VRAM_LEASE_MAX_MS");
    expect(variableOf("libcuda")).toBe("VRAM_LIBCUDA");
  });
});

describe("docs/config.toml", () => {
  const parsed = parseConfigFile(EXAMPLE.replaceAll(/^#(?=\w+ = )/gm, ""), "config.toml", "user");

  it("sets nothing as it is", () => {
    const tables = EXAMPLE.match(/^\[\w+\]$/gm) ?? [];
    expect(parseConfigFile(EXAMPLE.replaceAll(/^\[\w+\]$/gm, ""), "config.toml", "user")).toEqual([]);
    expect(tables.length).toBeGreaterThan(5);
  });

  it("has every key, with a value that is accepted: its default, where that is a fixed one", () => {
    expect(parsed.map(({ key }) => key).toSorted()).toEqual([...CONFIG_KEYS].toSorted());
    const { values } = mergeSettings(parsed, EMPTY_PLACE);
    for (const key of CONFIG_KEYS) {
      const { fallback, fallbackWords } = rowOf(key);
      if (fallbackWords === undefined) expect(values[key], key).toEqual(fallback(EMPTY_PLACE));
    }
  });

  it("can be used with nothing changed: an empty table of ours is no mistake", () => {
    const { values } = mergeSettings(parseConfigFile(EXAMPLE, "config.toml", "system"), EMPTY_PLACE);
    expect(values["lease.maxMs"]).toBe(3_600_000);
  });
});
