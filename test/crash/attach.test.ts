/**
 * Attaching with processes of their own on both sides: what is read is the file; whoever is killed, wherever, leaves
 * counts, descriptors and accounts that are right; and memory that outlives a service is found again (VR-API-05,
 * VR-SEAL-04, VR-MEM-03).
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { descriptorsOf } from "../helpers/attach.ts";
import { type Consumer, STEPS, startConsumer } from "../helpers/consumer.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { devicesOf, type Home, inTime, makeHome, type Running, startService } from "../helpers/service-run.ts";

const MODEL = fileURLToPath(new URL("../../scripts/make-model.mjs", import.meta.url));
const GRANULE = 2 * 1024 ** 2;

/** A service with a safetensors file of 3 MiB: two granules. */
async function serve(args: readonly string[] = []) {
  const home = await makeHome();
  const path = join(home.folder, "m.safetensors");
  execFileSync(process.execPath, [MODEL, path, "--mib", "3"]);
  const service = await startService(home, { args });
  const { result } = await service.client.seal({ path, name: "m", wait: true });
  const { digest } = result?.shards[0]?.record ?? expect.fail();
  return { home, path, service, digest: `fsverity:${digest}` };
}

const record = async ({ client }: Running) => (await client.show("m")).shards[0] ?? expect.fail();
/** Asks until it is so; what is asked takes its time. */
const untilSo = (what: string, isSo: () => Promise<boolean>): Promise<void> =>
  inTime(
    what,
    (async () => {
      while (!(await isSo()));
    })(),
  );
const countsAre = (service: Running, exports: number, leases: number): Promise<void> =>
  untilSo(`${exports} exports and ${leases} leases`, async () => {
    const now = await record(service);
    return now.exports === exports && now.leases === leases;
  });
const capacityOf = async ({ client }: Running) => (await client.devices())[0]?.capacity ?? expect.fail();
const givenBack = (service: Running): Promise<void> =>
  untilSo("it is given back", async () => (await capacityOf(service)).bytesUnreclaimed === 0);

/** SHA-256 of each tensor of a safetensors file, read here. */
function tensorsOf(path: string): Record<string, string> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString()) as Record<
    string,
    { readonly data_offsets: readonly [number, number] }
  >;
  const rows = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return Object.fromEntries(
    rows.map(
      ([
        name,
        {
          data_offsets: [begin, end],
        },
      ]) => {
        const data = bytes.subarray(8 + headerLength + begin, 8 + headerLength + end);
        return [name, createHash("sha256").update(data).digest("hex")];
      },
    ),
  );
}

const attached = async (home: Home, request: object = {}): Promise<Consumer> => {
  const consumer = startConsumer(home.socket, { shard: "m", ...request });
  await consumer.to("mapped");
  return consumer;
};

it("[VR-API-05] another process reads every tensor of a file in place, without a copy", async () => {
  const { home, path, service, digest } = await serve();
  const consumer = startConsumer(home.socket, { shard: "m", expect: digest });
  const { tensors } = await consumer.to("read");
  expect(tensors).toEqual(tensorsOf(path));
  expect(Object.keys(tensors ?? {}).length).toBeGreaterThan(10);
  expect(await record(service)).toMatchObject({ exports: 1, exportsTotal: 1, leases: 1 });
  consumer.tell("close");
  expect((await consumer.next()).tensors).toEqual(tensors);
  await countsAre(service, 0, 0);
  expect(await service.entry("shard_exported")).toMatchObject({ peer: { pid: consumer.pid }, expected: digest });
  expect(await service.entry("export_ended")).toMatchObject({ because: "closed", held: false });
});

it("[VR-SEAL-04] a process that is killed at any step leaves the right counts and no descriptor", async () => {
  const { home, service } = await serve();
  await (await attached(home)).kill();
  await countsAre(service, 0, 0);
  const [device = 0] = devicesOf(service.pid);
  const before = [descriptorsOf(service.pid), descriptorsOf(device)];
  for (const step of STEPS) {
    for (const request of [{}, { maxAgeMs: 0 }]) {
      const consumer = startConsumer(home.socket, { shard: "m", ...request });
      await consumer.to(step);
      await consumer.kill();
    }
  }
  await countsAre(service, 0, 0);
  await until("no descriptor is left", () => {
    return descriptorsOf(service.pid) <= (before[0] ?? 0) && descriptorsOf(device) <= (before[1] ?? 0);
  });
  const { exportsTotal } = await record(service);
  const exported = service.of("shard_exported").length;
  const failed = service.of("export_ended").filter(({ because }) => because === "failed").length;
  expect(exportsTotal).toBe(exported - failed);
  expect(service.of("export_ended")).toHaveLength(exported);
});

it("[VR-MEM-03] memory that a service leaves behind when it is killed stays readable, and is accounted for", async () => {
  const { home, path, service, digest } = await serve();
  const free = (await capacityOf(service)).bytesFree;
  const first = await attached(home, { expect: digest });
  const second = await attached(home);
  await service.kill();
  first.tell("read");
  expect((await first.next()).tensors).toEqual(tensorsOf(path));

  const again = await startService(home);
  const started = await again.entry("service_started");
  expect(started).toMatchObject({ orphansTotal: 2, orphans: [{ name: "m", peer: { pid: first.pid } }, {}] });
  const ends = again.of("export_ended");
  expect(ends).toMatchObject([0, 1].map(() => ({ because: "service_gone", held: true })));
  await again.ready();
  // Sealed again beside what the two still hold, which is one memory.
  expect(await capacityOf(again)).toMatchObject({ bytesUnreclaimed: 2 * GRANULE, bytesFree: free - 2 * GRANULE });
  expect(await record(again)).toMatchObject({ exports: 0, exportsTotal: 0 });
  expect(again.err()).toContain(String(first.pid));

  await second.kill();
  expect((await capacityOf(again)).bytesUnreclaimed).toBe(2 * GRANULE);
  await again.kill();
  const third = await startService(home);
  expect(await third.entry("service_started")).toMatchObject({ orphansTotal: 1 });
  first.tell("read");
  expect((await first.next()).tensors).toEqual(tensorsOf(path));
  await first.kill();
  await givenBack(third);
  await third.ready();
  expect((await capacityOf(third)).bytesFree).toBe(free);
});

it("[VR-MEM-03] what is evicted while a process maps it is not zeroed under it, and counts until it lets go", async () => {
  const { home, path, service } = await serve();
  const before = await capacityOf(service);
  const consumer = await attached(home);
  const { shards } = await service.client.evict("m", { revoke: true });
  expect(shards[0]).toMatchObject({ zeroed: false, reason: "another process may still map it" });
  consumer.tell("read");
  expect((await consumer.next()).tensors).toEqual(tensorsOf(path));
  const held = await capacityOf(service);
  expect(held).toMatchObject({ bytesUnreclaimed: 2 * GRANULE, bytesUsed: 0, bytesFree: before.bytesFree });
  consumer.tell("exit");
  await consumer.ended();
  await givenBack(service);
  expect((await capacityOf(service)).bytesFree).toBe(before.bytesFree + 2 * GRANULE);
});

it("a device's process that is killed leaves mappings readable; its successor counts what is held", async () => {
  const { home, path, service } = await serve();
  const consumer = await attached(home);
  const [device = 0] = devicesOf(service.pid);
  process.kill(device, "SIGKILL");
  await service.entry("device_process_changed", ({ state }) => state === "running", 2);
  await service.ready();
  consumer.tell("read");
  expect((await consumer.next()).tensors).toEqual(tensorsOf(path));
  expect((await capacityOf(service)).bytesUnreclaimed).toBe(2 * GRANULE);
  await consumer.kill();
  await givenBack(service);
});

it("a service that ends in order says what is still out there, and zeroes nothing under it", async () => {
  const { home, path, service } = await serve(["--set", "lease.drainMs=100"]);
  const consumer = await attached(home);
  service.signal("SIGTERM");
  expect(await service.ended()).toMatchObject({ code: 0 });
  consumer.tell("read");
  expect((await consumer.next()).tensors).toEqual(tensorsOf(path));
  const again = await startService(home);
  expect(await again.entry("service_started")).toMatchObject({ orphansTotal: 1 });
  expect(again.of("export_ended")).toEqual([]);
});
