/** Prometheus' own tool (Debian package `prometheus`), and its text format read without it. */
import { spawnSync } from "node:child_process";

const run = (args: readonly string[], input?: string) =>
  spawnSync("promtool", args, { encoding: "utf8", ...(input === undefined ? {} : { input }) });

/** Why there is nothing to ask, for titles of skipped tests; empty if there is. */
export const withoutPromtool = run(["--version"]).error === undefined ? "" : " (no promtool)";

/** Exit status and everything it says. */
export function promtool(args: readonly string[], input?: string): { code: number | null; said: string } {
  const { status, stdout, stderr } = run(args, input);
  return { code: status, said: `${stdout}${stderr}` };
}

/** Series, written as in the text, with their values. Lines that are neither a comment nor a sample are errors. */
export function seriesOf(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const [, series, value] = /^([a-z_]+(?:\{(?:[a-z_]+="[^"\\]*",?)+\})?) (-?[0-9.e+-]+|[+-]Inf)$/.exec(line) ?? [];
      if (series === undefined) throw new Error(`not a sample: ${line}`);
      return [series, Number(value?.replace("Inf", "Infinity"))];
    }),
  );
}

/** What moved from `before` to `after`, by how much; series that are gone are `undefined`. */
export function moved(before: Map<string, number>, after: Map<string, number>): Record<string, number | undefined> {
  const all = [...new Set([...before.keys(), ...after.keys()])];
  const changed = all.filter((series) => before.get(series) !== after.get(series));
  return Object.fromEntries(changed.map((series) => [series, difference(before.get(series), after.get(series))]));
}

const difference = (before: number | undefined, after: number | undefined): number | undefined =>
  after === undefined ? undefined : after - (before ?? 0);
