/** Emulated memory that other processes may map: what they read, what they may not do, and what is left of it. */
import { randomUUID } from "node:crypto";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeSync,
} from "node:fs";
import * as fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { heapStore } from "../../src/cuda/emulated/backing.ts";
import { openPhysicalMemory, type PhysicalMemory } from "../../src/cuda/emulated/physical.ts";
import { openShareable } from "../../src/cuda/emulated/shareable.ts";
import { MEMFD_SEALS, mapShared, sealsOf } from "../../src/ffi/memory.ts";
import { HASH_BYTES } from "../../src/hash/geometry.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { device, GRANULE, MIB, openMachine } from "../helpers/emulated.ts";

/** Nobody else has memory of this device. */
const UUID = `EMU-${randomUUID()}`;
const GIB = 1024 * MIB;
const PAGE = 4096;
/** New every time, and in the test's title: put it here to repeat a failure. */
const SEED = Date.now() % 2 ** 31;

/** Which mapping from now on fails; none while it is 0. */
const fails = vi.hoisted(() => ({ after: 0 }));
vi.mock("../../src/ffi/memory.ts", async (load) => {
  const real = await load<typeof import("../../src/ffi/memory.ts")>();
  return {
    ...real,
    mapShared: (...args: Parameters<typeof real.mapShared>) => {
      fails.after -= 1;
      if (fails.after === 0) throw new Error("no room for a mapping");
      return real.mapShared(...args);
    },
  };
});

const descriptors: number[] = [];
const memories: PhysicalMemory[] = [];
afterEach(() => {
  for (const fd of descriptors.splice(0)) closeSync(fd);
  for (const memory of memories.splice(0)) memory.drop();
  expect([mappings(), descriptorsOf()]).toEqual([0, 0]);
});

const mappings = (): number =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes(UUID)).length;

function descriptorsOf(): number {
  const links = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return "";
    }
  });
  return links.filter((link) => link.includes(UUID)).length;
}

function open(byteLength: number, seed = 1): PhysicalMemory {
  const memory = openPhysicalMemory(byteLength, seed, openShareable(UUID, byteLength));
  memories.push(memory);
  return memory;
}

function exported(memory: PhysicalMemory): number {
  const fd = memory.exportFd() ?? expect.fail("it has no descriptor");
  descriptors.push(fd);
  return fd;
}

function throughFd(fd: number, offset: number, byteLength: number): Buffer {
  const bytes = Buffer.alloc(byteLength);
  for (let at = 0; at < byteLength; ) at += readSync(fd, bytes, at, byteLength - at, offset + at);
  return bytes;
}

function readOf(memory: PhysicalMemory, offset = 0, byteLength = memory.byteLength): Buffer {
  const bytes = Buffer.alloc(byteLength);
  memory.read(offset, bytes);
  return bytes;
}

const expectSame = (actual: Uint8Array, expected: Uint8Array): void => {
  if (!Buffer.from(actual).equals(expected)) throw new Error("bytes differ");
};

describe("what is read through a descriptor", () => {
  test("is what is read here: zeros, dirt, pages in part, and what was given back", () => {
    const memory = open(7 * GRANULE);
    // The first is written as a whole, the second in part, the third is zero, the fourth was written and zeroed, the
    // fifth zero and written in part, the sixth never touched, the seventh zeroed and written again.
    memory.write(0, Buffer.alloc(GRANULE, 0x11));
    memory.write(GRANULE + 5, Buffer.from("in part"));
    memory.fill(2 * GRANULE, 0, GRANULE);
    memory.write(3 * GRANULE, Buffer.alloc(GRANULE, 0x33));
    memory.fill(3 * GRANULE, 0, 2 * GRANULE);
    memory.write(4 * GRANULE + 3 * PAGE + 1, Buffer.from("alone"));
    for (const value of [0x66, 0, 0x67]) memory.write(6 * GRANULE, Buffer.alloc(GRANULE, value));
    const before = readOf(memory);
    const fd = exported(memory);
    expectSame(readOf(memory), before);
    expectSame(throughFd(fd, 0, memory.byteLength), before);
    expect(before.subarray(5 * GRANULE, 6 * GRANULE).includes(0)).toBe(false);
    expect(before.subarray(GRANULE + 12, 2 * GRANULE).includes(0)).toBe(false);
    expect(before.subarray(3 * GRANULE, 4 * GRANULE).every((byte) => byte === 0)).toBe(true);
  });

  test("takes up no room where it is zero, and lies in its place beyond the first mapping", () => {
    const memory = open(GIB + 2 * GRANULE);
    memory.fill(0, 0, memory.byteLength);
    memory.write(GIB - 3, Buffer.from("border"));
    const fd = exported(memory);
    expectSame(throughFd(fd, GIB - 5, 10), Buffer.from("\0\0border\0\0"));
    expect(memory.storedBytes()).toBe(2 * GRANULE);
    expect(mappings()).toBe(2);
    expectSame(throughFd(fd, GIB + GRANULE, GRANULE), Buffer.alloc(GRANULE));
  });

  test("follows what is written, filled and zeroed afterwards", () => {
    const memory = open(3 * GRANULE);
    memory.write(0, Buffer.alloc(3 * GRANULE, 0x77));
    const fd = exported(memory);
    memory.write(GRANULE + 9, Uint8Array.of(0x77 ^ 4));
    expect(throughFd(fd, GRANULE + 8, 3)).toEqual(Buffer.from([0x77, 0x73, 0x77]));
    memory.fill(GRANULE, 0, GRANULE);
    expectSame(throughFd(fd, 0, 3 * GRANULE), readOf(memory));
    expect(readOf(memory, GRANULE, GRANULE).every((byte) => byte === 0)).toBe(true);
    memory.write(GRANULE + 1, Buffer.from("again"));
    for (const value of [0, 0x79]) memory.write(2 * GRANULE, Buffer.alloc(GRANULE, value));
    expectSame(throughFd(fd, 0, 3 * GRANULE), readOf(memory));
    expectSame(throughFd(exported(memory), 0, 3 * GRANULE), readOf(memory));
  });

  test("memory that cannot be shared has no descriptor, and nothing of the system's", () => {
    const memory = openPhysicalMemory(GRANULE, 1, heapStore);
    expect(memory.exportFd()).toBeUndefined();
    const machine = openMachine();
    expect(machine.driver.memory.exportFd(machine.allocate(GRANULE).cuHandle)).toBeGreaterThanOrEqual(1_000_000);
  });
});

describe("whoever has a descriptor", () => {
  test("neither writes, nor maps it writable, nor changes its size, however it opens it", () => {
    const memory = open(GRANULE);
    const fd = exported(memory);
    descriptors.push(openSync(`/proc/self/fd/${fd}`, "r+"));
    const [, again = -1] = descriptors;
    expect(sealsOf(fd)).toBe(MEMFD_SEALS);
    for (const one of [fd, again]) {
      expect(() => writeSync(one, Buffer.from("x"), 0, 1, 0)).toThrow(/EPERM/);
      expect(() => mapShared(one, 0, PAGE)).toThrow(/EPERM/);
      for (const size of [0, 2 * GRANULE]) expect(() => ftruncateSync(one, size)).toThrow(/EPERM/);
    }
    memory.fill(0, 0x5a, GRANULE);
    expect(throughFd(again, GRANULE - 1, 1)[0]).toBe(0x5a);
  });

  test("keeps the memory when it is freed: its bytes as they were, and nothing of it here", () => {
    const memory = open(2 * GRANULE);
    memory.write(0, Buffer.alloc(2 * GRANULE, 0x42));
    const fd = exported(memory);
    const [segment] = memory.segments(0, GRANULE);
    for (const gone of memories.splice(0)) gone.drop();
    expect([mappings(), descriptorsOf()]).toEqual([0, 1]);
    expect(throughFd(fd, 0, 2 * GRANULE).every((byte) => byte === 0x42)).toBe(true);
    // A view that somebody kept shows nothing any more.
    expect(segment?.bytes?.[0]).toBe(0);
  });

  test("has memory of a name that says whose it is and how much, and is never given again", () => {
    const names = Array.from({ length: 3 }, () => {
      const link = readlinkSync(`/proc/self/fd/${exported(open(2 * GRANULE))}`);
      for (const memory of memories.splice(0)) memory.drop();
      return link;
    });
    for (const name of names) {
      expect(name).toMatch(
        new RegExp(`^/memfd:vram-residency:${UUID}:[0-9a-f]{16}:\\d+:${2 * GRANULE} \\(deleted\\)$`),
      );
    }
    expect(new Set(names).size).toBe(3);
  });
});

test("memory that cannot be mapped as a whole is not there at all", () => {
  fails.after = 2;
  expect(() => openShareable(UUID, GIB + GRANULE)).toThrow("no room for a mapping");
  expect([mappings(), descriptorsOf()]).toEqual([0, 0]);
  expect(() => openShareable(UUID.repeat(5), GRANULE)).toThrow(/the name of memory/);
  const machine = openMachine({ devices: [{ ...device(), uuid: UUID, shareable: openShareable }] });
  const { bytesFree } = machine.driver.context.memoryInfo();
  fails.after = 1;
  expect(() => machine.driver.memory.create(GRANULE, 0)).toThrow("no room for a mapping");
  expect(machine.driver.context.memoryInfo().bytesFree).toBe(bytesFree);
  expect(machine.driver.emulation.allocations()).toEqual([]);
});

describe("hashing", () => {
  const THREAD = new URL("../../dist/hash/pool-thread.js", import.meta.url);
  const crews = [["the calling thread", 0] as const, ...(existsSync(THREAD) ? [["threads", 2] as const] : [])];
  if (crews.length === 1) console.log("skipped: hashing threads, dist is not built (npm run build)");

  test.each(crews)(
    "on %s gives the digests of any other memory, before and after it is exported",
    async (_, threads) => {
      const both = [open(3 * GRANULE, 7), openPhysicalMemory(3 * GRANULE, 7)];
      for (const memory of both) {
        memory.fill(0, 0, GRANULE);
        memory.write(100, Buffer.from("here"));
        memory.write(GRANULE - 10, Buffer.alloc(GRANULE + 5000, 0xc3));
      }
      const pool = openHashPool(threads, THREAD, 0);
      const digests = async (memory: PhysicalMemory): Promise<string> => {
        const out = new Uint8Array(new SharedArrayBuffer((3 * GRANULE * HASH_BYTES) / PAGE));
        const tasks = [...memory.segments(0, 3 * GRANULE)].map(({ bytes }, index) => ({
          data: bytes ?? new Uint8Array(new SharedArrayBuffer(GRANULE)),
          out: out.subarray((index * GRANULE * HASH_BYTES) / PAGE, ((index + 1) * GRANULE * HASH_BYTES) / PAGE),
        }));
        await pool.hash(tasks);
        return Buffer.from(out).toString("hex");
      };
      const [shared, heap] = await Promise.all(both.map(digests));
      expect(shared).toBe(heap);
      exported(both[0] ?? expect.fail());
      expect(await digests(both[0] ?? expect.fail())).toBe(heap);
      await pool.close();
    },
  );
});

/** What is done to both kinds of memory. Lengths crowd around granules and pages. */
const SPAN = 3 * GRANULE;
const offset = fc.oneof(
  fc.integer({ min: 0, max: SPAN - 1 }),
  fc.integer({ min: 0, max: 2 }).map((granule) => granule * GRANULE),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 100 }),
  fc.constantFrom(PAGE, GRANULE - 1, GRANULE, 2 * GRANULE, SPAN),
);
interface Step {
  readonly act: "write" | "fill" | "read" | "export";
  readonly offset: number;
  readonly length: number;
  readonly value: number;
}
const step: fc.Arbitrary<Step> = fc.record({
  act: fc.constantFrom<Step["act"]>("write", "write", "fill", "read", "export"),
  offset,
  length,
  value: fc.constantFrom(0, 0, 0x5a),
});

test(`what can be shared is as what cannot, whatever is done to it (seed ${SEED})`, () => {
  const play = (steps: readonly Step[]): void => {
    const [shared, heap] = [open(SPAN, 3), openPhysicalMemory(SPAN, 3)];
    let fd: number | undefined;
    for (const { act, offset: at, length: wanted, value } of steps) {
      const byteLength = Math.min(wanted, SPAN - at);
      if (act === "export") fd ??= exported(shared);
      else if (act === "read") expectSame(readOf(shared, at, byteLength), readOf(heap, at, byteLength));
      else
        for (const memory of [shared, heap]) {
          if (act === "write") memory.write(at, Buffer.alloc(byteLength, value));
          else memory.fill(at, value, byteLength);
        }
      if (fd !== undefined) expectSame(throughFd(fd, 0, SPAN), readOf(heap));
    }
    expectSame(readOf(shared), readOf(heap));
    expectSame(throughFd(exported(shared), 0, SPAN), readOf(heap));
    for (const one of descriptors.splice(0)) closeSync(one);
    for (const memory of memories.splice(0)) memory.drop();
    heap.drop();
  };
  fc.assert(fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), play), { seed: SEED, numRuns: 30 });
});
