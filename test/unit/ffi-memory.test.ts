/** Memory with a descriptor, and mappings of it: what the kernel lets whom do. */
import { closeSync, readFileSync, readSync, writeSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import { duplicate } from "../../src/ffi/descriptors.ts";
import {
  createMemfd,
  MEMFD_SEALS,
  mapPrivate,
  mapShared,
  sealMemfd,
  sealsOf,
  unmapPrivate,
  unmapShared,
} from "../../src/ffi/memory.ts";

const PAGE = 4096;
const open: number[] = [];
const NAME = "vram-test-memory";

function memfd(byteLength: number): number {
  const fd = createMemfd(NAME, byteLength);
  open.push(fd);
  return fd;
}

const readAt = (fd: number, at: number, byteLength: number): Buffer => {
  const bytes = Buffer.alloc(byteLength);
  readSync(fd, bytes, 0, byteLength, at);
  return bytes;
};
const mappings = (): number =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes(NAME)).length;

afterEach(() => {
  for (const fd of open.splice(0)) closeSync(fd);
});

describe("memory with a descriptor", () => {
  it("is zeroed, closed on exec, and as long as it was asked for", () => {
    const fd = memfd(3 * PAGE);
    expect(readAt(fd, 0, 3 * PAGE).every((byte) => byte === 0)).toBe(true);
    expect(
      Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "", 8),
    ).toSatisfy((flags: number) => (flags & 0o2000000) !== 0);
  });

  it("is written through a shared mapping that was there before it was sealed, and by nobody else", () => {
    const fd = memfd(2 * PAGE);
    const shared = new Uint8Array(mapShared(fd, 0, 2 * PAGE));
    shared.set([1, 2, 3], PAGE);
    sealMemfd(fd);
    sealMemfd(fd);
    expect(sealsOf(fd)).toBe(MEMFD_SEALS);
    shared[PAGE] = 9;
    expect([...readAt(fd, PAGE, 3)]).toEqual([9, 2, 3]);
    expect(() => writeSync(fd, Buffer.from("x"), 0, 1, 0)).toThrow(/EPERM/);
    expect(() => mapShared(fd, 0, PAGE)).toThrow(/cannot be mapped: EPERM/);
    const copy = duplicate(fd);
    open.push(copy);
    expect(() => writeSync(copy, Buffer.from("x"), 0, 1, 0)).toThrow(/EPERM/);
    unmapShared(shared.buffer);
    expect(mappings()).toBe(0);
    expect(shared[PAGE]).toBe(0);
  });

  it("is not changed through a private mapping, which is empty when it is taken away", () => {
    const fd = memfd(2 * PAGE);
    writeSync(fd, Buffer.from("sealed"), 0, 6, PAGE);
    sealMemfd(fd);
    const view = new Uint8Array(mapPrivate(fd, PAGE, PAGE));
    expect(Buffer.from(view.subarray(0, 6)).toString()).toBe("sealed");
    view[0] = 0x53;
    expect(readAt(fd, PAGE, 6).toString()).toBe("sealed");
    const { buffer } = view;
    unmapPrivate(buffer);
    unmapPrivate(buffer);
    expect([view.length, view[0], mappings()]).toEqual([0, undefined, 0]);
  });

  it("refuses what is no memory, and a size that none has", () => {
    expect(() => createMemfd(NAME, 0)).toThrow(/byteLength/);
    expect(() => mapShared(-1, 0, PAGE)).toThrow(/cannot be mapped: EBADF/);
    expect(() => sealsOf(0)).toThrow(/no memory that can be sealed|INVALID/);
    expect(() => duplicate(-1)).toThrow(/EBADF/);
  });
});
