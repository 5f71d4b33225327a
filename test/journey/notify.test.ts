/** A service and systemd: what arrives at its socket, and that a sign of life means that every device has answered. */
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { present } from "../../src/assert.ts";
import { openRemoteDevice } from "../../src/process/remote-device.ts";
import { createNotifier, type Notifier } from "../../src/service/notify.ts";
import { vram } from "../helpers/cli.ts";
import { hasPython, openReceiver } from "../helpers/notify-receiver.ts";
import { emulatedInProcess } from "../helpers/remote.ts";
import { CALLER, makeHome, openTestService, type TestService } from "../helpers/service.ts";
import { MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

/** WATCHDOG_USEC of 20 s: a check every 10 s, a look every 2.5 s. */
const USEC = "20000000";

/** A notifier at times that the test sets. `tick` lets so many seconds pass, and then looks. */
async function openNotified(env: Record<string, string> = {}) {
  const socket = `@vram-test-${randomUUID()}`;
  const receiver = await openReceiver(socket);
  let nowMs = 1_000_000;
  let task = (): void => undefined;
  let periodMs = 0;
  const options = {
    env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: USEC, ...env },
    pid: process.pid,
    clock: { monotonicMs: () => nowMs },
    every: (ms: number, given: () => void) => {
      [periodMs, task] = [ms, given];
      return () => {
        task = () => undefined;
      };
    },
  };
  const notifier: Notifier = present(createNotifier(options), "the notifier");
  return {
    ...{ receiver, notifier },
    periodMs: () => periodMs,
    tick: (seconds: number) => {
      nowMs += seconds * 1000;
      task();
    },
  };
}

/** Holds back what the device says of its memory, until it is let go. */
function hang(service: TestService): () => void {
  const { device } = present(service.devices[0], "the device").opened;
  const memory = device.memory.bind(device);
  let letGo = (): void => undefined;
  const gate = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  device.memory = () => gate.then(memory);
  return () => {
    device.memory = memory;
    letGo();
  };
}

describe.skipIf(!hasPython)("sd_notify", () => {
  it("tells that it is ready, how it is, and after a device check that it lives", async () => {
    const service = await openTestService(await makeHome());
    const { receiver, notifier, tick, periodMs } = await openNotified();
    notifier.ready(service.service);
    expect(periodMs()).toBe(2500);
    expect(await receiver.next()).toEqual({ READY: "1" });
    expect(await receiver.next()).toEqual({ STATUS: "ready; 0 shards resident, 0 missing; backend emulated" });
    const status = "ready; 0 shards resident, 0 missing; backend emulated, device 0 running";
    expect(await receiver.next()).toEqual({ STATUS: status, WATCHDOG: "1" });

    const { path } = await randomFile(MIB);
    await (await service.service.seal({ path }, CALLER)).ended;
    tick(2.5);
    expect(await receiver.next()).toEqual({ STATUS: status.replace("0 shards", "1 shard") });
    tick(7.5);
    expect(await receiver.next(), "half of WATCHDOG_USEC after the one before").toEqual({ WATCHDOG: "1" });
    notifier.stopping();
    notifier.stopping();
    expect(await receiver.next()).toEqual({
      STOPPING: "1",
      STATUS: "stopping, 0 leases held; 1 shard resident, 0 missing; backend emulated, device 0 running",
    });
    tick(10);
    expect(await receiver.next(), "while it drains").toEqual({ WATCHDOG: "1" });
    notifier.close();
    tick(10);
  });

  it("gives no sign of life while a device hangs, and none for a check that came too late", async () => {
    const service = await openTestService(await makeHome());
    const { receiver, notifier, tick } = await openNotified();
    const letGo = hang(service);
    notifier.ready(service.service);
    await receiver.until("STATUS");
    for (let seconds = 0; seconds < 60; seconds += 2.5) tick(2.5);
    letGo();
    const late = await receiver.next();
    expect(late).toEqual({ STATUS: expect.stringContaining("device 0 running") as string });
    tick(2.5);
    expect(await receiver.next(), "the next check is in time").toEqual({ WATCHDOG: "1" });
    notifier.close();
  });

  it("takes a lost device for an answer, and a device that says nothing for none", async () => {
    const service = await openTestService(await makeHome());
    const { receiver, notifier, tick } = await openNotified();
    service.kill();
    await expect.poll(() => service.service.isReady()).toBe(false);
    notifier.ready(service.service);
    await receiver.until("READY");
    const told = await receiver.until("WATCHDOG");
    expect(told["STATUS"]).toMatch(/^not ready; .*device 0 lost$/);
    notifier.close();

    const other = await openNotified();
    const [silent] = await service.service.devices();
    const { capacity: _, ...mute } = present(silent, "the device");
    let answer = async (): Promise<readonly never[]> => Promise.reject(new Error("it cannot be asked"));
    other.notifier.ready({ ...service.service, devices: () => answer() });
    await other.receiver.until("STATUS");
    for (const [state, sign] of [["running", {}] as const, ["stopped", { WATCHDOG: "1" }] as const]) {
      answer = async () => [{ ...mute, state }] as never;
      other.tick(2.5);
      const status = expect.stringContaining(`device 0 ${state}`) as string;
      expect(await other.receiver.next()).toEqual({ STATUS: status, ...sign });
    }
    other.notifier.close();
    tick(10);
  });

  it("does not check for a watchdog that is not there, or another process's", async () => {
    const service = await openTestService(await makeHome());
    for (const env of [{ WATCHDOG_USEC: "" }, { WATCHDOG_PID: "1" }]) {
      const { receiver, notifier, tick } = await openNotified(env);
      notifier.ready(service.service);
      const status = expect.stringContaining("device 0 running") as string;
      expect([await receiver.next(), await receiver.next(), await receiver.next()]).toEqual([
        { READY: "1" },
        { STATUS: "ready; 0 shards resident, 0 missing; backend emulated" },
        { STATUS: status },
      ]);
      tick(60);
      notifier.stopping();
      expect(await receiver.next()).toMatchObject({ STOPPING: "1" });
      notifier.close();
    }
  });

  it("tells later what there was nobody to tell, and no old sign of life", async () => {
    const service = await openTestService(await makeHome());
    const socket = join(await temporaryFolder(), "notify");
    let task = (): void => undefined;
    const options = {
      env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: USEC },
      pid: process.pid,
      clock: { monotonicMs: () => 0 },
      every: (_: number, given: () => void) => {
        task = given;
        return () => undefined;
      },
    };
    const notifier = present(createNotifier(options), "the notifier");
    notifier.ready(service.service);
    await service.service.devices();
    const receiver = await openReceiver(socket);
    task();
    const told = await receiver.next();
    expect(told).toMatchObject({ READY: "1", STATUS: expect.stringContaining("backend emulated") as string });
    expect(told).not.toHaveProperty("WATCHDOG");
    notifier.close();
  });

  it("keeps to time of its own accord", async () => {
    const service = await openTestService(await makeHome());
    const socket = join(await temporaryFolder(), "notify");
    const receiver = await openReceiver(socket);
    const env = { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "200000", WATCHDOG_PID: String(process.pid) };
    const notifier = present(createNotifier({ env, pid: process.pid }), "the notifier");
    notifier.ready(service.service);
    for (let count = 0; count < 3; count += 1) await receiver.until("WATCHDOG");
    notifier.close();
  });
});

describe.skipIf(!hasPython)("vram serve under systemd", () => {
  it("tells when it can be reached and when it stops", async () => {
    const folder = await temporaryFolder();
    const runtime = join(folder, "run");
    await mkdir(runtime, { mode: 0o700 });
    const socket = join(folder, "notify");
    const receiver = await openReceiver(socket);
    const stop = new AbortController();
    let said = "";
    const ended = vram(["serve", "--set", "emulated.bytes=128 MiB", "--state-dir", join(folder, "state")], {
      env: { XDG_RUNTIME_DIR: runtime, VRAM_EMULATED_BYTES: "", NOTIFY_SOCKET: socket, WATCHDOG_USEC: USEC },
      service: { openDevice: (options) => openRemoteDevice({ ...options, start: emulatedInProcess().start }) },
      signal: stop.signal,
      onOut: (text) => {
        said = text;
      },
    });
    await receiver.until("READY");
    expect(said, "it listens by then").toContain("vram serves on");
    await receiver.until("WATCHDOG");
    stop.abort();
    await receiver.until("STOPPING");
    expect((await ended).code).toBe(0);
  });

  it("does not start where it cannot tell", async () => {
    const env = { NOTIFY_SOCKET: "vsock:2:1", XDG_STATE_HOME: await temporaryFolder() };
    expect((await vram(["serve"], { env })).code).toBe(2);
  });
});
