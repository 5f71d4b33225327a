/**
 * Descriptors that come from the process of a device: they reach the service as its own, on neither side is one left,
 * and a process that sends another number of them, or none, is not believed.
 */
import { closeSync, fstatSync, readSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { LocalDevice } from "../../src/device/local.ts";
import { createMemfd } from "../../src/ffi/memory.ts";
import { receiveWithDescriptors, sendWithDescriptor, socketPair } from "../../src/ffi/passing.ts";
import { openDescriptorInbox, sendDescriptor } from "../../src/process/descriptors.ts";
import { openProcessDevice } from "../../src/process/open-device.ts";
import { descriptorsOf } from "../helpers/attach.ts";
import { inProcess, openProcess, openRemote, remoteOptions, SIZES } from "../helpers/remote.ts";
import { MIB } from "../helpers/vram.ts";

const readFirst = (fd: number): number => {
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, 0);
  return byte[0] ?? 0;
};

/** A device in this process behind the real channel, whose exports can be made up. */
async function open(exportMemory?: LocalDevice["exportMemory"]) {
  const made = inProcess(async (request, report) => {
    const opened = await openProcessDevice(request, report, { sizes: SIZES });
    if (exportMemory !== undefined) opened.device.exportMemory = exportMemory;
    return opened;
  });
  return { made, device: await openRemote(await remoteOptions({ start: made.start })) };
}

describe("a device in a process of its own", () => {
  it("[VR-API-05] hands over the memory of an allocation, and neither side keeps a descriptor", async () => {
    const { device } = await openProcess();
    const allocationId = await device.allocate(3 * MIB);
    const first = await device.exportMemory(allocationId);
    expect(first.byteLength).toBe(4 * MIB);
    expect(fstatSync(first.descriptor).size).toBe(4 * MIB);
    closeSync(first.descriptor);
    const before = [descriptorsOf(), descriptorsOf(device.pid)];
    for (let count = 0; count < 500; count += 1) {
      const { descriptor } = await device.exportMemory(allocationId);
      closeSync(descriptor);
    }
    const many = await Promise.all(Array.from({ length: 50 }, () => device.exportMemory(allocationId)));
    expect(new Set(many.map(({ descriptor }) => descriptor)).size).toBe(50);
    for (const { descriptor } of many) closeSync(descriptor);
    expect([descriptorsOf(), descriptorsOf(device.pid)]).toEqual(before);
    await expect(device.exportMemory(allocationId + 1)).rejects.toMatchObject({ code: "INTERNAL" });
  });

  it("each call gets its own, in whatever order they were asked for", async () => {
    const { device } = await open(async (id) => {
      const descriptor = createMemfd("vram-test-descriptors", 4096 * id);
      return { descriptor, byteLength: 4096 * id };
    });
    const ids = [await device.allocate(1), await device.allocate(1), await device.allocate(1)];
    const all = await Promise.all(ids.map((id) => device.exportMemory(id)));
    for (const { descriptor, byteLength } of all) {
      expect(fstatSync(descriptor).size).toBe(byteLength);
      expect(readFirst(descriptor)).toBe(0);
      closeSync(descriptor);
    }
  });

  it("one that cannot send it says so, and goes on", async () => {
    const { device } = await open(async () => ({ descriptor: 999_999, byteLength: 4096 }));
    const id = await device.allocate(1);
    await expect(device.exportMemory(id)).rejects.toMatchObject({ code: "INTERNAL" });
    expect((await device.memory()).bytesTotal).toBeGreaterThan(0);
  });

  it("leaves no descriptor when it ends, or never was", async () => {
    const warm = await openProcess();
    await warm.device.close();
    const before = descriptorsOf();
    const { device } = await openProcess();
    await device.allocate(1);
    await device.close();
    await expect(openProcess({ uuid: "none" })).rejects.toThrow();
    expect(descriptorsOf()).toBe(before);
  });
});

describe("the inbox of descriptors", () => {
  const message = (tag: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(tag));
    return bytes;
  };

  it.each<[string, (its: number, fd: number) => void]>([
    ["nothing", () => undefined],
    ["no descriptor", (its) => void sendWithDescriptor(its, message(7))],
    ["a message too long", (its, fd) => void sendWithDescriptor(its, Buffer.alloc(9), fd)],
    ["a message too short", (its, fd) => void sendWithDescriptor(its, Buffer.alloc(7), fd)],
    ["that of another call only", (its, fd) => void sendWithDescriptor(its, message(6), fd)],
  ])("believes nobody who sends %s, and keeps nothing", (_what, send) => {
    const [ours, its] = socketPair();
    const fd = createMemfd("vram-test-inbox", 4096);
    const before = descriptorsOf();
    const inbox = openDescriptorInbox(ours);
    send(its, fd);
    expect(() => inbox.take(7)).toThrow(/sent (no descriptor|[01] descriptors)/);
    expect(descriptorsOf()).toBe(before);
    inbox.close();
    inbox.close();
    expect(() => inbox.take(7)).toThrow(/no descriptor/);
    closeSync(its);
    closeSync(fd);
  });

  it("closes what belongs to a call that was given up", () => {
    const [ours, its] = socketPair();
    const before = descriptorsOf();
    const inbox = openDescriptorInbox(ours);
    for (const tag of [5, 6, 7]) sendDescriptor(its, tag, createMemfd("vram-test-inbox", 4096 * tag));
    const descriptor = inbox.take(7);
    expect(fstatSync(descriptor).size).toBe(7 * 4096);
    closeSync(descriptor);
    expect(descriptorsOf()).toBe(before);
    inbox.close();
    closeSync(its);
  });

  it("a sender closes what it could not send", () => {
    const [ours, its] = socketPair();
    const before = descriptorsOf();
    closeSync(ours);
    expect(() => sendDescriptor(its, 1, createMemfd("vram-test-inbox", 4096))).toThrow(/EPIPE/);
    expect(descriptorsOf()).toBe(before - 1);
    closeSync(its);
    const pair = socketPair();
    const send = (): void => {
      for (let count = 0; count < 10_000; count += 1) sendDescriptor(pair[0], count, createMemfd("vram-test", 4096));
    };
    expect(send).toThrow(/too many descriptors|EMFILE|ETOOMANYREFS/);
    expect(receiveWithDescriptors(pair[1])?.descriptors.map(closeSync)).toHaveLength(1);
    for (const one of pair) closeSync(one);
  });
});
