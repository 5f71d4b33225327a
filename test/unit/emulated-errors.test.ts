/** What the emulated device does about mistakes: faults that come late and stay. */
import { describe, expect, test } from "vitest";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { hashLaunch } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { device, GRANULE, letItRun, type Machine, openMachine, statusOf, statusWhen } from "../helpers/emulated.ts";

const LINT = "EmulatorLint";

/** Makes the context fail: a write to an address that was never mapped. */
async function poison(machine: Machine): Promise<void> {
  machine.driver.stream.fill(machine.cuStream, 0x10_0000n, 0, 1);
  expect(await statusWhen(machine.finish())).toBe(STATUS.ILLEGAL_ADDRESS);
}

describe("faults at execution are late and sticky", () => {
  const { ILLEGAL_ADDRESS } = STATUS;

  test("a write through a read-only mapping succeeds as a call and fails the context later", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(GRANULE, "read");
    machine.driver.stream.fill(machine.cuStream, cuPointer, 0, 64);
    machine.driver.context.memoryInfo();
    expect(await statusWhen(machine.finish())).toBe(ILLEGAL_ADDRESS);
    expect(statusOf(() => machine.driver.context.memoryInfo())).toBe(ILLEGAL_ADDRESS);
  });

  const scenes: Record<string, (machine: Machine) => void> = {
    "a copy into a read-only mapping": (machine) => {
      const { cuPointer } = machine.allocate(GRANULE, "read");
      machine.driver.stream.copyToDevice(machine.cuStream, cuPointer, machine.pinned(1).cuPointer, 1);
    },
    "a copy from a mapping without access": (machine) => {
      const { cuPointer } = machine.allocate(GRANULE, "none");
      machine.driver.stream.copyToHost(machine.cuStream, machine.pinned(1).cuPointer, cuPointer, 1);
    },
    "a fill of a mapping without access": (machine) => {
      machine.driver.stream.fill(machine.cuStream, machine.allocate(GRANULE, "none").cuPointer, 0, 1);
    },
    "a read of a reservation without a mapping": (machine) => {
      const cuPointer = machine.driver.memory.reserveAddress(GRANULE);
      machine.driver.stream.copyToHost(machine.cuStream, machine.pinned(1).cuPointer, cuPointer, 1);
    },
    "a range that runs past its mapping": (machine) => {
      machine.driver.stream.fill(machine.cuStream, machine.allocate(GRANULE).cuPointer + 1n, 0, GRANULE);
    },
    "a stale pointer": (machine) => {
      const mapped = machine.allocate(GRANULE);
      machine.free(mapped);
      machine.allocate(GRANULE);
      machine.driver.stream.fill(machine.cuStream, mapped.cuPointer, 0, 1);
    },
    "access that another device has": (machine) => {
      const { cuPointer } = machine.allocate(GRANULE, "none");
      machine.driver.memory.setAccess(cuPointer, GRANULE, 1, "readWrite");
      machine.driver.stream.fill(machine.cuStream, cuPointer, 0, 1);
    },
  };
  test.each(Object.keys(scenes))("%s is 700", async (name) => {
    const machine = openMachine({ devices: [device(0), device(1)] });
    scenes[name]?.(machine);
    expect(await statusWhen(machine.finish())).toBe(ILLEGAL_ADDRESS);
  });

  test("every call that needs the context then throws it, and so does the event's query; VMM calls work", async () => {
    const machine = openMachine();
    const { driver, cuStream, cuFunction, cuContext } = machine;
    const mapped = machine.allocate(GRANULE);
    const slot = machine.pinned(64);
    const cuEvent = driver.event.create();
    await poison(machine);
    const acts: (() => unknown)[] = [
      () => driver.event.query(cuEvent),
      () => driver.event.create(),
      () => driver.event.record(cuEvent, cuStream),
      () => driver.event.destroy(cuEvent),
      () => driver.stream.create(),
      () => driver.stream.destroy(cuStream),
      () => driver.stream.fill(cuStream, mapped.cuPointer, 0, 1),
      () => driver.stream.launch(cuStream, cuFunction, hashLaunch(mapped.cuPointer, [], 0n)),
      () => driver.memory.allocatePinned(64),
      () => driver.memory.freePinned(slot.cuPointer),
      () => driver.memory.pointerAttribute(mapped.cuPointer, "memoryType"),
      () => driver.context.memoryInfo(),
      () => driver.module.load(EMULATED_MODULE_IMAGE),
    ];
    for (const act of acts) expect(statusOf(act)).toBe(ILLEGAL_ADDRESS);
    driver.context.setCurrent(cuContext);
    machine.free(mapped);
  });

  test("work behind the fault never executes, also on other streams; a second fault changes nothing", async () => {
    const machine = openMachine();
    const { driver, cuStream } = machine;
    const mapped = machine.allocate(GRANULE);
    const other = driver.stream.create();
    const slot = machine.pinned(1);
    driver.stream.fill(cuStream, 0x10_0000n, 0, 1);
    for (let turn = 0; turn < 5; turn += 1) driver.stream.fill(other, mapped.cuPointer, 0, 1);
    driver.stream.copyToHost(other, slot.cuPointer, mapped.cuPointer, 1);
    driver.stream.fill(cuStream, mapped.cuPointer, 0, 1);
    await letItRun();
    expect(slot.bytes[0]).toBe(0);
    // What referred to the mapping was abandoned with the work, so it can be unmapped.
    machine.free(mapped);
  });

  test("what stalls on another stream is abandoned with the context", async () => {
    const faults = createFaultPlan();
    const machine = openMachine({ faults });
    const mapped = machine.allocate(GRANULE);
    const other = machine.driver.stream.create();
    faults.stall("fill", 1);
    machine.driver.stream.fill(other, mapped.cuPointer, 0, 1);
    await letItRun();
    expect(statusOf(() => machine.driver.memory.unmap(mapped.cuPointer, GRANULE))).toBe(LINT);
    await poison(machine);
    machine.free(mapped);
  });

  test("access is asked for the device of the stream, not of the memory", async () => {
    const machine = openMachine({ devices: [device(0), device(1)] });
    const { driver } = machine;
    const { cuPointer } = machine.allocate(GRANULE, "none");
    driver.memory.setAccess(cuPointer, GRANULE, 1, "readWrite");
    driver.context.setCurrent(driver.context.retainPrimary(1));
    const peer = driver.stream.create();
    driver.stream.fill(peer, cuPointer, 1, 1);
    await machine.finish(peer);
    driver.memory.setAccess(cuPointer, GRANULE, 0, "readWrite");
    driver.memory.setAccess(cuPointer, GRANULE, 1, "read");
    driver.stream.fill(peer, cuPointer, 1, 1);
    expect(await statusWhen(machine.finish(peer))).toBe(ILLEGAL_ADDRESS);
    driver.context.setCurrent(machine.cuContext);
    driver.context.memoryInfo();
  });

  test("the next context is fresh: allocations live, streams of the dead one do not, pinned memory came back", async () => {
    const machine = openMachine();
    const { driver } = machine;
    const mapped = machine.allocate(GRANULE);
    await machine.upload(mapped.cuPointer, Uint8Array.of(1, 2, 3));
    machine.pinned(1000);
    expect(driver.context.retainPrimary(0)).toBe(machine.cuContext);
    await poison(machine);
    driver.context.releasePrimary(0);
    // Still referenced: still dead.
    driver.context.retainPrimary(0);
    expect(statusOf(() => driver.context.memoryInfo())).toBe(ILLEGAL_ADDRESS);
    driver.context.releasePrimary(0);
    driver.context.releasePrimary(0);
    expect(driver.emulation.live()).toEqual({ allocations: 1, mappings: 1, reservations: 1 });
    driver.context.setCurrent(driver.context.retainPrimary(0));
    expect(statusOf(() => driver.stream.destroy(machine.cuStream))).toBe(LINT);
    const stream = driver.stream.create();
    const slot = machine.pinned(3);
    driver.stream.copyToHost(stream, slot.cuPointer, mapped.cuPointer, 3);
    await machine.finish(stream);
    expect([...slot.bytes]).toEqual([1, 2, 3]);
  });

  test("memory with an uncorrectable error fails its reader with 214, not its writer", async () => {
    const faults = createFaultPlan();
    const machine = openMachine({ faults });
    const good = machine.allocate(GRANULE);
    const bad = machine.allocate(GRANULE);
    faults.markUncorrectable({ allocation: 2, offset: 4096, byteLength: 32 });
    machine.driver.stream.fill(machine.cuStream, bad.cuPointer, 1, GRANULE);
    await machine.finish();
    expect(await machine.download(good.cuPointer, GRANULE)).toHaveLength(GRANULE);
    expect(await machine.download(bad.cuPointer, 4096)).toHaveLength(4096);
    expect(await machine.download(bad.cuPointer + 4128n, 64)).toHaveLength(64);
    const jobs = [{ cuSource: bad.cuPointer, byteLength: 8192, cuTarget: good.cuPointer }];
    expect(await statusWhen(machine.hash(jobs))).toBe(STATUS.ECC_UNCORRECTABLE);
    expect(statusOf(() => machine.driver.context.memoryInfo())).toBe(STATUS.ECC_UNCORRECTABLE);
  });
});
