/**
 * What every bench shares: alternating runs, medians, a table, a JSON document. Timings of one run may be compared with
 * each other and with nothing else: machines differ, and this one may be busy.
 */
import { spawnSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";

/** The middle of `values`. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/** Whether a tool is installed. */
export const has = (tool) => spawnSync("sh", ["-c", `command -v ${tool}`]).status === 0;

/** A file of random bytes in a fresh folder, read once so that it is in the page cache. */
export function randomFile(mib) {
  const folder = mkdtempSync(join(tmpdir(), "vram-bench-"));
  const path = join(folder, "model.bin");
  const chunk = Buffer.alloc(1 << 20);
  const file = openSync(path, "w");
  for (let index = 0; index < mib; index += 1) writeSync(file, randomFillSync(chunk));
  closeSync(file);
  spawnSync("cat", [path], { stdio: ["ignore", "ignore", "ignore"] });
  return { path, byteLength: mib * 2 ** 20, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Seconds a process takes; throws if it fails. */
export function timeProcess(command, args) {
  const start = performance.now();
  const { status, stderr } = spawnSync(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: exit ${status}: ${stderr}`);
  return (performance.now() - start) / 1000;
}

/**
 * Runs every contender `runs` times, in turn, so that what slows the machine slows them all. A contender is
 * `{ name, byteLength?, run }`; `run` returns seconds.
 */
export async function alternate(contenders, runs) {
  const seconds = new Map(contenders.map(({ name }) => [name, []]));
  for (let run = 0; run < runs; run += 1) {
    for (const { name, run: once } of contenders) seconds.get(name).push(await once());
  }
  return contenders.map(({ name, byteLength }) => {
    const all = seconds.get(name);
    const middle = median(all);
    const spread = (Math.max(...all) - Math.min(...all)) / middle;
    return {
      name,
      medianSeconds: round(middle),
      spread: round(spread),
      ...(byteLength === undefined ? {} : { gigabytesPerSecond: round(byteLength / middle / 1e9) }),
      seconds: all.map(round),
    };
  });
}

export const round = (value) => Number(value.toPrecision(4));

/** The machine, as far as a figure needs it. */
export function environment() {
  const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  return { version: manifest.version, node: process.version, cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length };
}

/** Prints the table and, if a file was named, writes the document. */
export function report(document, file) {
  const rows = document.results.map(({ name, medianSeconds, gigabytesPerSecond, spread }) => ({
    what: name,
    "median s": medianSeconds,
    "GB/s": gigabytesPerSecond ?? "",
    "spread %": Math.round(spread * 100),
  }));
  console.table(rows);
  for (const [what, value] of Object.entries(document.figures ?? {})) console.log(`${what}: ${value}`);
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(document, null, 2)}\n`);
}
