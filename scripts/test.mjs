/**
 * `npm test`: installs if need be, builds (some tests run `dist`: threads, processes, the command line), runs every
 * tier, prints the seconds of each, and ends with the line `N passed, N failed, N skipped`. Arguments go to vitest:
 * `npm test -- --coverage`, `npm test -- --project unit`, `npm test -- test/unit/bytes.test.ts`.
 *
 * VRAM_TEST_REPORT=DIR keeps vitest's JSON report and the counts there. VRAM_TEST_BUILT=1 takes packages and `dist` as
 * they are.
 *
 * With REQUIRE_TOOLS=1 a skipped test fails unless its title says "no GPU": a missing tool must not look like a pass.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, sep } from "node:path";
import { build, install, ROOT, runProgram, runToTheEnd, StepFailed } from "./quickstart.mjs";

/** The one reason to skip that no installation can remove. */
const EXCUSE = "no GPU";

/** @typedef {{ fullName: string, status: string }} TestResult */
/** @typedef {{ name: string, status: string, startTime: number, endTime: number, assertionResults: TestResult[] }} FileResult */

/** @typedef {{ path: string, message: string }} Outside what failed outside of tests (scripts/outside-reporter.mjs) */

/** @param {TestResult} test */
const isExcused = ({ status, fullName }) => status !== "passed" && status !== "failed" && fullName.includes(EXCUSE);

/** @param {string} line */
const print = (line) => process.stdout.write(`${line}\n`);

/**
 * Runs vitest and reads its report.
 * @param {string[]} args
 * @returns {Promise<{ code: number, files: FileResult[] | undefined, outside: Outside[], counts: string }>} no `files`
 *   if vitest wrote no report; `counts` are the lines tests gave to `test/helpers/counts.ts`
 */
async function runVitest(args) {
  const folder = mkdtempSync(join(tmpdir(), "vram-test-"));
  try {
    // Whoever wants to keep the report names a folder for it.
    const kept = process.env.VRAM_TEST_REPORT ?? folder;
    const report = join(kept, "report.json");
    const counts = join(kept, "counts.txt");
    const outside = join(kept, "outside.json");
    writeFileSync(counts, "");
    process.env.VRAM_TEST_COUNTS = counts;
    process.env.VRAM_TEST_OUTSIDE = outside;
    const reporters = ["default", "json", "./scripts/outside-reporter.mjs"].map((one) => `--reporter=${one}`);
    const reporting = [...reporters, `--outputFile.json=${report}`];
    const { code } = await runProgram(process.execPath, [
      "node_modules/vitest/vitest.mjs",
      "run",
      ...reporting,
      ...args,
    ]);
    const read = (/** @type {string} */ path) => JSON.parse(readFileSync(path, "utf8"));
    return {
      code,
      files: existsSync(report) ? read(report).testResults : undefined,
      outside: existsSync(outside) ? read(outside) : [],
      counts: readFileSync(counts, "utf8").trim(),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Prints files and seconds of each tier. Files run side by side, so the sum may exceed the time that went by.
 * @param {FileResult[]} files
 */
function printTiers(files) {
  /** @type {Map<string, { fileCount: number, ms: number }>} */
  const tiers = new Map();
  for (const file of files) {
    const tier = relative(ROOT, file.name).split(sep)[1] ?? "?";
    const sum = tiers.get(tier) ?? { fileCount: 0, ms: 0 };
    tiers.set(tier, { fileCount: sum.fileCount + 1, ms: sum.ms + file.endTime - file.startTime });
  }
  for (const [tier, { fileCount, ms }] of tiers) {
    print(
      `${tier.padEnd(10)}${(ms / 1000).toFixed(1).padStart(8)} s in ${fileCount} file${fileCount === 1 ? "" : "s"}`,
    );
  }
}

/**
 * Counts, and names every skip that is not allowed and everything that failed outside of tests.
 * @param {FileResult[]} files
 * @param {Outside[]} outside
 * @param {boolean} requireTools
 */
function count(files, outside, requireTools) {
  const sums = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) {
    const tests = file.assertionResults;
    for (const { status, fullName } of tests) {
      if (status === "passed") sums.passed += 1;
      else if (status === "failed") sums.failed += 1;
      else if (requireTools && !fullName.includes(EXCUSE)) {
        print(`skipped, which REQUIRE_TOOLS=1 forbids: ${relative(ROOT, file.name)} > ${fullName.trim()}`);
        sums.failed += 1;
      } else sums.skipped += 1;
    }
  }
  for (const { path, message } of outside) {
    print(`failed outside of tests: ${path}: ${message.split("\n", 1)[0]}`);
    sums.failed += 1;
  }
  return sums;
}

await runToTheEnd(async () => {
  let outcome;
  try {
    // Whoever runs tests from within a test must not write `dist` anew under its feet.
    if (process.env.VRAM_TEST_BUILT !== "1") {
      await install(print);
      await build();
    }
    outcome = await runVitest(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof StepFailed) || error.code === 130) throw error;
    process.stderr.write(`${error.message}\n`);
    outcome = { code: error.code, files: undefined, outside: [], counts: "" };
  }
  const files = outcome.files ?? [];
  print("");
  if (outcome.counts !== "") print(`${outcome.counts.split("\n").sort().join("\n")}\n`);
  printTiers(files);
  const sums = count(files, outcome.outside, process.env.REQUIRE_TOOLS === "1");
  const withoutGpu = files.flatMap((file) => file.assertionResults).filter(isExcused).length;
  if (withoutGpu > 0)
    print(`no GPU here: ${withoutGpu} tests of the GPU suite were skipped, nothing was shown on hardware`);
  if (outcome.files === undefined) sums.failed += 1;
  if (outcome.code !== 0 && sums.failed === 0) print(`every test passed, but vitest ended with exit ${outcome.code}`);
  print(`${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`);
  return outcome.code !== 0 ? outcome.code : Math.min(sums.failed, 1);
});
