/** The fault plan: what tests make go wrong, at exactly the point they name. */
import { describe, expect, test } from "vitest";
import { createFaultPlan, type OperationKind } from "../../src/cuda/emulated/faults.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { GRANULE, letItRun, type Machine, openMachine, statusOf, statusWhen, turnsUntil } from "../helpers/emulated.ts";

const { OUT_OF_MEMORY, UNKNOWN, ECC_UNCORRECTABLE, LAUNCH_FAILED } = STATUS;

function planned() {
  const faults = createFaultPlan();
  const machine = openMachine({ faults });
  faults.reset();
  return { faults, machine, driver: machine.driver };
}

describe("calls", () => {
  test("the nth call of a name fails, once, without effect", () => {
    const { faults, driver } = planned();
    faults.failCall("memory.create", 2, OUT_OF_MEMORY);
    driver.memory.create(GRANULE, 0);
    expect(statusOf(() => driver.memory.create(GRANULE, 0))).toBe(OUT_OF_MEMORY);
    expect(driver.emulation.allocations()).toHaveLength(1);
    driver.memory.create(GRANULE, 0);
    expect(faults.fired()).toBe(1);
    expect(faults.calls()).toEqual(["memory.create", "memory.create", "memory.create"]);
  });

  test("for good: that call and each one after it", () => {
    const { faults, driver } = planned();
    faults.failCall("device.count", 2, UNKNOWN, { forGood: true });
    expect(driver.device.count()).toBe(1);
    for (let turn = 0; turn < 3; turn += 1) expect(statusOf(() => driver.device.count())).toBe(UNKNOWN);
    expect(faults.fired()).toBe(3);
    driver.device.name(0);
  });

  test("the nth of any; polling is neither counted nor logged, but fails by name", () => {
    const { faults, driver } = planned();
    const cuEvent = driver.event.create();
    faults.failCall("*", 3, UNKNOWN);
    for (let turn = 0; turn < 10; turn += 1) driver.event.query(cuEvent);
    driver.device.count();
    expect(statusOf(() => driver.device.name(0))).toBe(UNKNOWN);
    expect(faults.calls()).toEqual(["event.create", "device.count", "device.name"]);
    faults.failCall("event.query", 11, ECC_UNCORRECTABLE);
    expect(statusOf(() => driver.event.query(cuEvent))).toBe(ECC_UNCORRECTABLE);
  });

  test("a call that fails changes nothing: none of the driver's calls, each failed in turn", async () => {
    const { faults, machine, driver } = planned();
    const mapped = machine.allocate(GRANULE);
    const before = driver.emulation.live();
    faults.reset();
    faults.failCall("*", 1, UNKNOWN, { forGood: true });
    const acts: (() => unknown)[] = [
      () => driver.context.retainPrimary(0),
      () => driver.context.releasePrimary(0),
      () => driver.memory.create(GRANULE, 0),
      () => driver.memory.release(mapped.cuHandle),
      () => driver.memory.reserveAddress(GRANULE),
      () => driver.memory.unmap(mapped.cuPointer, GRANULE),
      () => driver.memory.allocatePinned(10),
      () => driver.stream.create(),
      () => driver.stream.destroy(machine.cuStream),
      () => driver.stream.fill(machine.cuStream, mapped.cuPointer, 0, GRANULE),
      () => driver.event.create(),
      () => driver.memory.exportFd(mapped.cuHandle),
    ];
    for (const act of acts) expect(statusOf(act)).toBe(UNKNOWN);
    faults.reset();
    await letItRun();
    expect(driver.emulation.live()).toEqual(before);
    expect((await machine.download(mapped.cuPointer, 1))[0]).not.toBe(0);
  });
});

describe("execution", () => {
  type Kind = Exclude<OperationKind, "launch">;
  type Act = (machine: Machine) => { run(): void; effect(): Promise<boolean> };

  /** One operation of each kind, and whether it had its effect. */
  const acts: Record<Kind, Act> = {
    copyToDevice: (machine) => {
      const { cuPointer } = machine.allocate(GRANULE);
      const slot = machine.pinned(64);
      return {
        run: () => machine.driver.stream.copyToDevice(machine.cuStream, cuPointer, slot.cuPointer, 64),
        effect: async () => (await machine.download(cuPointer, 1))[0] === 0,
      };
    },
    copyToHost: (machine) => {
      const { cuPointer } = machine.allocate(GRANULE);
      const slot = machine.pinned(64);
      return {
        run: () => machine.driver.stream.copyToHost(machine.cuStream, slot.cuPointer, cuPointer, 64),
        effect: async () => slot.bytes[0] !== 0,
      };
    },
    fill: (machine) => {
      const { cuPointer } = machine.allocate(GRANULE);
      return {
        run: () => machine.driver.stream.fill(machine.cuStream, cuPointer, 0, 64),
        effect: async () => (await machine.download(cuPointer, 1))[0] === 0,
      };
    },
  };
  const drops = {
    copyToDevice: "dropCopyToDevice",
    copyToHost: "dropCopyToHost",
    fill: "dropFill",
  } as const;
  const kinds = ["copyToDevice", "copyToHost", "fill"] as const;

  test.each(kinds)("a dropped %s reports success and does nothing", async (kind) => {
    const { faults, machine } = planned();
    const act = acts[kind](machine);
    faults[drops[kind]](1);
    act.run();
    await machine.finish();
    expect(faults.fired()).toBe(1);
    expect(await act.effect()).toBe(false);
  });

  test("a dropped launch leaves the pattern that stood there; the next one does not", async () => {
    const { faults, machine } = planned();
    const { cuPointer } = machine.allocate(GRANULE);
    const jobs = [{ cuSource: cuPointer, byteLength: 4096, cuTarget: cuPointer + 8192n }];
    const before = await machine.download(cuPointer + 8192n, 32);
    faults.dropLaunch(1);
    await machine.hash(jobs);
    expect(await machine.download(cuPointer + 8192n, 32)).toEqual(before);
    await machine.hash(jobs);
    expect(await machine.download(cuPointer + 8192n, 32)).not.toEqual(before);
  });

  test.each(kinds)("a stalled %s completes when it is released", async (kind) => {
    const { faults, machine, driver } = planned();
    const act = acts[kind](machine);
    const cuEvent = driver.event.create();
    faults.stall(kind, 1);
    act.run();
    driver.event.record(cuEvent, machine.cuStream);
    await letItRun();
    expect(driver.event.query(cuEvent)).toBe("not-ready");
    faults.release();
    await turnsUntil(() => driver.event.query(cuEvent) === "complete");
    expect(await act.effect()).toBe(true);
  });

  test.each(["close", "release"] as const)(
    "what stalls when the driver or context goes has no effect: %s",
    async (how) => {
      const { faults, machine, driver } = planned();
      const slot = machine.pinned(64);
      const { cuPointer } = machine.allocate(GRANULE);
      faults.stall("copyToHost", 1);
      driver.stream.copyToHost(machine.cuStream, slot.cuPointer, cuPointer, 64);
      await letItRun();
      if (how === "close") await driver.close();
      else driver.context.releasePrimary(0);
      const after = Uint8Array.from(slot.bytes);
      faults.release();
      await letItRun();
      expect(Uint8Array.from(slot.bytes)).toEqual(after);
    },
  );

  test.each(kinds)("a %s that breaks fails the context", async (kind) => {
    const { faults, machine, driver } = planned();
    const act = acts[kind](machine);
    faults.breakExecution(kind, 1, LAUNCH_FAILED);
    act.run();
    expect(await statusWhen(machine.finish())).toBe(LAUNCH_FAILED);
    expect(statusOf(() => driver.context.memoryInfo())).toBe(LAUNCH_FAILED);
  });

  test("a launch that breaks fails the context, one that stalls waits", async () => {
    const { faults, machine, driver } = planned();
    const { cuPointer } = machine.allocate(GRANULE);
    const jobs = [{ cuSource: cuPointer, byteLength: 4096, cuTarget: cuPointer + 8192n }];
    faults.stall("launch", 1);
    faults.breakExecution("launch", 2, ECC_UNCORRECTABLE);
    let done = false;
    const first = machine.hash(jobs).then(() => {
      done = true;
    });
    await turnsUntil(() => faults.fired() === 1);
    await letItRun();
    expect(done).toBe(false);
    faults.release();
    await first;
    expect(await statusWhen(machine.hash(jobs))).toBe(ECC_UNCORRECTABLE);
    expect(statusOf(() => driver.context.memoryInfo())).toBe(ECC_UNCORRECTABLE);
  });
});

describe("answers", () => {
  test("any attribute lies when told to, until the plan is reset", () => {
    const { faults, machine, driver } = planned();
    const { cuHandle, cuPointer } = machine.allocate(GRANULE, "read");
    faults.overrideAttribute("integrated", 1);
    faults.overrideAttribute("memoryType", 1);
    faults.overrideAttribute("isManaged", 1n);
    faults.overrideAttribute("hostPointer", 0x1000n);
    faults.overrideAttribute("accessFlags", undefined);
    faults.overrideProperties({ locationType: 2 });
    faults.overrideProperties({ locationId: 1 });
    faults.overrideAccess(3);
    const { memory } = driver;
    expect(driver.device.attribute(0, "integrated")).toBe(1);
    expect(driver.device.attribute(0, "unifiedAddressing")).toBe(1);
    expect(memory.pointerAttribute(cuPointer, "memoryType")).toBe(1n);
    expect(memory.pointerAttribute(cuPointer, "isManaged")).toBe(1n);
    expect(memory.pointerAttribute(cuPointer, "hostPointer")).toBe(0x1000n);
    expect(memory.pointerAttribute(cuPointer, "accessFlags")).toBeUndefined();
    expect(memory.pointerAttribute(cuPointer, "deviceOrdinal")).toBe(0n);
    expect(memory.properties(cuHandle)).toEqual({ allocationType: 1, locationType: 2, locationId: 1 });
    expect(memory.getAccess(cuPointer, 0)).toBe(3);
    faults.reset();
    expect(driver.device.attribute(0, "integrated")).toBe(0);
    expect(memory.pointerAttribute(cuPointer, "memoryType")).toBe(2n);
    expect(memory.getAccess(cuPointer, 0)).toBe(1);
    expect(memory.properties(cuHandle).locationType).toBe(1);
    expect(faults.fired()).toBe(0);
  });

  test("a hook of one's own is told which operation on which device it decides about", async () => {
    const points: unknown[] = [];
    const machine = openMachine({
      faults: {
        onExecute: (point) => {
          points.push(point);
          return undefined;
        },
      },
    });
    const { cuPointer } = machine.allocate(GRANULE);
    await machine.upload(cuPointer, new Uint8Array(10));
    await machine.upload(cuPointer, new Uint8Array(10));
    await machine.download(cuPointer, 1);
    expect(points).toEqual([
      { kind: "copyToDevice", ordinal: 0, nth: 1 },
      { kind: "copyToDevice", ordinal: 0, nth: 2 },
      { kind: "copyToHost", ordinal: 0, nth: 1 },
    ]);
  });

  test("a failure of the emulator itself is not swallowed: the next call throws it", async () => {
    const machine = openMachine({
      faults: {
        onExecute: () => {
          throw new RangeError("the hook is broken");
        },
      },
    });
    machine.driver.stream.fill(machine.cuStream, machine.allocate(GRANULE).cuPointer, 0, 1);
    await letItRun();
    expect(statusOf(() => machine.driver.device.count())).toBe("RangeError");
    expect(machine.driver.device.count()).toBe(1);
  });
});
