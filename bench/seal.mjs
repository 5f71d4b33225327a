/**
 * `npm run bench -- seal|verify`: sealing and verifying on the EMULATED device against the digest alone, in one process;
 * and the host memory that sealing takes. Figures of the emulated device say nothing about a GPU.
 */
import { spawnSync } from "node:child_process";
import { openHashPool } from "../dist/hash/pool.js";
import { nodeFileSystem } from "../dist/source/file.js";
import { openSource } from "../dist/source/source.js";
import { digestOpened } from "../dist/staging/digest.js";
import { openTestVram } from "../dist/testing.js";
import { alternate, environment, randomFile, report, round } from "./measure.mjs";

const timed = async (task) => {
  const start = performance.now();
  await task();
  return (performance.now() - start) / 1000;
};

async function digestOnce(path, pool) {
  const source = await openSource({ kind: "path", path }, { format: "raw" }, nodeFileSystem);
  try {
    return (await digestOpened(source, pool, { tree: true, sha256: false })).tree.digest;
  } finally {
    await source.close();
  }
}

/** Seals and evicts; returns the seconds of the seal alone. */
async function sealOnce(vram, path, options) {
  let name;
  const seconds = await timed(async () => {
    name = (await vram.seal(path, { format: "raw", ...options })).record.shardId;
  });
  await vram.evict(name);
  return seconds;
}

/** Peak memory of a process that seals once, less that of one that only opens, less the device's own bytes. */
function hostMemory(path) {
  const script = `
    import { readFileSync } from "node:fs";
    import { openTestVram } from ${JSON.stringify(new URL("../dist/testing.js", import.meta.url).href)};
    // VmHWM, because ru_maxrss begins with what the parent had.
    const peakBytes = () => Number(/VmHWM:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
    const { vram, open } = await openTestVram();
    const idle = peakBytes();
    await vram.seal(process.argv[1], { format: "raw" });
    const peak = peakBytes();
    console.log(JSON.stringify({ host: peak - idle - open.driver.emulation.storedBytes() }));
    await vram.close();`;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script, path]);
  return JSON.parse(String(stdout)).host;
}

export async function benchSeal({ mib, runs, json, what }) {
  const file = randomFile(mib);
  const { path, byteLength } = file;
  const pool = openHashPool();
  const { vram } = await openTestVram({ emulated: { byteLength: (2 * mib + 256) * 2 ** 20 } });
  try {
    const expected = Buffer.from(await digestOnce(path, pool)).toString("hex");
    // Once before, so that every contender finds its pages touched.
    await sealOnce(vram, path, { expected });
    const digest = { name: "digest alone", byteLength, run: () => timed(() => digestOnce(path, pool)) };
    let contenders;
    if (what === "seal") {
      contenders = [
        digest,
        { name: "seal, expected", byteLength, run: () => sealOnce(vram, path, { expected }) },
        { name: "seal, witnessed", byteLength, run: () => sealOnce(vram, path, {}) },
      ];
    } else {
      const { record } = await vram.seal(path, { format: "raw" });
      contenders = [digest, { name: "verify", byteLength, run: () => timed(() => vram.verify(record.shardId)) }];
    }
    const results = await alternate(contenders, runs);
    const [{ medianSeconds: base }, ...others] = results;
    const figures = Object.fromEntries(
      others.map(({ name, medianSeconds }) => [`${name}, times the digest alone`, round(medianSeconds / base)]),
    );
    if (what === "seal") figures["host memory beyond the idle process, MiB"] = round(hostMemory(path) / 2 ** 20);
    report({ bench: what, backend: "emulated", ...environment(), mib, runs, results, figures }, json);
  } finally {
    await vram.close();
    await pool.close();
    file.remove();
  }
}
