/**
 * Builds what the border tier runs: the fake libcuda, which tests ask for with `fakeCuda()`, and `dist`, whose command
 * line and processes they start, unless it is newer than every source.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { TestProject } from "vitest/node";
import { buildFakeCuda } from "../helpers/fake-cuda.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

function isStale(): boolean {
  const built = `${ROOT}dist/cli/bin.js`;
  if (!existsSync(built)) return true;
  const sources = readdirSync(`${ROOT}src`, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".ts"),
  );
  return sources.some((name) => statSync(`${ROOT}src/${name}`).mtimeMs > statSync(built).mtimeMs);
}

export function setup(project: TestProject): void {
  if (isStale()) execFileSync("npm", ["run", "-s", "build"], { cwd: ROOT, stdio: "inherit" });
  project.provide("fakeCuda", buildFakeCuda());
}
