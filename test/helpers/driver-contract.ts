/**
 * The contract of the border: what the journey relies on, shown on any `CudaDriver` — the emulated one, the native one
 * over the fake libcuda, the native one over a GPU. It holds only what all three promise; what the emulated driver
 * reports beyond hardware (its lints) has tests of its own, and what only hardware can say is in
 * test/device/hardware-answers.json. One file per subject: devices here, then driver-contract-memory, -mapping, -work,
 * -kernel and -fatal.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { DEVICE_ATTRIBUTE, type DeviceAttribute } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { reportCount } from "./counts.ts";
import { type Bench, openBench, type Subject } from "./driver-bench.ts";
import { fatalContract } from "./driver-contract-fatal.ts";
import { kernelContract } from "./driver-contract-kernel.ts";
import { mappingContract } from "./driver-contract-mapping.ts";
import { memoryContract } from "./driver-contract-memory.ts";
import { workContract } from "./driver-contract-work.ts";
import { statusOf, thrownBy } from "./emulated.ts";
import { type Deviations, type HardwareAnswers, type Observer, openObserver } from "./hardware-answers.ts";

/** What is known of a backend before it is asked. */
export interface Terms {
  readonly hardware: HardwareAnswers;
  /** Whether it stands in for hardware. */
  readonly standIn: boolean;
  readonly deviations: Deviations;
  /** Exported fds are the operating system's, not made up. */
  readonly realFds: boolean;
  /** A lost context can be had again in this process. On a GPU it cannot: driver-contract-fatal.ts goes elsewhere. */
  readonly fatalInProcess: boolean;
  /** By how much free memory may be off: a driver keeps tables of its own, and others may use the GPU. */
  readonly slackBytes: number;
  /** An event is never complete when it is asked for at once: what waits is shown to wait. */
  readonly eventsAreLate: boolean;
}

/** What the parts of the contract are given. */
export interface Scope {
  readonly bench: () => Bench;
  readonly terms: Terms;
  readonly observer: Observer;
  /** Expects that free memory is `bytes`, within the slack. */
  readonly expectFree: (bytes: number) => void;
}

const UUID = /^(GPU|MIG|EMU)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const SUFFICIENT: readonly DeviceAttribute[] = [
  "unifiedAddressing",
  "virtualMemoryManagement",
  "posixFileDescriptorHandles",
];

function deviceContract({ bench }: Scope): void {
  test("[VR-DEV-04] every device has a UUID of its own, always the same, in the form of its backend", () => {
    const { device, backend } = bench().driver;
    const ask = (): string[] => Array.from({ length: device.count() }, (_, index) => device.uuid(device.get(index)));
    const uuids = ask();
    expect(uuids.length).toBeGreaterThanOrEqual(1);
    for (const uuid of uuids) {
      expect(uuid).toMatch(UUID);
      expect(uuid.startsWith("EMU-")).toBe(backend === "emulated");
    }
    expect(new Set(uuids).size).toBe(uuids.length);
    expect(ask()).toEqual(uuids);
  });

  test("[VR-DEV-04] ordinals are positions among the devices: any other is INVALID_DEVICE", () => {
    const { device } = bench().driver;
    for (const ordinal of [device.count(), -1, 2 ** 31 - 1]) {
      const error = thrownBy(() => device.get(ordinal));
      expect(error, String(ordinal)).toBeInstanceOf(VramError);
      expect(error, String(ordinal)).toMatchObject({ code: "CUDA_FAILED", fatal: false, details: { status: 101 } });
    }
  });

  test("names are short printable text, and say so where the device is emulated", () => {
    const { device, backend } = bench().driver;
    const name = device.name(bench().cuDevice);
    expect(name).toMatch(/^[\x21-\x7e][\x20-\x7e]{2,254}$/);
    expect(/emulated/i.test(name)).toBe(backend === "emulated");
  });

  test("the driver's version is CUDA's number for it", () => {
    const { version } = bench().driver;
    expect(version).toBeGreaterThanOrEqual(11040);
    expect(version % 10).toBe(0);
  });

  test("every attribute is a number, and what the journey stands on is there", () => {
    const { device } = bench().driver;
    const { cuDevice } = bench();
    for (const attribute of Object.keys(DEVICE_ATTRIBUTE) as DeviceAttribute[]) {
      expect(Number.isInteger(device.attribute(cuDevice, attribute)), attribute).toBe(true);
    }
    for (const attribute of SUFFICIENT) expect(device.attribute(cuDevice, attribute), attribute).toBe(1);
    expect(device.attribute(cuDevice, "integrated")).toBe(0);
  });

  test("a device that is not there is no device for any question, and no harm is done", () => {
    const { device, context, memory } = bench().driver;
    const nobody = device.count();
    const questions = [
      () => device.name(nobody),
      () => device.uuid(nobody),
      () => device.totalMemory(nobody),
      () => device.attribute(nobody, "integrated"),
      () => context.retainPrimary(nobody),
      () => memory.granularity(nobody),
      () => memory.create(bench().granule, nobody),
    ];
    for (const ask of questions) expect(thrownBy(ask)).toMatchObject({ code: "CUDA_FAILED", fatal: false });
    expect(device.name(bench().cuDevice).length).toBeGreaterThan(0);
  });
}

function contextContract({ bench }: Scope): void {
  test("memory figures are whole bytes: free within total, total within the device", () => {
    const { context, device } = bench().driver;
    const { bytesFree, bytesTotal } = context.memoryInfo();
    expect([bytesFree, bytesTotal].every(Number.isSafeInteger)).toBe(true);
    expect(bytesFree).toBeGreaterThan(0);
    expect(bytesFree).toBeLessThanOrEqual(bytesTotal);
    expect(bytesTotal).toBeLessThanOrEqual(device.totalMemory(bench().cuDevice));
  });

  test("[VR-DEV-05] with no context current, what needs one is INVALID_CONTEXT, which is harmless", () => {
    const { context, stream, event, module, memory } = bench().driver;
    const { cuPointer } = bench().allocate();
    context.setCurrent(0n);
    const calls = [
      () => context.memoryInfo(),
      () => stream.create(),
      () => event.create(),
      () => module.load(bench().image),
      () => memory.allocatePinned(4096),
      () => memory.pointerAttribute(cuPointer, "memoryType"),
    ];
    expect(calls.map((call) => statusOf(call))).toEqual(calls.map(() => STATUS.INVALID_CONTEXT));
    context.setCurrent(bench().cuContext);
    expect(context.memoryInfo().bytesTotal).toBeGreaterThan(0);
  });

  test("a device has one primary context: whoever retains it again gets the same, and releases it alone", () => {
    const { context } = bench().driver;
    const { cuDevice, cuContext } = bench();
    expect([context.retainPrimary(cuDevice), context.retainPrimary(cuDevice)]).toEqual([cuContext, cuContext]);
    context.releasePrimary(cuDevice);
    context.releasePrimary(cuDevice);
    context.setCurrent(cuContext);
    expect(context.memoryInfo().bytesTotal).toBeGreaterThan(0);
  });
}

/** Registers the contract for one backend. `open` is called once, and once more for each fatal case. */
export function describeDriver(name: string, open: () => Subject, terms: Terms): void {
  const observer = openObserver(name, terms.hardware, terms);
  let bench: Bench | undefined;
  let bytesFree = 0;
  const scope: Scope = {
    bench: () => {
      if (bench === undefined) throw new Error("the driver was not opened");
      return bench;
    },
    terms,
    observer,
    expectFree: (bytes) => {
      expect(Math.abs(scope.bench().bytesFree() - bytes)).toBeLessThanOrEqual(terms.slackBytes);
    },
  };

  describe(`the border as ${name} keeps it`, () => {
    beforeAll(() => {
      bench = openBench(open());
      bytesFree = bench.bytesFree();
    });
    afterEach(() => {
      scope.bench().clear();
      scope.expectFree(bytesFree);
    });
    afterAll(() => bench?.close());

    describe("devices", () => deviceContract(scope));
    describe("contexts", () => contextContract(scope));
    describe("memory", () => memoryContract(scope));
    describe("mappings", () => mappingContract(scope));
    describe("streams, events and copies", () => workContract(scope));
    describe("modules and the hashing kernel", () => kernelContract(scope));
  });
  if (terms.fatalInProcess) describe(`what ${name} does not survive`, () => fatalContract(open, observer));
  afterAll(() => reportCount(observer.report()));
}
