/** Evicting: what is answered as evicted stays so, whatever happens at the same time, and to the disk. */
import { mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { buildSafetensors } from "../helpers/model-files.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER, type Home, makeHome, NEVER, openTestService, type TestService } from "../helpers/service.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const seal = async (test: TestService, path: string, more: object = {}) =>
  (await test.service.seal({ path, ...more }, CALLER)).ended;

async function openWith(home: Home, byteLength = MIB) {
  const test = await openTestService(home);
  const { path, bytes } = await randomFile(byteLength);
  return { test, path, bytes };
}

/** Makes the state directory refuse new files: its own files cannot be replaced then. */
async function blockState({ stateDir }: Home): Promise<() => Promise<void>> {
  // Root may write anywhere: a folder in the place of the file stops it, too.
  await rename(join(stateDir, "wanted.json"), join(stateDir, "wanted.away"));
  await mkdir(join(stateDir, "wanted.json"));
  await writeFile(join(stateDir, "wanted.json", "in-the-way"), "");
  return async () => {
    await rename(join(stateDir, "wanted.json"), join(stateDir, "wanted.blocked"));
    await rename(join(stateDir, "wanted.away"), join(stateDir, "wanted.json"));
  };
}

describe("an eviction", () => {
  it("of what is just being sealed leaves nothing wanted", async () => {
    const home = await makeHome();
    const { test, path } = await openWith(home);
    for (let round = 0; round < 10; round += 1) {
      const { ended } = await test.service.seal({ path, name: "ghost" }, CALLER);
      await until("it is registered", () => test.service.list().shards.length === 1);
      // A verification holds the shard while the wanted set is written.
      const verifying = test.service.verify("ghost", {}, NEVER).catch(() => undefined);
      const evicting = test.service.evict("ghost", { revoke: false });
      await Promise.all([verifying, evicting, ended]);
      expect(test.service.list()).toMatchObject({ shards: [], missing: [] });
    }
    expect(test.service.isReady()).toBe(true);
  });

  it("[VR-AUD-03] proceeds when the wanted set cannot be written, and nothing comes back, over a restart either", async () => {
    const home = await makeHome();
    const { test, path } = await openWith(home);
    await seal(test, path);
    const unblock = await blockState(home);
    expect(await test.service.evict("model.bin", { revoke: false })).toMatchObject({ wanted: true });
    expect(test.of("entry_unrecorded")).toMatchObject([{ lost: "what is wanted no more" }]);
    test.restore();
    await test.settled();
    expect(test.service.list()).toMatchObject({ shards: [], missing: [] });
    await unblock();
    await test.abandon();
    const second = await openTestService(home);
    expect(second.service.list()).toMatchObject({ shards: [], missing: [] });
    expect(second.of("wanted_refused")).toMatchObject([{ name: "model.bin" }]);
  });

  it("of a set takes all its members or none: nobody leases one of them meanwhile", async () => {
    const home = await makeHome();
    const test = await openTestService(home);
    const path = join(home.folder, "model.safetensors");
    const tensor = (name: string) => ({ name, dtype: "F32", shape: [64 * 1024], data: new Uint8Array(256 * 1024) });
    await writeFile(path, buildSafetensors(["a", "b", "c", "d"].map(tensor)));
    await seal(test, path, { shards: 4, name: "set" });
    const evicting = test.service.evict("set", { revoke: false });
    const leased = await codeOf(test.service.grant({ shard: "set/00004-of-00004" }, CALLER, NEVER));
    expect(["SHARD_BUSY", "SHARD_NOT_FOUND", "SHARD_NOT_RESIDENT"]).toContain(leased);
    expect((await evicting).shards).toHaveLength(4);
    await seal(test, path, { shards: 4, name: "set" });
    const { lease } = await test.service.grant({ shard: "set/00004-of-00004" }, CALLER, NEVER);
    expect(await codeOf(test.service.evict("set", { revoke: false }))).toBe("SHARD_BUSY");
    expect(test.service.list().shards).toHaveLength(4);
    await test.service.release(lease.leaseId, CALLER);
  });

  it("while it is being restored undoes that", async () => {
    const home = await makeHome();
    const { test: first, path } = await openWith(home, 8 * MIB);
    await seal(first, path);
    await first.close();
    const second = await openTestService(home, {}, { settle: false });
    await until("it is being restored", () => second.service.list().operations.length === 1);
    expect(await second.service.evict("model.bin", { revoke: false })).toMatchObject({ wanted: true });
    await second.settled();
    expect(second.service.list()).toMatchObject({ shards: [], missing: [] });
    await second.close();
    const third = await openTestService(home);
    expect(third.service.list()).toMatchObject({ shards: [], missing: [] });
  });
});

describe("a seal that cannot be wanted", () => {
  it("does not un-want what had its name before", async () => {
    const home = await makeHome();
    const { test: first, path } = await openWith(home);
    await seal(first, path, { name: "x" });
    await first.close();
    await rename(path, `${path}.away`);
    const second = await openTestService(home);
    const other = await randomFile(MIB, "other.bin");
    const unblock = await blockState(home);
    expect((await seal(second, other.path, { name: "x" })).error).toMatchObject({ code: "STATE_INVALID" });
    await unblock();
    await second.abandon();
    await rename(`${path}.away`, path);
    const third = await openTestService(home);
    expect(third.service.list().shards).toMatchObject([{ name: "x", state: "sealed" }]);
  });

  it("tells no path of the service, not even of one that failed long ago", async () => {
    const home = await makeHome();
    const { test, path } = await openWith(home);
    await seal(test, path);
    await blockState(home);
    const { operationId } = await seal(test, path, { name: "again" });
    const told = JSON.stringify([test.service.operation(operationId), test.service.list()]);
    expect(told).toContain("STATE_INVALID");
    expect(told).not.toContain(home.stateDir);
  });
});

describe("a lease", () => {
  it("is given back when whoever asked for it has gone", async () => {
    const { test, path } = await openWith(await makeHome());
    await seal(test, path);
    const gone = new AbortController();
    const granting = test.service.grant({ shard: "model.bin", maxAgeMs: 60_000 }, CALLER, gone.signal);
    await until("it is put on record", () => test.of("lease_granted").length === 1);
    gone.abort();
    // Whoever was quicker: a lease that was answered, or none.
    const lease = await granting.catch(() => undefined);
    if (lease !== undefined) await test.service.release(lease.lease.leaseId, CALLER);
    expect(test.service.leases()).toEqual([]);
    expect(test.of("lease_released")).toHaveLength(1);
  });
});
