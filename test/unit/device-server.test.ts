/** The process's side of the channel: it opens one device, answers calls, and ends when something else is asked. */
import { closeSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import { socketPair as descriptorPair } from "../../src/ffi/passing.ts";
import { LIMITS } from "../../src/limits.ts";
import { type Channel, openChannel } from "../../src/process/channel.ts";
import { type OpenDevice, serveSocket } from "../../src/process/device-run.ts";
import { listProcessDevices, openProcessDevice } from "../../src/process/open-device.ts";
import type { Reply } from "../../src/process/protocol.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { remoteOptions, SIZES } from "../helpers/remote.ts";
import { socketPair } from "../helpers/socket-pair.ts";
import { MIB, randomFile } from "../helpers/vram.ts";

interface Served {
  readonly channel: Channel;
  readonly replies: Reply[];
  readonly ends: string[];
  readonly close: () => Promise<void>;
}

const pairs: number[] = [];
afterEach(() => {
  for (const fd of pairs.splice(0)) closeSync(fd);
});

/** The server of a small device, without an opening. */
function serve(): Served {
  const [ours, its] = socketPair();
  const replies: Reply[] = [];
  const ends: string[] = [];
  let opening: ReturnType<typeof openProcessDevice> | undefined;
  const open: OpenDevice = (request, report) => {
    opening = openProcessDevice(request, report, { sizes: SIZES });
    return opening;
  };
  // Also what is still being opened when the process would have ended.
  const close = async (): Promise<void> => (await opening)?.close();
  const endings = { exit: () => ends.push("exit"), kill: () => ends.push("kill") };
  const [ourEnd, descriptors] = descriptorPair();
  pairs.push(ourEnd, descriptors);
  serveSocket({ socket: its, descriptors }, { open, list: listProcessDevices }, endings);
  const onMessage = (message: unknown): void => void replies.push(message as Reply);
  const channel = openChannel(ours, { onMessage, onEnd: () => undefined });
  return { channel, replies, ends, close };
}

async function open(): Promise<Served> {
  const { report: _, ...request } = await remoteOptions();
  const served = serve();
  served.channel.send({ kind: "open", request });
  await until("it is open", () => served.replies.length > 0);
  expect(served.replies[0]?.kind).toBe("opened");
  return served;
}

const call = (id: number, method: string, ...args: readonly unknown[]) => ({ kind: "call", id, method, args });

describe("the process of a device", () => {
  const WRONG: Record<string, readonly unknown[]> = {
    "no request": ["hello"],
    "another method": [call(1, "flipBit", 1, 0, 0)],
    "another argument": [call(1, "memory", 1)],
    "a nonce of 31 bytes": [call(1, "evidence", new Uint8Array(31))],
    "an address for an id": [call(1, "free", 0x7f0000000000n)],
    "a second opening": [{ kind: "open", request: {} }],
    "a list of devices, when it has one": [{ kind: "list", backend: "cuda" }],
    "a number that is taken": [call(1, "measure", 1, undefined), call(1, "memory")],
    "more calls than are agreed": Array.from({ length: LIMITS.deviceCallsInFlight + 1 }, (_, i) =>
      call(i + 1, "memory"),
    ),
  };

  it.each(Object.keys(WRONG))("[VR-DEV-05] ends when it is asked what was not agreed: %s", async (what) => {
    const { channel, ends, close } = await open();
    for (const request of WRONG[what] ?? []) channel.send(request);
    await until("it ends", () => ends.length > 0);
    expect(ends).toEqual(["exit"]);
    await close();
  });

  it("opens a device first, and only one", async () => {
    const early = serve();
    early.channel.send(call(1, "memory"));
    await until("it ends", () => early.ends.length > 0);
    const { report: _, ...request } = await remoteOptions();
    const twice = serve();
    twice.channel.send({ kind: "open", request });
    twice.channel.send({ kind: "open", request });
    await until("it ends", () => twice.ends.length > 0);
    const third = await open();
    third.channel.send({ kind: "open", request });
    await until("it ends", () => third.ends.length > 0);
    await third.close();
    await twice.close();
  });

  it("lists devices in place of opening one, and ends with the answer; of an emulated machine it knows none", async () => {
    const lists = serve();
    lists.channel.send({ kind: "list", backend: "cuda-substituted", library: "/nowhere/libcuda.so.1" });
    await until("it ends", () => lists.ends.length > 0);
    expect(lists.replies).toMatchObject([{ kind: "refused", error: { code: "DEVICE_UNUSABLE" } }]);
    const emulated = serve();
    emulated.channel.send({ kind: "list", backend: "emulated" });
    await until("it ends", () => emulated.ends.length > 0);
    expect(emulated.replies).toEqual([]);
    const { report: _, ...request } = await remoteOptions();
    const both = serve();
    both.channel.send({ kind: "list", backend: "cuda-substituted", library: "/nowhere/libcuda.so.1" });
    both.channel.send({ kind: "open", request });
    await until("it ends", () => both.ends.length > 0);
    expect(both.replies.map(({ kind }) => kind)).not.toContain("opened");
  });

  it("ends with its channel", async () => {
    const { channel, ends, close } = await open();
    channel.close();
    await until("it ends", () => ends.length > 0);
    await close();
  });

  it("lets go of an abort, a chunk or a broken stream that nobody waits for any more", async () => {
    const { channel, replies, close } = await open();
    channel.send({ kind: "abort", id: 7 });
    channel.send({ kind: "chunk", streamId: 7, bytes: new Uint8Array(1) });
    channel.send({ kind: "broken", streamId: 7 });
    channel.send({ kind: "ping", id: 8 });
    await until("it answers", () => replies.length > 1);
    expect(replies.slice(1)).toEqual([{ kind: "pong", id: 8 }]);
    await close();
  });

  it("[VR-MEM-07] says nothing that could be a pointer", async () => {
    const { channel, replies, close } = await open();
    const { path } = await randomFile(3 * MIB);
    const ask = async (id: number, method: string, ...args: readonly unknown[]): Promise<unknown> => {
      channel.send(call(id, method, ...args));
      const isAnswer = (reply: Reply): boolean => "id" in reply && reply.id === id && reply.kind !== "progress";
      await until(`${method} is answered`, () => replies.some(isAnswer));
      const reply = replies.find(isAnswer);
      expect(reply?.kind, JSON.stringify(reply)).toBe("result");
      return reply?.kind === "result" ? reply.value : undefined;
    };
    const { sourceId } = (await ask(1, "openSource", { kind: "path", path }, {})) as { sourceId: number };
    const allocationId = await ask(2, "allocate", 3 * MIB);
    await ask(3, "upload", { sourceId, allocationId, witness: true, sha256: true });
    await ask(4, "facts", allocationId);
    await ask(5, "measure", allocationId, undefined);
    await ask(6, "health");
    await ask(7, "evidence", new Uint8Array(32));
    await ask(8, "free", allocationId);
    const seen: unknown[] = [];
    const walk = (value: unknown): void => {
      if (typeof value === "object" && value !== null && !(value instanceof Uint8Array)) {
        for (const part of Object.values(value)) walk(part);
      } else seen.push(value);
    };
    walk(replies);
    expect(seen.filter((value) => typeof value === "bigint")).toEqual([]);
    // Addresses of the emulated device, and of user space on Linux, lie above these numbers.
    expect(seen.filter((value) => typeof value === "number" && value > 2 ** 40)).toEqual([]);
    await close();
  });
});
