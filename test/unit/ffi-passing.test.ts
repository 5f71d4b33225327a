/** Descriptors that go over a socket: what arrives, what is refused, and that none is left behind. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, readdirSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { watchReadable } from "../../src/ffi/library.ts";
import { createMemfd } from "../../src/ffi/memory.ts";
import { connectSocket, receiveWithDescriptors, sendWithDescriptor, socketPair } from "../../src/ffi/passing.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const descriptors = (): number => readdirSync("/proc/self/fd").length;
let before = 0;
let pair: readonly number[] = [];

beforeEach(() => {
  socketPair().map(closeSync);
  before = descriptors();
  pair = socketPair();
});
afterEach(() => {
  for (const fd of pair) closeSync(fd);
  expect(descriptors()).toBe(before);
});

describe("passing descriptors", () => {
  it("gives the other end one of its own, with the bytes it was sent with", () => {
    const [one = -1, other = -1] = pair;
    const fd = createMemfd("vram-test-passing", 4096);
    writeSync(fd, Buffer.from("weights"), 0, 7, 0);
    expect(receiveWithDescriptors(other)).toBeUndefined();
    expect(sendWithDescriptor(one, Buffer.from("tag"), fd)).toBe(3);
    closeSync(fd);
    const received = receiveWithDescriptors(other);
    expect(Buffer.from(received?.bytes ?? []).toString()).toBe("tag");
    expect(received?.truncated).toBe(false);
    const [got = -1, ...more] = received?.descriptors ?? [];
    expect(more).toEqual([]);
    const bytes = Buffer.alloc(7);
    readSync(got, bytes, 0, 7, 0);
    expect(bytes.toString()).toBe("weights");
    closeSync(got);
  });

  it("says when a message was longer than was asked for, and when the other end is gone", () => {
    const [one = -1, other = -1] = pair;
    sendWithDescriptor(one, Buffer.from("0123456789"));
    expect(receiveWithDescriptors(other, 4)).toMatchObject({ truncated: true, descriptors: [] });
    pair = [other];
    closeSync(one);
    expect(receiveWithDescriptors(other)?.bytes.byteLength).toBe(0);
    expect(() => sendWithDescriptor(other, Buffer.from("x"))).toThrow(/EPIPE/);
  });

  it("takes no more than the kernel does, without waiting", () => {
    const [one = -1] = pair;
    const message = new Uint8Array(60_000);
    let sent = 1;
    for (let count = 0; sent > 0 && count < 100; count += 1) sent = sendWithDescriptor(one, message);
    expect(sent).toBe(0);
  });

  it("tells a listener that something came", async () => {
    const [one = -1, other = -1] = pair;
    const came = new Promise<void>((resolve) => {
      const watch = watchReadable(other, () => {
        watch.close();
        resolve();
      });
    });
    sendWithDescriptor(one, Buffer.from("x"));
    await came;
    expect(receiveWithDescriptors(other)?.bytes).toHaveLength(1);
  });

  it("names what keeps it from connecting", () => {
    expect(() => connectSocket("/nowhere/at.all")).toThrow(/ENOENT/);
    expect(() => connectSocket("relative")).toThrow(/a path/);
  });
});

it("both ends are closed on exec", () => {
  const listed = execFileSync("ls", ["/proc/self/fd"], { encoding: "utf8" }).trim().split("\n");
  expect(listed.length).toBeLessThan(10);
});

it("a queue that is full is no reason to wait", async () => {
  const path = join(await temporaryFolder(), "full.sock");
  // Whoever accepts nothing, in a process that stands still.
  const script = `const s=require("net").createServer().listen({path:${JSON.stringify(path)},backlog:1},()=>{console.log("up");process.kill(process.pid,"SIGSTOP")})`;
  const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  const connected: number[] = [];
  try {
    await once(child.stdout, "data");
    const fill = (): void => {
      for (let count = 0; count < 100; count += 1) connected.push(connectSocket(path));
    };
    expect(fill).toThrow(expect.objectContaining({ code: "SERVICE_BUSY" }) as Error);
  } finally {
    for (const fd of connected) closeSync(fd);
    child.kill("SIGKILL");
    await once(child, "close");
  }
});
