/**
 * Which tests judge the mutants of a part of src (`scripts/mutation.mjs`, `parts.json`): those that run in the process
 * of the test and take seconds. What starts processes, needs `dist` or reads the text of `src` is left out. The part
 * comes by `MUTATION_PART`, since Stryker hands no arguments on.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

interface Part {
  readonly name: string;
  readonly tests: readonly string[];
  /** Helpers that clear away after each test. */
  readonly helpers?: readonly string[];
  /** Whether the tests want files and folders of `test/helpers/vram.ts`, not the library behind it. */
  readonly foldersOnly?: boolean;
  /** In ms, ten times what the slowest of the tests takes: for code whose mutants mostly hang. */
  readonly testTimeout?: number;
}

const parts = JSON.parse(readFileSync(new URL("./parts.json", import.meta.url), "utf8")) as readonly Part[];
const part = parts.find(({ name }) => name === process.env["MUTATION_PART"]);
const folders = fileURLToPath(new URL("./vram-folders.ts", import.meta.url));

export default defineConfig({
  ...(part?.foldersOnly === true && {
    resolve: { alias: [{ find: /^(?:\.|\.\.\/helpers)\/vram\.ts$/, replacement: folders }] },
  }),
  test: {
    include: ["test/mutation/part.test.ts"],
    provide: { mutationTests: part?.tests ?? [], mutationHelpers: part?.helpers ?? [] },
    setupFiles: ["test/mutation/setup.ts"],
    // What hangs is ended by Stryker, which counts it as such; a busy machine must not fail a test that is only slow.
    testTimeout: part?.testTimeout ?? 60_000,
    hookTimeout: part?.testTimeout ?? 60_000,
  },
});
