/** `client.attach` against a stub: what it asks, what it reads in place, and how it ends. */
import { closeSync, readSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Attachment, type HostAttachment, openClient, type VramError } from "../../src/client.ts";
import { duplicate } from "../../src/ffi/descriptors.ts";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import {
  type AttachStub,
  byteAt,
  descriptorCount,
  grant,
  grantTo,
  MEMORY_BYTES,
  mappingCount,
  openAttachStub,
  type Peer,
  SHARD_BYTES,
  TENSORS,
  weights,
} from "../helpers/stub-attach.ts";
import * as is from "../helpers/stub-replies.ts";
import { codeOf } from "../helpers/vram.ts";

const { shardId, name } = is.record();
const LEASE = is.lease().leaseId;

let before = 0;

/** Native code is loaded, and what the stub has open is counted. */
async function stubOf(answer: (peer: Peer) => void): Promise<AttachStub> {
  closeSync(weights());
  const stub = await openAttachStub(answer);
  before = descriptorCount();
  return stub;
}

const attachTo = ({ socket }: AttachStub, terms: object = {}, signal?: AbortSignal): Promise<Attachment> =>
  openClient({ socket }).attach(name, { expect: is.DIGEST, ...terms }, { signal });

async function hostOf(stub: AttachStub): Promise<HostAttachment> {
  const attachment = await attachTo(stub);
  if (attachment.kind !== "memfd") throw new Error(attachment.kind);
  return attachment;
}

const event = (leaseId: string, because = "evicted"): Uint8Array =>
  encodeMessage({ v: 1, event: "lease_ended", leaseId, because });

/** A message that the types do not have. */
const anyMessage = (value: object): Uint8Array => encodeMessage(value as never);

beforeEach(() => expect(mappingCount()).toBe(0));
afterEach(() => void vi.useRealTimers());

describe("attaching", () => {
  it("reads the tensors where they lie, until it is closed", async () => {
    const stub = await stubOf((peer) => grantTo(peer));
    const attachment = await hostOf(stub);
    const { record, seal, lease, verification } = grant();
    expect(attachment).toMatchObject({ record, seal, lease, verification, exportId: "export-1" });
    expect([...attachment.tensors.values()]).toEqual(TENSORS);
    expect(stub.peers.map(({ request }) => request)).toEqual([{ v: 1, shard: name, expect: is.DIGEST }]);
    expect(mappingCount()).toBe(0);
    for (const { name: tensor, offset, byteLength } of TENSORS) {
      const view = attachment.tensor(tensor);
      expect([...view]).toEqual(Array.from({ length: byteLength }, (_, index) => byteAt(offset + index)));
    }
    const view = attachment.tensor("far");
    expect(attachment.tensor("far")).toBe(view);
    expect(attachment.bytes(0, SHARD_BYTES)[SHARD_BYTES - 1]).toBe(byteAt(SHARD_BYTES - 1));
    expect(mappingCount()).toBeGreaterThanOrEqual(3);
    await attachment.close();
    await attachment.close();
    expect([view.length, view[0], mappingCount()]).toEqual([0, undefined, 0]);
    expect(await attachment.ended).toBeUndefined();
    await stub.settled();
    expect(descriptorCount()).toBe(before);
    for (const read of [() => attachment.tensor("far"), () => attachment.bytes(0, 1)]) {
      expect(read).toThrow(expect.objectContaining({ code: "CLOSED" }));
    }
  });

  it("keeps what is written to a view in this process, and in that view", async () => {
    const mine = weights();
    const stub = await stubOf((peer) => grantTo(peer, grant(), duplicate(mine)));
    {
      await using attachment = await hostOf(stub);
      const view = attachment.tensor("embed");
      const { offset } = TENSORS[0];
      view.fill(0xff);
      expect(attachment.tensor("embed")[0]).toBe(0xff);
      const sealed = Buffer.alloc(32);
      readSync(mine, sealed, 0, 32, offset);
      expect([...sealed]).toEqual(Array.from({ length: 32 }, (_, index) => byteAt(offset + index)));
      expect(attachment.bytes(offset, 1)[0]).toBe(byteAt(offset));
    }
    await stub.settled();
    expect([descriptorCount(), mappingCount()]).toEqual([before, 0]);
    closeSync(mine);
  });

  it("refuses a tensor that is not there, and a range beyond the shard, also within the memory", async () => {
    const stub = await stubOf((peer) => grantTo(peer));
    await using attachment = await hostOf(stub);
    expect(() => attachment.tensor("none")).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    expect(SHARD_BYTES).toBeLessThan(MEMORY_BYTES);
    for (const [offset, byteLength] of [
      [SHARD_BYTES, 1],
      [0, SHARD_BYTES + 1],
      [-1, 1],
      [0.5, 1],
      [0, -1],
      [SHARD_BYTES + 1, 0],
    ] as const) {
      expect(() => attachment.bytes(offset, byteLength)).toThrow(expect.objectContaining({ code: "OUT_OF_BOUNDS" }));
    }
  });

  it("takes a table of many tensors, in many pieces", async () => {
    const tensors = Array.from({ length: 5000 }, (_, index) => ({
      ...{ name: `layers.${index}.weight`, dtype: "F32", shape: [1] },
      ...{ offset: index * 4, byteLength: 4 },
    }));
    const granted = grant(() => ({ tensors }));
    expect(encodeMessage(granted).byteLength).toBeGreaterThan(4 * 64 * 1024);
    const stub = await stubOf((peer) => grantTo(peer, granted));
    await using attachment = await hostOf(stub);
    expect([...attachment.tensors.values()]).toEqual(tensors);
    expect([...attachment.tensor("layers.4999.weight")]).toEqual([0, 1, 2, 3].map((at) => byteAt(4999 * 4 + at)));
  });

  it("asks by name or id, with a lease, an age and a salt", async () => {
    const salted = { salt: "0aff", digest: "c".repeat(64) };
    const stub = await stubOf((peer) =>
      grantTo(
        peer,
        grant(({ record }) => ({
          record: { ...record, sha256: "d".repeat(64) },
          verification: is.verification({ record, salted }),
        })),
      ),
    );
    const asked = { expect: `sha256:${"d".repeat(64)}`, lease: LEASE, maxAgeMs: 0, salt: "0AFF", holder: "engine" };
    const attachment = await openClient({ socket: stub.socket }).attach(shardId, asked);
    expect(stub.peers[0]?.request).toEqual({ v: 1, shard: shardId, ...asked });
    await attachment.close();
  });
});

describe("while it is attached", () => {
  it("hears that its lease ended: before it asked, after, and not when it called that off", async () => {
    const granted = grant();
    const stub = await stubOf((peer) => {
      const fd = weights();
      peer.send(Buffer.concat([encodeMessage(granted), anyMessage({ v: 1, event: "news" }), event(LEASE)]), fd);
      closeSync(fd);
    });
    await using attachment = await attachTo(stub);
    const [heard, unheard] = [vi.fn(), vi.fn()];
    attachment.onLeaseEnded(unheard)();
    await new Promise<void>((resolve) => {
      attachment.onLeaseEnded((lease) => {
        heard(lease);
        resolve();
      });
    });
    stub.peers[0]?.send(event(LEASE, "expired"));
    stub.peers[0]?.socket.end();
    expect(await attachment.ended).toMatchObject({ code: "SERVICE_UNREACHABLE" });
    expect(heard.mock.calls).toEqual([[{ leaseId: LEASE, because: "evicted" }]]);
    expect(unheard).not.toHaveBeenCalled();
  });

  it("hears of a lease that ends later", async () => {
    const stub = await stubOf((peer) => grantTo(peer));
    await using attachment = await attachTo(stub);
    const ended = new Promise((resolve) => attachment.onLeaseEnded(resolve));
    stub.peers[0]?.send(event(LEASE, "lost"));
    expect(await ended).toEqual({ leaseId: LEASE, because: "lost" });
  });

  it("hears that the service is gone, and can read on until it is closed", async () => {
    const stub = await stubOf((peer) => grantTo(peer));
    const attachment = await hostOf(stub);
    await stub.close();
    const why = await attachment.ended;
    expect(why).toMatchObject({ code: "SERVICE_UNREACHABLE", retriable: true });
    expect(why?.message).toContain("it ended the connection");
    expect(attachment.tensor("embed")[0]).toBe(byteAt(100));
    await attachment.close();
    expect(mappingCount()).toBe(0);
  });

  const fd = (): number => weights();
  it.each<[string, (peer: Peer) => void, RegExp]>([
    ["the end of another lease", (peer) => peer.send(event("lease-other")), /the end of another lease/],
    ["a message that is no event", (peer) => peer.send(anyMessage({ v: 1 })), /event: /],
    ["an event of another version", (peer) => peer.send(anyMessage({ v: 2, event: "x" })), /v: /],
    ["an event without its fields", (peer) => peer.send(anyMessage({ v: 1, event: "lease_ended" })), /leaseId: /],
    ["no JSON", (peer) => peer.send(Buffer.from([1, 0, 0, 0, 0x7b])), /no JSON/],
    ["another descriptor", (peer) => sendAndClose(peer, event(LEASE), fd()), /does not come with the first byte/],
    ["half an event", (peer) => void peer.socket.end(event(LEASE).subarray(0, 20)), /ends in its middle/],
  ])("ends the connection for %s", async (_, say, what) => {
    const stub = await stubOf((peer) => grantTo(peer));
    const attachment = await attachTo(stub);
    for (const peer of stub.peers) say(peer);
    const why = (await attachment.ended) as VramError;
    expect(why.code).toBe("SERVICE_UNREACHABLE");
    expect(why.message).toMatch(what);
    await attachment.close();
    await stub.settled();
    expect(descriptorCount()).toBe(before);
  });
});

function sendAndClose(peer: Peer, bytes: Uint8Array, fd: number): void {
  peer.send(bytes, fd);
  closeSync(fd);
}

describe("waiting for the reply", () => {
  it("ends with the signal, before and while it waits", async () => {
    const during = new AbortController();
    const stub = await stubOf(() => during.abort());
    expect(await codeOf(attachTo(stub, {}, AbortSignal.abort()))).toBe("ABORTED");
    expect(stub.peers).toHaveLength(0);
    expect(await codeOf(attachTo(stub, {}, during.signal))).toBe("ABORTED");
    await stub.settled();
    expect([stub.peers.length, descriptorCount()]).toEqual([1, before]);
  });

  it("ends with the signal within a reply, and closes what came with it", async () => {
    const during = new AbortController();
    const stub = await stubOf((peer) => {
      const fd = weights();
      const message = encodeMessage(grant());
      peer.send(message.subarray(0, 10), fd);
      closeSync(fd);
      peer.socket.write(message.subarray(10, 20), () => during.abort());
    });
    expect(await codeOf(attachTo(stub, {}, during.signal))).toBe("ABORTED");
    await stub.settled();
    expect([mappingCount(), descriptorCount()]).toEqual([0, before]);
  });

  it("is nobody's after the reply: the signal ends no attachment", async () => {
    const later = new AbortController();
    const stub = await stubOf((peer) => grantTo(peer));
    await using attachment = await attachTo(stub, {}, later.signal);
    later.abort();
    stub.peers[0]?.send(event(LEASE));
    await new Promise((resolve) => attachment.onLeaseEnded(resolve));
  });

  it("takes 60 s at most where nothing is measured, and as long as it takes where something may be", async () => {
    let asked = (): void => undefined;
    const stub = await stubOf(() => asked());
    for (const [terms, hasDeadline] of [
      [{ lease: LEASE }, true],
      [{ lease: LEASE, maxAgeMs: 1000 }, false],
      [{ lease: LEASE, salt: "00" }, false],
      [{}, false],
    ] as const) {
      vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
      const stop = new AbortController();
      const wasAsked = new Promise<void>((resolve) => {
        asked = resolve;
      });
      const attaching = attachTo(stub, terms, stop.signal).catch((thrown: unknown) => thrown as VramError);
      await wasAsked;
      expect(vi.getTimerCount()).toBe(hasDeadline ? 1 : 0);
      vi.advanceTimersByTime(59_999);
      if (hasDeadline) vi.advanceTimersByTime(1);
      else stop.abort();
      const error = await attaching;
      expect(error).toMatchObject({ code: hasDeadline ? "SERVICE_UNREACHABLE" : "ABORTED" });
      if (hasDeadline) expect((error as VramError).message).toContain("nothing came for 60000 ms");
      expect(vi.getTimerCount()).toBe(0);
    }
    vi.useRealTimers();
    await stub.settled();
    expect(descriptorCount()).toBe(before);
  });

  it("leaves no timer behind when the reply is there", async () => {
    const stub = await stubOf((peer) => grantTo(peer));
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await using _attachment = await attachTo(stub, { lease: LEASE });
    expect(vi.getTimerCount()).toBe(0);
  });
});
