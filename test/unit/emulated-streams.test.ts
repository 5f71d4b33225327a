/** Emulated streams, events, contexts and modules: order, lateness, ownership. */
import { describe, expect, test } from "vitest";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { HASH_KERNEL, hashLaunch } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { device, GRANULE, letItRun, MIB, openMachine, statusOf, turnsUntil } from "../helpers/emulated.ts";

const seven = new Uint8Array(64).fill(7);
const eight = new Uint8Array(64).fill(8);

describe("streams", () => {
  test("work has its effect when it executes: a slot that is filled again too early corrupts what is copied", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(seven);
    machine.driver.stream.copyToDevice(machine.cuStream, cuPointer, slot.cuPointer, 64);
    slot.bytes.set(eight);
    await machine.finish();
    expect(await machine.download(cuPointer, 64)).toEqual(eight);
  });

  test("a slot that waits for its event does not", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(seven);
    machine.driver.stream.copyToDevice(machine.cuStream, cuPointer, slot.cuPointer, 64);
    await machine.finish();
    slot.bytes.set(eight);
    expect(await machine.download(cuPointer, 64)).toEqual(seven);
  });

  test("nothing executes inside the call, and a stream keeps its order", async () => {
    const machine = openMachine();
    const { stream } = machine.driver;
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(4);
    for (const value of [1, 2, 3]) {
      stream.fill(machine.cuStream, cuPointer, value, 1);
      stream.copyToHost(machine.cuStream, slot.cuPointer + BigInt(value), cuPointer, 1);
    }
    expect([...slot.bytes]).toEqual([0, 0, 0, 0]);
    await machine.finish();
    expect([...slot.bytes]).toEqual([0, 1, 2, 3]);
  });

  test("streams interleave", async () => {
    const machine = openMachine();
    const { stream } = machine.driver;
    const other = stream.create();
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(20);
    for (let at = 0n; at < 10n; at += 1n) {
      stream.fill(machine.cuStream, cuPointer, Number(at) + 1, 1);
      stream.copyToHost(other, slot.cuPointer + at, cuPointer, 1);
    }
    await machine.finish(other);
    await machine.finish();
    const seen = new Set(slot.bytes.subarray(0, 10));
    // One at a time would have shown the last value only, or never one of them.
    expect(seen.size).toBeGreaterThan(3);
  });

  test("a stream that is destroyed lets its work finish", async () => {
    const machine = openMachine();
    const { stream, event } = machine.driver;
    const doomed = stream.create();
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(seven);
    const cuEvent = event.create();
    stream.copyToDevice(doomed, cuPointer, slot.cuPointer, 64);
    event.record(cuEvent, doomed);
    stream.destroy(doomed);
    expect(event.query(cuEvent)).toBe("not-ready");
    await turnsUntil(() => event.query(cuEvent) === "complete");
    expect(await machine.download(cuPointer, 64)).toEqual(seven);
    const idle = stream.create();
    stream.destroy(idle);
    expect(statusOf(() => stream.destroy(idle))).toBe("EmulatorLint");
  });

  test.each([0, -1, 1.5, Number.NaN])("[VR-MEM-02] a length of %d is refused by every transfer", (byteLength) => {
    const machine = openMachine();
    const { stream } = machine.driver;
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(64);
    const to = (): void => stream.copyToDevice(machine.cuStream, cuPointer, slot.cuPointer, byteLength);
    const back = (): void => stream.copyToHost(machine.cuStream, slot.cuPointer, cuPointer, byteLength);
    const fill = (): void => stream.fill(machine.cuStream, cuPointer, 0, byteLength);
    for (const act of [to, back, fill]) expect(statusOf(act)).toBe(STATUS.INVALID_VALUE);
  });

  test("a fill takes a byte, a launch a grid that exists", () => {
    const machine = openMachine();
    const { stream } = machine.driver;
    const { cuPointer } = machine.allocate(GRANULE);
    for (const value of [-1, 256, 0.5]) {
      expect(statusOf(() => stream.fill(machine.cuStream, cuPointer, value, 1))).toBe(STATUS.INVALID_VALUE);
    }
    const launch = hashLaunch(cuPointer, [], 0n);
    for (const wrong of [{ gridX: 0 }, { gridX: 2 ** 31 }, { gridX: 1, blockX: 0 }, { gridX: 1, blockX: 1025 }]) {
      const act = (): void => stream.launch(machine.cuStream, machine.cuFunction, { ...launch, ...wrong });
      expect(statusOf(act)).toBe(STATUS.INVALID_VALUE);
    }
    expect(statusOf(() => machine.driver.memory.allocatePinned(0))).toBe(STATUS.INVALID_VALUE);
  });
});

describe("events", () => {
  test("an event that was never recorded is complete", () => {
    const { driver } = openMachine();
    expect(driver.event.query(driver.event.create())).toBe("complete");
  });

  test("a record captures the newest point: what was recorded before no longer counts", async () => {
    const machine = openMachine();
    const { stream, event } = machine.driver;
    const other = stream.create();
    const { cuPointer } = machine.allocate(GRANULE);
    const cuEvent = event.create();
    event.record(cuEvent, machine.cuStream);
    for (let turn = 0; turn < 20; turn += 1) stream.fill(other, cuPointer, 1, 1);
    event.record(cuEvent, other);
    await letItRun(5);
    expect(event.query(cuEvent)).toBe("not-ready");
    await turnsUntil(() => event.query(cuEvent) === "complete");
    event.record(cuEvent, other);
    expect(event.query(cuEvent)).toBe("not-ready");
    await turnsUntil(() => event.query(cuEvent) === "complete");
  });

  test("a query needs no context, and an event may go before it completes", async () => {
    const machine = openMachine();
    const { event, context } = machine.driver;
    const cuEvent = event.create();
    const doomed = event.create();
    event.record(doomed, machine.cuStream);
    event.record(cuEvent, machine.cuStream);
    event.destroy(doomed);
    context.setCurrent(0n);
    await turnsUntil(() => event.query(cuEvent) === "complete");
  });
});

describe("contexts", () => {
  test("calls that need a context answer 201 when none is current", () => {
    const machine = openMachine();
    const { cuStream, cuFunction } = machine;
    const { driver } = machine;
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(64);
    const cuEvent = driver.event.create();
    const cuModule = driver.module.load(EMULATED_MODULE_IMAGE);
    driver.context.setCurrent(0n);
    const acts: (() => unknown)[] = [
      () => driver.context.memoryInfo(),
      () => driver.memory.pointerAttribute(cuPointer, "memoryType"),
      () => driver.memory.allocatePinned(64),
      () => driver.memory.freePinned(slot.cuPointer),
      () => driver.stream.create(),
      () => driver.stream.destroy(cuStream),
      () => driver.stream.copyToDevice(cuStream, cuPointer, slot.cuPointer, 64),
      () => driver.stream.copyToHost(cuStream, slot.cuPointer, cuPointer, 64),
      () => driver.stream.fill(cuStream, cuPointer, 0, 64),
      () => driver.stream.launch(cuStream, cuFunction, hashLaunch(cuPointer, [], 0n)),
      () => driver.event.create(),
      () => driver.event.record(cuEvent, cuStream),
      () => driver.event.destroy(cuEvent),
      () => driver.module.load(EMULATED_MODULE_IMAGE),
      () => driver.module.getFunction(cuModule, HASH_KERNEL),
      () => driver.module.unload(cuModule),
    ];
    for (const act of acts) expect(statusOf(act)).toBe(STATUS.INVALID_CONTEXT);
    driver.context.setCurrent(machine.cuContext);
    expect(driver.context.memoryInfo().bytesTotal).toBe(64 * MIB);
  });

  test("the primary context is counted, and a released one is no longer current nor can be made so", () => {
    const { driver, cuContext } = openMachine();
    expect(driver.context.retainPrimary(0)).toBe(cuContext);
    driver.context.releasePrimary(0);
    driver.context.memoryInfo();
    driver.context.releasePrimary(0);
    expect(statusOf(() => driver.context.memoryInfo())).toBe(STATUS.INVALID_CONTEXT);
    expect(statusOf(() => driver.context.setCurrent(cuContext))).toBe(STATUS.INVALID_CONTEXT);
    expect(statusOf(() => driver.context.releasePrimary(0))).toBe(STATUS.INVALID_CONTEXT);
    expect(driver.context.retainPrimary(0)).not.toBe(cuContext);
    expect(statusOf(() => driver.context.retainPrimary(5))).toBe(STATUS.INVALID_DEVICE);
  });

  test("streams, events, modules and pinned memory go with their context; allocations do not", async () => {
    const machine = openMachine();
    const { driver } = machine;
    const mapped = machine.allocate(GRANULE);
    await machine.upload(mapped.cuPointer, seven);
    const slot = machine.pinned(seven);
    const cuEvent = driver.event.create();
    driver.stream.fill(machine.cuStream, mapped.cuPointer, 1, 64);
    driver.context.releasePrimary(0);
    expect(driver.emulation.live()).toEqual({ allocations: 1, mappings: 1, reservations: 1 });
    expect(slot.bytes[0]).toBe(0xdd);
    const cuContext = driver.context.retainPrimary(0);
    driver.context.setCurrent(cuContext);
    await letItRun();
    expect(statusOf(() => driver.stream.fill(machine.cuStream, mapped.cuPointer, 0, 1))).toBe("EmulatorLint");
    expect(statusOf(() => driver.event.query(cuEvent))).toBe("EmulatorLint");
    const fresh = driver.stream.create();
    const into = machine.pinned(64);
    driver.stream.copyToHost(fresh, into.cuPointer, mapped.cuPointer, 64);
    await machine.finish(fresh);
    // The fill that was enqueued on the old context never happened.
    expect(Uint8Array.from(into.bytes)).toEqual(seven);
  });

  test("objects of one context are refused under another", () => {
    const machine = openMachine({ devices: [device(0), device(1)] });
    const { driver, cuStream, cuFunction } = machine;
    const { cuPointer } = machine.allocate(GRANULE);
    const cuEvent = driver.event.create();
    const cuModule = driver.module.load(EMULATED_MODULE_IMAGE);
    driver.context.setCurrent(driver.context.retainPrimary(1));
    const theirs = driver.stream.create();
    const launch = hashLaunch(cuPointer, [{ cuSource: cuPointer, byteLength: 1, cuTarget: cuPointer }], 0n);
    const { INVALID_CONTEXT, INVALID_HANDLE } = STATUS;
    const slot = machine.pinned(64);
    expect(statusOf(() => driver.stream.fill(cuStream, cuPointer, 0, 1))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.stream.copyToDevice(cuStream, cuPointer, slot.cuPointer, 1))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.stream.destroy(cuStream))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.event.record(cuEvent, cuStream))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.event.record(cuEvent, theirs))).toBe(INVALID_HANDLE);
    expect(statusOf(() => driver.event.destroy(cuEvent))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.stream.launch(theirs, cuFunction, launch))).toBe(INVALID_HANDLE);
    expect(statusOf(() => driver.module.getFunction(cuModule, HASH_KERNEL))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.module.unload(cuModule))).toBe(INVALID_CONTEXT);
    expect(statusOf(() => driver.stream.destroy(4711n))).toBe(INVALID_HANDLE);
    expect(driver.event.query(cuEvent)).toBe("complete");
  });
});

describe("modules and the driver", () => {
  test("only an emulated image loads, and only the hashing kernel is in it", () => {
    const { driver } = openMachine();
    const ptx = new TextEncoder().encode(".version 6.3\n.target sm_75\n");
    expect(statusOf(() => driver.module.load(ptx))).toBe(STATUS.INVALID_PTX);
    expect(statusOf(() => driver.module.load(new Uint8Array(3)))).toBe(STATUS.INVALID_PTX);
    const cuModule = driver.module.load(EMULATED_MODULE_IMAGE);
    expect(statusOf(() => driver.module.getFunction(cuModule, "vram_hash"))).toBe(STATUS.NOT_FOUND);
    driver.module.unload(cuModule);
    expect(statusOf(() => driver.module.unload(cuModule))).toBe("EmulatorLint");
  });

  test("an emulated driver says so in its backend, in names and in no compute capability", () => {
    const { driver } = openMachine();
    expect(driver.backend).toBe("emulated");
    expect(driver.version).toBe(13000);
    expect(driver.device.name(0)).toBe("Emulated GPU");
    expect(driver.device.attribute(0, "computeCapabilityMajor")).toBe(0);
    const unmarked = [{ ...device(), name: "NVIDIA H200" }];
    expect(statusOf(() => openEmulatedDriver({ devices: unmarked, pool: openHashPool(0) }))).toBeUndefined();
  });

  test("devices are told apart by UUID; the ordinal is a position", () => {
    const devices = [device(0), { ...device(1, 8 * MIB), name: "emulated, small", attributes: { integrated: 1 } }];
    const { driver } = openMachine({ devices });
    expect(driver.device.count()).toBe(2);
    expect(driver.device.uuid(driver.device.get(1))).toBe(devices[1]?.uuid);
    expect(driver.device.name(1)).toBe("emulated, small");
    expect(driver.device.totalMemory(1)).toBe(8 * MIB);
    expect(driver.device.attribute(1, "integrated")).toBe(1);
    expect(driver.device.attribute(0, "integrated")).toBe(0);
    expect(driver.device.attribute(0, "virtualMemoryManagement")).toBe(1);
    expect(statusOf(() => driver.device.get(2))).toBe(STATUS.INVALID_DEVICE);
    expect(statusOf(() => driver.device.uuid(-1))).toBe(STATUS.INVALID_DEVICE);
  });

  test("close ends all work, may be called twice, leaves the pool open, and every later call is refused", async () => {
    const pool = openHashPool(0);
    const machine = openMachine({ pool });
    const { cuPointer } = machine.allocate(GRANULE);
    const slot = machine.pinned(64);
    machine.driver.stream.copyToHost(machine.cuStream, slot.cuPointer, cuPointer, 64);
    await machine.driver.close();
    await machine.driver.close();
    await letItRun();
    expect(slot.bytes[0]).toBe(0);
    expect(statusOf(() => machine.driver.device.count())).toBe(STATUS.NOT_INITIALIZED);
    const out = new Uint8Array(new SharedArrayBuffer(32));
    await pool.hash([{ data: new Uint8Array(new SharedArrayBuffer(1)), out }]);
    expect(out.some((byte) => byte !== 0)).toBe(true);
  });
});
