/** The contract of the border, on memory: allocations, handles, fds, capacity, page-locked host memory. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { PinnedMemory } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import type { Scope } from "./driver-contract.ts";
import { statusOf, thrownBy } from "./emulated.ts";

const O_CLOEXEC = 0o2000000;
const CYCLES = 50;

/** The flags of an open file of this process, as the kernel shows them. */
function flagsOfFd(fd: number): number {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1];
  if (flags === undefined) throw new Error("fdinfo has no flags");
  return Number.parseInt(flags, 8);
}

function allocationContract({ bench, observer, expectFree }: Scope): void {
  test("[VR-MEM-02] sizes come in granules; any other is refused, not rounded", () => {
    const { granule, cuDevice, driver } = bench();
    observer.see("granuleBytes", granule);
    expect(Math.log2(granule) % 1).toBe(0);
    expect(granule).toBeGreaterThanOrEqual(65_536);
    const before = bench().bytesFree();
    for (const byteLength of [0, 1, granule - 1, granule + 1, granule + granule / 2]) {
      const status = statusOf(() => driver.memory.create(byteLength, cuDevice));
      expect(status, `${byteLength} bytes`).toBe(STATUS.INVALID_VALUE);
    }
    expectFree(before);
  });

  test("[VR-MEM-01] an allocation is pinned, on its device, as read back from its handle", () => {
    const { memory } = bench().driver;
    const { cuHandle } = bench().allocate();
    const expected = { allocationType: 1, locationType: 1, locationId: bench().cuDevice };
    expect(memory.properties(cuHandle)).toEqual(expected);
  });

  test("any address of a mapping leads back to the handle, with a reference of its own", () => {
    const { memory } = bench().driver;
    const { cuHandle, cuPointer, byteLength } = bench().allocate("read", 2);
    for (const offset of [0, 12_345, byteLength - 1]) {
      expect(memory.retainHandle(cuPointer + BigInt(offset))).toBe(cuHandle);
    }
    for (let reference = 0; reference < 3; reference += 1) memory.release(cuHandle);
    expect(memory.properties(cuHandle).locationType).toBe(1);
  });

  test("an address with nothing mapped leads to no handle, and 0 is none", () => {
    const { memory } = bench().driver;
    const cuPointer = memory.reserveAddress(bench().granule);
    expect(statusOf(() => memory.retainHandle(cuPointer))).toBe(STATUS.INVALID_VALUE);
    memory.freeAddress(cuPointer, bench().granule);
    expect(thrownBy(() => memory.release(0n))).toMatchObject({ code: "CUDA_FAILED", fatal: false });
    expect(thrownBy(() => memory.properties(0n))).toMatchObject({ code: "CUDA_FAILED", fatal: false });
  });

  test("what fresh memory holds", async () => {
    const { cuPointer } = bench().allocate("read", 2);
    const bytes = await bench().download(cuPointer, 2 * bench().granule);
    observer.see(
      "freshMemoryIsZero",
      bytes.every((byte) => byte === 0),
    );
  });
}

function fdContract({ bench, terms, expectFree }: Scope): void {
  test("an exported fd is open, the next one is another, and both can be closed", () => {
    const before = bench().bytesFree();
    const mapped = bench().allocate();
    const fds = [0, 1].map(() => bench().driver.memory.exportFd(mapped.cuHandle));
    expect(new Set(fds).size).toBe(2);
    expect(fds.every((fd) => Number.isInteger(fd) && fd > 2)).toBe(true);
    // Where fds are made up there is nothing to look at.
    if (terms.realFds) for (const fd of fds) expect(flagsOfFd(fd) & O_CLOEXEC, "FD_CLOEXEC").toBe(O_CLOEXEC);
    bench().free(mapped);
    for (const fd of fds) bench().closeFd(fd);
    expectFree(before);
    if (terms.realFds) for (const fd of fds) expect(() => flagsOfFd(fd)).toThrow("ENOENT");
  });
}

function capacityContract({ bench, expectFree }: Scope): void {
  test("[VR-MEM-04] an allocation takes its size once, however often it is mapped, until the last of it is gone", () => {
    const { memory } = bench().driver;
    const before = bench().bytesFree();
    const mapped = bench().allocate("read", 4);
    const alias = bench().alias(mapped, "readWrite");
    expectFree(before - 4 * bench().granule);
    memory.unmap(mapped.cuPointer, mapped.byteLength);
    expectFree(before - 4 * bench().granule);
    memory.map(mapped.cuPointer, mapped.byteLength, mapped.cuHandle);
    expect(memory.getAccess(alias, bench().cuDevice)).toBe(3);
    bench().free(mapped);
    expectFree(before);
  });

  test("memory lives as long as it is mapped, also when its handle was released", async () => {
    const { memory } = bench().driver;
    const before = bench().bytesFree();
    const cuHandle = memory.create(bench().granule, bench().cuDevice);
    const cuPointer = memory.reserveAddress(bench().granule);
    memory.map(cuPointer, bench().granule, cuHandle);
    memory.setAccess(cuPointer, bench().granule, bench().cuDevice, "readWrite");
    memory.release(cuHandle);
    expectFree(before - bench().granule);
    await bench().upload(cuPointer + 7n, Uint8Array.of(1, 2, 3));
    expect([...(await bench().download(cuPointer + 7n, 3))]).toEqual([1, 2, 3]);
    memory.unmap(cuPointer, bench().granule);
    memory.freeAddress(cuPointer, bench().granule);
    expectFree(before);
  });

  test("[VR-MEM-05] more than the device has is OUT_OF_VRAM, which may be tried again; nothing is taken", () => {
    const { memory, context } = bench().driver;
    const { bytesFree, bytesTotal } = context.memoryInfo();
    const { granule, cuDevice } = bench();
    const tooMuch = (Math.ceil(bytesTotal / granule) + 1) * granule;
    const error = thrownBy(() => memory.create(tooMuch, cuDevice));
    expect(error).toMatchObject({ code: "OUT_OF_VRAM", fatal: false, details: { status: STATUS.OUT_OF_MEMORY } });
    expectFree(bytesFree);
  });

  test("[VR-MEM-05] what others have left is all there is, and comes back", () => {
    const { memory } = bench().driver;
    const { granule, cuDevice } = bench();
    const before = bench().bytesFree();
    const most = Math.floor((before * 0.6) / granule) * granule;
    const first = memory.create(most, cuDevice);
    expect(thrownBy(() => memory.create(most, cuDevice))).toMatchObject({ code: "OUT_OF_VRAM" });
    memory.release(first);
    memory.release(memory.create(most, cuDevice));
    expectFree(before);
  });

  test(`[VR-MEM-04] ${CYCLES} times created, mapped, written, unmapped and released: nothing is lost`, async () => {
    const before = bench().bytesFree();
    for (let cycle = 0; cycle < CYCLES; cycle += 1) {
      const mapped = bench().allocate("readWrite", 1 + (cycle % 3));
      bench().driver.stream.fill(bench().cuStream, mapped.cuPointer, cycle, mapped.byteLength);
      await bench().finish();
      bench().free(mapped);
    }
    expectFree(before);
  });
}

function pinnedContract({ bench, observer }: Scope): void {
  test("page-locked memory is shared memory of the length asked for, writable, and nobody else's", () => {
    const sizes = [1, 4095, 4096, 4097, 1_048_579];
    const all: PinnedMemory[] = sizes.map((byteLength) => bench().pinned(byteLength));
    for (const [index, { bytes }] of all.entries()) {
      expect(bytes.buffer).toBeInstanceOf(SharedArrayBuffer);
      expect(bytes.byteLength).toBe(sizes[index]);
      bytes.fill(index + 1);
    }
    for (const [index, { bytes }] of all.entries()) expect(bytes.every((byte) => byte === index + 1)).toBe(true);
    expect(new Set(all.map(({ cuPointer }) => cuPointer)).size).toBe(sizes.length);
  });

  test("page-locked memory is freed once, and there is as much of it as before", () => {
    for (let round = 0; round < 20; round += 1) {
      const pinned = bench().driver.memory.allocatePinned(8 * 1024 * 1024 + round);
      pinned.bytes.fill(round);
      bench().driver.memory.freePinned(pinned.cuPointer);
    }
  });

  test("pointer attributes of page-locked memory", () => {
    const { memory } = bench().driver;
    const { cuPointer } = bench().pinned(10_000);
    const number = (value: bigint | undefined): number => Number(value ?? -1n);
    observer.see("pinnedMemoryType", number(memory.pointerAttribute(cuPointer + 9n, "memoryType")));
    observer.see("pinnedHostPointerIsItself", memory.pointerAttribute(cuPointer, "hostPointer") === cuPointer);
    observer.see("pinnedAccessFlags", number(memory.pointerAttribute(cuPointer, "accessFlags")));
    // What a shard is never taken for: it is no memory of the device.
    expect(memory.pointerAttribute(cuPointer, "memoryType")).not.toBe(2n);
    expect(memory.pointerAttribute(cuPointer, "isManaged")).toBe(0n);
  });
}

export function memoryContract(scope: Scope): void {
  allocationContract(scope);
  fdContract(scope);
  capacityContract(scope);
  pinnedContract(scope);
}
