/** Peers of the attach socket that are clumsy or hostile: what becomes of them, and that nothing of them stays. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import { ATTACH_SUFFIX, encodeMessage } from "../../src/service/attach/protocol.ts";
import { askRaw, connectRaw, descriptorsOf, grantedOf } from "../helpers/attach.ts";
import { serveModel } from "../helpers/attach-service.ts";
import { until } from "../helpers/nvml-monitor.ts";
import type { Front } from "../helpers/service.ts";

let front: Front;
const sockets = new Set<Socket>();
const limits = LIMITS as { attachConnections: number };
const { attachConnections } = LIMITS;

beforeEach(async () => {
  ({ front } = await serveModel());
});

afterEach(() => {
  limits.attachConnections = attachConnections;
  for (const socket of sockets) socket.destroy();
  sockets.clear();
});

/** A peer that never ends its side by itself. */
async function stubborn(): Promise<Socket> {
  const socket = connect({ path: front.socket + ATTACH_SUFFIX, allowHalfOpen: true });
  sockets.add(socket);
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

const UNKNOWN_LEASE = encodeMessage({ v: 1, shard: "m.safetensors", expect: null, lease: "lease-x" });

describe("[VR-API-02] a peer that is refused", () => {
  it("and stays, is ended, with its refusal read", async () => {
    const before = descriptorsOf();
    const socket = await stubborn();
    const said: Buffer[] = [];
    socket.on("data", (bytes: Buffer) => said.push(bytes));
    socket.write(UNKNOWN_LEASE);
    await once(socket, "end");
    expect(Buffer.concat(said).toString()).toContain("LEASE_NOT_FOUND");
    // The service has gone, though this end never said that it would.
    await until("the service has let go of it", () => descriptorsOf() <= before + 1);
  });

  it("and stays, keeps no service from closing", async () => {
    const socket = await stubborn();
    socket.write(UNKNOWN_LEASE);
    await once(socket, "data");
    await front.server.close();
    expect(socket.readableEnded || socket.readable).toBe(true);
  });

  it("while more of it is still to come, leaves nothing behind", async () => {
    const before = descriptorsOf();
    for (let round = 0; round < 5; round += 1) {
      const socket = await stubborn();
      socket.write(Buffer.alloc(LIMITS.serviceDiscardBytes * 2, 0xff));
      await new Promise((resolve) => setImmediate(resolve));
      socket.destroy();
    }
    await until("nothing of them is left", () => descriptorsOf() <= before);
  });

  it("is told when there are as many as may be, and the next one comes in again", async () => {
    limits.attachConnections = 2;
    const first = await askRaw(front.socket, { shard: "m.safetensors" });
    const second = await askRaw(front.socket, { shard: "m.safetensors" });
    expect([grantedOf(first).ok, grantedOf(second).ok]).toEqual([true, true]);
    const third = connectRaw(front.socket);
    expect(await third.next()).toMatchObject({ ok: false, problem: { code: "SERVICE_BUSY", retriable: true } });
    first.leave();
    const tryAgain = async (): Promise<boolean> => {
      const peer = await askRaw(front.socket, { shard: "m.safetensors" });
      const [reply] = peer.messages as [{ ok: boolean }];
      peer.leave();
      return reply.ok;
    };
    while (!(await tryAgain()));
  });
});

describe("[VR-API-02] a peer that is waited for", () => {
  it("and says more before its reply, is ended", async () => {
    const peer = connectRaw(front.socket);
    peer.send(encodeMessage({ v: 1, shard: "m.safetensors", expect: null, maxAgeMs: 0 }));
    await new Promise((resolve) => setImmediate(resolve));
    peer.send(Buffer.from("more"));
    await peer.gone;
    expect(peer.descriptors.length).toBeLessThanOrEqual(1);
  });
});
