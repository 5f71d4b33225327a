/** Layers of the configuration, whatever is in them: the last one wins, except that policy of /etc only gets tighter. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mergeSettings } from "../../src/config/config.ts";
import type { Origin, Setting } from "../../src/config/origin.ts";
import { CONFIG_KEYS, type ConfigKey, rowOf } from "../../src/config/table.ts";
import { parseBytes, parseDuration, showBytes, showDuration } from "../../src/config/units.ts";
import { EMPTY_PLACE } from "../helpers/config.ts";

const RUNS = { numRuns: 300 };
const ORIGINS: readonly Origin[] = [
  { layer: "system", file: "/etc/c.toml" },
  { layer: "user", file: "/home/c.toml" },
  { layer: "environment", variable: "VRAM_X" },
  { layer: "flags", flag: "--x" },
];

const path = fc.constantFrom("/", "/a", "/a/b", "/a/b/c", "/ab", "/c");
const small = fc.integer({ min: 1000, max: 1010 });

/** Values of each kind of policy, as a file holds them. Few, so that they meet. */
const VALUES = {
  backend: fc.constantFrom("auto", "cuda", "emulated"),
  requireGpu: fc.boolean(),
  devices: fc.oneof(fc.constant("all"), fc.uniqueArray(fc.integer({ min: 0, max: 3 }), { minLength: 1 })),
  allowMps: fc.boolean(),
  modelRoots: fc.uniqueArray(path),
  maxModelBytes: small,
  onMismatch: fc.constantFrom("stop", "quarantine"),
  "seal.maxAgeMs": fc.oneof(fc.constant(0), small),
  "audit.mode": fc.constantFrom("off", "best-effort", "required"),
  "audit.retentionDays": small,
  allowedGroup: fc.constantFrom("", "gpu", "users", 7),
  listen: fc.constantFrom("off", "127.0.0.1:1", "[::1]:1"),
  allowedHosts: fc.uniqueArray(fc.constantFrom("a", "b", "c")),
} as const satisfies Partial<Record<ConfigKey, fc.Arbitrary<unknown>>>;
type Tested = keyof typeof VALUES;

const key = fc.constantFrom(...(Object.keys(VALUES) as Tested[]));
/** For some layers, the weakest first, what they set. */
const layersOf = (name: Tested): fc.Arbitrary<Setting[]> =>
  fc.tuple(...ORIGINS.map(() => fc.option(VALUES[name] as fc.Arbitrary<unknown>, { nil: undefined }))).map((values) =>
    values.flatMap((value, index): Setting[] => {
      const origin = ORIGINS[index];
      return value === undefined || origin === undefined ? [] : [{ key: name, value, origin }];
    }),
  );

/** What the layers give, or undefined if they are refused. Other keys cannot contradict: they are at their defaults. */
function merged(settings: readonly Setting[]): Record<string, unknown> | undefined {
  try {
    return mergeSettings(settings, EMPTY_PLACE).values;
  } catch (error) {
    expect(error).toMatchObject({ code: "INVALID_ARGUMENT" });
    return undefined;
  }
}

const allows = (name: Tested, fixed: unknown, later: unknown): boolean =>
  rowOf(name).policy?.allows(fixed, later) ?? true;

describe("[VR-POL-01] the layers of the configuration", () => {
  it("the last one wins, and is where the value says it is from, if /etc sets nothing", () => {
    const property = fc.property(key.chain(layersOf), (settings) => {
      const open = settings.filter(({ origin }) => origin.layer !== "system");
      const last = open.at(-1);
      if (last === undefined) return;
      const { values, origins, fixed } = mergeSettings(open, EMPTY_PLACE);
      expect(values[last.key as Tested]).toEqual(last.value);
      expect(origins[last.key as Tested]).toBe(last.origin);
      expect(fixed.size).toBe(0);
    });
    fc.assert(property, RUNS);
  });

  it("what /etc sets as policy is tightened or refused, never loosened", () => {
    let [accepted, refused] = [0, 0];
    const property = fc.property(key, fc.gen(), (name, generate) => {
      const settings = generate(layersOf, name);
      const [first, ...later] = settings;
      if (first?.origin.layer !== "system") return;
      const values = merged(settings);
      expect(values !== undefined).toBe(later.every(({ value }) => allows(name, first.value, value)));
      if (values === undefined) refused += 1;
      else accepted += 1;
      if (values !== undefined) expect(allows(name, first.value, values[name])).toBe(true);
    });
    fc.assert(property, { numRuns: 1000 });
    expect(accepted).toBeGreaterThan(50);
    expect(refused).toBeGreaterThan(50);
  });

  it("adding what is tighter to layers that are accepted never loosens what they gave", () => {
    const property = fc.property(key, fc.gen(), (name, generate) => {
      const value = (): unknown => generate(() => VALUES[name] as fc.Arbitrary<unknown>);
      const [a, b, c] = [value(), value(), value()];
      expect(allows(name, a, a)).toBe(true);
      if (allows(name, a, b) && allows(name, b, c)) expect(allows(name, a, c), JSON.stringify([a, b, c])).toBe(true);
    });
    fc.assert(property, { numRuns: 3000 });
  });

  it("covers every kind of tightening", () => {
    const rules = (names: readonly ConfigKey[]): string[] =>
      [...new Set(names.flatMap((name) => rowOf(name).policy?.rule ?? []))].toSorted();
    expect(rules(Object.keys(VALUES) as Tested[])).toEqual(rules(CONFIG_KEYS));
  });
});

describe("[VR-IN-01] sizes and durations", () => {
  it("are shown as what is read back", () => {
    const value = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
    fc.assert(
      fc.property(value, (number) => {
        expect(parseBytes(showBytes(number))).toBe(number);
        expect(parseDuration(showDuration(number))).toBe(number);
      }),
      RUNS,
    );
  });

  it("whatever the text, it is a safe whole number or nothing", () => {
    const unit = fc.constantFrom("B", "KiB", "GB", "TiB", "ms", "h", "");
    const text = fc.oneof(
      fc.string(),
      fc.tuple(fc.double(), unit).map(([number, name]) => `${number} ${name}`),
    );
    fc.assert(
      fc.property(text, (given) => {
        for (const value of [parseBytes(given), parseDuration(given)]) {
          if (value !== undefined) expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
        }
      }),
      RUNS,
    );
  });
});
