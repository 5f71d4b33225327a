/**
 * The stand-in for libnvidia-ml.so.1 (`test/border/fake/libnvidia-ml.cpp`), built on first use and kept by the hash of
 * its source. What it answers is said by the environment, as its first lines list.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Nvml, openNvml } from "../../src/cuda/nvml.ts";

const SOURCE = fileURLToPath(new URL("../border/fake/libnvidia-ml.cpp", import.meta.url));
const FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"];
/** Made up, in NVML's form. */
export const FAKE_UUID = "GPU-5eed5eed-0001-0002-0003-000000000004";

export interface FakeNvml {
  /** Why it cannot be built here; tests say it in their titles. */
  readonly missing: string | undefined;
  /** Path of the library. */
  readonly path: string;
}

/** Builds it, or finds it built; `bare` leaves nearly all functions out. Throws if the compiler rejects it. */
export function fakeNvml(bare = false): FakeNvml {
  const flags = bare ? [...FLAGS, "-DFAKE_NVML_BARE"] : FLAGS;
  const compiler = spawnSync("g++", ["--version"], { encoding: "utf8" });
  if (compiler.error !== undefined) return { missing: " (skipped: there is no g++)", path: "" };
  const key = createHash("sha256")
    .update(readFileSync(SOURCE))
    .update(JSON.stringify([flags, compiler.stdout]));
  const folder = join(tmpdir(), "vram-residency-fakes", key.digest("hex").slice(0, 16));
  const path = join(folder, "libnvidia-ml.so.1");
  if (existsSync(path)) return { missing: undefined, path };
  mkdirSync(folder, { recursive: true });
  // Test files run side by side: each builds under a name of its own, and the last to finish wins.
  const own = `${path}.${process.pid}`;
  const built = spawnSync("g++", [...flags, "-o", own, SOURCE], { encoding: "utf8" });
  if (built.status !== 0) throw new Error(`g++ failed on ${SOURCE}:\n${built.stderr}`);
  renameSync(own, path);
  return { missing: undefined, path };
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
