/**
 * Builds what the border tier runs: the fake libcuda, which tests ask for with `fakeCuda()`, and `dist`, whose command
 * line and processes they start, unless it is newer than every source.
 */
import type { TestProject } from "vitest/node";
import { buildIfStale } from "../helpers/dist.ts";
import { buildFakeCuda } from "../helpers/fake-cuda.ts";

export function setup(project: TestProject): void {
  buildIfStale();
  project.provide("fakeCuda", buildFakeCuda());
}
