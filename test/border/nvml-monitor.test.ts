/** NVML's process, the real one of `dist`, over a stand-in for the library: answers, deadlines and crashes. */
import { readFileSync } from "node:fs";
import { describe, expect, test, vi } from "vitest";
import type { GpuHealth } from "../../src/cuda/monitor.ts";
import { openNvmlMonitor } from "../../src/cuda/nvml-monitor.ts";
import { liveHandles } from "../../src/dispose.ts";
import { LIMITS } from "../../src/limits.ts";
import { FAKE_UUID, fakeNvmlEnv } from "../helpers/fake-nvml.ts";
import { codeBy } from "../helpers/handles.ts";
import {
  holdTimers,
  isIdle,
  isRunning,
  monitorTests,
  pidOf,
  SELF,
  until,
  WATCHDOG_MS,
} from "../helpers/nvml-monitor.ts";

const OTHER_UUID = "GPU-5eed5eed-0001-0002-0003-000000000005";
const { library, whyNot, open, hanging } = monitorTests();

describe.skipIf(whyNot !== "")(`asking NVML's process${whyNot}`, () => {
  test("it is started by the first read, and answers", async () => {
    const monitor = open({ PROCESSES: "5:a:6", ECC: "1,2,3,4", RECOVERY: "1", XIDS: "79", ROWS: "1,0,0,1" });
    expect(isIdle()).toBe(true);
    expect(await monitor.read(FAKE_UUID)).toEqual({
      driverVersion: "580.95.05",
      processes: [{ pid: 5, name: "a", byteLength: 6 }],
      memory: { bytesTotal: 150_754_820_096, bytesReserved: 633_339_904, bytesFree: 150_121_480_192, bytesUsed: 0 },
      ecc: { volatile: { corrected: 1, uncorrected: 2 }, aggregate: { corrected: 3, uncorrected: 4 } },
      remappedRows: { corrected: 1, uncorrected: 0, pending: false, failed: true },
      recoveryAction: "gpu-reset",
      xids: [79],
    });
    expect(liveHandles()).toEqual({ "nvml-process": 1 });
  });

  test("readers of one GPU share an answer, those of others get theirs", async () => {
    const monitor = open({ ...SELF, UUIDS: `${FAKE_UUID},${OTHER_UUID}` });
    const reads = [FAKE_UUID, FAKE_UUID, OTHER_UUID, "GPU-0"].map((uuid) => monitor.read(uuid));
    expect(reads[0]).toBe(reads[1]);
    const [first, , other, none] = await Promise.all(reads);
    expect(none).toEqual({});
    expect(pidOf(other ?? {})).toBe(pidOf(first ?? {}));
    expect(monitor.read(FAKE_UUID)).not.toBe(reads[0]);
  });

  test("this process is no tenant of its own", async () => {
    const health = await open({ PROCESSES: `${process.pid}:me:1,5:other:2` }).read(FAKE_UUID);
    expect(health.processes).toEqual([{ pid: 5, name: "other", byteLength: 2 }]);
  });

  test("a machine without NVML: nothing is known, and nothing has failed", async () => {
    const monitor = open({}, { library: "/nowhere/libnvidia-ml.so.1" });
    for (let turn = 0; turn < 2 * LIMITS.nvmlFailures; turn += 1) expect(await monitor.read(FAKE_UUID)).toEqual({});
    expect(liveHandles()).toEqual({ "nvml-process": 1 });
  });

  test("the flags and environment of this process are not passed on; Ctrl-C does not reach it", async () => {
    vi.stubEnv("NODE_OPTIONS", "--no-such-flag");
    const monitor = open(SELF);
    const pid = pidOf(await monitor.read(FAKE_UUID));
    vi.unstubAllEnvs();
    process.kill(pid, "SIGINT");
    expect(pidOf(await monitor.read(FAKE_UUID))).toBe(pid);
    const environ = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
    const names = environ.map((variable) => variable.split("=")[0]).filter((name) => name !== "");
    expect(names.sort()).toEqual(["NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "VRAM_FAKE_NVML_PROCESSES"]);
  });

  test.each([0, 600_001, 1.5])("a deadline of %d ms is refused", (deadlineMs) => {
    expect(codeBy(() => openNvmlMonitor({ library, deadlineMs }))).toBe("INVALID_ARGUMENT");
  });
});

describe.skipIf(whyNot !== "")(`when it does not answer${whyNot}`, () => {
  test("a call that hangs: {} at the deadline, not before, and the process is gone", async () => {
    const { settings, pid } = hanging("deadline");
    const monitor = open(settings, { deadlineMs: LIMITS.nvmlDeadlineMs });
    holdTimers();
    const answers: GpuHealth[] = [];
    const reads = [FAKE_UUID, OTHER_UUID].map((uuid) => monitor.read(uuid).then((health) => answers.push(health)));
    const child = await pid();
    await vi.advanceTimersByTimeAsync(LIMITS.nvmlDeadlineMs - 1);
    expect(answers).toEqual([]);
    expect(isRunning(child)).toBe(true);
    await vi.advanceTimersByTimeAsync(1);
    await Promise.all(reads);
    expect(answers).toEqual([{}, {}]);
    await until("the process is gone", isIdle);
    expect(isRunning(child)).toBe(false);
  });

  test("the deadline is kept by the clock on the wall", async () => {
    const deadlineMs = 300;
    const start = performance.now();
    const { settings } = hanging("wall", "nvmlInitWithFlags");
    expect(await open(settings, { deadlineMs }).read(FAKE_UUID)).toEqual({});
    expect(performance.now() - start).toBeLessThan(10 * deadlineMs);
  });

  test("the next read waits for the end of the old process and is answered by a new one", async () => {
    const { settings, pid } = hanging("next");
    const env = fakeNvmlEnv(settings);
    const monitor = open({}, { env });
    holdTimers();
    const late = monitor.read(FAKE_UUID);
    const child = await pid();
    Reflect.deleteProperty(env, "VRAM_FAKE_NVML_HANG");
    vi.advanceTimersByTime(WATCHDOG_MS);
    const next = monitor.read(FAKE_UUID);
    expect(liveHandles()).toEqual({ "nvml-process": 1 });
    expect(await late).toEqual({});
    expect(pidOf(await next)).not.toBe(child);
    expect(isRunning(child)).toBe(false);
  });

  test("killed between reads: the next one is answered by a new process, and earlier Xids are kept", async () => {
    const monitor = open({ ...SELF, XIDS: "79,48" });
    const before = await monitor.read(FAKE_UUID);
    process.kill(pidOf(before), "SIGKILL");
    await until("its end is noticed", isIdle);
    const after = await monitor.read(FAKE_UUID);
    expect(pidOf(after)).not.toBe(pidOf(before));
    // The fake tells every new process of the same two; NVML would tell only of later ones.
    expect(after).toEqual({ ...before, processes: after.processes, xids: [79, 48, 79, 48] });
  });

  test("killed during a read: {} at once", async () => {
    const { settings, pid } = hanging("killed");
    const read = open(settings).read(FAKE_UUID);
    process.kill(await pid(), "SIGKILL");
    expect(await read).toEqual({});
  });

  test("it cannot even be started", async () => {
    expect(await open({}, { library: "a\0b" }).read(FAKE_UUID)).toEqual({});
    const node = process.execPath;
    process.execPath = "/nowhere/node";
    const read = open({}).read(FAKE_UUID);
    process.execPath = node;
    expect(await read).toEqual({});
  });
});
