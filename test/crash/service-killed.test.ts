/** The service is killed, and started again on what it left: what is wanted comes back, and only what holds. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ask } from "../helpers/http.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { failureOf } from "../helpers/remote.ts";
import {
  isLocked,
  listed,
  modelFile,
  onRecord,
  roomOf,
  seal,
  statusOf,
  stop,
  tell,
  verifyAll,
} from "../helpers/service-checks.ts";
import { devicesOf, type Home, launch, makeHome, startService } from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

/** Two small models, resident. */
async function startWithTwo(home: Home, start: Parameters<typeof startService>[1] = {}) {
  const service = await startService(home, start);
  const paths = [await modelFile(home, "a.bin", 3 * MIB + 5), await modelFile(home, "b.bin", 4097)] as const;
  await seal(service, paths[0]);
  await seal(service, paths[1], { sha256: true });
  return { service, paths };
}

describe("kill -9 of the service", () => {
  it("[VR-API-04] [VR-DEV-05] while it seals: no orphan keeps the memory; the next one starts at once, with all that was wanted", async () => {
    const home = await makeHome();
    const args = ["--set", "emulated.bytes=256 MiB"];
    const { service } = await startWithTwo(home, { args });
    const [before, room] = [await listed(service), await roomOf(service)];
    const { leaseId } = (await service.client.grant({ shard: "a.bin" })).lease;
    const large = await modelFile(home, "large.bin", 96 * MIB);
    await service.client.seal({ path: large });
    await service.entry("upload_progressed", ({ name }) => name === "large.bin");
    const orphans = devicesOf(service.pid);
    expect(orphans).toHaveLength(1);
    await service.kill();
    expect(service.of("vram_sealed").map(({ name }) => name)).toEqual(["a.bin", "b.bin"]);

    const next = await startService(home, { args });
    expect(devicesOf(service.pid)).toEqual([]);
    await next.ready();
    expect(await listed(next)).toEqual(before);
    expect(await roomOf(next)).toEqual(room);
    expect((await next.client.list()).missing).toEqual([]);
    const calls = [next.client.lease(leaseId), next.client.renew(leaseId), next.client.release(leaseId)];
    for (const { code } of await Promise.all(calls.map(failureOf))) expect(code).toBe("LEASE_NOT_FOUND");
    expect(await next.client.leases()).toEqual([]);
    await verifyAll(next, "a.bin", "b.bin");
    await stop(next);
    const starts = (await onRecord(home)).filter(({ type }) => type === "service_started");
    expect(starts.map(({ data }) => data["lostTotal"])).toEqual([0, 2]);
  });

  it("[VR-API-04] a source that changed meanwhile is refused, shown as missing, and the others come back", async () => {
    const home = await makeHome();
    const { service, paths } = await startWithTwo(home);
    const before = await listed(service);
    await service.kill();
    const bytes = readFileSync(paths[0]);
    bytes[MIB] = (bytes[MIB] ?? 0) ^ 1;
    writeFileSync(paths[0], bytes);

    const next = await startService(home);
    expect(await next.entry("wanted_refused")).toMatchObject({ name: "a.bin", code: "DIGEST_MISMATCH" });
    await next.entry("operation_ended", ({ operation, code }) => operation === "seal" && code === undefined);
    const { shards, missing } = await next.client.list();
    expect(missing).toMatchObject([{ name: "a.bin", state: "refused" }]);
    expect(shards.map(({ name }) => name)).toEqual(["b.bin"]);
    expect((await listed(next))[0]).toEqual(before[1]);
    expect(await statusOf(next, "/readyz")).toBe(503);
    expect((await failureOf(next.client.grant({ shard: "a.bin" }))).code).toBe("SHARD_NOT_RESIDENT");
    await next.client.evict("a.bin");
    await next.ready();
  });

  it("[VR-API-04] an edited wanted set: STATE_INVALID, and no process, socket or lock is left", async () => {
    const home = await makeHome();
    const { service } = await startWithTwo(home);
    // A process that hangs does not end by itself.
    for (const pid of devicesOf(service.pid)) process.kill(pid, "SIGSTOP");
    await service.kill();
    await until("the kernel has killed it", () => devicesOf(service.pid).length === 0);
    const path = join(home.stateDir, "wanted.json");
    const bytes = readFileSync(path);
    const at = bytes.indexOf('"a.bin"') + 1;
    bytes[at] = "c".charCodeAt(0);
    writeFileSync(path, bytes);

    const next = launch(home);
    expect(await next.ended()).toEqual({ code: 1, signal: null });
    expect(next.err()).toMatch(/^error STATE_INVALID: .*wanted\.json: does not carry the mac/m);
    expect(next.out()).toBe("");
    expect(devicesOf(next.pid)).toEqual([]);
    await expect(ask({ socketPath: home.socket }, "/healthz")).rejects.toThrow(/ECONNREFUSED|ENOENT/);
    expect(await isLocked(join(home.stateDir, "lock"))).toBe(false);
    // Nothing was sealed, and the refusal is on record.
    expect((await onRecord(home)).at(-1)).toMatchObject({
      type: "service_stopped",
      data: { because: "failed", code: "STATE_INVALID" },
    });
  });

  it("[VR-VER-06] a stopped worker stays stopped: nothing is sealed, no lease is granted before it is resumed", async () => {
    const home = await makeHome();
    const { service, paths } = await startWithTwo(home, { test: {} });
    const before = await listed(service);
    await service.client.grant({ shard: "a.bin" });
    await tell(service, 0, "flip", 0, 4097, 3);
    expect((await failureOf(service.client.verify("a.bin"))).code).toBe("MEASUREMENT_MISMATCH");
    await service.kill();

    const next = await startService(home);
    const { client } = next;
    const isBlocked = async (): Promise<void> => {
      const { shards, missing } = await client.list();
      expect([shards, missing.map(({ name, state }) => [name, state])]).toEqual([
        [],
        [
          ["a.bin", "blocked"],
          ["b.bin", "blocked"],
        ],
      ]);
    };
    await isBlocked();
    expect(await client.devices()).toMatchObject([{ state: "stopped", process: { state: "running" } }]);
    expect((await failureOf(client.grant({ shard: "b.bin" }))).code).toBe("SHARD_NOT_RESIDENT");
    const refused = await client.seal({ path: paths[1], name: "again", wait: true }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "WORKER_STOPPED" });
    expect(await statusOf(next, "/readyz")).toBe(503);
    await isBlocked();
    expect(next.of("vram_sealed")).toEqual([]);

    await client.resume({ reason: "this test flipped a bit" });
    await next.ready();
    expect(await listed(next)).toEqual(before);
    await verifyAll(next, "a.bin", "b.bin");
    await stop(next);
    const types = (await onRecord(home)).map(({ type }) => type).filter((type) => /^worker_|^vram_sealed/.test(type));
    const sealed = ["vram_sealed", "vram_sealed"];
    expect(types).toEqual([...sealed, "worker_stopped", "worker_resumed", ...sealed]);
  });
});
