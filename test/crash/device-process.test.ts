/** The process of a device that ends, hangs or misbehaves, and the service beside it. The real process of `dist`. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { describe, expect, it } from "vitest";
import { present } from "../../src/assert.ts";
import { liveHandles } from "../../src/dispose.ts";
import type { VramError } from "../../src/errors.ts";
import { openRemoteDevice, type RemoteDevice } from "../../src/process/remote-device.ts";
import { startFrom } from "../../src/process/start-process.ts";
import { type DeviceChange, type Supervisor, superviseDevice } from "../../src/process/supervisor.ts";
import { evict } from "../../src/residency/evict.ts";
import { sealModel } from "../../src/residency/seal-model.ts";
import { isRunning, until } from "../helpers/nvml-monitor.ts";
import { failureOf, openBench, openProcess, openRemote, remoteOptions, sealRequest } from "../helpers/remote.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const SHIPPED = new URL("../../dist/process/device-process.js", import.meta.url);
const REMOTE = new URL("../../dist/process/remote-device.js", import.meta.url);

/** Children of this process, whatever they are. */
const children = (): readonly number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1] === String(process.pid);
      } catch {
        return false;
      }
    });

const kill = (pid: number): void => void process.kill(pid, "SIGKILL");

describe("kill -9 of the process", () => {
  const MOMENTS: Record<string, (process: Awaited<ReturnType<typeof openProcess>>) => Promise<Promise<unknown>[]>> = {
    "when it is idle": async ({ device }) => {
      kill(device.pid);
      return [device.memory()];
    },
    "in the middle of an upload": async ({ device, tell, untilStalled }) => {
      const { path } = await randomFile(8 * MIB);
      const { sourceId, byteLength } = await device.openSource({ kind: "path", path }, {});
      const allocationId = await device.allocate(byteLength);
      await tell("fault", "stall", "copyToDevice", 3);
      const uploads = [1, 2].map(() => device.upload({ sourceId, allocationId, witness: true, sha256: false }, {}));
      await untilStalled();
      kill(device.pid);
      return uploads;
    },
    "in the middle of a measurement": async ({ device, tell, untilStalled }) => {
      const allocationId = await device.allocate(8 * MIB);
      await tell("fault", "stall", "launch", 2);
      const calls = [device.measure(allocationId), device.measure(allocationId), device.facts(allocationId)];
      await untilStalled();
      await calls[2];
      kill(device.pid);
      return calls.slice(0, 2);
    },
  };

  it.each(Object.keys(MOMENTS))("[VR-DEV-05] %s: a typed error at once, shards lost, nothing left", async (moment) => {
    const opened = await openProcess();
    const { device } = opened;
    const { system, worker, entries } = await openBench(device);
    const { path } = await randomFile(3 * MIB);
    await sealModel(system, worker, sealRequest(path));
    const losses: VramError[] = [];
    device.onLost((error) => losses.push(error));
    const delay = monitorEventLoopDelay({ resolution: 10 });
    delay.enable();
    const begun = performance.now();
    const calls = (await MOMENTS[moment]?.(opened)) ?? [];
    const errors = await Promise.all(calls.map(failureOf));
    delay.disable();

    // Watchdogs on a machine that others use, far below any deadline.
    expect(performance.now() - begun).toBeLessThan(10_000);
    expect(delay.max / 1e6, "the service answers meanwhile, ms").toBeLessThan(2000);
    expect(errors.map(({ code, fatal }) => [code, fatal])).toEqual(calls.map(() => ["DEVICE_LOST", true]));
    expect(losses.map(({ details }) => details)).toEqual([{ pid: device.pid, signal: "SIGKILL" }]);
    expect(await device.ended).toEqual({ wedged: false, exitCode: null, signal: "SIGKILL" });
    expect(system.registry.all().map(({ state }) => state)).toEqual(["lost"]);
    expect(worker.lost).toBe(true);
    expect(entries.filter(({ type }) => type === "device_lost")).toHaveLength(1);
    expect(await codeOf(device.memory())).toBe("DEVICE_LOST");
    expect(await codeOf(sealModel(system, worker, sealRequest(path)))).toBe("DEVICE_LOST");
    const shard = present(system.registry.all()[0], "the shard");
    expect(await evict(system, worker, shard)).toMatchObject({ zeroed: false, reason: "the device was lost earlier" });
    await device.close();
    expect(isRunning(device.pid)).toBe(false);
    expect(children()).not.toContain(device.pid);
    expect(liveHandles()).not.toHaveProperty("device-process");
  });
});

describe("a process that hangs", () => {
  it("[VR-DEV-05] is stalled by its deadline, killed, and its shards are lost", async () => {
    const { device, options } = await openProcess({ floorMs: 300 });
    const { system, worker } = await openBench(device);
    const { path } = await randomFile(3 * MIB);
    await sealModel(system, worker, sealRequest(path));
    process.kill(device.pid, "SIGSTOP");
    const error = await failureOf(device.memory());
    expect([error.code, error.fatal, error.details]).toEqual(["DEVICE_STALLED", true, { pid: device.pid }]);
    expect(await device.ended).toMatchObject({ signal: "SIGKILL" });
    expect(system.registry.all().map(({ state }) => state)).toEqual(["lost"]);
    // The lock went with it.
    const next = await openRemote(options);
    expect(next.pid).not.toBe(device.pid);
  });

  it("[VR-DEV-05] is found out also when it has nothing to do", async () => {
    const { device } = await openProcess({ floorMs: 300, idlePingMs: 50 });
    const lost = new Promise((resolve) => device.onLost(resolve));
    process.kill(device.pid, "SIGSTOP");
    expect(await lost).toMatchObject({ code: "DEVICE_STALLED" });
    await device.ended;
  });

  it("[VR-DEV-05] in an upload, whose source may take as long as it likes, it is asked for a sign of life", async () => {
    const { device } = await openProcess({ floorMs: 300 });
    let more: () => void = () => undefined;
    const halfway = new Promise<void>((resolve) => {
      more = resolve;
    });
    async function* slowly(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(MIB);
      // Several times the deadline of a call; the process answers meanwhile.
      await halfway;
      yield new Uint8Array(MIB);
    }
    const source = { kind: "chunks", chunks: slowly(), byteLength: 2 * MIB } as const;
    const { sourceId } = await device.openSource(source, { format: "raw" });
    const allocationId = await device.allocate(2 * MIB);
    const request = { sourceId, allocationId, witness: true, sha256: false };
    const upload = failureOf(device.upload(request, {}));
    const start = performance.now();
    while (performance.now() - start < 900) await device.memory();
    process.kill(device.pid, "SIGSTOP");
    more();
    expect((await upload).code).toBe("DEVICE_STALLED");
  });

  it("[VR-DEV-05] while it opens its device is killed as well", async () => {
    const entry = new URL("../helpers/device-deaf.mjs", import.meta.url);
    const task = openRemoteDevice(await remoteOptions({ start: startFrom(entry), startMs: 300, floorMs: 300 }));
    const error = await failureOf(task);
    expect([error.code, error.message]).toEqual([
      "DEVICE_STALLED",
      "the device's process did not answer in time: opening the device",
    ]);
    expect(isRunning(Number(error.details["pid"]))).toBe(false);
  });
});

describe("a process that says what was not agreed", () => {
  it.each([
    ["a frame that is no clone", "0400000001020304"],
    ["a length beyond all bounds", "ffffffff00"],
    ["a length of nothing", "00000000"],
    ["a clone of something else", "04000000ff0f5f00"],
  ])("[VR-DEV-05] %s: it is killed, and the service goes on", async (_title, hex) => {
    const { device, tell, options } = await openProcess();
    const lost = new Promise<VramError>((resolve) => device.onLost(resolve));
    void tell("write", hex).catch(() => undefined);
    const error = await lost;
    expect([error.code, error.message]).toEqual(["DEVICE_LOST", "the device's process sent what was not agreed"]);
    expect(await device.ended).toMatchObject({ wedged: false });
    await openRemote(options);
  });
});

describe("the process and its surroundings", () => {
  it("one that does nothing keeps no program alive", async () => {
    const { report: _, ...plain } = await remoteOptions();
    const script = `import { openRemoteDevice } from ${JSON.stringify(REMOTE.href)};
const device = await openRemoteDevice({ ...${JSON.stringify(plain)}, report: () => undefined });
process.stdout.write(String((await device.memory()).bytesTotal));`;
    const parent = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let out = "";
    parent.stdout.on("data", (chunk) => {
      out += String(chunk);
    });
    expect(await once(parent, "close")).toEqual([0, null]);
    expect(out).toBe(String(128 * MIB));
  });

  it("a second one for the same GPU is refused with the pid of the first", async () => {
    const options = await remoteOptions({ start: startFrom(SHIPPED) });
    const first = await openRemote(options);
    const error = await failureOf(openRemoteDevice(options));
    expect([error.code, error.retriable, error.details]).toEqual(["DEVICE_BUSY", true, { pid: first.pid }]);
    await first.close();
    await openRemote(options);
  });

  it("signals of the terminal and of a service manager are not its to judge; it leaves no core file", async () => {
    const device = await openRemote(await remoteOptions({ start: startFrom(SHIPPED) }));
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.kill(device.pid, signal);
    expect((await device.memory()).bytesTotal).toBe(128 * MIB);
    const limits = readFileSync(`/proc/${device.pid}/limits`, "utf8");
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
  });
});

describe("a device that is kept running", () => {
  async function keep() {
    const clock = {
      now: 0,
      monotonicMs: () => clock.now,
      sleep: async (ms: number) => {
        clock.now += ms;
      },
    };
    const options = await remoteOptions({ start: startFrom(SHIPPED) });
    const changes: DeviceChange[] = [];
    const bound: RemoteDevice[] = [];
    let lastId = 0;
    const nextId = (): number => {
      lastId += 1;
      return lastId;
    };
    const supervisor: Supervisor = await superviseDevice({
      open: () => openRemoteDevice({ ...options, nextId }),
      bind: async (device) => void bound.push(device),
      onChange: (change) => void changes.push(change),
      clock,
    });
    const entered = (state: string, times = 1) =>
      until(`${state}, ${times} times`, () => changes.filter((change) => change.state === state).length >= times);
    return { supervisor, changes, bound, clock, entered };
  }

  it("[VR-DEV-05] is started again five times in five minutes; the sixth crash stops it", async () => {
    const { supervisor, changes, bound, entered } = await keep();
    for (let crash = 1; crash <= 6; crash += 1) {
      await entered("running", crash);
      expect(supervisor.device).toBe(bound.at(-1));
      kill(supervisor.device?.pid ?? 0);
      await entered("lost", crash);
    }
    await entered("stopped");
    expect(supervisor.device).toBeUndefined();
    expect(new Set(bound.map(({ pid }) => pid)).size).toBe(6);
    expect(changes.map(({ state }) => state).join(" ")).toBe(`${"starting running lost ".repeat(6)}stopped`);
    expect(changes.at(-1)?.restarts).toBe(5);
    await supervisor.close();
  });

  it("[VR-DEV-05] forgets crashes older than five minutes", async () => {
    const { supervisor, changes, clock, entered } = await keep();
    for (let crash = 1; crash <= 7; crash += 1) {
      await entered("running", crash);
      clock.now += 61_000;
      kill(supervisor.device?.pid ?? 0);
      await entered("lost", crash);
    }
    await entered("running", 8);
    expect(changes.some(({ state }) => state === "stopped")).toBe(false);
    await supervisor.close();
    expect(isRunning(changes.findLast(({ pid }) => pid !== undefined)?.pid ?? 0)).toBe(false);
  });

  it("[VR-DEV-05] ids of a process that is gone name nothing in the next", async () => {
    const { supervisor, bound, entered } = await keep();
    const before = await supervisor.device?.allocate(MIB);
    kill(supervisor.device?.pid ?? 0);
    await entered("running", 2);
    const device = present(bound[1], "the second device");
    const after = await device.allocate(MIB);
    expect(after).not.toBe(before);
    expect(await device.free(before ?? 0)).toEqual({ zeroed: false, reason: "it was freed before" });
    expect(await device.free(after)).toEqual({ zeroed: true });
    await supervisor.close();
  });
});
