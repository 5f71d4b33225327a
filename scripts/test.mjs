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
const isFailed = ({ status }) => status === "failed";
/** Neither passed nor failed; "pending" is one that began and did not end. @param {TestResult} test */
const isSkipped = ({ status }) => !["passed", "failed", "pending"].includes(status);
/** @param {TestResult} test */
const isExcused = (test) => isSkipped(test) && test.fullName.includes(EXCUSE);
/** @param {FileResult} file */
const pathOf = ({ name }) => relative(ROOT, name).split(sep).join("/");

/** @param {string} line */
const print = (line) => process.stdout.write(`${line}\n`);

/**
 * Runs vitest and reads its report.
 * @param {string[]} args
 * @param {boolean} requireTools
 * @returns {Promise<{ code: number, files: FileResult[] | undefined, outside: Outside[], counts: string }>} no `files`
 *   if vitest wrote no report; `counts` are the lines tests gave to `test/helpers/counts.ts`
 */
async function runVitest(args, requireTools) {
  const folder = mkdtempSync(join(tmpdir(), "vram-test-"));
  try {
    // Whoever wants to keep the report names a folder for it.
    const kept = process.env.VRAM_TEST_REPORT ?? folder;
    const report = join(kept, "report.json");
    const counts = join(kept, "counts.txt");
    const outside = join(kept, "outside.json");
    const hardware = join(kept, "hardware.txt");
    // A folder that was used before holds what another run showed, and on which GPU.
    for (const path of [report, outside, hardware]) rmSync(path, { force: true });
    writeFileSync(counts, "");
    process.env.VRAM_TEST_COUNTS = counts;
    process.env.VRAM_TEST_OUTSIDE = outside;
    process.env.VRAM_TEST_HARDWARE = hardware;
    const reporters = ["default", "json", "./scripts/outside-reporter.mjs"].map((one) => `--reporter=${one}`);
    const reporting = [...reporters, `--outputFile.json=${report}`];
    const { code } = await runProgram(process.execPath, [
      "node_modules/vitest/vitest.mjs",
      "run",
      ...reporting,
      ...args,
    ]);
    const read = (/** @type {string} */ path) => JSON.parse(readFileSync(path, "utf8"));
    const files = existsSync(report) ? read(report).testResults : undefined;
    const all = outsideOf({ code, files, outside: existsSync(outside) ? read(outside) : [] }, requireTools);
    // For whoever keeps the report.
    writeFileSync(outside, JSON.stringify(all));
    return { code, files, outside: all, counts: readFileSync(counts, "utf8").trim() };
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
 * Everything that failed outside of tests: hooks and files, skips that are not allowed, and an end that nothing explains.
 * @param {{ code: number, files: FileResult[] | undefined, outside: Outside[] }} outcome
 * @param {boolean} requireTools
 * @returns {Outside[]}
 */
function outsideOf({ code, files = [], outside }, requireTools) {
  const forbidden = files.flatMap((file) =>
    file.assertionResults
      .filter((test) => requireTools && isSkipped(test) && !isExcused(test))
      .map(({ fullName }) => ({
        path: pathOf(file),
        message: `skipped, which REQUIRE_TOOLS=1 forbids: ${fullName.trim()}`,
      })),
  );
  const found = [...outside, ...forbidden];
  const anyFailed = found.length > 0 || files.some(({ assertionResults: tests }) => tests.some(isFailed));
  const message = `vitest ended with exit ${code}, though no test failed: coverage below a threshold, a setup of all files`;
  return code === 0 || anyFailed ? found : [...found, { path: "npm test", message }];
}

/**
 * Counts. What did not run because something broke around it has failed, and so has each file in which anything did.
 * @param {FileResult[]} files
 * @param {Outside[]} outside
 */
function count(files, outside) {
  const broken = new Set(outside.map(({ path }) => path));
  const sums = { passed: 0, failed: broken.size, skipped: 0 };
  for (const file of files) {
    for (const test of file.assertionResults) {
      if (test.status === "passed") sums.passed += 1;
      else if (isSkipped(test) && !broken.has(pathOf(file))) sums.skipped += 1;
      else sums.failed += 1;
    }
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
    outcome = await runVitest(process.argv.slice(2), process.env.REQUIRE_TOOLS === "1");
  } catch (error) {
    if (!(error instanceof StepFailed) || error.code === 130) throw error;
    process.stderr.write(`${error.message}\n`);
    outcome = { code: error.code, files: undefined, outside: [], counts: "" };
  }
  const files = outcome.files ?? [];
  print("");
  if (outcome.counts !== "") print(`${outcome.counts.split("\n").sort().join("\n")}\n`);
  printTiers(files);
  for (const { path, message } of outcome.outside) {
    print(`failed outside of tests: ${path}: ${message.split("\n", 1)[0]}`);
  }
  const sums = count(files, outcome.outside);
  const withoutGpu = files.flatMap((file) => file.assertionResults).filter(isExcused).length;
  if (withoutGpu > 0)
    print(`no GPU here: ${withoutGpu} tests of the GPU suite were skipped, nothing was shown on hardware`);
  if (outcome.files === undefined) sums.failed += 1;
  print(`${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`);
  return outcome.code !== 0 ? outcome.code : Math.min(sums.failed, 1);
});
