/**
 * `npm run mutation -- [FOLDER …]`: mutation testing of `src/seal`, `hash`, `verify`, `lease` and `audit`, or of those
 * that are named. Stryker changes one thing of `src` at a time in a copy of the tree, and the tests have to notice. The
 * figures go to `bench/results/mutation.json` after every folder; other folders keep theirs, with their own time and
 * commit. What is run on what is in `test/mutation/parts.json`; figures are sums over the parts of a folder.
 *
 * MUTATION_CONCURRENCY: mutants at a time (1). MUTATION_WORK: a folder in which results are kept, so that the next run
 * judges only what it must: mutants of lines that changed, and survivors where there are new tests (`incremental` in the
 * record). A test that was changed under its old name is not noticed. Without it everything is judged anew.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ROOT, runProgram, runToTheEnd } from "./quickstart.mjs";

const RESULT = join(ROOT, "bench", "results", "mutation.json");
const PARTS = join(ROOT, "test", "mutation", "parts.json");

/** @typedef {{ status: string }} Mutant */
/** @typedef {{ files: Record<string, { mutants: Mutant[] }> }} Report what Stryker's JSON reporter writes */
/** @typedef {{ mutants: number, killed: number, timeout: number, survived: number, noCoverage: number, ignored: number, errors: number }} Counts */
/** @typedef {Counts & { folder: string, score: number, seconds: number, incremental: boolean, at: string, commit: string }} Folder */
/** @typedef {{ name: string, files: string[], tests: string[] }} Part */

const EXCLUDED = [
  "src/hash/pool-thread.ts: 6 lines that wire a thread; a test cannot reach them from source",
  "tests that start processes, need dist, read the text of src, or take seconds (test/mutation): a mutant that only they would notice counts as survived",
];

/** @type {Record<string, keyof Counts>} */
const COUNTED = {
  Killed: "killed",
  Timeout: "timeout",
  Survived: "survived",
  NoCoverage: "noCoverage",
  Ignored: "ignored",
  CompileError: "errors",
  RuntimeError: "errors",
};

/** @returns {Counts} */
const nothing = () => ({ mutants: 0, killed: 0, timeout: 0, survived: 0, noCoverage: 0, ignored: 0, errors: 0 });

/**
 * What became of the mutants of a report. Throws for a status that is not known: it must not be left out of the score.
 * @param {Report} report
 */
export function countMutants(report) {
  const counts = nothing();
  for (const { mutants } of Object.values(report.files)) {
    for (const { status } of mutants) {
      const counted = COUNTED[status];
      if (counted === undefined) throw new Error(`a mutant is ${status}, which is neither noticed nor not`);
      counts.mutants += 1;
      counts[counted] += 1;
    }
  }
  return counts;
}

/** @param {readonly Counts[]} all */
export function sumCounts(all) {
  const sum = nothing();
  for (const counts of all) {
    for (const key of /** @type {(keyof Counts)[]} */ (Object.keys(sum))) sum[key] += counts[key];
  }
  return sum;
}

/**
 * Noticed mutants in per cent of those that count: (killed + timeout) / (killed + timeout + survived + noCoverage),
 * rounded down to two places, so that nothing below a limit is shown at it. 0 where there are none.
 * @param {Counts} counts
 */
export function scoreOf({ killed, timeout, survived, noCoverage }) {
  const noticed = killed + timeout;
  const all = noticed + survived + noCoverage;
  return all === 0 ? 0 : Math.floor((noticed * 10_000) / all) / 100;
}

/**
 * The folders of a record with `entry` in the place of the one before it; in the order of their names.
 * @param {readonly Folder[]} folders
 * @param {Folder} entry
 */
export function mergeFolder(folders, entry) {
  const others = folders.filter(({ folder }) => folder !== entry.folder);
  return [...others, entry].sort((a, b) => (a.folder < b.folder ? -1 : 1));
}

/** HEAD, and whether the tree differs from it; the record itself does not count. */
function commitNow() {
  const git = (/** @type {string[]} */ ...args) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8" }).trim();
  const changes = git("status", "--porcelain", "--", ".", ":!bench/results");
  return `${git("rev-parse", "HEAD")}${changes === "" ? "" : "+changes"}`;
}

/**
 * Runs the parts of a folder.
 * @param {string} folder
 * @param {string} work
 * @returns {Promise<Folder>}
 */
async function judge(folder, work) {
  /** @type {Part[]} */
  const parts = JSON.parse(readFileSync(PARTS, "utf8")).filter((/** @type {Part} */ { files }) =>
    files.some((file) => file.startsWith(`src/${folder}/`)),
  );
  const startMs = performance.now();
  const commit = commitNow();
  let incremental = false;
  const counts = [];
  for (const { name } of parts) {
    incremental ||= existsSync(join(work, `${name}.incremental.json`));
    Object.assign(process.env, { MUTATION_PART: name, MUTATION_WORK: work });
    const args = ["node_modules/@stryker-mutator/core/bin/stryker.js", "run", "stryker.config.mjs"];
    const { code } = await runProgram(process.execPath, args);
    if (code !== 0) throw new Error(`stryker ended with exit ${code} in ${name}`);
    counts.push(countMutants(JSON.parse(readFileSync(join(work, `${name}.json`), "utf8"))));
  }
  const sum = sumCounts(counts);
  const seconds = Math.round((performance.now() - startMs) / 1000);
  const at = new Date().toISOString();
  return { folder: `src/${folder}`, ...sum, score: scoreOf(sum), seconds, incremental, at, commit };
}

/** @param {Folder} entry */
function record(entry) {
  /** @type {Folder[]} */
  const before = existsSync(RESULT) ? JSON.parse(readFileSync(RESULT, "utf8")).folders : [];
  const folders = mergeFolder(before, entry);
  const total = sumCounts(folders);
  const stryker = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).devDependencies["@stryker-mutator/core"];
  const document = {
    schema: "vram-residency/mutation/v1",
    at: entry.at,
    commit: entry.commit,
    node: process.version,
    stryker,
    command: "npm run mutation",
    excluded: EXCLUDED,
    folders,
    total: { ...total, score: scoreOf(total) },
  };
  writeFileSync(RESULT, `${JSON.stringify(document, null, 2)}\n`);
}

async function main() {
  const named = process.argv.slice(2);
  const known = ["seal", "hash", "verify", "lease", "audit"];
  const stranger = named.find((name) => !known.includes(name));
  if (stranger !== undefined) {
    process.stderr.write(`${stranger} is none of the folders that are tested: ${known.join(", ")}\n`);
    return 2;
  }
  const kept = process.env.MUTATION_WORK;
  if (kept !== undefined) mkdirSync(kept, { recursive: true });
  const work = kept ?? mkdtempSync(join(tmpdir(), "vram-mutation-"));
  try {
    for (const folder of named.length > 0 ? named : known) {
      const entry = await judge(folder, work);
      record(entry);
      process.stdout.write(`src/${folder}: ${entry.score} % of ${entry.mutants} mutants in ${entry.seconds} s\n`);
    }
    return 0;
  } finally {
    if (kept === undefined) rmSync(work, { recursive: true, force: true });
  }
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await runToTheEnd(main);
}
