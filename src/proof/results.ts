/**
 * What ran, as a proof bundle lists it: every test with its file and tier, every scenario with the requirements it is
 * tagged with. The page, the matrix and the signed result are computed from these two lists, and a checker computes the
 * result again.
 */
import { z } from "zod";

/** Files in the bundle. Scenarios that ran on a GPU have a list of their own; the matrix follows from the others. */
export const RESULT_FILES = {
  tests: "tests.json",
  features: "features.json",
  gpuFeatures: "features-gpu.json",
  matrix: "requirements.json",
} as const;

const status = z.enum(["passed", "failed", "skipped"]);
const text = z.string();
const duration = z.number().nonnegative();

const test = z.strictObject({
  title: text,
  status,
  ms: duration,
  /** Why it failed; paths are relative to the repository. */
  message: text.optional(),
});

export const testsSchema = z.strictObject({
  schema: z.literal("vram-residency/proof-tests/v1"),
  /** What was asked for, if it was not everything. */
  partial: text.optional(),
  /** GPUs that the GPU suite ran on. Without one nothing in it can have passed. */
  gpus: z.array(text),
  files: z.array(
    z.strictObject({
      path: text,
      tier: text,
      ms: duration,
      /** What failed outside its tests: a set-up, or loading the file. */
      error: text.optional(),
      tests: z.array(test),
    }),
  ),
});

export const featuresSchema = z.strictObject({
  schema: z.literal("vram-residency/proof-features/v1"),
  backend: text,
  features: z.array(
    z.strictObject({
      path: text,
      name: text,
      scenarios: z.array(
        z.strictObject({ name: text, requirements: z.array(text), status, ms: duration, message: text.optional() }),
      ),
    }),
  ),
});

export type Tests = z.infer<typeof testsSchema>;
export type Features = z.infer<typeof featuresSchema>;

/** One thing that ran or did not: `FILE > TITLE`. */
interface Ran {
  readonly name: string;
  readonly status: "passed" | "failed" | "skipped";
}

/** How many ended how, and the names of those that did not pass, in order. */
export interface Outcome {
  /** Whether everything was asked for, and something was there: nothing at all cannot have passed. */
  readonly whole: boolean;
  readonly passed: number;
  readonly failed: readonly string[];
  readonly skipped: readonly string[];
}

const ofTests = ({ files }: Tests): readonly Ran[] =>
  files.flatMap(({ path, error, tests }) => [
    ...(error === undefined ? [] : [{ name: path, status: "failed" as const }]),
    ...tests.map(({ title, status: how }) => ({ name: `${path} > ${title}`, status: how })),
  ]);

const ofFeatures = ({ features, backend }: Features): readonly Ran[] =>
  features.flatMap(({ path, scenarios }) =>
    scenarios.map(({ name, status: how }) => ({ name: `${path} (${backend}) > ${name}`, status: how })),
  );

/** What came of all tests and scenarios together. */
export function outcomeOf(tests: Tests, features: readonly Features[]): Outcome {
  const all = [...ofTests(tests), ...features.flatMap(ofFeatures)];
  const named = (wanted: Ran["status"]): readonly string[] =>
    all.filter(({ status: how }) => how === wanted).map(({ name }) => name);
  return {
    whole: tests.partial === undefined && ofTests(tests).length > 0 && features.flatMap(ofFeatures).length > 0,
    passed: named("passed").length,
    failed: named("failed"),
    skipped: named("skipped"),
  };
}
