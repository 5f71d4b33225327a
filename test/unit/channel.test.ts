/** Messages between processes: what crosses, and what ends the channel instead. */
import { randomBytes } from "node:crypto";
import { duplexPair } from "node:stream";
import v8 from "node:v8";
import { describe, expect, it } from "vitest";
import type { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { type Channel, openChannel } from "../../src/process/channel.ts";
import { deadlineFor } from "../../src/process/deadlines.ts";
import { codeBy } from "../helpers/handles.ts";
import { until } from "../helpers/nvml-monitor.ts";

/** A channel, and the other end of its socket. */
function open(onMessage: (message: unknown) => void = () => undefined) {
  const [ours, theirs] = duplexPair();
  const taken: unknown[] = [];
  const ends: (VramError | undefined)[] = [];
  const channel: Channel = openChannel(ours, {
    onMessage: (message) => {
      taken.push(message);
      onMessage(message);
    },
    onEnd: (fault) => ends.push(fault),
  });
  return { channel, ours, theirs, taken, ends };
}

const frame = (body: Uint8Array, byteLength = body.byteLength): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(byteLength);
  return Buffer.concat([length, body]);
};

describe("a channel", () => {
  it("carries what a device says: numbers, names, undefined, bytes of shared memory, 4.3 MB of level 1", async () => {
    const [first, second] = duplexPair();
    const taken: unknown[] = [];
    openChannel(second, { onMessage: (message) => taken.push(message), onEnd: () => undefined });
    const sender = openChannel(first, { onMessage: () => undefined, onEnd: () => undefined });
    const shared = new Uint8Array(new SharedArrayBuffer(64)).fill(9);
    const kept = randomBytes(4_300_000);
    const message = {
      shared: shared.subarray(3, 35),
      nothing: undefined,
      text: "ä\0",
      numbers: [0, -1, 2 ** 53 - 1, 0.5],
    };
    sender.send(message);
    sender.send(kept);
    await sender.flush();
    await until("both are there", () => taken.length === 2);
    expect(taken[0]).toEqual({ ...message, shared: new Uint8Array(32).fill(9) });
    expect(taken[0]).toHaveProperty("nothing", undefined);
    expect(kept.equals(taken[1] as Buffer)).toBe(true);
  });

  it("puts messages together, however they are cut", async () => {
    const { theirs, taken } = open();
    const bytes = Buffer.concat([1, "two", { three: 3 }].map((value) => frame(v8.serialize(value))));
    for (const byte of bytes) theirs.write(Buffer.of(byte));
    theirs.write(Buffer.concat([bytes, bytes]));
    await until("all are there", () => taken.length === 9);
    expect(taken.slice(6)).toEqual([1, "two", { three: 3 }]);
  });

  it.each([
    ["no clone", frame(Buffer.of(1, 2, 3, 4))],
    ["an empty message", frame(new Uint8Array(0))],
    ["a message beyond the limit", frame(new Uint8Array(1), LIMITS.deviceMessageBytes + 1)],
  ])("%s ends it, once", async (_title, bytes) => {
    const { channel, theirs, taken, ends } = open();
    theirs.write(Buffer.concat([bytes, frame(v8.serialize("after it"))]));
    await until("it has ended", () => ends.length > 0);
    expect(ends.map((fault) => fault?.code)).toEqual(["INTERNAL"]);
    expect(taken).toEqual([]);
    channel.send("nobody hears it");
    await channel.flush();
    channel.close();
  });

  it("a message that is refused ends it", async () => {
    const { theirs, ends, taken } = open(() => {
      throw new Error("not that");
    });
    theirs.write(Buffer.concat([frame(v8.serialize(1)), frame(v8.serialize(2))]));
    await until("it has ended", () => ends.length > 0);
    expect(ends[0]?.message).toContain("not that");
    expect(taken).toEqual([1]);
  });

  it("ends without a fault when the other side ends it, fails, or is gone", async () => {
    const left = open();
    left.theirs.end();
    await until("it has ended", () => left.ends.length > 0);
    const failed = open();
    failed.ours.destroy(new Error("EPIPE"));
    await until("it has ended", () => failed.ends.length > 0);
    expect([left.ends, failed.ends]).toEqual([[undefined], [undefined]]);
    const { channel, ends } = open();
    channel.close();
    channel.close();
    expect(ends).toEqual([]);
  });

  it("refuses to send what has no clone, or is too large; what comes next is sent", async () => {
    const { channel, theirs } = open();
    const taken: unknown[] = [];
    openChannel(theirs, { onMessage: (message) => taken.push(message), onEnd: () => undefined });
    expect(codeBy(() => channel.send(() => undefined))).toBe("INTERNAL");
    expect(codeBy(() => channel.send(new Uint8Array(LIMITS.deviceMessageBytes)))).toBe("INTERNAL");
    channel.send("next");
    await until("it is there", () => taken.length > 0);
    expect(taken).toEqual(["next"]);
  });
});

describe("deadlines", () => {
  it("[VR-DEV-05] are 30 × the estimate at 1 GB/s, and a floor", () => {
    expect(deadlineFor(0, 30_000)).toBe(30_000);
    expect(deadlineFor(70 * 2 ** 30, LIMITS.deviceCallFloorMs)).toBe(30_000 + 70 * 30_000);
    expect(LIMITS.deviceCallFloorMs).toBeGreaterThan(LIMITS.deviceFloorMs);
  });
});
