/**
 * Driver errors in the middle of a journey, at every call that verifying makes: those that end the context, those that
 * say that memory cannot be read, and harmless ones, after which all is as before.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import type { VramError } from "../../src/errors.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { type FakeLog, fakeLog, type Native, openNative, reconfigureFake, runNative } from "../helpers/native.ts";
import { codeOf, lastDurable, MIB, randomFile } from "../helpers/vram.ts";

const SIZE = 2 * MIB + 5;
/** Calls of a verification by which a fault can surface, each with what it is called in `src/cuda/driver.ts`. */
const SYMBOLS = [
  "cuCtxSetCurrent",
  "cuMemGetAllocationPropertiesFromHandle",
  "cuPointerGetAttribute",
  "cuMemGetAccess",
  "cuMemsetD8Async",
  "cuMemcpyHtoDAsync_v2",
  "cuLaunchKernel",
  "cuMemcpyDtoHAsync_v2",
  "cuEventRecord",
  "cuEventQuery",
];
/** Without these it cannot be known whether the device is done: if they fail again when it is settled, it is a stall. */
const EVENTS = ["cuEventRecord", "cuEventQuery"];
/** Not every attribute and every time the context is made current; but every call that does or awaits work. */
const MOST = 4;

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

/** A system with a shard `m`, and how often each symbol is called by one verification of it. */
async function sealedSystem(DEVICES = 1): Promise<Native & { log: FakeLog; path: string; calls: Map<string, number> }> {
  const { path } = await randomFile(SIZE);
  const log = await fakeLog();
  const native = await openNative({ LOG: log.LOG, DEVICES });
  await native.vram.seal(path, { name: "m" });
  log.take();
  await native.vram.verify("m");
  const calls = new Map<string, number>();
  for (const { symbol } of log.take()) calls.set(symbol, (calls.get(symbol) ?? 0) + 1);
  return { ...native, log, path, calls };
}

/** Makes the `nth` call of `symbol` from now on answer `status`. */
function failNext({ log }: { log: FakeLog }, symbol: string, nth: number, status: number, DEVICES = 1): void {
  reconfigureFake({ LOG: log.LOG, DEVICES, FAULTS: `${symbol}:${log.count(symbol) + nth}:${status}` });
}

/** Makes the next two calls of `symbol` answer `status`. */
function failTwice({ log }: { log: FakeLog }, symbol: string, status: number): void {
  const fault = (nth: number): string => `${symbol}:${log.count(symbol) + nth}:${status}`;
  reconfigureFake({ LOG: log.LOG, DEVICES: 1, FAULTS: `${fault(1)},${fault(2)}` });
}

/** What must hold after a fatal error: nothing is relied on any more, nothing can be asked of the device. */
async function expectLost({ vram, entries, path }: Native & { path: string }, code: string): Promise<void> {
  expect(entries.map(({ type }) => type)).toContain("device_lost");
  expect(entries.find((entry) => entry.type === "device_lost")).toMatchObject({ code });
  expect(vram.inspect("m")).toMatchObject({ state: "lost", sealed: false });
  expect(vram.devices()[0]).toMatchObject({ state: "lost" });
  expect(await codeOf(vram.verify("m"))).toBe("SHARD_NOT_RESIDENT");
  expect(await codeOf(vram.verify("m", { maxAgeMs: 60_000 }))).toBe("SHARD_NOT_RESIDENT");
  expect(await codeOf(vram.seal(path, { name: "n" }))).toBe("DEVICE_LOST");
  expect(await codeOf(vram.capacity())).toBe("DEVICE_LOST");
  expect(await vram.evict("m")).toMatchObject({ zeroed: false, record: { state: "evicted" } });
  expect(lastDurable(entries)).toMatchObject({ type: "vram_deallocated", zeroed: false });
  expect(vram.list()).toEqual([]);
}

describe.skipIf(fakeCuda() === undefined)(`errors of the native driver while verifying${whyNoFakeCuda()}`, () => {
  it.each([
    [719, "LAUNCH_FAILED", "DEVICE_LOST"],
    [700, "ILLEGAL_ADDRESS", "DEVICE_LOST"],
    [214, "ECC_UNCORRECTABLE", "VRAM_UNREADABLE"],
    [555, "CUDA status", "DEVICE_LOST"],
  ])("[VR-VER-03] [VR-DEV-05] %d at any call ends the device: its shards are lost", async (status, word, code) => {
    let faults = 0;
    for (const symbol of SYMBOLS) {
      for (let nth = 1; nth <= MOST; nth += 1) {
        const system = await sealedSystem();
        const count = system.calls.get(symbol) ?? expect.fail(`verifying does not call ${symbol}`);
        if (nth > count) {
          await system.vram.close();
          break;
        }
        failNext(system, symbol, nth, status);
        const error = await errorOf(system.vram.verify("m"));
        const what = `${symbol}, call ${nth}: ${error.message}`;
        expect({ code: error.code, fatal: error.fatal }, what).toEqual({ code, fatal: true });
        // The call that failed is named, not the one that was to clean up after it.
        // A release makes the context current in silence; the next call then meets the same error.
        if (symbol !== "cuCtxSetCurrent") expect(error.message, what).toBe(`${symbol}: ${word} (${status})`);
        else expect(error.message, what).toMatch(new RegExp(`: ${word} \\(${status}\\)$`));
        const failed = system.entries.find((entry) => entry.type === "seal_verification_failed");
        expect(failed, what).toMatchObject({ failure: code === "DEVICE_LOST" ? "device" : "unreadable" });
        await expectLost(system, code);
        await system.vram.close();
        faults += 1;
      }
    }
    expect(faults).toBeGreaterThan(1.5 * SYMBOLS.length);
  });

  it("[VR-DEV-05] a harmless status fails the call and nothing else: the shard stays sealed and verifies again", async () => {
    const system = await sealedSystem();
    const { vram } = system;
    for (const symbol of SYMBOLS) {
      failNext(system, symbol, 1, 801);
      const error = await errorOf(vram.verify("m"));
      expect(error).toMatchObject({ code: "CUDA_FAILED", message: `${symbol}: NOT_SUPPORTED (801)`, fatal: false });
      expect(vram.inspect("m").state).toBe("sealed");
      expect(await vram.verify("m")).toMatchObject({ basis: "measured" });
    }
  });

  it("[VR-DEV-05] [VR-VER-06] one device that is lost leaves the other in use", async () => {
    const system = await sealedSystem(2);
    const { vram, path } = system;
    await vram.seal(path, { name: "n", device: 1 });
    failNext(system, "cuLaunchKernel", 1, 719, 2);
    expect(await codeOf(vram.verify("m"))).toBe("DEVICE_LOST");
    expect(vram.devices().map(({ state }) => state)).toEqual(["lost", "running"]);
    expect(vram.list().map(({ name, state }) => [name, state])).toEqual([
      ["m", "lost"],
      ["n", "sealed"],
    ]);
    expect(await vram.verify("n")).toMatchObject({ basis: "measured" });
    expect((await vram.seal(path, { name: "o", device: 1 })).record.sealed).toBe(true);
    expect(await vram.evict("n")).toMatchObject({ zeroed: true });
    expect(await codeOf(vram.seal(path, { name: "p", device: 0 }))).toBe("DEVICE_LOST");
  });

  it.each(["cuMemMap", "cuMemSetAccess", "cuMemcpyHtoDAsync_v2", "cuEventQuery", "cuLaunchKernel"])(
    "[VR-DEV-05] [VR-MEM-03] a fatal error in the middle of a seal, at %s: nothing is listed, what was sealed is lost",
    async (symbol) => {
      const system = await sealedSystem();
      const { vram, entries, path } = system;
      failNext(system, symbol, 1, 700);
      expect(await errorOf(vram.seal(path, { name: "second" }))).toMatchObject({ code: "DEVICE_LOST", fatal: true });
      expect(vram.list().map(({ name, state }) => [name, state])).toEqual([["m", "lost"]]);
      expect(entries.filter(({ type }) => type === "device_lost")).toHaveLength(1);
      await expectLost(system, "DEVICE_LOST");
    },
  );

  it("[VR-MEM-03] a fatal error while zeroing: evicted all the same, and it says that nothing was zeroed and why", async () => {
    const system = await sealedSystem();
    const { vram, entries } = system;
    failNext(system, "cuMemsetD8Async", 1, 700);
    const evicted = await vram.evict("m");
    expect(evicted).toMatchObject({ zeroed: false, reason: expect.stringContaining("ILLEGAL_ADDRESS") as string });
    expect(entries.find((entry) => entry.type === "vram_deallocated")).toMatchObject({ zeroed: false });
    expect(vram.devices()[0]?.state).toBe("lost");
    expect(vram.list()).toEqual([]);
  });
});

describe.skipIf(fakeCuda() === undefined)(`fatal errors at the command line${whyNoFakeCuda()}`, () => {
  /** How often `try` has launched when it begins to verify: at the self-test, and to measure for the seal. */
  async function launchesBeforeVerify(path: string): Promise<number> {
    const log = await fakeLog();
    expect(await runNative(["try", path], { LOG: log.LOG })).toMatchObject({ code: 0 });
    const launches = log.count("cuLaunchKernel");
    const perMeasurement = 2;
    expect(launches).toBeGreaterThan(2 * perMeasurement);
    return launches - perMeasurement;
  }

  it.each([
    [719, "DEVICE_LOST"],
    [214, "VRAM_UNREADABLE"],
  ])("[VR-VER-03] [VR-DEV-05] %d while verifying exits 8 with %s and a way out", async (status, code) => {
    const { path } = await randomFile(SIZE);
    const FAULTS = `cuLaunchKernel:${(await launchesBeforeVerify(path)) + 1}:${status}`;
    const [text, json] = await Promise.all([
      runNative(["try", path], { FAULTS }),
      runNative(["try", "--json", path], { FAULTS }),
    ]);
    expect([text.code, json.code]).toEqual([8, 8]);
    expect(text.err).toContain('"action":"seal"');
    expect(text.out).toBe("");
    expect(text.err).not.toContain('"action":"verify"');
    expect(text.err).toMatch(new RegExp(`\nerror ${code}: .*\\(${status}\\)\nfix   .+\n$`));
    const document: unknown = JSON.parse(json.out);
    expect(document).toMatchObject({ ok: false, backend: { backend: "cuda-substituted" }, error: { code } });
  });

  it("[VR-VER-05] kernels that fail harmlessly in the middle exit 1, and are never a pass", async () => {
    const { path } = await randomFile(SIZE);
    const FAULTS = `cuLaunchKernel:${(await launchesBeforeVerify(path)) + 1}:801`;
    const { code, err } = await runNative(["try", path], { FAULTS });
    expect(code).toBe(1);
    expect(err).toContain("CUDA_FAILED: cuLaunchKernel: NOT_SUPPORTED (801)");
    expect(err).not.toContain('"action":"verify"');
    expect(err).toContain("zeroed and freed");
  });
});

describe.skipIf(fakeCuda() === undefined)(`a device that cannot say whether it is done${whyNoFakeCuda()}`, () => {
  const collect = (): void => {
    setFlagsFromString("--expose-gc");
    (runInNewContext("gc") as () => void)();
  };

  it.each(EVENTS)(
    "[VR-DEV-05] [VR-MEM-03] stalls at %s: nothing is given back, least of all to others",
    async (symbol) => {
      for (let round = 0; round < 4; round += 1) {
        const system = await sealedSystem();
        failTwice(system, symbol, 801);
        const error = await errorOf(system.vram.verify("m"));
        expect(error).toMatchObject({
          code: "DEVICE_STALLED",
          fatal: true,
          cause: { message: `${symbol}: NOT_SUPPORTED (801)` },
        });
        system.log.take();
        await expectLost(system, "DEVICE_STALLED");
        await system.vram.close();
        const released = system.log
          .take()
          .filter(({ symbol: name }) => /(Unregister|Unmap|Release|Free|Destroy)(_v2)?$/.test(name));
        expect(released).toEqual([]);
        // Host memory the device may still write to stays ours, and out of the hands of whoever needs memory next.
        collect();
      }
    },
  );
});
