/**
 * The requirement matrix: which tests and scenarios carry the id of each requirement, and what came of them. Where nothing
 * ran, there is a gap, and it is called one. It follows from the lists alone, so that whoever has a bundle can make it
 * again.
 */
import { z } from "zod";
import type { Features, Tests } from "./results.ts";

const TAG = /\[(VR-[A-Z]+-\d{2})\]/g;

/** `failed` if anything did, `passed` if something did and nothing failed, else `gap`. */
export type Standing = "passed" | "failed" | "gap";

/** Something that ran and carries the id of a requirement. The GPU suite is `test/device`, and scenarios on a GPU. */
export interface Evidence {
  readonly kind: "test" | "scenario";
  readonly name: string;
  readonly status: "passed" | "failed" | "skipped";
  readonly onGpu: boolean;
  /** Its file failed around it: a hook behind it, a promise that nobody watched. Then it does not count as shown. */
  readonly fileFailed?: true;
}

/** What the matrix adds to a requirement. */
export interface Found {
  readonly withoutGpu: Standing;
  readonly onGpu: Standing;
  /** Without a GPU. */
  readonly testsPassed: number;
  readonly scenariosPassed: number;
  readonly gpuPassed: number;
  readonly evidence: readonly Evidence[];
}

export interface Matrix<Requirement> {
  readonly rows: readonly (Requirement & Found)[];
  /** Ids that tests and scenarios carry though no requirement has them. */
  readonly strays: readonly string[];
}

type Item = Evidence & { readonly requirements: readonly string[] };

function itemsOf(tests: Tests, features: readonly Features[]): readonly Item[] {
  const ofTests = tests.files.flatMap(({ path, tier, error, tests: all }) =>
    all.map(
      ({ title, status }): Item => ({
        ...{ kind: "test", name: `${path} > ${title}`, status, onGpu: tier === "device" },
        ...(error === undefined ? {} : { fileFailed: true }),
        requirements: [...new Set([...title.matchAll(TAG)].map(([, id = ""]) => id))],
      }),
    ),
  );
  const ofFeatures = features.flatMap(({ backend, features: all }) =>
    all.flatMap(({ path, scenarios }) =>
      scenarios.map(
        ({ name, status, requirements }): Item => ({
          ...{ kind: "scenario", name: `${path} > ${name}`, status, onGpu: backend === "cuda", requirements },
        }),
      ),
    ),
  );
  return [...ofTests, ...ofFeatures];
}

function standingOf(items: readonly Evidence[]): Standing {
  if (items.some(({ status, fileFailed }) => status === "failed" || fileFailed === true)) return "failed";
  return items.some(({ status }) => status === "passed") ? "passed" : "gap";
}

function findFor(items: readonly Item[]): Found {
  const [gpu, others] = [items.filter(({ onGpu }) => onGpu), items.filter(({ onGpu }) => !onGpu)];
  const passed = (among: readonly Item[], kind?: Item["kind"]): number =>
    among.filter((item) => item.status === "passed" && item.kind === (kind ?? item.kind)).length;
  return {
    withoutGpu: standingOf(others),
    onGpu: standingOf(gpu),
    testsPassed: passed(others, "test"),
    scenariosPassed: passed(others, "scenario"),
    gpuPassed: passed(gpu),
    evidence: items.map(({ requirements: _, ...evidence }) => evidence),
  };
}

/** A row for each requirement, in their order. */
export function matrixOf<Requirement extends { readonly id: string }>(
  requirements: readonly Requirement[],
  tests: Tests,
  features: readonly Features[],
): Matrix<Requirement> {
  const items = itemsOf(tests, features);
  const known = new Set(requirements.map(({ id }) => id));
  const strays = items.flatMap(({ name, requirements: ids }) =>
    ids.filter((id) => !known.has(id)).map((id) => `${id} in ${name}`),
  );
  const rows = requirements.map((requirement) => ({
    ...requirement,
    ...findFor(items.filter((item) => item.requirements.includes(requirement.id))),
  }));
  return { rows, strays };
}

const standing = z.enum(["passed", "failed", "gap"]);

/** `requirements.json`: the fields of a requirement are those of the repository, whatever they are. */
export const matrixSchema = z.strictObject({
  schema: z.literal("vram-residency/proof-matrix/v1"),
  rows: z.array(z.looseObject({ id: z.string(), withoutGpu: standing, onGpu: standing })),
  strays: z.array(z.string()),
});
