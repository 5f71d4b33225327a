/**
 * What koffi and the wrappers over it have to get right, and the contract of the border cannot say: what is refused
 * before it reaches C, what reaches it unharmed, which words a status becomes, what must not be collected.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { CudaDriver, Launch } from "../../src/cuda/driver.ts";
import { openNativeDriver } from "../../src/cuda/native/driver.ts";
import { readKernelImage } from "../../src/cuda/native/kernel-image.ts";
import { isFatalStatus, STATUS, type StatusName } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { thrownBy } from "../helpers/emulated.ts";
import { configureFakeCuda, fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { openFake } from "../helpers/fake-cuda-calls.ts";

const fake = fakeCuda();
const library = fake?.library ?? "";
const folder = mkdtempSync(join(tmpdir(), "vram-native-"));
const log = join(folder, "calls.txt");

/** A native driver over the fake; its first device's context is current. */
function open(settings: Readonly<Record<string, string | number>> = {}): CudaDriver {
  configureFakeCuda({ LOG: log, ...settings });
  const driver = openNativeDriver(library);
  driver.context.setCurrent(driver.context.retainPrimary(driver.device.get(0)));
  return driver;
}

/** The lines of the log since `task` began: what reached C. */
function callsOf(task: () => void): string[] {
  appendFileSync(log, "");
  const before = readFileSync(log, "utf8").length;
  task();
  return readFileSync(log, "utf8").slice(before).trim().split("\n").filter(Boolean);
}

afterEach(() => {
  if (fake !== undefined) openFake(library).end();
  configureFakeCuda();
});
afterAll(() => rmSync(folder, { recursive: true }));

const OVER_64 = [2n ** 64n, -1n, -(2n ** 63n), 2n ** 200n];
const NO_SIZE = [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, -(2 ** 53)];
const NO_INT = [2 ** 31, -(2 ** 31) - 1, 0.5, Number.NaN];
const NO_U32 = [2 ** 32, -1, 0.5, Number.NaN];
const LAUNCH: Launch = { gridX: 1, blockX: 1, parameters: [] };

type Act = (driver: CudaDriver, bad: never) => unknown;
const rows = (values: readonly unknown[], acts: Readonly<Record<string, Act>>) =>
  Object.entries(acts).map(([call, act]) => ({ call, act, values }));

const REFUSED = [
  ...rows(OVER_64, {
    "context.setCurrent": ({ context }, bad) => context.setCurrent(bad),
    "memory.release": ({ memory }, bad) => memory.release(bad),
    "memory.retainHandle": ({ memory }, bad) => memory.retainHandle(bad),
    "memory.properties": ({ memory }, bad) => memory.properties(bad),
    "memory.exportFd": ({ memory }, bad) => memory.exportFd(bad),
    "memory.freeAddress": ({ memory }, bad) => memory.freeAddress(bad, 4096),
    "memory.map (address)": ({ memory }, bad) => memory.map(bad, 4096, 1n),
    "memory.map (handle)": ({ memory }, bad) => memory.map(1n, 4096, bad),
    "memory.unmap": ({ memory }, bad) => memory.unmap(bad, 4096),
    "memory.setAccess": ({ memory }, bad) => memory.setAccess(bad, 4096, 0, "read"),
    "memory.getAccess": ({ memory }, bad) => memory.getAccess(bad, 0),
    "memory.pointerAttribute": ({ memory }, bad) => memory.pointerAttribute(bad, "memoryType"),
    "memory.freePinned": ({ memory }, bad) => memory.freePinned(bad),
    "stream.destroy": ({ stream }, bad) => stream.destroy(bad),
    "stream.copyToDevice (stream)": ({ stream }, bad) => stream.copyToDevice(bad, 1n, 1n, 1),
    "stream.copyToDevice (to)": ({ stream }, bad) => stream.copyToDevice(1n, bad, 1n, 1),
    "stream.copyToHost (from)": ({ stream }, bad) => stream.copyToHost(1n, 1n, bad, 1),
    "stream.fill": ({ stream }, bad) => stream.fill(1n, bad, 0, 1),
    "stream.launch (function)": ({ stream }, bad) => stream.launch(1n, bad, LAUNCH),
    "stream.launch (parameter)": ({ stream }, bad) =>
      stream.launch(1n, 1n, { ...LAUNCH, parameters: [{ kind: "u64", value: bad }] }),
    "event.destroy": ({ event }, bad) => event.destroy(bad),
    "event.record": ({ event }, bad) => event.record(1n, bad),
    "event.query": ({ event }, bad) => event.query(bad),
    "module.unload": ({ module }, bad) => module.unload(bad),
    "module.getFunction": ({ module }, bad) => module.getFunction(bad, "x"),
  }),
  ...rows(NO_SIZE, {
    "memory.create": ({ memory }, bad) => memory.create(bad, 0),
    "memory.reserveAddress": ({ memory }, bad) => memory.reserveAddress(bad),
    "memory.freeAddress (size)": ({ memory }, bad) => memory.freeAddress(1n, bad),
    "memory.map (size)": ({ memory }, bad) => memory.map(1n, bad, 1n),
    "memory.unmap (size)": ({ memory }, bad) => memory.unmap(1n, bad),
    "memory.setAccess (size)": ({ memory }, bad) => memory.setAccess(1n, bad, 0, "read"),
    "stream.copyToDevice (size)": ({ stream }, bad) => stream.copyToDevice(1n, 1n, 1n, bad),
    "stream.copyToHost (size)": ({ stream }, bad) => stream.copyToHost(1n, 1n, 1n, bad),
    "stream.fill (size)": ({ stream }, bad) => stream.fill(1n, 1n, 0, bad),
  }),
  ...rows([...NO_SIZE, 0, 2 ** 30 + 1], {
    "memory.allocatePinned": ({ memory }, bad) => memory.allocatePinned(bad),
  }),
  ...rows(NO_INT, {
    "device.get": ({ device }, bad) => device.get(bad),
    "device.name": ({ device }, bad) => device.name(bad),
    "device.uuid": ({ device }, bad) => device.uuid(bad),
    "device.totalMemory": ({ device }, bad) => device.totalMemory(bad),
    "device.attribute": ({ device }, bad) => device.attribute(bad, "integrated"),
    "context.retainPrimary": ({ context }, bad) => context.retainPrimary(bad),
    "context.releasePrimary": ({ context }, bad) => context.releasePrimary(bad),
    "memory.granularity": ({ memory }, bad) => memory.granularity(bad),
    "memory.create (device)": ({ memory }, bad) => memory.create(4096, bad),
    "memory.setAccess (device)": ({ memory }, bad) => memory.setAccess(1n, 4096, bad, "read"),
    "memory.getAccess (device)": ({ memory }, bad) => memory.getAccess(1n, bad),
  }),
  ...rows(NO_U32, {
    "stream.launch (grid)": ({ stream }, bad) => stream.launch(1n, 1n, { ...LAUNCH, gridX: bad }),
    "stream.launch (block)": ({ stream }, bad) => stream.launch(1n, 1n, { ...LAUNCH, blockX: bad }),
    "stream.launch (u32 parameter)": ({ stream }, bad) =>
      stream.launch(1n, 1n, { ...LAUNCH, parameters: [{ kind: "u32", value: bad }] }),
  }),
  ...rows([256, -1, 0.5, Number.NaN, 2 ** 32], {
    "stream.fill (value)": ({ stream }, bad) => stream.fill(1n, 1n, bad, 1),
  }),
];

describe.skipIf(fake === undefined)(`arguments${whyNoFakeCuda()}`, () => {
  let driver: CudaDriver;
  beforeAll(() => {
    driver = open();
  });

  test.each(REFUSED)(
    "[VR-MEM-02] $call: what does not fit its C type is refused before C sees it",
    ({ act, values }) => {
      for (const bad of values) {
        const calls = callsOf(() => {
          const error = thrownBy(() => act(driver, bad as never));
          expect(error, String(bad)).toBeInstanceOf(VramError);
          expect((error as VramError).code, String(bad)).toMatch(/^(INVALID_ARGUMENT|INTERNAL)$/);
        });
        expect(calls, String(bad)).toEqual([]);
      }
    },
  );

  test("a kernel takes at most 16 parameters", () => {
    const parameters = Array.from({ length: 17 }, () => ({ kind: "u32", value: 1 }) as const);
    const calls = callsOf(() => {
      expect(thrownBy(() => driver.stream.launch(1n, 1n, { ...LAUNCH, parameters }))).toMatchObject({
        code: "INTERNAL",
      });
    });
    expect(calls).toEqual([]);
  });

  test("sizes and numbers of 64 bits reach C as they are", () => {
    const own = open({ DROP_LAUNCHES: 1 });
    const most = Number.MAX_SAFE_INTEGER;
    expect(callsOf(() => thrownBy(() => own.memory.create(most, 0)))).toEqual([`cuMemCreate ${most}`]);
    const cuFunction = own.module.getFunction(own.module.load(readKernelImage()), "vram_hash_blocks");
    for (const blocks of [0n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
      const parameters = [
        { kind: "u64", value: 0n },
        { kind: "u32", value: 2 ** 32 - 1 },
        { kind: "u64", value: blocks },
        { kind: "u64", value: 0n },
        { kind: "u32", value: 1 },
      ] as const;
      const calls = callsOf(() => own.stream.launch(0n, cuFunction, { gridX: 1, blockX: 1, parameters }));
      expect(calls).toEqual([`cuLaunchKernel ${blocks}`]);
    }
    // An unknown handle with the highest bit set is refused by the library, not by us.
    expect(thrownBy(() => own.memory.release(2n ** 64n - 1n))).toMatchObject({ details: { status: 1 } });
  });
});

/** What an answer of the driver becomes: by the words of `status.ts`. */
function codeOf(status: number): string {
  if (status === STATUS.OUT_OF_MEMORY) return "OUT_OF_VRAM";
  if ([STATUS.ECC_UNCORRECTABLE, STATUS.NVLINK_UNCORRECTABLE, STATUS.CONTAINED].some((code) => code === status)) {
    return "VRAM_UNREADABLE";
  }
  return isFatalStatus(status) ? "DEVICE_LOST" : "CUDA_FAILED";
}

describe.skipIf(fake === undefined)(`answers${whyNoFakeCuda()}`, () => {
  const failures = (Object.entries(STATUS) as [StatusName, number][]).filter(([name]) => name !== "SUCCESS");

  test.each([...failures, ["CUDA status", 555] as const])(
    "[VR-DEV-05] %s (%d) becomes an error that names the C function",
    (name, status) => {
      const driver = open({ FAULTS: `cuMemGetInfo_v2:1:${status}` });
      const error = thrownBy(() => driver.context.memoryInfo());
      expect(error).toBeInstanceOf(VramError);
      expect(error).toMatchObject({
        code: codeOf(status),
        fatal: isFatalStatus(status),
        message: `cuMemGetInfo_v2: ${name} (${status})`,
        details: { call: "cuMemGetInfo_v2", status },
      });
      if (!isFatalStatus(status)) expect(driver.context.memoryInfo().bytesTotal).toBe(2 ** 30);
    },
  );

  test("what the compiler of the driver wrote stands in the error", () => {
    const driver = open();
    const image = Buffer.from(".version 6.3\n.target sm_75\nthis is no instruction\n");
    expect(thrownBy(() => driver.module.load(image))).toMatchObject({
      code: "CUDA_FAILED",
      message: "cuModuleLoadDataEx: INVALID_PTX (218): fake: the image was refused",
      details: { call: "cuModuleLoadDataEx", status: 218, jitLog: "fake: the image was refused" },
    });
    expect(thrownBy(() => driver.module.load(new Uint8Array(0)))).toMatchObject({ details: { status: 218 } });
  });

  test("a driver that does not tell its version, or does not start, is not used", () => {
    for (const [FAULTS, text] of [
      ["cuDriverGetVersion:1:999", "cuDriverGetVersion: UNKNOWN (999)"],
      ["cuInit:1:803", "different versions: cuInit: SYSTEM_DRIVER_MISMATCH (803)"],
      ["cuInit:1:34,cuDriverGetVersion:1:34", "stub, not a driver: cuInit: STUB_LIBRARY (34)"],
    ] as const) {
      // Calls are counted from one cuInit to the next.
      openFake(library).end();
      configureFakeCuda({ FAULTS });
      const error = thrownBy(() => openNativeDriver(library));
      expect(error, FAULTS).toMatchObject({ code: "DEVICE_UNUSABLE" });
      expect((error as VramError).message).toContain(text);
    }
  });

  test("a library that is none, or not there, or too old is refused with what to do", () => {
    const text = join(folder, "text.so");
    writeFileSync(text, "no library\n");
    for (const [path, words, DRIVER_VERSION] of [
      [text, "text.so", 13000],
      ["/nowhere/libcuda.so.1", "/nowhere/libcuda.so.1", 13000],
      [fake?.old ?? "", "cuMemCreate", 11040],
      [library, "it supports CUDA 11.3, and 11.4 is needed", 11030],
    ] as const) {
      configureFakeCuda({ DRIVER_VERSION });
      const error = thrownBy(() => openNativeDriver(path));
      expect(error, path).toMatchObject({ code: "DEVICE_UNUSABLE" });
      expect((error as VramError).message, path).toContain(words);
      expect((error as VramError).fix.length, path).toBeGreaterThan(20);
    }
  });
});

describe.skipIf(fake === undefined)(`page-locked memory${whyNoFakeCuda()}`, () => {
  /** Of a driver that nobody holds any more: whether the memory is still there after a full collection. */
  async function survives(leave: (driver: CudaDriver, cuPointer: bigint) => void): Promise<boolean> {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const watch = (): WeakRef<ArrayBufferLike> => {
      const driver = open({ FAULTS: "cuMemHostUnregister:1:1" });
      const { cuPointer, bytes } = driver.memory.allocatePinned(4096);
      leave(driver, cuPointer);
      return new WeakRef(bytes.buffer);
    };
    const memory = watch();
    // A reference that was looked at lives until the end of the turn.
    for (let turn = 0; turn < 10; turn += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      collect();
    }
    return memory.deref() !== undefined;
  }

  test("what the device may still write to is kept, though the driver object is gone", async () => {
    expect(await survives(() => undefined), "never freed, as after a stall").toBe(true);
    expect(await survives(({ memory }, at) => void thrownBy(() => memory.freePinned(at))), "refused").toBe(true);
  });

  test("what was freed is let go", async () => {
    const free = ({ memory }: CudaDriver, at: bigint): void => {
      thrownBy(() => memory.freePinned(at));
      memory.freePinned(at);
    };
    expect(await survives(free)).toBe(false);
  });
});
