/** The arithmetic of `scripts/mutation.mjs`: which mutants count, how scores are rounded, and that folders stay together. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { thrownBy } from "../helpers/emulated.ts";

interface Counts {
  readonly mutants: number;
  readonly killed: number;
  readonly timeout: number;
  readonly survived: number;
  readonly noCoverage: number;
  readonly ignored: number;
  readonly errors: number;
}
interface Folder {
  readonly folder: string;
  readonly score: number;
}
interface Script {
  readonly countMutants: (report: unknown) => Counts;
  readonly sumCounts: (all: readonly Counts[]) => Counts;
  readonly scoreOf: (counts: Counts) => number;
  readonly mergeFolder: (folders: readonly Folder[], entry: Folder) => Folder[];
}
interface Recorded {
  readonly folders: readonly (Counts & Folder & { readonly at: string; readonly commit: string })[];
  readonly total: Counts & { readonly score: number };
}

const url = (path: string): URL => new URL(`../../${path}`, import.meta.url);
const script = (await import(url("scripts/mutation.mjs").href)) as Script;
const { countMutants, sumCounts, scoreOf, mergeFolder } = script;

const counts = (killed: number, timeout: number, survived: number, noCoverage: number): Counts => ({
  ...{ killed, timeout, survived, noCoverage, ignored: 3, errors: 2 },
  mutants: killed + timeout + survived + noCoverage + 5,
});
const reportOf = (...files: readonly (readonly string[])[]) => ({
  files: Object.fromEntries(files.map((all, at) => [`src/${at}.ts`, { mutants: all.map((status) => ({ status })) }])),
});

describe("a report", () => {
  it("is counted over all of its files, errors of both kinds together", () => {
    const report = reportOf(
      ["Killed", "Survived", "Killed", "Timeout", "RuntimeError"],
      ["NoCoverage", "Ignored", "CompileError", "Killed"],
    );
    expect(countMutants(report)).toEqual({
      ...{ mutants: 9, killed: 3, timeout: 1, survived: 1, noCoverage: 1, ignored: 1, errors: 2 },
    });
    expect(countMutants(reportOf()).mutants).toBe(0);
  });

  it("with a status that nobody knows is refused: it would be missing from the score", () => {
    expect(String(thrownBy(() => countMutants(reportOf(["Killed", "Pending"]))))).toContain("a mutant is Pending");
  });
});

describe("a score", () => {
  it.each([
    [counts(8, 0, 2, 0), 80],
    [counts(7, 1, 1, 1), 80],
    [counts(0, 0, 5, 0), 0],
    [counts(0, 0, 0, 0), 0],
    [counts(2, 0, 1, 0), 66.66],
    [counts(79_999, 0, 20_001, 0), 79.99],
    [counts(5, 5, 0, 0), 100],
  ])("of %j is %d", (given, score) => {
    expect(scoreOf(given)).toBe(score);
  });

  it("of several folders is that of their sum, not the mean of theirs", () => {
    const sum = sumCounts([counts(90, 0, 0, 0), counts(0, 0, 5, 5)]);
    expect(sum).toEqual({ ...counts(90, 0, 5, 5), ignored: 6, errors: 4, mutants: 110 });
    expect(scoreOf(sum)).toBe(90);
  });
});

describe("the record", () => {
  it("keeps the folders that were not run, and replaces the one that was", () => {
    const entry = (folder: string, score: number): Folder => ({ folder, score });
    const before = [entry("src/audit", 1), entry("src/seal", 2)];
    const after = mergeFolder(mergeFolder(before, entry("src/hash", 3)), entry("src/seal", 4));
    expect(after).toEqual([entry("src/audit", 1), entry("src/hash", 3), entry("src/seal", 4)]);
    expect(before).toHaveLength(2);
  });

  it("that is kept adds up: each folder to its score, all of them to the total", () => {
    const { folders, total } = JSON.parse(readFileSync(url("bench/results/mutation.json"), "utf8")) as Recorded;
    for (const folder of folders) {
      const { mutants, killed, timeout, survived, noCoverage, ignored, errors } = folder;
      expect(killed + timeout + survived + noCoverage + ignored + errors, folder.folder).toBe(mutants);
      expect(scoreOf(folder), folder.folder).toBe(folder.score);
      expect(Number.isNaN(Date.parse(folder.at)), folder.folder).toBe(false);
      expect(folder.commit, folder.folder).toMatch(/^[0-9a-f]{40}(\+changes)?$/);
    }
    const { score, ...sums } = total;
    expect(sumCounts(folders)).toEqual(sums);
    expect(scoreOf(sums)).toBe(score);
  });
});
