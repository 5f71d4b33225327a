/** Runs what a proof bundle is about: the tests, then the scenarios, and on a GPU the scenarios once more. */
import { randomInt } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, runProgram, StepFailed } from "../quickstart.mjs";
import { readFeatures, readTests } from "./results.mjs";

/** Tests with random inputs take their seed from one of these. */
const SEEDS = ["VRAM_TEST_SEED", "VRAM_AUDIT_SEED", "VRAM_FUZZ_SEED"];

function chooseSeeds() {
  const chosen = randomInt(2 ** 31);
  for (const name of SEEDS) process.env[name] ??= String(chosen);
  return Object.fromEntries(SEEDS.map((name) => [name, process.env[name]]));
}

/** `npm test` and its report; with coverage if it is the whole suite. */
async function runTests(folder, wanted) {
  process.env.VRAM_TEST_REPORT = folder;
  const coverage =
    wanted === undefined ? ["--coverage", `--coverage.reportsDirectory=${join(folder, "coverage")}`] : [];
  await runProgram(process.execPath, ["scripts/test.mjs", ...coverage, ...(wanted ?? [])]);
  const report = join(folder, "report.json");
  if (!existsSync(report)) throw new StepFailed("the tests left no report, so there is nothing to prove", 1);
  return readTests(report);
}

/** Scenarios on a backend. */
async function runFeatures(folder, backend, wanted) {
  const messages = join(folder, `${backend}.ndjson`);
  process.env.VRAM_FEATURES_BACKEND = backend;
  const profile = backend === "emulated" ? [] : ["--profile", "gpu"];
  const cucumber = ["node_modules/@cucumber/cucumber/bin/cucumber.js", ...profile, "--format", `message:${messages}`];
  const { code } = await runProgram(process.execPath, [...cucumber, ...(wanted ?? [])]);
  if (!existsSync(messages)) throw new StepFailed("the scenarios left no report, so there is nothing to prove", 1);
  return readFeatures(messages, backend, code);
}

/** Where coverage was measured: by folder of `src`, and in all. */
function readCoverage(folder) {
  const path = join(folder, "coverage", "coverage-summary.json");
  if (!existsSync(path)) return undefined;
  const { total, ...files } = JSON.parse(readFileSync(path, "utf8"));
  const folders = new Map();
  for (const [file, { lines, branches }] of Object.entries(files)) {
    const [, first, second] = file
      .slice(ROOT.length - 1)
      .split("/")
      .slice(0, 3);
    const name = second?.endsWith(".ts") ? `${first}/` : `${first}/${second}/`;
    const sums = folders.get(name) ?? { lines: { total: 0, covered: 0 }, branches: { total: 0, covered: 0 } };
    for (const [kind, { total: all, covered }] of Object.entries({ lines, branches })) {
      sums[kind].total += all;
      sums[kind].covered += covered;
    }
    folders.set(name, sums);
  }
  const share = ({ total: all, covered }) => ({
    ...{ total: all, covered, pct: all === 0 ? 100 : Math.floor((covered / all) * 10_000) / 100 },
  });
  return {
    total: { lines: share(total.lines), branches: share(total.branches) },
    folders: [...folders]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, { lines, branches }]) => ({ folder: name, lines: share(lines), branches: share(branches) })),
  };
}

/**
 * Runs everything that was asked for, and says what came of it.
 * @param {{ tests?: string[], features?: string[] }} asked arguments of vitest, paths of feature files or `none`
 */
export async function runSuites({ tests: wantedTests, features: wantedFeatures }) {
  const folder = mkdtempSync(join(tmpdir(), "vram-proof-"));
  const steps = [];
  const timed = async (step, task) => {
    const start = performance.now();
    const result = await task();
    steps.push({ step, ms: Math.round(performance.now() - start) });
    return result;
  };
  try {
    const seeds = chooseSeeds();
    const tests = await timed("tests", () => runTests(folder, wantedTests));
    const backends = ["emulated", ...(tests.gpus.length > 0 ? ["cuda"] : [])];
    const features = [];
    for (const backend of wantedFeatures?.includes("none") ? [] : backends) {
      features.push(await timed(`scenarios, ${backend}`, () => runFeatures(folder, backend, wantedFeatures)));
    }
    const counts = readFileSync(join(folder, "counts.txt"), "utf8")
      .split("\n")
      .filter((line) => line !== "");
    const partial = [
      wantedTests === undefined ? undefined : `tests ${wantedTests.join(" ")}`,
      wantedFeatures === undefined ? undefined : `scenarios ${wantedFeatures.join(" ")}`,
    ].filter((part) => part !== undefined);
    return {
      tests: partial.length === 0 ? tests : { ...tests, partial: partial.join(" and ") },
      ...{ backends, features, steps, coverage: readCoverage(folder) },
      seeds: { environment: seeds, counts: counts.sort() },
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
