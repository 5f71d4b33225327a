/**
 * Who is refused by the attach socket: whatever is wrong leaves neither a lease nor an export nor a descriptor, and what
 * matters is on record (VR-API-05, VR-API-02).
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import { type AttachServer, openAttachServer } from "../../src/service/attach/server.ts";
import { createWorkQueue } from "../../src/service/http/queue.ts";
import { askRaw, connectRaw, descriptorsOf, grantedOf } from "../helpers/attach.ts";
import { type Served, serveModel } from "../helpers/attach-service.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { CALLER, type Front, type Home, NEVER, type TestService } from "../helpers/service.ts";

let home: Home;
let test: TestService;
let front: Front;
let shardId: string;
let record: Served["record"];
let counts: Served["counts"];

beforeEach(async () => {
  ({ home, test, front, shardId, record, counts } = await serveModel());
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
