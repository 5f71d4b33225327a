/**
 * Attaching to a service: who is handed the memory of a shard, what comes with it, and that whatever is refused leaves
 * neither a lease nor an export nor a descriptor (VR-API-05, VR-SEAL-04, VR-MEM-03).
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import { type AttachServer, openAttachServer } from "../../src/service/attach/server.ts";
import { createWorkQueue } from "../../src/service/http/queue.ts";
import { askRaw, bytesOf, connectRaw, descriptorsOf, grantedOf } from "../helpers/attach.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { until } from "../helpers/nvml-monitor.ts";
import {
  CALLER,
  type Front,
  type Home,
  makeHome,
  NEVER,
  openFront,
  openTestService,
  type TestService,
} from "../helpers/service.ts";

let home: Home;
let test: TestService;
let front: Front;
let bytes: Buffer;
let digest: string;
let shardId: string;

beforeEach(async () => {
  home = await makeHome();
  test = await openTestService(home);
  front = await openFront(test, home);
  const data = new Uint8Array(300_000).map((_, index) => index % 251);
  bytes = Buffer.from(buildSafetensors(["a", "b"].map((name) => ({ name, dtype: "U8", shape: [data.length], data }))));
  const path = join(home.folder, "m.safetensors");
  await writeFile(path, bytes);
  const { ended } = await test.service.seal({ path, sha256: true }, CALLER);
  const record = (await ended).result?.shards[0]?.record ?? expect.fail();
  ({ digest, shardId } = record);
});

const record = () => test.service.list().shards[0] ?? expect.fail();
const counts = () => [record().exports, record().exportsTotal, record().leases];

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

describe("who is refused", () => {
  const refuse = async (request: object, code: string): Promise<void> => {
    const before = [descriptorsOf(), ...counts()];
    const peer = await askRaw(front.socket, request);
    expect(peer.reply).toMatchObject({ v: 1, ok: false, problem: { code } });
    expect(peer.descriptors).toEqual([]);
    await peer.gone;
    peer.close();
    await until("what it had is closed", () => descriptorsOf() === before[0]);
    expect([descriptorsOf(), ...counts()]).toEqual(before);
    expect(test.of("shard_exported")).toEqual([]);
    expect(test.of("lease_granted")).toEqual([]);
  };

  it.each([
    ["another fs-verity digest", { expect: `fsverity:${"0".repeat(64)}` }, "DIGEST_MISMATCH"],
    ["another SHA-256", { expect: `sha256:${"1".repeat(64)}` }, "DIGEST_MISMATCH"],
    ["a digest that is none", { expect: "fsverity:12" }, "INVALID_ARGUMENT"],
    ["another shard", { shard: "other" }, "SHARD_NOT_FOUND"],
    ["a lease that there is not", { lease: "lease-none" }, "LEASE_NOT_FOUND"],
    ["nothing expected or not", { expect: undefined }, "INVALID_ARGUMENT"],
    ["a field that nobody knows", { token: "x" }, "INVALID_ARGUMENT"],
    ["another version", { v: 2 }, "INVALID_ARGUMENT"],
    ["a salt that is none", { salt: "zz" }, "INVALID_ARGUMENT"],
  ])("with %s", async (_what, request, code) => {
    await refuse({ shard: "m.safetensors", ...request }, code);
  });

  it("with a lease that has ended, is on another shard, or another's", async () => {
    const path = join(home.folder, "other");
    await writeFile(path, "other bytes");
    await (await test.service.seal({ path }, CALLER)).ended;
    const ended = await test.service.grant({ shard: shardId }, CALLER, NEVER);
    await test.service.release(ended.lease.leaseId, CALLER);
    const other = await test.service.grant({ shard: "other" }, CALLER, NEVER);
    const attach = async (lease: string) => (await askRaw(front.socket, { shard: shardId, lease })).reply;
    expect(await attach(ended.lease.leaseId)).toMatchObject({ ok: false, problem: { code: "LEASE_NOT_FOUND" } });
    expect(await attach(other.lease.leaseId)).toMatchObject({ ok: false, problem: { code: "INVALID_ARGUMENT" } });
    const mine = await test.service.grant({ shard: shardId }, { ...CALLER, scope: "use", name: "uid 1001" }, NEVER);
    const peer = { pid: process.pid, startTicks: 1 };
    const request = { v: 1 as const, shard: shardId, expect: null, lease: mine.lease.leaseId };
    const stranger = { ...CALLER, scope: "use" as const, name: "uid 1002" };
    await expect(test.service.attach(request, stranger, peer, NEVER)).rejects.toMatchObject({ code: "FORBIDDEN" });
    expect(test.of("shard_exported")).toEqual([]);
  });

  it("for a wrong digest and an unknown lease, which is on record", async () => {
    await askRaw(front.socket, { shard: shardId, expect: "0".repeat(64) });
    await askRaw(front.socket, { shard: shardId, lease: "lease-none" });
    expect(test.of("request_refused")).toMatchObject([{ code: "DIGEST_MISMATCH" }, { code: "LEASE_NOT_FOUND" }]);
  });

  it.each([
    ["no JSON", Buffer.from([2, 0, 0, 0, 0x7b, 0x7b])],
    ["bad UTF-8", Buffer.from([3, 0, 0, 0, 0x22, 0xff, 0x22])],
    ["a length without end", Buffer.from([0xff, 0xff, 0xff, 0xff, 1])],
    ["__proto__", Buffer.concat([Buffer.from([16, 0, 0, 0]), Buffer.from('{"__proto__":{}}')])],
    ["two requests", Buffer.concat([0, 1].map(() => encodeMessage({ v: 1, shard: "m.safetensors", expect: null })))],
  ])("who says %s", async (_what, message) => {
    const peer = connectRaw(front.socket);
    peer.send(message);
    expect(await peer.next()).toMatchObject({ ok: false, problem: { status: 400 } });
    await peer.gone;
    expect(counts()).toEqual([0, 0, 0]);
    expect(test.of("shard_exported")).toEqual([]);
  });

  it("who goes before the reply, and who sends more behind it", async () => {
    for (let at = 0; at < 20; at += 1) {
      const peer = connectRaw(front.socket);
      peer.send(
        encodeMessage({ v: 1, shard: shardId, expect: null, maxAgeMs: 0 }).subarray(0, at % 2 === 0 ? undefined : 10),
      );
      peer.close();
    }
    const peer = await askRaw(front.socket, { shard: shardId });
    peer.send(Buffer.from("more"));
    await peer.gone;
    await until("nothing is left of them", () => record().exports === 0 && record().leases === 0);
    expect(test.of("export_ended")).toHaveLength(test.of("shard_exported").length);
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

describe("[VR-API-02] who may connect", () => {
  const openFor = async (uid: number, groupId: number | undefined): Promise<string> => {
    const path = join(home.folder, "run", `${uid}.sock`);
    const server = await openAttachServer({
      ...{ service: test.service, path: `${path}.attach`, uid: home.place.uid, groupId, stallMs: 1000 },
      ...{ peerOf: () => ({ uid, pid: process.pid }), report: () => undefined },
      queue: createWorkQueue({ requests: 4, waiting: 4 }),
    });
    servers.push(server);
    return path;
  };
  const servers: AttachServer[] = [];
  afterEach(async () => {
    for (const server of servers.splice(0)) await server.close();
  });
  const stranger = 54_321;

  it("another user is refused, and on record", async () => {
    const peer = await askRaw(await openFor(stranger, undefined), { shard: shardId });
    expect(peer.reply).toMatchObject({ ok: false, problem: { code: "FORBIDDEN", status: 403 } });
    expect(peer.descriptors).toEqual([]);
    expect(test.of("auth_failed")).toMatchObject([{ failure: "wrong-peer", transport: "socket" }]);
  });

  it("a member of the group is known by his number", async () => {
    const peer = await askRaw(await openFor(stranger, process.getgid?.()), { shard: shardId });
    grantedOf(peer);
    expect(test.of("shard_exported")).toMatchObject([{ caller: `uid ${stranger}` }]);
  });

  it("whose socket cannot be told is refused", async () => {
    const path = join(home.folder, "run", "none.sock");
    const server = await openAttachServer({
      ...{ service: test.service, path: `${path}.attach`, uid: home.place.uid, groupId: undefined, stallMs: 1000 },
      peerOf: () => {
        throw new Error("no peer");
      },
      report: () => undefined,
      queue: createWorkQueue({ requests: 4, waiting: 4 }),
    });
    servers.push(server);
    expect((await askRaw(path, { shard: shardId })).reply).toMatchObject({ ok: false, problem: { code: "FORBIDDEN" } });
  });

  it("a path that the kernel would cut is refused", async () => {
    const path = join(home.folder, "run", "x".repeat(108));
    const options = { service: test.service, path, uid: home.place.uid, groupId: undefined, stallMs: 1000 };
    const more = { peerOf: () => ({ uid: 0 }), report: () => undefined };
    const queue = createWorkQueue({ requests: 4, waiting: 4 });
    await expect(openAttachServer({ ...options, ...more, queue })).rejects.toMatchObject({ code: "STATE_INVALID" });
  });
});
