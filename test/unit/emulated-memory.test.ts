/** Emulated memory: allocations, mappings, capacity, and what fresh memory looks like. */
import { describe, expect, test } from "vitest";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import type { Tenant } from "../../src/cuda/monitor.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { device, GRANULE, type Machine, MIB, openMachine, statusOf } from "../helpers/emulated.ts";

const bytesFree = (machine: Machine): number => machine.driver.context.memoryInfo().bytesFree;
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.from(a).equals(b);
const allEqual = (bytes: Uint8Array, value: number): boolean => bytes.every((byte) => byte === value);

describe("allocations", () => {
  test("[VR-MEM-01] every allocation is of pinned type in device memory, as read back from its mapping", () => {
    const { driver, ...machine } = openMachine();
    const { cuPointer, cuHandle } = machine.allocate(GRANULE);
    const again = driver.memory.retainHandle(cuPointer + 12345n);
    expect(again).toBe(cuHandle);
    expect(driver.memory.properties(again)).toEqual({ allocationType: 1, locationType: 1, locationId: 0 });
    expect(driver.memory.pointerAttribute(cuPointer, "memoryType")).toBe(2n);
    expect(driver.memory.pointerAttribute(cuPointer, "isManaged")).toBe(0n);
    expect(driver.memory.pointerAttribute(cuPointer, "hostPointer")).toBeUndefined();
  });

  test.each([0, -GRANULE, 1, GRANULE - 1, GRANULE + 1, 1.5 * GRANULE, Number.NaN, 2 ** 60])(
    "[VR-MEM-02] a size of %d bytes is refused, not rounded",
    (byteLength) => {
      const { driver } = openMachine();
      expect(statusOf(() => driver.memory.create(byteLength, 0))).toBe(STATUS.INVALID_VALUE);
      expect(statusOf(() => driver.memory.reserveAddress(byteLength))).toBe(STATUS.INVALID_VALUE);
      expect(driver.emulation.live()).toEqual({ contexts: 1, streams: 1, modules: 1 });
    },
  );

  test("an unknown device, handle or address is a status, not a lint", () => {
    const { driver } = openMachine();
    expect(statusOf(() => driver.memory.create(GRANULE, 1))).toBe(STATUS.INVALID_DEVICE);
    expect(statusOf(() => driver.memory.granularity(7))).toBe(STATUS.INVALID_DEVICE);
    expect(driver.memory.granularity(0)).toBe(GRANULE);
    expect(statusOf(() => driver.memory.release(4711n))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.properties(0n))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.freeAddress(4711n, GRANULE))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.retainHandle(4711n))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.getAccess(4711n, 0))).toBe(STATUS.INVALID_VALUE);
    expect(driver.memory.pointerAttribute(4711n, "memoryType")).toBeUndefined();
  });

  test("memory comes back when the last handle, mapping and exported fd are gone, in any order", () => {
    const machine = openMachine();
    const { memory, emulation } = machine.driver;
    const before = bytesFree(machine);
    const { cuHandle, cuPointer } = machine.allocate(2 * GRANULE);
    const fds = [memory.exportFd(cuHandle), memory.exportFd(cuHandle)] as const;
    expect(fds[0]).toBeGreaterThanOrEqual(1_000_000);
    expect(fds[1]).not.toBe(fds[0]);
    memory.release(cuHandle);
    expect(bytesFree(machine)).toBe(before - 2 * GRANULE);
    expect(memory.retainHandle(cuPointer)).toBe(cuHandle);
    memory.unmap(cuPointer, 2 * GRANULE);
    memory.release(cuHandle);
    emulation.closeExportedFd(fds[0]);
    expect(bytesFree(machine)).toBe(before - 2 * GRANULE);
    emulation.closeExportedFd(fds[1]);
    expect(bytesFree(machine)).toBe(before);
    memory.freeAddress(cuPointer, 2 * GRANULE);
    expect(emulation.live()).toEqual({ contexts: 1, streams: 1, modules: 1 });
    expect(statusOf(() => emulation.closeExportedFd(fds[1]))).toBe("EmulatorLint");
  });

  test("addresses and handles are never issued twice", () => {
    const machine = openMachine();
    const seen = new Set<bigint>();
    for (let round = 0; round < 20; round += 1) {
      const mapped = machine.allocate(GRANULE);
      seen.add(mapped.cuPointer).add(mapped.cuHandle);
      machine.free(mapped);
    }
    expect(seen.size).toBe(40);
    for (const value of seen) expect(value).toBeGreaterThan(BigInt(Number.MAX_SAFE_INTEGER));
  });
});

describe("capacity", () => {
  test("a device is filled to the last granule; one more is refused and nothing changes", () => {
    const machine = openMachine({ devices: [device(0, 4 * GRANULE)] });
    const first = machine.driver.memory.create(3 * GRANULE, 0);
    expect(statusOf(() => machine.driver.memory.create(2 * GRANULE, 0))).toBe(STATUS.OUT_OF_MEMORY);
    expect(bytesFree(machine)).toBe(GRANULE);
    machine.driver.memory.create(GRANULE, 0);
    expect(bytesFree(machine)).toBe(0);
    machine.driver.memory.release(first);
    expect(machine.driver.context.memoryInfo()).toEqual({ bytesFree: 3 * GRANULE, bytesTotal: 4 * GRANULE });
  });

  test("other tenants hold capacity, and come and go", () => {
    const tenants: Tenant[] = [{ pid: 42, name: "python", byteLength: 40 * MIB }];
    const machine = openMachine({ devices: [{ ...device(0, 64 * MIB), tenants }] });
    expect(bytesFree(machine)).toBe(24 * MIB);
    expect(statusOf(() => machine.driver.memory.create(26 * MIB, 0))).toBe(STATUS.OUT_OF_MEMORY);
    machine.driver.memory.create(24 * MIB, 0);
    tenants.push({ pid: 43, name: "other", byteLength: 10 * MIB });
    expect(bytesFree(machine)).toBe(0);
    tenants.length = 0;
    expect(bytesFree(machine)).toBe(40 * MIB);
  });

  test("devices have capacities of their own", () => {
    const machine = openMachine({ devices: [device(0, 8 * MIB), device(1, 4 * MIB)] });
    machine.driver.memory.create(4 * MIB, 1);
    expect(statusOf(() => machine.driver.memory.create(GRANULE, 1))).toBe(STATUS.OUT_OF_MEMORY);
    expect(bytesFree(machine)).toBe(8 * MIB);
    expect(machine.driver.emulation.allocations()).toEqual([{ allocation: 1, ordinal: 1, byteLength: 4 * MIB }]);
  });

  test("10,000 allocations and 100,000s of granules keep every call quick", () => {
    const machine = openMachine({ devices: [device(0, 2 ** 42)] });
    const started = performance.now();
    const mapped = Array.from({ length: 10_000 }, () => machine.allocate(40 * GRANULE));
    for (const { cuPointer } of mapped) {
      if (machine.driver.memory.getAccess(cuPointer + 4096n, 0) !== 3) throw new Error("another mapping answered");
    }
    for (const one of mapped) machine.free(one);
    // Linear scans would take 10,000 × 10,000 steps three times over: minutes.
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(machine.driver.emulation.live()).toEqual({ contexts: 1, streams: 1, modules: 1 });
  });
});

describe("mappings", () => {
  test("only a whole allocation maps, at the start of a reservation, once", () => {
    const { driver } = openMachine();
    const { memory } = driver;
    const cuHandle = memory.create(2 * GRANULE, 0);
    const cuPointer = memory.reserveAddress(4 * GRANULE);
    expect(statusOf(() => memory.map(cuPointer, GRANULE, cuHandle))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => memory.map(cuPointer, 4 * GRANULE, cuHandle))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => memory.map(cuPointer + BigInt(GRANULE), 2 * GRANULE, cuHandle))).toBe(STATUS.INVALID_VALUE);
    const small = memory.reserveAddress(GRANULE);
    expect(statusOf(() => memory.map(small, 2 * GRANULE, cuHandle))).toBe(STATUS.INVALID_VALUE);
    memory.map(cuPointer, 2 * GRANULE, cuHandle);
    expect(statusOf(() => memory.map(cuPointer, 2 * GRANULE, cuHandle))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => memory.unmap(cuPointer, 4 * GRANULE))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => memory.setAccess(cuPointer, GRANULE, 0, "read"))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => memory.setAccess(cuPointer, 2 * GRANULE, 1, "read"))).toBe(STATUS.INVALID_DEVICE);
    expect(memory.pointerAttribute(cuPointer + 3n * BigInt(GRANULE), "memoryType")).toBeUndefined();
  });

  test("a range with a live mapping, or of another length, is not freed", () => {
    const { driver, ...machine } = openMachine();
    const { cuPointer } = machine.allocate(2 * GRANULE);
    expect(statusOf(() => driver.memory.freeAddress(cuPointer, 2 * GRANULE))).toBe(STATUS.INVALID_VALUE);
    driver.memory.unmap(cuPointer, 2 * GRANULE);
    expect(statusOf(() => driver.memory.freeAddress(cuPointer, GRANULE))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.unmap(cuPointer, 2 * GRANULE))).toBe(STATUS.INVALID_VALUE);
    driver.memory.freeAddress(cuPointer, 2 * GRANULE);
  });

  test("a mapping is born without access; each alias and each device has its own", () => {
    const { driver, ...machine } = openMachine({ devices: [device(0), device(1)] });
    const main = machine.allocate(GRANULE, "read");
    const alias = machine.alias(main, "readWrite");
    const fresh = driver.memory.reserveAddress(GRANULE);
    driver.memory.map(fresh, GRANULE, main.cuHandle);
    expect(driver.memory.getAccess(fresh, 0)).toBe(0);
    expect(driver.memory.getAccess(main.cuPointer, 0)).toBe(1);
    expect(driver.memory.getAccess(alias + 100n, 0)).toBe(3);
    expect(driver.memory.getAccess(alias, 1)).toBe(0);
    driver.memory.setAccess(main.cuPointer, GRANULE, 0, "none");
    expect(driver.memory.getAccess(main.cuPointer, 0)).toBe(0);
    expect(driver.memory.getAccess(alias, 0)).toBe(3);
  });

  test("pointer attributes describe the mapping, and pinned memory as the host's", () => {
    const { driver, ...machine } = openMachine({ devices: [device(0), device(1)] });
    const { cuPointer } = machine.allocate(2 * GRANULE, "read");
    const inside = cuPointer + 77n;
    expect(driver.memory.pointerAttribute(inside, "deviceOrdinal")).toBe(0n);
    expect(driver.memory.pointerAttribute(inside, "rangeStart")).toBe(cuPointer);
    expect(driver.memory.pointerAttribute(inside, "rangeSize")).toBe(BigInt(2 * GRANULE));
    expect(driver.memory.pointerAttribute(inside, "accessFlags")).toBe(1n);
    const slot = machine.pinned(100);
    expect(driver.memory.pointerAttribute(slot.cuPointer, "memoryType")).toBe(1n);
    expect(driver.memory.pointerAttribute(slot.cuPointer, "hostPointer")).toBe(slot.cuPointer);
    expect(driver.memory.pointerAttribute(slot.cuPointer, "accessFlags")).toBe(3n);
    const reserved = driver.memory.reserveAddress(GRANULE);
    expect(driver.memory.pointerAttribute(reserved, "memoryType")).toBeUndefined();
  });

  test("what is written through one alias is read through the other", async () => {
    const machine = openMachine();
    const main = machine.allocate(GRANULE, "read");
    const alias = machine.alias(main, "readWrite");
    await machine.upload(alias + 1000n, Uint8Array.of(1, 2, 3));
    expect(await machine.download(main.cuPointer + 1000n, 3)).toEqual(Uint8Array.of(1, 2, 3));
  });

  test("VMM calls need no context", () => {
    const driver = openEmulatedDriver({ devices: [device()], pool: openHashPool(0) });
    const cuHandle = driver.memory.create(GRANULE, 0);
    const cuPointer = driver.memory.reserveAddress(GRANULE);
    driver.memory.map(cuPointer, GRANULE, cuHandle);
    driver.memory.setAccess(cuPointer, GRANULE, 0, "readWrite");
    expect(driver.memory.getAccess(cuPointer, 0)).toBe(3);
    expect(driver.memory.retainHandle(cuPointer)).toBe(cuHandle);
    expect(driver.memory.properties(cuHandle).locationType).toBe(1);
    driver.memory.unmap(cuPointer, GRANULE);
    driver.memory.freeAddress(cuPointer, GRANULE);
    driver.memory.release(cuHandle);
    driver.memory.release(cuHandle);
    expect(driver.emulation.live()).toEqual({});
  });
});

describe("contents", () => {
  test("fresh memory is dirty, differs between granules and allocations, and takes no storage", async () => {
    const machine = openMachine();
    const first = machine.allocate(2 * GRANULE);
    const second = machine.allocate(GRANULE);
    const pages = [
      await machine.download(first.cuPointer, 4096),
      await machine.download(first.cuPointer + BigInt(GRANULE), 4096),
      await machine.download(second.cuPointer, 4096),
    ];
    for (const page of pages) expect(page.includes(0)).toBe(false);
    expect(new Set(pages.map((page) => Buffer.from(page).toString("hex"))).size).toBe(3);
    expect(machine.driver.emulation.storedBytes()).toBe(0);
    expect(await machine.download(first.cuPointer, 4096)).toEqual(pages[0]);
  });

  test("dirt reads the same whole and in pieces, and survives a write beside it", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(2 * GRANULE);
    const whole = await machine.download(cuPointer, 2 * GRANULE);
    const from = GRANULE - 1001;
    expect(same(await machine.download(cuPointer + BigInt(from), 3003), whole.subarray(from, from + 3003))).toBe(true);
    await machine.upload(cuPointer + 5n, Uint8Array.of(0));
    whole[5] = 0;
    expect(same(await machine.download(cuPointer, 2 * GRANULE), whole)).toBe(true);
    expect(machine.driver.emulation.storedBytes()).toBe(GRANULE);
  });

  test("zero granules take no storage, however they became zero", async () => {
    const machine = openMachine();
    const { driver } = machine;
    const { cuPointer } = machine.allocate(4 * GRANULE);
    await machine.upload(cuPointer, new Uint8Array(4 * GRANULE).fill(7));
    expect(driver.emulation.storedBytes()).toBe(4 * GRANULE);
    driver.stream.fill(machine.cuStream, cuPointer, 0, GRANULE);
    await machine.upload(cuPointer + BigInt(GRANULE), new Uint8Array(GRANULE));
    expect(driver.emulation.storedBytes()).toBe(2 * GRANULE);
    driver.stream.fill(machine.cuStream, cuPointer + 10n, 0, 1000);
    await machine.upload(cuPointer + 10n, new Uint8Array(1000));
    expect(driver.emulation.storedBytes()).toBe(2 * GRANULE);
    expect(allEqual(await machine.download(cuPointer, 2 * GRANULE), 0)).toBe(true);
    await machine.upload(cuPointer + 10n, Uint8Array.of(9));
    expect(driver.emulation.storedBytes()).toBe(3 * GRANULE);
    const page = await machine.download(cuPointer, 20);
    expect([...page]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test("a partial fill keeps what is beside it, a whole one stores its value", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(2 * GRANULE);
    const before = await machine.download(cuPointer, 100);
    machine.driver.stream.fill(machine.cuStream, cuPointer + 10n, 0, 5);
    machine.driver.stream.fill(machine.cuStream, cuPointer + BigInt(GRANULE), 0xab, GRANULE);
    await machine.finish();
    before.fill(0, 10, 15);
    expect(await machine.download(cuPointer, 100)).toEqual(before);
    expect(allEqual(await machine.download(cuPointer + BigInt(GRANULE), GRANULE), 0xab)).toBe(true);
  });

  test("memory of an allocation is not the same once it was freed and allocated again", async () => {
    const machine = openMachine({ devices: [device(0, GRANULE)] });
    const secret = new Uint8Array(4096).fill(0x5a);
    const first = machine.allocate(GRANULE);
    await machine.upload(first.cuPointer, secret);
    machine.free(first);
    const second = machine.allocate(GRANULE);
    const bytes = await machine.download(second.cuPointer, 4096);
    expect(bytes.includes(0)).toBe(false);
    expect(bytes).not.toEqual(secret);
  });
});
