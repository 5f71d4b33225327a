/** NVML's process, the real one of `dist`, over a stand-in for the library: what keeps failing, and its end. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { GpuMonitor } from "../../src/cuda/monitor.ts";
import { LIMITS } from "../../src/limits.ts";
import { FAKE_UUID, type FakeNvmlSettings, fakeNvmlEnv } from "../helpers/fake-nvml.ts";
import {
  ENTRY,
  holdTimers,
  isIdle,
  isRunning,
  monitorTests,
  pidOf,
  SELF,
  until,
  WATCHDOG_MS,
} from "../helpers/nvml-monitor.ts";

const MONITOR = new URL("../../dist/cuda/nvml-monitor.js", import.meta.url);
const { library, whyNot, folder, open, hanging } = monitorTests();

describe.skipIf(whyNot !== "")(`failing again and again${whyNot}`, () => {
  const clock = { now: 0, monotonicMs: () => clock.now };
  const entry = pathToFileURL(join(folder, "entry.mjs"));
  const crash = (): void => writeFileSync(entry, "process.exit(1);");
  const work = (): void => writeFileSync(entry, `await import(${JSON.stringify(ENTRY.href)});`);
  /** One read; whether a process was started for it. */
  const isStarted = async (monitor: GpuMonitor): Promise<boolean> => {
    const read = monitor.read(FAKE_UUID);
    const started = !isIdle();
    expect(await read).toEqual({});
    await until("the process is gone", isIdle);
    return started;
  };
  const starts = async (monitor: GpuMonitor, reads: number): Promise<readonly boolean[]> => {
    const all: boolean[] = [];
    for (let turn = 0; turn < reads; turn += 1) all.push(await isStarted(monitor));
    return all;
  };

  beforeEach(() => {
    clock.now = 1000;
    crash();
  });

  test("three crashes in a row: not started for a minute, then once, until it works", async () => {
    const monitor = open(SELF, { entry, clock });
    expect(await starts(monitor, 5)).toEqual([true, true, true, false, false]);
    clock.now += LIMITS.nvmlBackOffMs - 1;
    expect(await isStarted(monitor)).toBe(false);
    clock.now += 1;
    expect(await starts(monitor, 2)).toEqual([true, false]);
    clock.now += LIMITS.nvmlBackOffMs;
    work();
    process.kill(pidOf(await monitor.read(FAKE_UUID)), "SIGKILL");
    await until("its end is noticed", isIdle);
    crash();
    // The kill was the first failure of a new row.
    expect(await starts(monitor, 3)).toEqual([true, true, false]);
  });

  test("three deadlines in a row count as well", async () => {
    const { settings, pid } = hanging("row");
    const monitor = open(settings, { clock });
    holdTimers();
    for (let turn = 0; turn < LIMITS.nvmlFailures; turn += 1) {
      const read = monitor.read(FAKE_UUID);
      await pid();
      vi.advanceTimersByTime(WATCHDOG_MS);
      expect(await read).toEqual({});
      await until("the process is gone", isIdle);
    }
    expect(await isStarted(monitor)).toBe(false);
  });
});

describe.skipIf(whyNot !== "")(`its end${whyNot}`, () => {
  /** A process of its own that opens a monitor and runs `body`; it inherits nothing but the settings. */
  function startParent(settings: FakeNvmlSettings, body: string): ChildProcess {
    const options = { library, env: fakeNvmlEnv(settings), deadlineMs: WATCHDOG_MS };
    const script = `import { openNvmlMonitor } from ${JSON.stringify(MONITOR.href)};
const monitor = openNvmlMonitor(${JSON.stringify(options)});
const read = () => monitor.read(${JSON.stringify(FAKE_UUID)});
${body}`;
    return spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
      timeout: WATCHDOG_MS,
      killSignal: "SIGKILL",
    });
  }

  test("closing ends it; closed twice and read after that, nothing happens", async () => {
    const monitor = open(SELF);
    const pid = pidOf(await monitor.read(FAKE_UUID));
    await Promise.all([monitor.close(), monitor.close()]);
    expect(isIdle()).toBe(true);
    expect(isRunning(pid)).toBe(false);
    await monitor.close();
    expect(await monitor.read(FAKE_UUID)).toEqual({});
    expect(isIdle()).toBe(true);
  });

  test("closing one that was never asked starts nothing", async () => {
    const monitor = open(SELF);
    await monitor.close();
    expect(isIdle()).toBe(true);
  });

  test("closing during a read that hangs: {} at once", async () => {
    const { settings, pid } = hanging("close");
    const monitor = open(settings);
    const read = monitor.read(FAKE_UUID);
    const child = await pid();
    await monitor.close();
    expect(await read).toEqual({});
    expect(isRunning(child)).toBe(false);
  });

  test("closing does not wait for a process that will not end", async () => {
    const monitor = open(SELF);
    await monitor.read(FAKE_UUID);
    holdTimers();
    const closing = monitor.close();
    // Before the event loop has had a turn in which to hear of the end.
    vi.advanceTimersByTime(WATCHDOG_MS);
    await closing;
    expect(isIdle()).toBe(false);
    await until("the process is gone", isIdle);
  });

  test("a parent with nothing else to do ends, and its monitor with it", async () => {
    const parent = startParent(SELF, "process.stdout.write(String((await read()).processes[0].pid));");
    let out = "";
    parent.stdout?.on("data", (chunk) => {
      out += String(chunk);
    });
    expect(await once(parent, "close")).toEqual([0, null]);
    expect(Number(out)).toBeGreaterThan(0);
    await until("the process is gone", () => !isRunning(Number(out)));
  });

  test("a parent that waits for an answer stays for it", async () => {
    const parent = startParent(
      SELF,
      'read().then(({ xids }) => process.stdout.write(xids === undefined ? "-" : "+"));',
    );
    const [chunk] = (await once(parent.stdout ?? parent, "data")) as [Buffer];
    expect(chunk.toString()).toBe("+");
    expect(await once(parent, "close")).toEqual([0, null]);
  });

  test("a parent that is killed takes it along, even from a call that hangs", async () => {
    const { settings, pid } = hanging("orphan");
    const parent = startParent(settings, "await read();");
    const child = await pid();
    expect(isRunning(child)).toBe(true);
    parent.kill("SIGKILL");
    expect(await once(parent, "close")).toEqual([null, "SIGKILL"]);
    await until("the process is gone", () => !isRunning(child));
  });
});
