/**
 * Builds the fake `libcuda.so.1` of test/border/fake and prints its path: `VRAM_LIBCUDA=$(node scripts/fake-cuda.mjs)`
 * makes the command line use it. With `--old` it is one without virtual memory management, as before CUDA 10.2. With
 * `--json` both paths and the folder of the cuda.h it was built against, or the reason why there are none:
 * `{ library, old, header }` or `{ reason }`.
 *
 * What was built is kept under node_modules/.cache, by a hash of everything that went into it.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildOnce, compile, compilerVersion, fingerprintOf, ROOT } from "./native-build.mjs";

const SOURCES = "test/border/fake";
const KERNELS = "kernels";
/** What is different in the old driver; everything else is compiled once. */
const OLD_DIFFERS = ["memory.cpp", "mapping.cpp"];
/** The variant of the kernel that is shipped. */
const KERNEL_FLAGS = ["-DVRAM_IMAD", "-DVRAM_UMULHI"];
const FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", ...KERNEL_FLAGS];
const EXPORTS = `${SOURCES}/exports.map`;
const LINK = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", `-Wl,--version-script=${EXPORTS}`];

/** The oldest cuda.h with everything the fake names. */
const CUDA_VERSION_MIN = 13000;

/** The folder of a cuda.h that is new enough, or nothing. */
function findHeader() {
  const installed = existsSync("/usr/local") ? readdirSync("/usr/local").filter((name) => name.startsWith("cuda")) : [];
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, ...installed.sort().map((name) => `/usr/local/${name}`)];
  const folders = [...homes.flatMap((home) => (home ? [join(home, "include")] : [])), "/usr/include"];
  return folders.find((folder) => {
    const path = join(folder, "cuda.h");
    const version = existsSync(path) && /^#define CUDA_VERSION (\d+)/m.exec(readFileSync(path, "utf8"))?.[1];
    return Number(version || 0) >= CUDA_VERSION_MIN;
  });
}

/** @param {string} folder @param {RegExp} pattern */
const filesOf = (folder, pattern) =>
  existsSync(join(ROOT, folder))
    ? readdirSync(join(ROOT, folder))
        .filter((name) => pattern.test(name))
        .sort()
        .map((name) => `${folder}/${name}`)
    : [];

/**
 * Ours among the sources: another library's fake may stand beside them.
 * @param {string} path
 */
const isOurs = (path) => !/\/lib[^/]*\.[ch]pp$/.test(path);

/** @param {string} header @param {string} compiler */
function fingerprint(header, compiler) {
  const sources = [EXPORTS, ...filesOf(SOURCES, /\.[ch]pp$/).filter(isOurs), ...filesOf(KERNELS, /\.cuh?$/)];
  const contents = sources.flatMap((path) => [path, readFileSync(join(ROOT, path))]);
  const flags = JSON.stringify([FLAGS, LINK, KERNEL_FLAGS, compiler]);
  return fingerprintOf([flags, ...contents, readFileSync(join(header, "cuda.h"))]);
}

/** @param {(() => Promise<void>)[]} tasks */
async function runSideBySide(tasks) {
  const waiting = [...tasks];
  const lane = async () => {
    for (let task = waiting.shift(); task !== undefined; task = waiting.shift()) await task();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, lane));
}

/** Compiles everything into `folder`. @param {string} folder @param {string} header */
async function compileInto(folder, header) {
  mkdirSync(join(folder, "old"));
  const sources = filesOf(SOURCES, /\.cpp$/).filter(isOurs);
  const object = (/** @type {string} */ path, old = false) =>
    join(folder, old ? "old" : ".", `${path.slice(SOURCES.length + 1)}.o`);
  const isDifferent = (/** @type {string} */ path) => OLD_DIFFERS.some((name) => path.endsWith(`/${name}`));
  const task = (/** @type {string} */ path, old = false) => {
    const variant = old ? ["-DVRAM_FAKE_OLD"] : [];
    return () => compile([...FLAGS, ...variant, `-isystem${header}`, "-I.", "-c", path, "-o", object(path, old)]);
  };
  await runSideBySide([
    ...sources.map((path) => task(path)),
    ...sources.filter(isDifferent).map((path) => task(path, true)),
  ]);
  await compile([...LINK, "-o", join(folder, "libcuda.so.1"), ...sources.map((path) => object(path))]);
  const oldObjects = sources.map((path) => object(path, isDifferent(path)));
  await compile([...LINK, "-o", join(folder, "old", "libcuda.so.1"), ...oldObjects]);
}

/**
 * Builds both libraries, unless they are there already.
 * @returns {Promise<{ library: string, old: string, header: string } | { reason: string }>}
 */
export async function buildFakeCuda() {
  const compiler = compilerVersion();
  if (compiler === undefined) return { reason: "no g++" };
  const header = findHeader();
  if (header === undefined) return { reason: "no cuda.h of CUDA 13" };
  const folder = await buildOnce("fake-cuda", fingerprint(header, compiler), (into) => compileInto(into, header));
  return { library: join(folder, "libcuda.so.1"), old: join(folder, "old", "libcuda.so.1"), header };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = await buildFakeCuda();
  if (process.argv.includes("--json")) {
    process.stdout.write(`${JSON.stringify(built)}\n`);
  } else if ("reason" in built) {
    process.stderr.write(`the fake libcuda cannot be built: ${built.reason}\n`);
    process.exitCode = 1;
  } else {
    process.stdout.write(`${process.argv.includes("--old") ? built.old : built.library}\n`);
  }
}
