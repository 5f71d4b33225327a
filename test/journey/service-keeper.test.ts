/** What is wanted stays resident: over restarts, lost devices and stops; and what does not hold is refused (VR-API-04). */
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { buildSafetensors } from "../helpers/model-files.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER, makeHome, NEVER, openTestService, type TestService } from "../helpers/service.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const seal = async (test: TestService, path: string, more: object = {}) => {
  const { ended } = await test.service.seal({ path, ...more }, CALLER);
  return ended;
};
const sealed = async (test: TestService, path: string, more: object = {}) => {
  const operation = await seal(test, path, more);
  expect(operation.error).toBeUndefined();
  return operation.result?.shards ?? [];
};
const byName = (test: TestService) =>
  test.service.list().shards.map(({ name, shardId, digest, state }) => ({ name, shardId, digest, state }));
const sorted = (list: ReturnType<typeof byName>) => list.toSorted((a, b) => a.name.localeCompare(b.name));

describe("[VR-API-04] after a restart", () => {
  it("everything wanted is sealed again: the same names, ids and digests, new seals", async () => {
    const home = await makeHome();
    const { path } = await randomFile(3 * MIB + 5, "one.bin");
    const other = await randomFile(4097, "two.bin");
    const first = await openTestService(home);
    const [one] = await sealed(first, path);
    await sealed(first, other.path, { name: "second", sha256: true });
    const before = byName(first);
    await first.close();
    expect(first.of("vram_deallocated").map(({ because, zeroed }) => ({ because, zeroed }))).toEqual([
      { because: "closed", zeroed: true },
      { because: "closed", zeroed: true },
    ]);

    const second = await openTestService(home);
    expect(byName(second)).toEqual(before);
    expect(second.service.list().missing).toEqual([]);
    expect(second.service.isReady()).toBe(true);
    expect(second.of("service_started")[0]?.lostTotal).toBe(2);
    const again = second.of("vram_sealed");
    expect(again.map(({ comparedWith }) => comparedWith)).toEqual(["expected", "witnessed"]);
    expect(again[0]?.digest).toBe(one?.record.digest);
    expect((await second.service.ready()).reasons).toEqual([]);
  });

  it("so it is after a stop at once, which is on record", async () => {
    const home = await makeHome();
    const { path } = await randomFile(MIB);
    const first = await openTestService(home);
    await sealed(first, path);
    const before = byName(first);
    await first.abandon();
    expect(first.of("service_stopped")[0]?.because).toBe("interrupted");
    expect(first.of("vram_deallocated")[0]).toMatchObject({ zeroed: false });
    const second = await openTestService(home);
    expect(byName(second)).toEqual(before);
  });

  it("everything on all devices is, at the same time", async () => {
    const home = await makeHome();
    const settings = { "emulated.devices": 2 };
    const { path } = await randomFile(3 * MIB);
    const first = await openTestService(home, settings);
    for (const n of [0, 1, 2, 3]) await sealed(first, path, { name: `m${n}`, device: n % 2 });
    const before = sorted(byName(first));
    await first.close();
    const second = await openTestService(home, settings);
    expect(sorted(byName(second))).toEqual(before);
    expect(second.service.list().missing).toEqual([]);
  });

  it("a set is: cut from one file, its members in their places", async () => {
    const home = await makeHome();
    const path = join(home.folder, "model.safetensors");
    const tensor = (name: string) => ({ name, dtype: "F32", shape: [256 * 1024], data: new Uint8Array(MIB).fill(7) });
    await writeFile(path, buildSafetensors([tensor("a"), tensor("b"), tensor("c")]));
    const first = await openTestService(home);
    expect(await sealed(first, path, { shards: 3, name: "cut" })).toHaveLength(3);
    const before = byName(first);
    expect(await codeOf(first.service.evict("cut/00002-of-00003", { revoke: false }))).toBe("INVALID_ARGUMENT");
    await first.close();

    const second = await openTestService(home);
    expect(byName(second)).toEqual(before);
    const { shards, wanted } = await second.service.evict("cut", { revoke: false });
    expect([shards.length, wanted]).toEqual([3, true]);
    await second.close();
    const third = await openTestService(home);
    expect(byName(third)).toEqual([]);
  });

  it("what was evicted stays evicted, even if the wanted set of before is put back", async () => {
    const home = await makeHome();
    const { path } = await randomFile(MIB);
    const first = await openTestService(home);
    await sealed(first, path);
    await copyFile(join(home.stateDir, "wanted.json"), join(home.folder, "old"));
    await first.service.evict("model.bin", { revoke: false });
    await first.close();
    await copyFile(join(home.folder, "old"), join(home.stateDir, "wanted.json"));
    const second = await openTestService(home);
    expect(second.service.list()).toMatchObject({ shards: [], missing: [] });
  });

  it("a row that the audit log does not have is refused, and shown", async () => {
    const home = await makeHome();
    const { path } = await randomFile(MIB);
    const first = await openTestService(home, { "audit.mode": "off" });
    await sealed(first, path);
    await first.close();
    const second = await openTestService(home);
    expect(second.service.list()).toMatchObject({ shards: [], missing: [{ name: "model.bin", state: "refused" }] });
    expect(second.of("wanted_refused")).toMatchObject([{ name: "model.bin", code: "STATE_INVALID" }]);
    expect(second.service.isReady()).toBe(false);
    expect(await codeOf(second.service.verify("model.bin", {}, NEVER))).toBe("SHARD_NOT_RESIDENT");
    await second.service.evict("model.bin", { revoke: false });
    expect(second.service.isReady()).toBe(true);
  });

  it("a source that changed is refused: its digest is another", async () => {
    const home = await makeHome();
    const { path, bytes } = await randomFile(MIB);
    const first = await openTestService(home);
    await sealed(first, path);
    await first.close();
    bytes[MIB / 2] = (bytes[MIB / 2] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const second = await openTestService(home);
    expect(second.service.list()).toMatchObject({ shards: [], missing: [{ name: "model.bin", state: "refused" }] });
    expect(second.of("wanted_refused")).toMatchObject([{ code: "DIGEST_MISMATCH" }]);
    // Whoever seals the new bytes on purpose wants them from then on.
    await sealed(second, path);
    expect(second.service.isReady()).toBe(true);
  });

  it("an edited wanted set keeps the service from starting", async () => {
    const home = await makeHome();
    const { path } = await randomFile(MIB);
    const first = await openTestService(home);
    await sealed(first, path);
    await first.close();
    const file = join(home.stateDir, "wanted.json");
    await writeFile(file, (await readFile(file, "utf8")).replace("model.bin", "other.bin"));
    expect(await codeOf(openTestService(home))).toBe("STATE_INVALID");
  });
});

describe("[VR-DEV-05] when the process of a device is lost", () => {
  it("its shards are lost at once, then sealed again; the other device goes on", async () => {
    const home = await makeHome();
    const test = await openTestService(home, { "emulated.devices": 2 });
    const { path } = await randomFile(2 * MIB, "a.bin");
    const other = await randomFile(MIB, "b.bin");
    await sealed(test, path, { device: 0 });
    await sealed(test, other.path, { device: 1 });
    const before = byName(test);
    const granted = await test.service.grant({ shard: "a.bin" }, CALLER, NEVER);
    const kept = await test.service.grant({ shard: "b.bin" }, CALLER, NEVER);

    test.kill(test.devices[0]?.uuid);
    await until("the shard is lost", () => test.of("device_lost").length === 1);
    expect(byName(test).find(({ name }) => name === "a.bin")?.state).toBe("lost");
    expect(() => test.service.lease(granted.lease.leaseId)).toThrow("there is no lease");
    expect(test.of("lease_revoked")).toMatchObject([{ because: "lost", name: "a.bin" }]);
    expect(test.service.isReady()).toBe(false);
    expect((await test.service.verify("b.bin", {}, NEVER)).basis).toBe("measured");
    expect(test.service.lease(kept.lease.leaseId).name).toBe("b.bin");

    await until("it is sealed again", () => test.service.isReady());
    expect(sorted(byName(test))).toEqual(sorted(before));
    expect(test.of("vram_deallocated").filter(({ because }) => because === "lost")).toHaveLength(1);
    expect((await test.service.verify("a.bin", {}, NEVER)).basis).toBe("measured");
    const states = await test.service.devices();
    expect(states.map(({ state, process }) => [state, process.state, process.restarts])).toEqual([
      ["running", "running", 1],
      ["running", "running", 0],
    ]);
  });
});

describe("[VR-VER-06] after a mismatch", () => {
  it("nothing is sealed again before it is resumed, over a restart too", async () => {
    const home = await makeHome();
    const { path } = await randomFile(2 * MIB);
    const first = await openTestService(home);
    await sealed(first, path);
    const { lease } = await first.service.grant({ shard: "model.bin" }, CALLER, NEVER);
    await first.devices[0]?.flipBit(0, 4097, 3);
    expect(await codeOf(first.service.verify("model.bin", {}, NEVER))).toBe("MEASUREMENT_MISMATCH");
    expect(() => first.service.lease(lease.leaseId)).toThrow("there is no lease");
    expect(await codeOf(first.service.grant({ shard: "model.bin" }, CALLER, NEVER))).toBe("SHARD_NOT_RESIDENT");
    expect((await seal(first, path, { name: "again" })).error?.code).toBe("WORKER_STOPPED");
    await first.abandon();

    const second = await openTestService(home);
    expect(second.service.list()).toMatchObject({ shards: [], missing: [{ name: "model.bin", state: "blocked" }] });
    expect((await second.service.devices())[0]?.state).toBe("stopped");
    expect(second.of("vram_sealed")).toEqual([]);
    await second.service.resume({ reason: "the bit was flipped by this test" });
    await second.settled();
    expect(byName(second)).toMatchObject([{ name: "model.bin", state: "sealed" }]);
    expect(second.service.isReady()).toBe(true);
  });

  it("resuming seals the mismatched shard again, in the same process", async () => {
    const home = await makeHome();
    const { path } = await randomFile(2 * MIB);
    const test = await openTestService(home);
    await sealed(test, path);
    await test.devices[0]?.flipBit(0, 0, 0);
    expect(await codeOf(test.service.verify("model.bin", {}, NEVER))).toBe("MEASUREMENT_MISMATCH");
    expect(test.service.isReady()).toBe(false);
    await test.service.resume({ reason: "seen" });
    await test.settled();
    expect(test.service.isReady()).toBe(true);
    await test.close();
    expect(byName(await openTestService(home))).toMatchObject([{ name: "model.bin", state: "sealed" }]);
  });
});

describe("[VR-API-01] what is wanted", () => {
  it("is not what somebody evicted while it was being wanted", async () => {
    const home = await makeHome();
    const test = await openTestService(home);
    const { path } = await randomFile(MIB);
    const { ended } = await test.service.seal({ path }, CALLER);
    await until("it is registered", () => test.service.list().shards.length === 1);
    await test.service.evict("model.bin", { revoke: false });
    const { state, error } = await ended;
    // Whoever was quicker: what is answered is how it is.
    expect([state, error?.code]).toEqual(state === "failed" ? ["failed", "SHARD_NOT_FOUND"] : ["succeeded", undefined]);
    expect(test.service.list()).toMatchObject({ shards: [], missing: [] });
    await test.close();
    expect(byName(await openTestService(home))).toEqual([]);
  });

  it("is one thing under one name: the same name on another device is refused", async () => {
    const test = await openTestService(await makeHome(), { "emulated.devices": 2 });
    const { path } = await randomFile(MIB);
    await sealed(test, path, { device: 0 });
    await expect(test.service.seal({ path, device: 1 }, CALLER)).rejects.toMatchObject({ code: "NAME_CONFLICT" });
    expect(await sealed(test, path, { device: 0 })).toHaveLength(1);
    await sealed(test, path, { device: 1, name: "copy" });
    expect(test.service.list().shards).toHaveLength(2);
  });

  it("is not evicted while it is leased, unless its leases are revoked with it", async () => {
    const test = await openTestService(await makeHome());
    await sealed(test, (await randomFile(MIB)).path);
    const { lease } = await test.service.grant({ shard: "model.bin" }, CALLER, NEVER);
    expect(await codeOf(test.service.evict("model.bin", { revoke: false }))).toBe("SHARD_BUSY");
    expect(await test.service.evict("model.bin", { revoke: true })).toMatchObject({ wanted: true });
    expect(test.of("lease_revoked")).toMatchObject([{ leaseId: lease.leaseId, because: "evicted" }]);
    expect(test.service.leases()).toEqual([]);
  });

  it("says what keeps the service from being ready, and that it would fit or not", async () => {
    const test = await openTestService(await makeHome());
    const { path } = await randomFile(MIB);
    expect(await test.service.plan({ path }, CALLER)).toMatchObject({ fits: true, resident: false, byteLength: MIB });
    const large = await randomFile(130 * MIB, "large.bin");
    expect(await test.service.plan({ path: large.path, format: "raw" }, CALLER)).toMatchObject({ fits: false });
    expect((await seal(test, large.path, { format: "raw" })).error?.code).toBe("OUT_OF_VRAM");
    await sealed(test, path);
    expect(await test.service.plan({ path }, CALLER)).toMatchObject({ resident: true });
    await test.devices[0]?.flipBit(0, 9, 1);
    expect(await codeOf(test.service.verify("model.bin", {}, NEVER))).toBe("MEASUREMENT_MISMATCH");
    const { ready, reasons } = await test.service.ready();
    expect([ready, reasons.join("; ")]).toEqual([
      false,
      expect.stringMatching(/model.bin is mismatched; device 0 is stopped/),
    ]);
    expect(await test.service.plan({ path }, CALLER)).toMatchObject({
      blocked: expect.stringContaining("stopped") as string,
    });
    expect(test.service.show("model.bin").shards).toMatchObject([{ state: "mismatched" }]);
    expect(() => test.service.show("none")).toThrow("no shard has the id or name none");
  });

  it("bounds leases and ages by the configuration", async () => {
    const test = await openTestService(await makeHome(), { "lease.maxMs": "1 min", "seal.maxAgeMs": "1 h" });
    const [one] = await sealed(test, (await randomFile(MIB)).path, { maxAgeMs: 7_200_000 });
    expect(one?.seal["maxAgeMs"]).toBe(3_600_000);
    const long = test.service.grant({ shard: "model.bin", durationMs: 60_001 }, CALLER, NEVER);
    expect(await codeOf(long)).toBe("INVALID_ARGUMENT");
    const { lease } = await test.service.grant({ shard: "model.bin" }, CALLER, NEVER);
    expect(lease.durationMs).toBe(60_000);
    expect(await codeOf(test.service.renew(lease.leaseId, { durationMs: 60_001 }, CALLER, NEVER))).toBe(
      "INVALID_ARGUMENT",
    );
    const renewed = await test.service.renew(lease.leaseId, { maxAgeMs: 0 }, CALLER, NEVER);
    expect(renewed.verification?.basis).toBe("measured");
    await test.service.release(lease.leaseId, CALLER);
  });
});
