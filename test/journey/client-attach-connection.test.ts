/**
 * The connection of `client.attach`, against a stub: how long the reply is waited for, what is heard behind it, and that
 * whatever is no message of a service's ends it.
 */
import { closeSync } from "node:fs";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { VramError } from "../../src/client.ts";
import { encodeMessage } from "../../src/service/attach/protocol.ts";
import {
  attachHost,
  attachTo,
  byteAt,
  grant,
  grantTo,
  mappingCount,
  openAttachStub,
  type Peer,
  weights,
} from "../helpers/stub-attach.ts";
import * as is from "../helpers/stub-replies.ts";
import { codeOf } from "../helpers/vram.ts";

const LEASE = is.lease().leaseId;

const event = (leaseId: string, because = "evicted"): Uint8Array =>
  encodeMessage({ v: 1, event: "lease_ended", leaseId, because });

/** A message that the types do not have. */
const anyMessage = (value: object): Uint8Array => encodeMessage(value as never);

function sendAndClose(peer: Peer, bytes: Uint8Array): void {
  const fd = weights();
  peer.send(bytes, fd);
  closeSync(fd);
}

afterEach(() => void vi.useRealTimers());

describe("while it is attached", () => {
  it("hears that its lease ended: before it asked, after, and not when it called that off", async () => {
    const granted = grant();
    const stub = await openAttachStub((peer) => {
      sendAndClose(peer, Buffer.concat([encodeMessage(granted), anyMessage({ v: 1, event: "news" }), event(LEASE)]));
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
    const stub = await openAttachStub((peer) => grantTo(peer));
    await using attachment = await attachTo(stub);
    const ended = new Promise((resolve) => attachment.onLeaseEnded(resolve));
    stub.peers[0]?.send(event(LEASE, "lost"));
    expect(await ended).toEqual({ leaseId: LEASE, because: "lost" });
  });

  it("hears that the service is gone, and can read on until it is closed", async () => {
    const stub = await openAttachStub((peer) => grantTo(peer));
    const attachment = await attachHost(stub);
    await stub.close();
    const why = await attachment.ended;
    expect(why).toMatchObject({ code: "SERVICE_UNREACHABLE", retriable: true });
    expect(why?.message).toContain("it ended the connection");
    expect(attachment.tensor("embed")[0]).toBe(byteAt(100));
    await attachment.close();
    expect(mappingCount()).toBe(0);
  });

  it.each<[string, (peer: Peer) => void, RegExp]>([
    ["the end of another lease", (peer) => peer.send(event("lease-other")), /the end of another lease/],
    ["a message that is no event", (peer) => peer.send(anyMessage({ v: 1 })), /event: /],
    ["an event of another version", (peer) => peer.send(anyMessage({ v: 2, event: "x" })), /v: /],
    ["an event without its fields", (peer) => peer.send(anyMessage({ v: 1, event: "lease_ended" })), /leaseId: /],
    ["no JSON", (peer) => peer.send(Buffer.from([1, 0, 0, 0, 0x7b])), /no JSON/],
    ["another descriptor", (peer) => sendAndClose(peer, event(LEASE)), /does not come with the first byte/],
    ["half an event", (peer) => void peer.socket.end(event(LEASE).subarray(0, 20)), /ends in its middle/],
  ])("ends the connection for %s", async (_, say, what) => {
    const stub = await openAttachStub((peer) => grantTo(peer));
    const attachment = await attachTo(stub);
    for (const peer of stub.peers) say(peer);
    const why = (await attachment.ended) as VramError;
    expect(why.code).toBe("SERVICE_UNREACHABLE");
    expect(why.message).toMatch(what);
    await attachment.close();
    await stub.expectNothingLeft();
  });
});

describe("waiting for the reply", () => {
  it("ends with the signal, before and while it waits", async () => {
    const during = new AbortController();
    const stub = await openAttachStub(() => during.abort());
    expect(await codeOf(attachTo(stub, {}, AbortSignal.abort()))).toBe("ABORTED");
    expect(stub.peers).toHaveLength(0);
    expect(await codeOf(attachTo(stub, {}, during.signal))).toBe("ABORTED");
    await stub.expectNothingLeft();
    expect(stub.peers).toHaveLength(1);
  });

  it("ends with the signal within a reply, and closes what came with it", async () => {
    const during = new AbortController();
    const stub = await openAttachStub((peer) => {
      const message = encodeMessage(grant());
      sendAndClose(peer, message.subarray(0, 10));
      peer.socket.write(message.subarray(10, 20), () => during.abort());
    });
    expect(await codeOf(attachTo(stub, {}, during.signal))).toBe("ABORTED");
    await stub.expectNothingLeft();
  });

  it("is nobody's after the reply: the signal ends no attachment", async () => {
    const later = new AbortController();
    const stub = await openAttachStub((peer) => grantTo(peer));
    await using attachment = await attachTo(stub, {}, later.signal);
    later.abort();
    stub.peers[0]?.send(event(LEASE));
    await new Promise((resolve) => attachment.onLeaseEnded(resolve));
  });

  it("takes 60 s at most where nothing is measured, and as long as it takes where something may be", async () => {
    let asked = (): void => undefined;
    const stub = await openAttachStub(() => asked());
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
    await stub.expectNothingLeft();
  });

  it("leaves no timer behind when the reply is there", async () => {
    const stub = await openAttachStub((peer) => grantTo(peer));
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await using _attachment = await attachTo(stub, { lease: LEASE });
    expect(vi.getTimerCount()).toBe(0);
  });
});
