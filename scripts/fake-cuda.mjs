/**
 * Builds the fake `libcuda.so.1` of test/border/fake and prints its path: `VRAM_LIBCUDA=$(node scripts/fake-cuda.mjs)`
 * makes the command line use it. With `--old` it is one without virtual memory management, as before CUDA 10.2. With
 * `--json` both paths, or the reason why there are none: `{ library, old }` or `{ reason }`.
 *
 * What was built is kept under node_modules/.cache, by a hash of everything that went into it.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SOURCES = "test/border/fake";
const KERNELS = "kernels";
/** What is different in the old driver; everything else is compiled once. */
const OLD_DIFFERS = ["memory.cpp", "mapping.cpp"];
/** The variant of the kernel that is shipped. */
const KERNEL_FLAGS = ["-DVRAM_IMAD", "-DVRAM_UMULHI"];
const FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", ...KERNEL_FLAGS];
const EXPORTS = `${SOURCES}/exports.map`;
const LINK = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,-z,defs", `-Wl,--version-script=${EXPORTS}`];

/** The folder of cuda.h, or nothing. */
function findHeader() {
  const installed = existsSync("/usr/local") ? readdirSync("/usr/local").filter((name) => name.startsWith("cuda")) : [];
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, ...installed.sort().map((name) => `/usr/local/${name}`)];
  const folders = [...homes.flatMap((home) => (home ? [join(home, "include")] : [])), "/usr/include"];
  return folders.find((folder) => existsSync(join(folder, "cuda.h")));
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
const isOurs = (path) => !/\/lib[^/]*\.cpp$/.test(path);

/** @param {string} header @param {string} compiler */
function fingerprint(header, compiler) {
  const hash = createHash("sha256").update(JSON.stringify([FLAGS, LINK, KERNEL_FLAGS, compiler]));
  const sources = [EXPORTS, ...filesOf(SOURCES, /\.[ch]pp$/).filter(isOurs), ...filesOf(KERNELS, /\.cuh?$/)];
  for (const path of sources) hash.update(`\0${path}\0`).update(readFileSync(join(ROOT, path)));
  return hash
    .update("\0cuda.h\0")
    .update(readFileSync(join(header, "cuda.h")))
    .digest("hex")
    .slice(0, 16);
}

/** @param {string[]} args @returns {Promise<void>} */
const compile = (args) =>
  new Promise((resolve, reject) => {
    const child = spawn("g++", args, { cwd: ROOT, stdio: ["ignore", "inherit", "inherit"] });
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`g++ ended with ${code}: g++ ${args.join(" ")}`)),
    );
  });

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
 * @returns {Promise<{ library: string, old: string } | { reason: string }>}
 */
export async function buildFakeCuda() {
  const compiler = spawnSync("g++", ["--version"], { encoding: "utf8" });
  if (compiler.status !== 0) return { reason: "no g++" };
  const header = findHeader();
  if (header === undefined) return { reason: "no cuda.h" };
  const cache = join(ROOT, "node_modules", ".cache", "fake-cuda");
  const folder = join(cache, fingerprint(header, compiler.stdout));
  const paths = { library: join(folder, "libcuda.so.1"), old: join(folder, "old", "libcuda.so.1") };
  if (existsSync(folder)) return paths;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, "building-"));
  try {
    await compileInto(work, header);
    // Whoever comes second finds the place taken by the same thing.
    if (!existsSync(folder)) renameSync(work, folder);
  } catch (error) {
    if (!existsSync(paths.old)) throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return paths;
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
