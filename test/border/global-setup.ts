/** Builds the fake libcuda before the border tier runs; tests ask for it with `fakeCuda()`. */
import type { TestProject } from "vitest/node";
import { buildFakeCuda } from "../helpers/fake-cuda.ts";

export function setup(project: TestProject): void {
  project.provide("fakeCuda", buildFakeCuda());
}
