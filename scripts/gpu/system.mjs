/** The product as its users have it, for questions that time it: a system on the first device, and files to seal. */
import { mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { optionsFromEnvironment } from "../../dist/environment.js";
import { openSystem } from "../../dist/open.js";
import { createVram } from "../../dist/vram.js";
import { MIB, randomSource } from "./driver.mjs";

/** A `Vram`, and what stands behind it. */
export async function openProduct() {
  const open = await openSystem({ ...optionsFromEnvironment(process.env), backend: "cuda" });
  return { vram: createVram(open), open, device: open.devices[0] };
}

/** A file of bytes without a pattern, in the page cache; removed by `remove`. */
export function randomFile(byteLength, seed) {
  const folder = mkdtempSync(join(tmpdir(), "vram-gpu-"));
  const path = join(folder, "model.bin");
  const random = randomSource(seed);
  const fd = openSync(path, "w");
  for (let at = 0; at < byteLength; at += 16 * MIB) writeSync(fd, random.bytes(Math.min(16 * MIB, byteLength - at)));
  return { path, byteLength, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** What `task` took, and how late the event loop ran meanwhile: milliseconds, in samples of one millisecond. */
export async function watched(task) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const begin = performance.now();
  const value = await task();
  const ms = performance.now() - begin;
  // One more turn: a loop that was blocked to the end is sampled only now.
  await new Promise((resolve) => setTimeout(resolve, 3));
  delay.disable();
  const inMs = (nanoseconds) => Number((nanoseconds / 1e6).toPrecision(4));
  const loop = {
    p50: inMs(delay.percentile(50)),
    p99: inMs(delay.percentile(99)),
    max: inMs(delay.max),
    samples: delay.count,
  };
  return { value, ms, loop };
}

/** Peak resident memory of this process so far, bytes. */
export const peakBytes = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
