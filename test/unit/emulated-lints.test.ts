/** What the emulated device says about mistakes that no hardware would report. */
import { describe, expect, test } from "vitest";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { EmulatorLint } from "../../src/cuda/emulated/lint.ts";
import { hashLaunch } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { GRANULE, openMachine, statusOf, statusWhen, thrownBy } from "../helpers/emulated.ts";

const LINT = "EmulatorLint";

describe("lints", () => {
  test("pinned memory after it was freed, and its bytes", () => {
    const machine = openMachine();
    const { driver, cuStream } = machine;
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(Uint8Array.of(1, 2, 3));
    driver.memory.freePinned(slot.cuPointer);
    expect([...slot.bytes]).toEqual([0xdd, 0xdd, 0xdd]);
    const error = thrownBy(() => driver.stream.copyToDevice(cuStream, cuPointer, slot.cuPointer, 1));
    expect(error).toBeInstanceOf(EmulatorLint);
    expect(String(error)).toBe("EmulatorLint: stream.copyToDevice: pinned memory that was freed");
    expect(statusOf(() => driver.stream.copyToHost(cuStream, slot.cuPointer, cuPointer, 1))).toBe(LINT);
    expect(statusOf(() => driver.memory.freePinned(slot.cuPointer))).toBe(LINT);
  });

  test("host memory that is not pinned, and more than was pinned", () => {
    const machine = openMachine();
    const { driver, cuStream } = machine;
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(100);
    expect(statusOf(() => driver.stream.copyToDevice(cuStream, cuPointer, 0x7fff_0000n, 1))).toBe(LINT);
    expect(statusOf(() => driver.stream.copyToDevice(cuStream, cuPointer, slot.cuPointer + 1n, 100))).toBe(LINT);
    expect(statusOf(() => driver.stream.copyToHost(cuStream, slot.cuPointer + 100n, cuPointer, 1))).toBe(LINT);
    expect(statusOf(() => driver.memory.freePinned(slot.cuPointer + 1n))).toBe(STATUS.INVALID_VALUE);
    expect(statusOf(() => driver.memory.freePinned(0x7fff_0000n))).toBe(STATUS.INVALID_VALUE);
    driver.memory.freePinned(slot.cuPointer);
  });

  test("[VR-MEM-02] a step beyond the bytes in use, within the last granule, through any alias", async () => {
    const machine = openMachine();
    const { driver, cuStream } = machine;
    const main = machine.allocate(GRANULE);
    const alias = machine.alias(main, "readWrite");
    const slot = machine.pinned(2000);
    driver.lint?.setExtent(main.cuPointer, 1000);
    driver.stream.fill(cuStream, alias, 0, 1000);
    expect(statusOf(() => driver.stream.fill(cuStream, alias, 0, 1001))).toBe(LINT);
    expect(statusOf(() => driver.stream.fill(cuStream, main.cuPointer + 1000n, 0, 1))).toBe(LINT);
    expect(statusOf(() => driver.stream.copyToDevice(cuStream, alias + 999n, slot.cuPointer, 2))).toBe(LINT);
    expect(statusOf(() => driver.stream.copyToHost(cuStream, slot.cuPointer, main.cuPointer, 1001))).toBe(LINT);
    await machine.finish();
  });

  test("an overrun only the kernel makes is thrown by the next call of any kind, once", async () => {
    const machine = openMachine();
    const source = machine.allocate(GRANULE);
    const target = machine.allocate(GRANULE);
    machine.driver.lint?.setExtent(target.cuPointer, 32);
    const jobs = [{ cuSource: source.cuPointer, byteLength: 8192, cuTarget: target.cuPointer }];
    expect(await statusWhen(machine.hash(jobs))).toBe(LINT);
    expect(machine.driver.emulation.pendingLint()).toBeUndefined();
    machine.driver.device.count();
  });

  test("an extent that is not one", () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(GRANULE);
    const { lint } = machine.driver;
    expect(statusOf(() => lint?.setExtent(cuPointer + 1n, 10))).toBe(LINT);
    expect(statusOf(() => lint?.setExtent(4711n, 10))).toBe(LINT);
    for (const byteLength of [0, -1, 0.5, GRANULE + 1]) {
      expect(statusOf(() => lint?.setExtent(cuPointer, byteLength))).toBe(LINT);
    }
  });

  test("handles that are gone: stream, event, module, function, allocation, address range", () => {
    const machine = openMachine();
    const { driver, cuFunction } = machine;
    const cuStream = driver.stream.create();
    const cuEvent = driver.event.create();
    const cuModule = driver.module.load(EMULATED_MODULE_IMAGE);
    const orphan = driver.module.getFunction(cuModule, "vram_hash_blocks");
    const mapped = machine.allocate(GRANULE);
    driver.stream.destroy(cuStream);
    driver.event.destroy(cuEvent);
    driver.module.unload(cuModule);
    machine.free(mapped);
    const { cuHandle, cuPointer } = mapped;
    const launch = hashLaunch(cuPointer, [], 0n);
    const acts: (() => unknown)[] = [
      () => driver.stream.fill(cuStream, 0n, 0, 1),
      () => driver.stream.destroy(cuStream),
      () => driver.stream.launch(cuStream, cuFunction, launch),
      () => driver.stream.launch(machine.cuStream, orphan, launch),
      () => driver.event.record(driver.event.create(), cuStream),
      () => driver.event.record(cuEvent, machine.cuStream),
      () => driver.event.query(cuEvent),
      () => driver.event.destroy(cuEvent),
      () => driver.module.getFunction(cuModule, "vram_hash_blocks"),
      () => driver.module.unload(cuModule),
      () => driver.memory.release(cuHandle),
      () => driver.memory.properties(cuHandle),
      () => driver.memory.exportFd(cuHandle),
      () => driver.memory.freeAddress(cuPointer, GRANULE),
      () => driver.memory.map(cuPointer, GRANULE, driver.memory.create(GRANULE, 0)),
      () => driver.memory.unmap(cuPointer, GRANULE),
    ];
    for (const act of acts) expect(statusOf(act)).toBe(LINT);
  });

  test("what enqueued work refers to can neither be freed nor unmapped, until it is done", async () => {
    const machine = openMachine();
    const { driver, cuStream } = machine;
    const mapped = machine.allocate(GRANULE);
    const room = machine.allocate(GRANULE);
    const slot = machine.pinned(64);
    driver.stream.copyToDevice(cuStream, mapped.cuPointer, slot.cuPointer, 64);
    driver.stream.launch(cuStream, machine.cuFunction, {
      ...hashLaunch(room.cuPointer, [], mapped.cuPointer),
      gridX: 1,
    });
    expect(statusOf(() => driver.memory.freePinned(slot.cuPointer))).toBe(LINT);
    expect(statusOf(() => driver.memory.unmap(mapped.cuPointer, GRANULE))).toBe(LINT);
    expect(statusOf(() => driver.memory.unmap(room.cuPointer, GRANULE))).toBe(LINT);
    await machine.finish();
    driver.memory.freePinned(slot.cuPointer);
    machine.free(mapped);
    machine.free(room);
  });
});
