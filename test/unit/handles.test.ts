/** Handles over the emulated driver: bounds, lifetimes, failures of every call, and that no pointer shows. */
import { inspect } from "node:util";
import { describe, expect, test, vi } from "vitest";
import type { Clock } from "../../src/clock.ts";
import { ACCESS, type CudaDriver } from "../../src/cuda/driver.ts";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { liveHandles } from "../../src/dispose.ts";
import { VramError } from "../../src/errors.ts";
import { accessName, openAllocation } from "../../src/handles/allocation.ts";
import { openContext } from "../../src/handles/context.ts";
import { openHashKernel } from "../../src/handles/kernel.ts";
import type { Mapped } from "../../src/handles/mapped.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { deadlineMs, openStream } from "../../src/handles/stream.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { openRing } from "../../src/staging/ring.ts";
import { device } from "../helpers/emulated.ts";
import { errorOf } from "../helpers/header-parses.ts";
import { codeOf, MIB } from "../helpers/vram.ts";

const HALF_MIB = MIB / 2;
const codeBy = (run: () => unknown): unknown => {
  const error = errorOf(run);
  return error instanceof VramError ? error.code : error;
};

/** A clock that moves by 1 ms whenever it is read, and by what is slept. */
function fakeClock(): Clock & { now: number } {
  const clock = {
    now: 0,
    wallMs: () => 0,
    monotonicMs: () => {
      clock.now += 1;
      return clock.now;
    },
    sleep: async (ms: number) => {
      clock.now += ms * 500;
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
  return clock;
}

/** A context on a fresh machine, and what its releases reported. */
function openAll(wrap: (driver: CudaDriver) => CudaDriver = (driver) => driver) {
  const faults = createFaultPlan();
  const emulated = openEmulatedDriver({ devices: [device()], pool: openHashPool(0), faults });
  const reports: string[] = [];
  const clock = fakeClock();
  const context = openContext(wrap(emulated), 0, clock, (what) => reports.push(what));
  return { faults, emulated, reports, clock, context };
}

/** Every kind of handle at once. */
function openEvery(wrap?: (driver: CudaDriver) => CudaDriver) {
  const all = openAll(wrap);
  const allocation = openAllocation(all.context, 5000, "read");
  const scratch = openAllocation(all.context, 6000, "readWrite");
  const pinned = openPinned(all.context, 7000);
  const stream = openStream(all.context);
  const mark = stream.createMark();
  const kernel = openHashKernel(all.context, EMULATED_MODULE_IMAGE);
  const handles = { allocation, scratch, pinned, mark, stream, kernel };
  const closeAll = (): void => {
    for (const handle of [...Object.values(handles), all.context]) handle.close();
  };
  return { ...all, ...handles, handles, closeAll };
}

describe("bounds", () => {
  const BAD = (limit: number): readonly (readonly [offset: number, byteLength: number])[] => [
    ...([
      [0, 0],
      [0, -1],
      [-1, 1],
      [-1, 2],
      [limit, 0],
      [limit, 1],
      [limit - 1, 2],
      [0, limit + 1],
      [1, limit],
    ] as const),
    ...([
      [0.5, 1],
      [0, 1.5],
      [Number.NaN, 1],
      [0, Number.NaN],
      [Number.POSITIVE_INFINITY, 1],
    ] as const),
    ...([
      [0, Number.POSITIVE_INFINITY],
      [2 ** 53 - 1, 1],
      [2 ** 53 - 1, 2 ** 53 - 1],
      [2 ** 32, 1],
      [1, 2 ** 53],
    ] as const),
  ];

  test("[VR-MEM-02] every argument of every operation is checked, and nothing is enqueued when one is wrong", () => {
    const { stream, allocation, scratch, pinned, kernel, faults, closeAll } = openEvery();
    const room = { pinned, device: scratch, offset: 0 };
    const job = { source: allocation, offset: 0, byteLength: 4096, target: scratch, targetOffset: 4096 };
    const salted = (offset: number) => kernel.enqueue(stream, [job], room, { memory: scratch, offset });
    const operations: Record<string, readonly [limit: number, run: (offset: number, byteLength: number) => void]> = {
      "copyToDevice, device": [6000, (at, count) => stream.copyToDevice(scratch, at, pinned, 0, count)],
      "copyToDevice, host": [7000, (at, count) => stream.copyToDevice(scratch, 0, pinned, at, count)],
      "copyToHost, device": [5000, (at, count) => stream.copyToHost(pinned, 0, allocation, at, count)],
      "copyToHost, host": [7000, (at, count) => stream.copyToHost(pinned, at, allocation, 0, count)],
      fill: [6000, (at, count) => stream.fill(scratch, at, 0, count)],
      "job, source": [5000, (offset, byteLength) => kernel.enqueue(stream, [{ ...job, offset, byteLength }], room)],
    };
    faults.reset();
    for (const [name, [limit, run]] of Object.entries(operations)) {
      for (const range of BAD(limit))
        expect(
          codeBy(() => run(...range)),
          `${name} ${range}`,
        ).toBe("OUT_OF_BOUNDS");
    }
    for (const offset of [-1, 6000, 6000 - 31, 2 ** 53 - 1, 0.5, Number.NaN]) {
      const jobs = [{ ...job, targetOffset: offset }];
      expect(
        codeBy(() => kernel.enqueue(stream, jobs, room)),
        `target ${offset}`,
      ).toBe("OUT_OF_BOUNDS");
      expect(
        codeBy(() => kernel.enqueue(stream, [job], { ...room, offset })),
        `table ${offset}`,
      ).toBe("OUT_OF_BOUNDS");
      expect(
        codeBy(() => salted(offset)),
        `salt ${offset}`,
      ).toBe("OUT_OF_BOUNDS");
    }
    expect(codeBy(() => salted(6000 - 63))).toBe("OUT_OF_BOUNDS");
    expect(codeBy(() => kernel.enqueue(stream, [], room))).toBe("OUT_OF_BOUNDS");
    const short = { pinned: { bytes: new Uint8Array(31), close: () => undefined }, device: scratch, offset: 0 };
    expect(codeBy(() => kernel.enqueue(stream, [job], short))).toBe("OUT_OF_BOUNDS");
    for (const value of [-1, 256, 1.5, Number.NaN]) {
      expect(codeBy(() => stream.fill(scratch, 0, value, 1))).toBe("INVALID_ARGUMENT");
    }
    expect(faults.calls().filter((call) => call.startsWith("stream."))).toEqual([]);
    closeAll();
  });

  test("[VR-MEM-02] exactly all of it is within bounds", async () => {
    const { stream, scratch, pinned, closeAll } = openEvery();
    pinned.bytes.fill(7, 1000, 7000);
    stream.copyToDevice(scratch, 0, pinned, 1000, 6000);
    stream.fill(scratch, 5999, 9, 1);
    pinned.bytes.fill(0, 0, 1000);
    stream.copyToHost(pinned, 0, scratch, 5000, 1000);
    await stream.settle(6000);
    expect([pinned.bytes[0], pinned.bytes[998], pinned.bytes[999]]).toEqual([7, 7, 9]);
    closeAll();
  });

  test.each([0, -1, 1.5, 2 ** 30 + 1, Number.NaN])("pinned memory of %d bytes is refused", (byteLength) => {
    const { context } = openAll();
    expect(codeBy(() => openPinned(context, byteLength))).toBe("INVALID_ARGUMENT");
    context.close();
  });
});

describe("the writable alias", () => {
  test("is there during its task and gone afterwards, whatever becomes of it", async () => {
    const { allocation, stream, emulated, closeAll } = openEvery();
    const kept: Mapped[] = [];
    const task = (outcome: unknown) => async (alias: Mapped) => {
      kept.push(alias);
      expect(emulated.emulation.live()).toMatchObject({ mappings: 3 });
      stream.fill(alias, 0, 1, 5000);
      if (outcome instanceof Error) throw outcome;
      return outcome;
    };
    expect(await allocation.withWritableAlias(stream, task("done"))).toBe("done");
    await expect(allocation.withWritableAlias(stream, task(new Error("failed")))).rejects.toThrow("failed");
    expect(emulated.emulation.live()).toMatchObject({ mappings: 2, reservations: 2 });
    // Who held on to it can do nothing with it.
    for (const alias of kept) expect(codeBy(() => stream.fill(alias, 0, 1, 1))).toBe("CLOSED");
    expect(allocation.facts().mappingAccess).toBe(ACCESS.read);
    closeAll();
  });

  test("is the only way to write: the main mapping of a shard takes nothing", async () => {
    for (const write of ["copy", "fill"] as const) {
      const { allocation, stream, pinned, closeAll } = openEvery();
      if (write === "copy") stream.copyToDevice(allocation, 0, pinned, 0, 16);
      else stream.fill(allocation, 0, 0, 16);
      expect(await codeOf(stream.settle(16))).toBe("DEVICE_LOST");
      closeAll();
    }
  });

  test("fails with the error of its task, not with the one that follows from it", async () => {
    const { allocation, stream, faults, emulated, closeAll } = openEvery();
    faults.breakExecution("fill", 1, STATUS.LAUNCH_FAILED);
    const failing = allocation.withWritableAlias(stream, async (alias) => {
      stream.fill(alias, 0, 1, 1);
      throw new VramError("ABORTED", "told by the test");
    });
    expect(await codeOf(failing)).toBe("ABORTED");
    expect(await codeOf(allocation.withWritableAlias(stream, async () => undefined))).toBe("DEVICE_LOST");
    expect(emulated.emulation.live()).toMatchObject({ mappings: 2, reservations: 2 });
    closeAll();
  });

  test("is leaked, and counted, when the device may still be writing to it", async () => {
    vi.resetModules();
    const fresh = {
      ...(await import("../../src/handles/allocation.ts")),
      ...(await import("../../src/handles/stream.ts")),
      ...(await import("../../src/dispose.ts")),
    };
    const { context, faults, emulated } = openAll();
    const allocation = fresh.openAllocation(context, 5000, "read");
    const stream = fresh.openStream(context);
    faults.stall("fill", 1);
    const write = allocation.withWritableAlias(stream, async (alias) => stream.fill(alias, 0, 1, 5000));
    expect(await codeOf(write)).toBe("DEVICE_STALLED");
    expect(emulated.emulation.live()).toMatchObject({ mappings: 2, reservations: 2 });
    expect(fresh.liveHandles()).toEqual({ allocation: 1, stream: 1, "writable-alias": 1 });
    context.close();
  });
});

describe("waiting", () => {
  test("for a mark that was never recorded is refused: it would wait for nothing", async () => {
    const { mark, closeAll } = openEvery();
    expect(await codeOf(mark.wait(1))).toBe("INTERNAL");
    mark.record();
    await mark.wait(1);
    closeAll();
  });

  test("ends at a deadline that grows with the work, and not before", async () => {
    expect([deadlineMs(0), deadlineMs(2 ** 30), deadlineMs(2 ** 34)]).toEqual([10_000, 40_000, 490_000]);
    for (const byteLength of [1, 2 ** 30]) {
      const { stream, scratch, mark, faults, clock, closeAll } = openEvery();
      faults.stall("fill", 1);
      stream.fill(scratch, 0, 0, 1);
      mark.record();
      const start = clock.now;
      expect(await codeOf(mark.wait(byteLength))).toBe("DEVICE_STALLED");
      expect(clock.now - start).toBeGreaterThan(deadlineMs(byteLength));
      expect(clock.now - start).toBeLessThan(deadlineMs(byteLength) + 1000);
      // It answers after all: the mark can be waited for again.
      faults.release();
      await mark.wait(1);
      closeAll();
    }
  });

  test("ends with the error of the stream", async () => {
    const { stream, scratch, faults, closeAll } = openEvery();
    faults.breakExecution("fill", 1, STATUS.ECC_UNCORRECTABLE);
    stream.fill(scratch, 0, 0, 1);
    expect(await codeOf(stream.settle(1))).toBe("VRAM_UNREADABLE");
    closeAll();
  });
});

type Context = ReturnType<typeof openAll>["context"];

describe("failures", () => {
  const OPENERS: Record<string, (context: Context) => { close(): void }> = {
    allocation: (context) => openAllocation(context, 5000, "read"),
    "pinned memory": (context) => openPinned(context, 4096),
    stream: openStream,
    kernel: (context) => openHashKernel(context, EMULATED_MODULE_IMAGE),
    ring: (context) => openRing(context, openStream(context), 3, HALF_MIB),
  };

  test.each(Object.keys(OPENERS))("of any driver call while opening a %s leave nothing", (kind) => {
    const opener = OPENERS[kind];
    let opened = false;
    for (let nth = 1; !opened; nth += 1) {
      const { context, faults, emulated, reports } = openAll();
      faults.reset();
      faults.failCall("*", nth, nth % 2 === 0 ? STATUS.UNKNOWN : STATUS.OUT_OF_MEMORY);
      const code = codeBy(() => opener?.(context));
      opened = faults.fired() === 0;
      if (!opened) {
        expect(code, `call ${nth}`).toBe(nth % 2 === 0 ? "DEVICE_LOST" : "OUT_OF_VRAM");
        const streams = kind === "ring" && (emulated.emulation.live()["streams"] ?? 0) > 0 ? { streams: 1 } : {};
        expect(emulated.emulation.live(), `call ${nth}`).toEqual({ contexts: 1, ...streams });
        expect(reports).toEqual([]);
        expect(nth).toBeLessThan(50);
      }
      context.close();
    }
  });
});
