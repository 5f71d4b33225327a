/** The service is told to stop: it drains, gives everything back and ends in order; told twice, it ends at once. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { until } from "../helpers/nvml-monitor.ts";
import { failureOf } from "../helpers/remote.ts";
import { isLocked, listed, modelFile, onRecord, seal, stop, tell, untilStalled } from "../helpers/service-checks.ts";
import {
  devicesOf,
  type Home,
  inTime,
  type Launched,
  launch,
  makeHome,
  type Running,
  startService,
} from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

/** A model, resident and leased. */
async function startLeased(home: Home, args: readonly string[] = []) {
  const service = await startService(home, { args });
  const path = await modelFile(home, "model.bin", 2 * MIB);
  await seal(service, path);
  const { lease } = await service.client.grant({ shard: "model.bin" });
  return { service, path, leaseId: lease.leaseId };
}

/** Resolves when the service begins nothing any more. */
const stopping = (service: Running): Promise<void> =>
  inTime(
    "the service stops",
    (async () => {
      while ((await service.client.ready()).state !== "stopping");
    })(),
  );

/** Nothing of it is left on the machine; the kernel ends children that are told to die with it a moment later. */
async function expectGone({ pid }: Launched, { socket, stateDir }: Home): Promise<void> {
  await until("its devices' processes are gone", () => devicesOf(pid).length === 0);
  expect(existsSync(socket)).toBe(false);
  expect(await isLocked(join(stateDir, "lock"))).toBe(false);
}

describe("SIGTERM", () => {
  it("[VR-API-03] waits for leases and begins nothing; then everything is zeroed, on record, and gone", async () => {
    const home = await makeHome();
    const { service, path, leaseId } = await startLeased(home);
    const { client } = service;
    const before = await listed(service);
    service.signal("SIGTERM");
    await stopping(service);
    expect((await failureOf(client.grant({ shard: "model.bin" }))).code).toBe("SERVICE_STOPPING");
    expect((await failureOf(client.seal({ path, name: "late" }))).code).toBe("SERVICE_STOPPING");
    expect(await client.health()).toBe("not-ready");
    expect((await client.lease(leaseId)).name).toBe("model.bin");
    expect(await listed(service)).toEqual(before);
    expect(service.hasEnded()).toBe(false);
    await client.release(leaseId);
    expect(await service.ended()).toEqual({ code: 0, signal: null });
    await expectGone(service, home);
    const record = await onRecord(home);
    expect(record.slice(-3)).toMatchObject([
      { type: "lease_released", data: { leaseId } },
      { type: "vram_deallocated", data: { name: "model.bin", because: "closed", zeroed: true } },
      { type: "service_stopped", data: { because: "closed" } },
    ]);

    // It is wanted still.
    const next = await startService(home);
    await next.ready();
    expect(await listed(next)).toEqual(before);
  });

  it("[VR-API-03] is heard as soon as anybody can find the service", async () => {
    const home = await makeHome();
    const service = launch(home);
    await until("its socket is there", () => existsSync(home.socket));
    service.signal("SIGTERM");
    expect(await service.ended()).toEqual({ code: 0, signal: null });
    await expectGone(service, home);
    expect((await onRecord(home)).at(-1)).toMatchObject({ type: "service_stopped", data: { because: "closed" } });
  });

  it("[VR-API-03] does not wait longer than lease.drainMs: leases are revoked, then it ends as it should", async () => {
    const home = await makeHome();
    const { service, leaseId } = await startLeased(home, ["--set", "lease.drainMs=200ms"]);
    await stop(service);
    await expectGone(service, home);
    expect((await onRecord(home)).slice(-3)).toMatchObject([
      { type: "lease_revoked", data: { leaseId, because: "closed" } },
      { type: "vram_deallocated", data: { because: "closed", zeroed: true } },
      { type: "service_stopped", data: { because: "closed" } },
    ]);
  });

  it("[VR-API-03] in the middle of a seal: it is undone, which its caller is told", async () => {
    const home = await makeHome();
    const service = await startService(home, { args: ["--set", "emulated.bytes=256 MiB"] });
    const path = await modelFile(home, "large.bin", 96 * MIB);
    const sealing = failureOf(service.client.seal({ path, wait: true }));
    await service.entry("upload_progressed");
    await stop(service);
    expect((await sealing).code).toBe("ABORTED");
    await expectGone(service, home);
    expect((await onRecord(home)).slice(-3)).toMatchObject([
      { type: "vram_allocated", data: { name: "large.bin" } },
      { type: "vram_deallocated", data: { name: "large.bin", because: "undone", zeroed: true } },
      { type: "service_stopped", data: { because: "closed" } },
    ]);
  });

  it("[VR-API-03] [VR-API-04] in the middle of sealing again what is wanted: it stays wanted", async () => {
    const home = await makeHome();
    const args = ["--set", "emulated.bytes=256 MiB"];
    const first = await startService(home, { args });
    await seal(first, await modelFile(home, "large.bin", 96 * MIB));
    const before = await listed(first);
    await first.kill();
    const second = await startService(home, { args });
    await second.entry("upload_progressed");
    expect((await second.client.list()).missing).toMatchObject([{ name: "large.bin", state: "restoring" }]);
    await stop(second);
    await expectGone(second, home);
    const record = await onRecord(home);
    expect(record.filter(({ type }) => type === "wanted_refused")).toEqual([]);
    expect(record.at(-2)).toMatchObject({ type: "vram_deallocated", data: { because: "undone", zeroed: true } });
    const third = await startService(home, { args });
    await third.ready();
    expect(await listed(third)).toEqual(before);
  });

  it("[VR-API-03] [VR-DEV-05] while a device is lost: nothing is waited for, and what could not be zeroed is on record", async () => {
    const home = await makeHome();
    const { service } = await startLeased(home, ["--set", "lease.drainMs=0"]);
    for (const pid of devicesOf(service.pid)) process.kill(pid, "SIGKILL");
    await service.entry("device_lost");
    await stop(service);
    await expectGone(service, home);
    const record = await onRecord(home);
    const of = (type: string) => record.filter((entry) => entry.type === type);
    expect(of("lease_revoked")).toMatchObject([{ data: { because: "lost" } }]);
    expect(of("vram_deallocated")).toMatchObject([{ data: { zeroed: false } }]);
    expect(record.at(-1)).toMatchObject({ type: "service_stopped", data: { because: "closed" } });
  });
});

describe("a second SIGTERM", () => {
  it("[VR-API-03] while it waits for a lease: it ends at once, and that is on record", async () => {
    const home = await makeHome();
    const { service, leaseId } = await startLeased(home);
    service.signal("SIGTERM");
    await stopping(service);
    service.signal("SIGTERM");
    const begun = performance.now();
    expect(await service.ended()).toEqual({ code: 130, signal: null });
    // A watchdog: a lease has a minute, and a drain half of one.
    expect(performance.now() - begun).toBeLessThan(5000);
    await expectGone(service, home);
    expect((await onRecord(home)).slice(-3)).toMatchObject([
      { type: "lease_revoked", data: { leaseId, because: "closed" } },
      { type: "vram_deallocated", data: { name: "model.bin", because: "closed", zeroed: false } },
      { type: "service_stopped", data: { because: "interrupted" } },
    ]);
  });

  it("[VR-API-03] while it gives back: what was zeroed is on record as that, and the rest as left behind, each once", async () => {
    const home = await makeHome();
    const service = await startService(home, { args: ["--set", "emulated.bytes=256 MiB"] });
    const names = Array.from({ length: 60 }, (_, index) => `shard-${index}.bin`);
    const paths = await Promise.all(names.map((name) => modelFile(home, name, 4097)));
    for (const path of paths) await seal(service, path);
    service.signal("SIGTERM");
    await service.told('"action":"deallocate"');
    service.signal("SIGTERM");
    expect(await service.ended()).toEqual({ code: 130, signal: null });
    await expectGone(service, home);
    const record = await onRecord(home);
    const freed = record.filter(({ type }) => type === "vram_deallocated").map(({ data }) => data);
    const told = new Set(freed.map(({ name }) => name));
    expect(freed).toHaveLength(told.size);
    // What was under way does not go on once it was abandoned, whether or not there still is a log to tell it to.
    const narrated = service
      .err()
      .split("\n")
      .filter((line) => line.includes('"action":"deallocate"'))
      .map((line) => (JSON.parse(line) as { readonly target: string }).target);
    expect(narrated.filter((name, index) => narrated.indexOf(name) !== index)).toEqual([]);
    // Of the one that was being given back at that moment it may not be known.
    expect(names.filter((name) => !told.has(name)).length).toBeLessThan(2);
    const zeroed = freed.filter((data) => data["zeroed"] === true).length;
    expect(zeroed).toBeGreaterThan(0);
    expect(zeroed).toBeLessThan(names.length);
    expect(record.filter(({ type }) => type === "service_stopped")).toMatchObject([
      { data: { because: "interrupted" } },
    ]);
  });

  it("[VR-API-03] [VR-DEV-05] while a device hangs in zeroing: it does not wait for that, either", async () => {
    const home = await makeHome();
    const service = await startService(home, { test: {} });
    for (const name of ["a.bin", "b.bin"]) await seal(service, await modelFile(home, name, MIB));
    await tell(service, 0, "fault", "stall", "fill", 1);
    service.signal("SIGTERM");
    await untilStalled(service, 0);
    service.signal("SIGTERM");
    const begun = performance.now();
    expect(await service.ended()).toEqual({ code: 130, signal: null });
    expect(performance.now() - begun).toBeLessThan(5000);
    await expectGone(service, home);
    expect((await onRecord(home)).slice(-2)).toMatchObject([
      { type: "vram_deallocated", data: { name: "b.bin", because: "closed", zeroed: false } },
      { type: "service_stopped", data: { because: "interrupted" } },
    ]);
  });
});
