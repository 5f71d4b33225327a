/**
 * The lists in a bundle, which everything else in it follows from: what ran, and what that says of each requirement. What
 * is parsed here are the very bytes that were hashed.
 */
import { isDeepStrictEqual } from "node:util";
import type { z } from "zod";
import { toHex } from "../bytes.ts";
import { sha256 } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";
import { readInside } from "./folder.ts";
import { matrixOf, matrixSchema } from "./matrix.ts";
import { type Features, featuresSchema, RESULT_FILES, type Tests, testsSchema } from "./results.ts";
import type { Sums } from "./sums.ts";

/** What the lists say. */
export interface Lists {
  readonly tests: Tests;
  /** One list for each backend that scenarios ran on. */
  readonly features: readonly Features[];
  readonly requirements: {
    readonly all: number;
    readonly shownWithoutGpu: number;
    /** On either. */
    readonly failed: number;
    readonly shownOnGpu: number;
  };
}

/** One list; undefined if it is none, or none that `SHA256SUMS` has. */
async function readList<T>(folder: string, sums: Sums, path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    const bytes = await readInside(folder, path, LIMITS.proofFileBytes);
    if (toHex(sha256(bytes)) !== sums.get(path)) return undefined;
    return schema.safeParse(JSON.parse(bytes.toString("utf8"))).data;
  } catch {
    return undefined;
  }
}

type Stored = z.infer<typeof matrixSchema>;

/** Whether the matrix is the one that follows from what ran. */
function isMatrixOf({ rows, strays }: Stored, tests: Tests, features: readonly Features[]): boolean {
  const again = matrixOf(rows, tests, features);
  return isDeepStrictEqual(again, { rows, strays });
}

/** Reads the lists of a bundle; the path of the one that cannot be read, or is not what the others say. */
export async function readLists(folder: string, sums: Sums): Promise<Lists | string> {
  const tests = await readList(folder, sums, RESULT_FILES.tests, testsSchema);
  if (tests === undefined) return RESULT_FILES.tests;
  const features: Features[] = [];
  for (const path of [RESULT_FILES.features, RESULT_FILES.gpuFeatures].filter((one) => sums.has(one))) {
    const list = await readList(folder, sums, path, featuresSchema);
    if (list === undefined) return path;
    features.push(list);
  }
  const matrix = await readList(folder, sums, RESULT_FILES.matrix, matrixSchema);
  if (matrix === undefined || !isMatrixOf(matrix, tests, features)) return RESULT_FILES.matrix;
  const { rows } = matrix;
  const requirements = {
    all: rows.length,
    shownWithoutGpu: rows.filter(({ withoutGpu }) => withoutGpu === "passed").length,
    failed: rows.filter(({ withoutGpu, onGpu }) => withoutGpu === "failed" || onGpu === "failed").length,
    shownOnGpu: rows.filter(({ onGpu }) => onGpu === "passed").length,
  };
  return { tests, features, requirements };
}
