/**
 * Builds the fake `libnvidia-ml.so.1` of test/border/fake and prints its path. With `--json` both paths, or the reason
 * why there are none: `{ library, bare }` or `{ reason }`; `bare` is one that has next to no functions.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildOnce, compile, compilerVersion, fingerprintOf, ROOT } from "./native-build.mjs";

const SOURCE = "test/border/fake/libnvidia-ml.cpp";
const HEADER = "test/border/fake/libnvidia-ml.hpp";
const FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"];

/**
 * Builds both libraries, unless they are there already.
 * @returns {Promise<{ library: string, bare: string } | { reason: string }>}
 */
export async function buildFakeNvml() {
  const compiler = compilerVersion();
  if (compiler === undefined) return { reason: "no g++" };
  const sources = [SOURCE, HEADER].map((path) => readFileSync(join(ROOT, path)));
  const fingerprint = fingerprintOf([...FLAGS, compiler, ...sources]);
  const folder = await buildOnce("fake-nvml", fingerprint, async (into) => {
    await compile([...FLAGS, SOURCE, "-o", join(into, "libnvidia-ml.so.1")]);
    await compile([...FLAGS, "-DFAKE_NVML_BARE", SOURCE, "-o", join(into, "libnvidia-ml-bare.so.1")]);
  });
  return { library: join(folder, "libnvidia-ml.so.1"), bare: join(folder, "libnvidia-ml-bare.so.1") };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = await buildFakeNvml();
  if (process.argv.includes("--json")) {
    process.stdout.write(`${JSON.stringify(built)}\n`);
  } else if ("reason" in built) {
    process.stderr.write(`the fake libnvidia-ml cannot be built: ${built.reason}\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${built.library}\n`);
  }
}
