import { beforeEach, describe, expect, it } from "vitest";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import { askRaw, bytesOf, connectRaw, descriptorsOf, grantedOf } from "../helpers/attach.ts";
import { type Served, serveModel } from "../helpers/attach-service.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER, type Front, NEVER, type TestService } from "../helpers/service.ts";

let test: TestService;
let front: Front;
let bytes: Buffer;
let digest: string;
let shardId: string;
let record: Served["record"];
let counts: Served["counts"];

beforeEach(async () => {
  ({ test, front, bytes, digest, shardId, record, counts } = await serveModel());
});

describe("who is handed the memory", () => {
  it("[VR-API-05] gets it with what it is and what lies where, and gives it back by going", async () => {
    const peer = await askRaw(front.socket, { shard: "m.safetensors", expect: `fsverity:${digest}` });
    const granted = grantedOf(peer);
    expect(peer.descriptors).toHaveLength(1);
    const memory = bytesOf(peer.descriptors[0] ?? -1);
    expect(memory.byteLength).toBe(granted.memory.byteLength);
    expect(memory.subarray(0, bytes.byteLength).equals(bytes)).toBe(true);
    expect(memory.subarray(bytes.byteLength).every((byte) => byte === 0)).toBe(true);
    expect(granted).toMatchObject({
      v: 1,
      ok: true,
      record: { shardId, digest, exports: 1, exportsTotal: 1, leases: 1 },
      seal: { shardId, digest },
      lease: { shardId, digest },
      verification: { digest, basis: "measured" },
      memory: { kind: "memfd", deviceUuid: record().device.uuid },
    });
    expect(granted.tensors.length).toBeGreaterThan(1);
    expect(counts()).toEqual([1, 1, 1]);
    expect(test.of("shard_exported")).toMatchObject([
      { shardId, digest, expected: `fsverity:${digest}`, leaseId: granted.lease.leaseId, peer: { pid: process.pid } },
    ]);
    peer.leave();
    await until("the export is ended", () => record().exports === 0 && record().leases === 0);
    expect(counts()).toEqual([0, 1, 0]);
    expect(test.of("export_ended")).toMatchObject([{ exportId: granted.exportId, because: "closed", held: false }]);
    expect(test.of("lease_released")).toHaveLength(1);
  });

  it("may present a lease, which outlives the connection", async () => {
    const { lease } = await test.service.grant({ shard: shardId }, CALLER, NEVER);
    // The service knows the caller by the user who is connected.
    const peer = await askRaw(front.socket, { shard: shardId, lease: lease.leaseId });
    expect(grantedOf(peer).lease.leaseId).toBe(lease.leaseId);
    expect(grantedOf(peer).verification).toBeUndefined();
    expect(counts()).toEqual([1, 1, 1]);
    peer.leave();
    await until("the export is ended", () => record().exports === 0);
    expect(counts()).toEqual([0, 1, 1]);
    await test.service.release(lease.leaseId, CALLER);
  });

  it("[VR-VER-07] may have it measured now, with a salt of its own", async () => {
    const before = test.of("seal_verified").length;
    const peer = await askRaw(front.socket, { shard: shardId, maxAgeMs: 0, salt: "ab" });
    expect(grantedOf(peer).verification).toMatchObject({ basis: "measured", salted: { salt: "ab" } });
    const { lease } = grantedOf(peer);
    const again = await askRaw(front.socket, { shard: shardId, lease: lease.leaseId, maxAgeMs: 0 });
    expect(grantedOf(again).verification).toMatchObject({ basis: "measured" });
    expect(test.of("seal_verified")).toHaveLength(before + 2);
    expect(counts()).toEqual([2, 2, 1]);
  });

  it("hears when nobody vouches for it any more; the mapping stays", async () => {
    const peer = await askRaw(front.socket, { shard: shardId });
    const { lease } = grantedOf(peer);
    await expect(test.service.evict(shardId, { revoke: false })).rejects.toMatchObject({ code: "SHARD_BUSY" });
    const evicted = await test.service.evict(shardId, { revoke: true });
    expect(evicted.shards[0]).toMatchObject({ zeroed: false, reason: "another process may still map it" });
    expect(await peer.next()).toEqual({ v: 1, event: "lease_ended", leaseId: lease.leaseId, because: "evicted" });
    expect(
      bytesOf(peer.descriptors[0] ?? -1)
        .subarray(0, bytes.byteLength)
        .equals(bytes),
    ).toBe(true);
    expect(test.of("vram_deallocated")).toMatchObject([{ zeroed: false, reason: "another process may still map it" }]);
    peer.leave();
    await until("the export is ended", () => test.of("export_ended").length === 1);
  });

  it("is no reason not to zero once it has gone", async () => {
    const peer = await askRaw(front.socket, { shard: shardId });
    peer.leave();
    await until("the export is ended", () => record().exports + record().leases === 0);
    const evicted = await test.service.evict(shardId, { revoke: false });
    expect(evicted.shards[0]).toMatchObject({ zeroed: true });
    expect(bytesOf(peer.descriptors[0] ?? -1).every((byte) => byte === 0)).toBe(true);
  });

  it("sees damage that is done to it, and so does a measurement", async () => {
    const peer = await askRaw(front.socket, { shard: shardId });
    await test.devices[0]?.flipBit(0, 100, 3);
    expect(bytesOf(peer.descriptors[0] ?? -1)[100]).toBe((bytes[100] ?? 0) ^ 8);
    const second = await askRaw(front.socket, { shard: shardId, maxAgeMs: 0 });
    expect(second.reply).toMatchObject({ ok: false, problem: { code: "MEASUREMENT_MISMATCH" } });
    expect(await peer.next()).toMatchObject({ event: "lease_ended" });
    expect(second.descriptors).toEqual([]);
    const third = await askRaw(front.socket, { shard: shardId });
    expect(third.reply).toMatchObject({ ok: false, problem: { code: "SHARD_NOT_RESIDENT" } });
  });
});

describe("descriptors and counts", () => {
  it("are as before after a hundred processes, one after the other and at once", async () => {
    await (async () => (await askRaw(front.socket, { shard: shardId })).close())();
    await until("it is ended", () => record().exports === 0);
    const before = descriptorsOf();
    const all = await Promise.all(Array.from({ length: 50 }, () => askRaw(front.socket, { shard: shardId })));
    expect(counts()).toEqual([50, 51, 50]);
    for (const peer of all) peer.close();
    for (let count = 0; count < 50; count += 1) (await askRaw(front.socket, { shard: shardId })).close();
    await until("all are ended", () => record().exports + record().leases === 0);
    await until("all are closed", () => descriptorsOf() <= before);
    expect(counts()).toEqual([0, 101, 0]);
  });

  it("a descriptor that comes with a request goes nowhere", async () => {
    const own = await askRaw(front.socket, { shard: shardId });
    const before = descriptorsOf();
    const peer = connectRaw(front.socket);
    peer.send(encodeMessage({ v: 1, shard: "none", expect: null }), own.descriptors[0]);
    expect(await peer.next()).toMatchObject({ ok: false, problem: { code: "SHARD_NOT_FOUND" } });
    await peer.gone;
    peer.close();
    await until("it is closed", () => descriptorsOf() === before);
  });
});

describe("the end of a service", () => {
  it("hands out nothing while it stops, and says what is still out there", async () => {
    const peer = await askRaw(front.socket, { shard: shardId });
    const late = connectRaw(front.socket);
    front.server.drain();
    late.send(encodeMessage({ v: 1, shard: shardId, expect: null }));
    expect(await late.next()).toMatchObject({ ok: false, problem: { code: "SERVICE_STOPPING" } });
    await test.close();
    expect(test.of("export_ended")).toMatchObject([{ because: "service_closed", held: true }]);
    expect(test.of("vram_deallocated")).toMatchObject([{ because: "closed", zeroed: false }]);
    await front.server.close(0);
    await peer.gone;
    expect(
      bytesOf(peer.descriptors[0] ?? -1)
        .subarray(0, bytes.byteLength)
        .equals(bytes),
    ).toBe(true);
  });

  it("a device that is lost ends the lease; what is sealed again is nobody's yet", async () => {
    const peer = await askRaw(front.socket, { shard: shardId });
    test.kill();
    expect(await peer.next()).toMatchObject({ event: "lease_ended", because: "lost" });
    await until("it is sealed again", () => test.service.list().shards[0]?.state === "sealed");
    expect(counts()).toEqual([0, 0, 0]);
  });
});
