/**
 * What the stand-ins for NVIDIA's libraries are built with: one compiler call, and a cache under node_modules/.cache
 * that keeps what was built by a hash of everything that went into it.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What g++ says of itself; undefined where there is none. */
export function compilerVersion() {
  const { status, stdout } = spawnSync("g++", ["--version"], { encoding: "utf8" });
  return status === 0 ? stdout : undefined;
}

/**
 * Runs g++ in the root of the repository. Its words go where ours go.
 * @param {string[]} args
 * @returns {Promise<void>}
 */
export const compile = (args) =>
  new Promise((resolve, reject) => {
    const child = spawn("g++", args, { cwd: ROOT, stdio: ["ignore", "inherit", "inherit"] });
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`g++ ended with ${code}: g++ ${args.join(" ")}`)),
    );
  });

/** @param {readonly (string | Uint8Array)[]} parts */
export function fingerprintOf(parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`\0${part.length}\0`).update(part);
  return hash.digest("hex").slice(0, 16);
}

/**
 * The folder that `compileInto` has filled, now or earlier: one per name and fingerprint, complete or not there. Whoever
 * builds the same at the same time and comes second finds the place taken by the same thing.
 * @param {string} name
 * @param {string} fingerprint
 * @param {(folder: string) => Promise<void>} compileInto
 */
export async function buildOnce(name, fingerprint, compileInto) {
  const cache = join(ROOT, "node_modules", ".cache", name);
  const folder = join(cache, fingerprint);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const work = mkdtempSync(join(cache, "building-"));
  try {
    await compileInto(work);
    if (!existsSync(folder)) renameSync(work, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return folder;
}
