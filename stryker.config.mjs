// Mutation testing of one part of src, named by MUTATION_PART (test/mutation/parts.json). Started by
// scripts/mutation.mjs, which sums up the parts of a folder and says more.
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const name = process.env.MUTATION_PART ?? "seal";
const work = process.env.MUTATION_WORK ?? join(tmpdir(), "vram-mutation");
const parts = JSON.parse(readFileSync(new URL("test/mutation/parts.json", import.meta.url), "utf8"));
const part = parts.find((one) => one.name === name);
if (part === undefined) throw new Error(`there is no part ${name} in test/mutation/parts.json`);

/** @type {import("@stryker-mutator/api/core").PartialStrykerOptions} */
const options = {
  mutate: part.files,
  testRunner: "vitest-files",
  plugins: ["@stryker-mutator/vitest-runner", "./test/mutation/runner.mjs"],
  vitest: { configFile: "test/mutation/vitest.config.ts", related: false },
  coverageAnalysis: "perTest",
  // Off: what a file computes while it is loaded (tables, patterns, limits) counts as well.
  ignoreStatic: false,
  concurrency: Number(process.env.MUTATION_CONCURRENCY ?? 1),
  timeoutMS: 5_000,
  // A copy: the working tree stays as it is while this runs. Of its own for each part, since a run empties its folder.
  inPlace: false,
  tempDirName: join(work, `${name}.sandbox`),
  cleanTempDir: "always",
  ignorePatterns: ["coverage", "dist", "kernels", "bench", ".proof_bundle", ".gpu"],
  incremental: true,
  incrementalFile: join(work, `${name}.incremental.json`),
  force: process.env.MUTATION_FORCE === "1",
  warnings: { slow: false },
  reporters: ["json", "progress-append-only"],
  jsonReporter: { fileName: join(work, `${name}.json`) },
  allowConsoleColors: false,
};

export default options;
