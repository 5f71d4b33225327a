/** The process of a device whose service was killed, and the service that comes after. The real process of `dist`. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { holderState, openWhenFree } from "../../src/process/orphans.ts";
import type { RemoteDeviceOptions } from "../../src/process/remote-device.ts";
import { startFrom } from "../../src/process/start-process.ts";
import { isRunning, until } from "../helpers/nvml-monitor.ts";
import { failureOf, openRemote, remoteOptions } from "../helpers/remote.ts";
import { MIB } from "../helpers/vram.ts";

const SHIPPED = new URL("../../dist/process/device-process.js", import.meta.url);
const LOCK = new URL("../../dist/residency/lock.js", import.meta.url);
const REMOTE = new URL("../../dist/process/remote-device.js", import.meta.url);

const started = new Set<number>();
afterEach(() => {
  for (const pid of started) if (isRunning(pid)) process.kill(pid, "SIGKILL");
  started.clear();
});

/** Runs a script in a process of its own, which prints the pid of another, that has the GPU. */
async function startService(script: string) {
  const service = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [chunk] = (await once(service.stdout, "data")) as [Buffer];
  const pid = Number(chunk.toString());
  for (const one of [service.pid ?? 0, pid]) started.add(one);
  const kill = async (): Promise<void> => {
    service.kill("SIGKILL");
    await once(service, "exit");
  };
  return { pid, kill };
}

/** A service with the shipped process. */
function startShipped({ report: _, start: __, ...plain }: RemoteDeviceOptions) {
  return startService(`import { openRemoteDevice } from ${JSON.stringify(REMOTE.href)};
const device = await openRemoteDevice({ ...${JSON.stringify(plain)}, report: () => undefined });
process.stdout.write(String(device.pid));
setInterval(() => undefined, 1000);`);
}

/** A service whose process has the GPU's lock, and does not end with it: as one that hangs in its driver. */
async function startHanging({ runtimeDir, uuid }: RemoteDeviceOptions) {
  const entry = join(runtimeDir, "device-process.js");
  const lock = join(runtimeDir, `gpu-${uuid}.lock`);
  await writeFile(join(runtimeDir, "package.json"), JSON.stringify({ type: "module" }));
  const holder = `import { takeLock } from ${JSON.stringify(LOCK.href)};
globalThis.lock = await takeLock(${JSON.stringify(lock)});
process.stdout.write(String(process.pid));
setInterval(() => undefined, 1000);`;
  await writeFile(entry, holder);
  return startService(`import { spawn } from "node:child_process";
spawn(process.execPath, [${JSON.stringify(entry)}, String(process.pid)], { stdio: ["ignore", "inherit", "inherit"] });`);
}

describe("kill -9 of the service", () => {
  it("ends the process, also when that hangs", async () => {
    const options = await remoteOptions();
    for (const isStopped of [false, true]) {
      const { pid, kill } = await startShipped(options);
      expect(isRunning(pid)).toBe(true);
      if (isStopped) process.kill(pid, "SIGSTOP");
      await kill();
      await until("the process is gone", () => !isRunning(pid));
    }
  });

  it("[VR-DEV-05] lets the next service open the GPU as soon as it is free, however soon that comes", async () => {
    const options = await remoteOptions({ start: startFrom(SHIPPED) });
    const { pid, kill } = await startShipped(options);
    const sleep = () => new Promise<void>((resolve) => void setImmediate(resolve));
    await kill();
    const device = await openWhenFree(() => openRemote(options), { clock: { monotonicMs: () => 0, sleep } });
    expect([isRunning(pid), device.pid === pid]).toEqual([false, false]);
  });

  it("[VR-DEV-05] has the next one wait for a process that has the GPU still; a service that lives keeps it", async () => {
    const options = await remoteOptions({ start: startFrom(SHIPPED) });
    const { pid, kill } = await startHanging(options);
    const sleep = async (): Promise<void> => {
      process.kill(pid, "SIGKILL");
      await until("it is gone", () => holderState(pid) === "gone");
    };
    const open = () => openWhenFree(() => openRemote(options), { clock: { monotonicMs: () => 0, sleep } });
    const error = await failureOf(open());
    expect([error.code, error.details, isRunning(pid)]).toEqual(["DEVICE_BUSY", { pid }, true]);
    await kill();
    const device = await open();
    expect([isRunning(pid), (await device.memory()).bytesTotal]).toEqual([false, 128 * MIB]);
  });
});
