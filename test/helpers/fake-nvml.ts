/**
 * The stand-in for libnvidia-ml.so.1 (`test/border/fake/libnvidia-ml.cpp`). What it answers is said by the environment,
 * as its first lines list; in this process libc sees what is set in `process.env` on Node's main thread only.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type Nvml, openNvml } from "../../src/cuda/nvml.ts";

/** Made up, in NVML's form. */
export const FAKE_UUID = "GPU-5eed5eed-0001-0002-0003-000000000004";

/** Paths of the fake, and of one that has next to no functions. */
export interface FakeNvml {
  readonly library: string;
  readonly bare: string;
  /** For the titles of tests: why it cannot be built here. Empty where it can. */
  readonly whyNot: string;
}

/** Builds both libraries, or finds them built. Throws what the compiler said if it refuses the source. */
export function fakeNvml(): FakeNvml {
  const script = fileURLToPath(new URL("../../scripts/fake-nvml.mjs", import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, "--json"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`the fake libnvidia-ml cannot be built:\n${stderr}`);
  const built = JSON.parse(stdout) as { library: string; bare: string } | { reason: string };
  return "reason" in built ? { library: "", bare: "", whyNot: ` (${built.reason})` } : { ...built, whyNot: "" };
}

/** What the fake is told: names without `VRAM_FAKE_NVML_`. */
export type FakeNvmlSettings = Readonly<Record<string, string>>;

/** The settings as environment variables, for a process of the fake's own. */
export function fakeNvmlEnv(settings: FakeNvmlSettings): Record<string, string> {
  return Object.fromEntries(Object.entries(settings).map(([name, value]) => [`VRAM_FAKE_NVML_${name}`, value]));
}

/** Opens a fake in this process; it reads the environment when it is initialised, and not later. */
export function openFakeNvml(path: string, settings: FakeNvmlSettings = {}): Nvml {
  const env = fakeNvmlEnv(settings);
  Object.assign(process.env, env);
  try {
    return openNvml(path);
  } finally {
    for (const name of Object.keys(env)) Reflect.deleteProperty(process.env, name);
  }
}
