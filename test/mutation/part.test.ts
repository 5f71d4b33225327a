/**
 * The tests of one part of src in one file, for Stryker: a file is a thread that loads everything anew, and for each
 * mutant that takes longer than the tests do. What a test file sets up stays its own; what a helper clears away after
 * each test is registered here, once for all. Not a tier: `vitest.config.ts` beside this file is what includes it.
 */
import { describe, inject } from "vitest";

declare module "vitest" {
  interface ProvidedContext {
    readonly mutationTests: readonly string[];
    readonly mutationHelpers: readonly string[];
  }
}

const fileOf = (name: string): string => new URL(`../${name}.ts`, import.meta.url).pathname;

for (const name of inject("mutationHelpers")) await import(/* @vite-ignore */ fileOf(name));
for (const name of inject("mutationTests")) {
  describe(name, async () => {
    await import(/* @vite-ignore */ fileOf(`${name}.test`));
  });
}
