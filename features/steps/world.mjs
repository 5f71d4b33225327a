/**
 * What a scenario has: files, a system on the EMULATED device that is opened when it is first used, and what came of the
 * last thing that was done. Everything goes through the public doors of the built package; damage is done to bytes in
 * memory, through a writable alias, never to what a report says.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { After, setDefaultTimeout, setWorldConstructor } from "@cucumber/cucumber";
import { createFaultPlan, liveHandles, openTamperedVram, openTestVram } from "../../dist/testing.js";

const MAKE = fileURLToPath(new URL("../../scripts/make-model.mjs", import.meta.url));
const MIB = 2 ** 20;

/** A watchdog. */
setDefaultTimeout(60_000);

/** `VRAM_FEATURES_BACKEND=cuda`: what is not tagged `@emulated` runs on a GPU (profile `gpu` of cucumber.json). */
const ON_GPU = process.env.VRAM_FEATURES_BACKEND === "cuda";
const openOnGpu = ({ emulated: _, ...options }) =>
  openTamperedVram({ ...options, backend: "cuda", cudaLibrary: process.env.VRAM_LIBCUDA || undefined });

export class Scene {
  folder = mkdtempSync(join(tmpdir(), "vram-feature-"));
  /** Options of the system to come. */
  options = { emulated: { byteLength: 64 * MIB, devices: 1 }, hashThreads: 0 };
  faults = createFaultPlan();
  /** What else of its surroundings is not as it is: clock, disk of the audit log. */
  overrides = {};
  /** Seals and sets by name, as they were handed out. */
  seals = new Map();
  sets = new Map();
  leases = [];
  /** What came of the last attempt: one of both. */
  result = undefined;
  error = undefined;
  /** Every result of several attempts at once. */
  outcomes = [];
  #open = undefined;

  path(name) {
    return join(this.folder, name);
  }

  bytes(name) {
    return readFileSync(this.path(name));
  }

  makeModel(name, mib) {
    const made = spawnSync(process.execPath, [MAKE, this.path(name), "--mib", String(mib)], { encoding: "utf8" });
    if (made.status !== 0) throw new Error(made.stderr);
  }

  makeFile(name, byteLength) {
    writeFileSync(this.path(name), randomBytes(byteLength));
  }

  copy(from, to) {
    copyFileSync(this.path(from), this.path(to));
  }

  /** What `fsverity digest` of Debian says. */
  digestByTool(name, ...options) {
    const tool = spawnSync("fsverity", ["digest", "--compact", ...options, this.path(name)], { encoding: "utf8" });
    if (tool.status !== 0) throw new Error(`fsverity: ${tool.stderr ?? tool.error}`);
    return tool.stdout.trim();
  }

  async system() {
    this.#open ??= ON_GPU ? await openOnGpu(this.options) : await openTestVram(this.options, this.surroundings());
    return this.#open;
  }

  surroundings() {
    return { faults: this.faults, ...this.overrides };
  }

  async vram() {
    return (await this.system()).vram;
  }

  async close() {
    await this.#open?.vram.close();
    this.#open = undefined;
  }

  /** Does something that may be refused. */
  async attempt(task) {
    this.result = undefined;
    this.error = undefined;
    try {
      this.result = await task();
    } catch (error) {
      this.error = error;
    }
  }
}

setWorldConstructor(Scene);

After(async function () {
  await this.service?.end();
  await this.close();
  rmSync(this.folder, { recursive: true, force: true });
  const left = liveHandles();
  if (Object.keys(left).length > 0) throw new Error(`left behind: ${JSON.stringify(left)}`);
});
