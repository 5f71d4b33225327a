/** NVML's process as tests drive it: the real one of `dist`, over the stand-in for the library. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, vi } from "vitest";
import type { GpuHealth, GpuMonitor } from "../../src/cuda/monitor.ts";
import { type NvmlMonitorOptions, openNvmlMonitor } from "../../src/cuda/nvml-monitor.ts";
import { liveHandles } from "../../src/dispose.ts";
import { type FakeNvmlSettings, fakeNvml, fakeNvmlEnv } from "./fake-nvml.ts";

/** The built file of the process: one cannot be started from TypeScript. */
export const ENTRY = new URL("../../dist/cuda/nvml-process.js", import.meta.url);
/** Nothing takes a tenth of it. */
export const WATCHDOG_MS = 30_000;
/** The fake lists the process it is in: its id. */
export const SELF = { PROCESSES: "self:nvml:1" };

/** Waits for a condition, a turn of the event loop at a time. */
export async function until(what: string, isTrue: () => boolean): Promise<void> {
  const end = performance.now() + WATCHDOG_MS;
  while (!isTrue()) {
    if (performance.now() > end) throw new Error(`not within ${WATCHDOG_MS} ms: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Whether there is such a process, and not just what is left of it until its parent asks. */
export function isRunning(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false;
  }
}

/** Whether no process of a monitor is left. */
export const isIdle = (): boolean => !("nvml-process" in liveHandles());

/** The process that answered, told by `SELF`. */
export const pidOf = (health: GpuHealth): number =>
  health.processes?.[0]?.pid ?? expect.fail("the process is not listed");

/** Only the timers that code asks for: the test decides when they go off. */
export const holdTimers = (): unknown => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });

/** For a file of tests: what they open is closed after each, and then no handle is alive. */
export function monitorTests() {
  const fake = fakeNvml();
  const whyNot = existsSync(ENTRY) ? fake.whyNot : " (dist is not built)";
  const folder = mkdtempSync(join(tmpdir(), "vram-nvml-"));
  const opened: GpuMonitor[] = [];
  afterEach(async () => {
    vi.useRealTimers();
    for (const monitor of opened.splice(0)) await monitor.close();
    expect(liveHandles()).toEqual({});
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  return {
    library: fake.library,
    /** For titles: why there can be no process here; empty where there can. */
    whyNot,
    folder,
    /** A monitor over the fake, with a deadline that nothing reaches unless the test says so. */
    open: (settings: FakeNvmlSettings, options: Partial<NvmlMonitorOptions> = {}): GpuMonitor => {
      const env = fakeNvmlEnv(settings);
      const monitor = openNvmlMonitor({
        library: fake.library,
        entry: ENTRY,
        env,
        deadlineMs: WATCHDOG_MS,
        ...options,
      });
      opened.push(monitor);
      return monitor;
    },
    /** Settings for a function that hangs, and the process it hangs in once it does. */
    hanging: (name: string, symbol = "nvmlDeviceGetRemappedRows") => {
      const file = join(folder, name);
      return {
        settings: { ...SELF, HANG: symbol, HUNG: file },
        pid: async (): Promise<number> => {
          await until("the call hangs", () => existsSync(file));
          const pid = Number(readFileSync(file, "utf8"));
          rmSync(file);
          return pid;
        },
      };
    },
  };
}
