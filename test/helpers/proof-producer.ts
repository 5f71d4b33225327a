/** Parts of `npm run proof`, which are scripts without types, and one requirement to hold things against. */
import { matrixOf } from "../../src/proof/matrix.ts";
import type { Features, Tests } from "../../src/proof/results.ts";

const load = async (name: string): Promise<unknown> =>
  import(new URL(`../../scripts/proof/${name}.mjs`, import.meta.url).href);

export const { secretsIn } = (await load("secrets")) as {
  secretsIn: (path: string, text: string, env?: Record<string, string>) => readonly string[];
};
export const { readTests, readFeatures, cleanMessage } = (await load("results")) as {
  cleanMessage: (text: string) => string;
  readTests: (path: string) => Tests;
  readFeatures: (path: string, backend: string, code?: number) => Features;
};
export const { html } = (await load("html")) as {
  html: (parts: TemplateStringsArray, ...values: readonly unknown[]) => { toString(): string };
};

export const ROOT = new URL("../../", import.meta.url).pathname;

/** A tag that is none of the test file's own. */
export const tag = (id: string): string => ["[VR", "-", id, "]"].join("");

const ONE = [{ id: "VR-MEM-01", title: "t", must: "m", gpu: true }];

/** Where VR-MEM-01 stands, without a GPU and on one. */
export const standing = (tests: Tests, features: readonly Features[] = []): readonly unknown[] =>
  matrixOf(ONE, tests, features).rows.map(({ withoutGpu, onGpu }) => [withoutGpu, onGpu]);
