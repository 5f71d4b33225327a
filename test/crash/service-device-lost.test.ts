/** The process of a device is killed under a service, or hangs: what callers are told, and what comes back. */
import { describe, expect, it } from "vitest";
import { ask } from "../helpers/http.ts";
import { isRunning } from "../helpers/nvml-monitor.ts";
import { failureOf } from "../helpers/remote.ts";
import {
  listed,
  modelFile,
  onRecord,
  roomOf,
  seal,
  stop,
  tell,
  untilStalled,
  verifyAll,
} from "../helpers/service-checks.ts";
import { devicesOf, inTime, makeHome, type Running, startService } from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

/** How the service answers until it is ready again: the longest answer in ms, and every name it has shown. */
async function askMeanwhile({ client, home }: Running) {
  const where = { socketPath: home.socket };
  const names = new Set<string>();
  let [slowestMs, notReady] = [0, 0];
  for (let status = 0; status !== 200; notReady += status === 503 ? 1 : 0) {
    const begun = performance.now();
    const { shards, missing } = await client.list();
    expect((await ask(where, "/healthz")).status).toBe(200);
    expect((await client.ready()).devices).toHaveLength(1);
    slowestMs = Math.max(slowestMs, performance.now() - begun);
    for (const { name } of [...shards, ...missing]) names.add(name);
    ({ status } = await ask(where, "/readyz"));
    expect(status).toBeOneOf([200, 503]);
  }
  return { slowestMs, notReady, names: [...names] };
}

describe("kill -9 of the process of a device", () => {
  /** What is under way when it is killed, and what becomes of it. */
  type Calls = readonly (readonly [call: Promise<unknown>, code: string])[];
  const MOMENTS: Record<string, (service: Running, path: string) => Promise<Calls>> = {
    "when it is idle": async () => [],
    "in the middle of an upload": async (service, path) => {
      await tell(service, 0, "fault", "stall", "copyToDevice", 3);
      const sealing = service.client.seal({ path, wait: true });
      await service.entry("upload_progressed", ({ name }) => name === "other.bin");
      await untilStalled(service, 0);
      // The second waits for the ring.
      const waiting = service.client.seal({ path, name: "second", wait: true });
      await service.entry("vram_allocated", ({ name }) => name === "second");
      return [
        [sealing, "DEVICE_LOST"],
        [waiting, "DEVICE_LOST"],
      ];
    },
    "in the middle of a verification": async (service) => {
      await tell(service, 0, "fault", "stall", "launch", 2);
      const { client } = service;
      const measuring = client.verify("model.bin");
      await untilStalled(service, 0);
      // The second waits for the first, and finds the shard lost.
      const waiting = client.grant({ shard: "model.bin" });
      return [
        [measuring, "DEVICE_LOST"],
        [waiting, "SHARD_NOT_RESIDENT"],
      ];
    },
  };

  it.each(Object.keys(MOMENTS))(
    "[VR-DEV-05] [VR-API-04] %s: callers are told at once, nothing is half-listed, what is wanted comes back",
    async (moment) => {
      const home = await makeHome();
      const service = await startService(home, { test: {} });
      await seal(service, await modelFile(home, "model.bin", 3 * MIB + 5));
      const [before, room] = [await listed(service), await roomOf(service)];
      const [pid = 0] = devicesOf(service.pid);
      const calls = (await MOMENTS[moment]?.(service, await modelFile(home, "other.bin", 8 * MIB))) ?? [];

      const failures = calls.map(([call]) => failureOf(call));
      process.kill(pid, "SIGKILL");
      const begun = performance.now();
      const errors = await Promise.all(failures);
      // Watchdogs, far below any deadline.
      expect(performance.now() - begun).toBeLessThan(5000);
      expect(errors.map(({ code }) => code)).toEqual(calls.map(([, code]) => code));
      await service.entry("device_lost");
      expect((await failureOf(service.client.verify("model.bin"))).code).toBe("SHARD_NOT_RESIDENT");
      const { slowestMs, notReady, names } = await inTime("all is back", askMeanwhile(service));
      expect(slowestMs).toBeLessThan(2000);
      expect(notReady).toBeGreaterThan(0);
      expect(names).toEqual(["model.bin"]);

      expect(await listed(service)).toEqual(before);
      expect(await roomOf(service)).toEqual(room);
      await verifyAll(service, "model.bin");
      expect((await service.client.devices())[0]?.process).toMatchObject({ state: "running", restarts: 1 });
      expect(isRunning(pid)).toBe(false);
      await stop(service);
      const freed = (await onRecord(home)).filter(({ type }) => type === "vram_deallocated");
      expect(freed.at(-1)?.data).toMatchObject({ name: "model.bin", because: "closed", zeroed: true });
      expect(freed.filter(({ data }) => data["because"] === "lost")).toMatchObject([{ data: { zeroed: false } }]);
    },
  );

  it("[VR-DEV-05] [VR-API-04] while it is sealed again, too: it is sealed again from the beginning", async () => {
    const home = await makeHome();
    const service = await startService(home, { test: { isHasty: true } });
    await seal(service, await modelFile(home, "one.bin", 8 * MIB));
    await seal(service, await modelFile(home, "two.bin", 8 * MIB));
    const [before, room] = [await listed(service), await roomOf(service)];
    const kill = (): void => {
      for (const pid of devicesOf(service.pid)) process.kill(pid, "SIGKILL");
    };
    const uploads = (name: string) => service.of("upload_progressed").filter((entry) => entry["name"] === name).length;
    const [one, two] = [uploads("one.bin"), uploads("two.bin")];
    kill();
    await service.entry("upload_progressed", ({ name }) => name === "one.bin", one + 1);
    kill();
    await service.entry("device_lost", undefined, 2);
    await service.entry("upload_progressed", ({ name }) => name === "two.bin", two + 1);
    kill();
    await service.entry("device_lost", undefined, 3);
    await service.ready();
    expect(await listed(service)).toEqual(before);
    expect(await roomOf(service)).toEqual(room);
    await verifyAll(service, "one.bin", "two.bin");
    await stop(service);
    await onRecord(home);
  });
});

describe("a process of a device that hangs", () => {
  it("[VR-DEV-05] in a verification: DEVICE_STALLED by its deadline, and what is wanted comes back", async () => {
    const home = await makeHome();
    const service = await startService(home, { test: { floorMs: 500 } });
    await seal(service, await modelFile(home, "model.bin", 3 * MIB));
    const before = await listed(service);
    const { leaseId } = (await service.client.grant({ shard: "model.bin" })).lease;
    const [pid = 0] = devicesOf(service.pid);
    process.kill(pid, "SIGSTOP");
    const verifying = failureOf(service.client.verify("model.bin"));
    // Nobody else waits for it.
    expect((await service.client.list()).shards.map(({ state }) => state)).toEqual(["sealed"]);
    expect((await verifying).code).toBe("DEVICE_STALLED");
    expect((await failureOf(service.client.lease(leaseId))).code).toBe("LEASE_NOT_FOUND");
    await service.ready();
    expect(await listed(service)).toEqual(before);
    await verifyAll(service, "model.bin");
    expect(isRunning(pid)).toBe(false);
  });
});
