/**
 * The fake `libcuda.so.1` of test/border/fake, built once per run by test/border/global-setup.ts. Its configuration is
 * the environment (`VRAM_FAKE_…`, see test/border/fake/fake.hpp), read at every cuInit. libc sees what is set in
 * `process.env` on Node's main thread only, hence the pool of processes for the border tier.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { inject } from "vitest";

/** Paths of the fake, and of one without virtual memory management: a driver from before CUDA 10.2. */
export interface FakeCuda {
  readonly library: string;
  readonly old: string;
  /** The folder of the cuda.h that they were built against. */
  readonly header: string;
}

/** `reason`: which tool is missing. */
export type FakeCudaBuild = FakeCuda | { readonly reason: string };

declare module "vitest" {
  export interface ProvidedContext {
    readonly fakeCuda: FakeCudaBuild;
  }
}

/** Builds both libraries, or finds them built. Throws what the compiler said if it refuses the sources. */
export function buildFakeCuda(): FakeCudaBuild {
  const script = fileURLToPath(new URL("../../scripts/fake-cuda.mjs", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "--json"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`the fake libcuda cannot be built:\n${stderr}`);
  return JSON.parse(stdout) as FakeCudaBuild;
}

/** The fake, in a test of the border tier; undefined where it cannot be built. */
export function fakeCuda(): FakeCuda | undefined {
  const built = inject("fakeCuda");
  return "reason" in built ? undefined : built;
}

/** For the title of a test that is skipped without the fake: ` (no g++)`, or nothing. */
export function whyNoFakeCuda(): string {
  const built = inject("fakeCuda");
  return "reason" in built ? ` (${built.reason})` : "";
}

/**
 * Sets `VRAM_FAKE_…` variables, given without that prefix, and removes all others, except those of the fake NVML:
 * `{ FAULTS: "cuMemCreate:2:2" }`.
 */
export function configureFakeCuda(settings: Readonly<Record<string, string | number>> = {}): void {
  for (const name of Object.keys(process.env)) {
    if (/^VRAM_FAKE_(?!NVML_)/.test(name)) Reflect.deleteProperty(process.env, name);
  }
  for (const [name, value] of Object.entries(settings)) process.env[`VRAM_FAKE_${name}`] = String(value);
}
