/** Handles over the emulated driver: lifetimes, waiting, and what is left when any call fails. */
import { describe, expect, test } from "vitest";
import { ACCESS } from "../../src/cuda/driver.ts";
import { EMULATED_MODULE_IMAGE } from "../../src/cuda/emulated/kernels.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { liveHandles } from "../../src/dispose.ts";
import { VramError } from "../../src/errors.ts";
import { accessName, openAllocation } from "../../src/handles/allocation.ts";
import type { DeviceContext } from "../../src/handles/context.ts";
import { openHashKernel } from "../../src/handles/kernel.ts";
import type { Mapped } from "../../src/handles/mapped.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { deadlineMs, openStream } from "../../src/handles/stream.ts";
import { openRing } from "../../src/staging/ring.ts";
import { codeBy, openAll, openEvery } from "../helpers/handles.ts";
import { codeOf, MIB } from "../helpers/vram.ts";

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

  test("fails with its task's error, unless the device was lost meanwhile", async () => {
    const { allocation, stream, faults, emulated, closeAll } = openEvery();
    const failing = (value: number) =>
      allocation.withWritableAlias(stream, async (alias) => {
        stream.fill(alias, 0, value, 1);
        throw new VramError("ABORTED", "told by the test");
      });
    expect(await codeOf(failing(1))).toBe("ABORTED");
    faults.breakExecution("fill", 2, STATUS.LAUNCH_FAILED);
    expect(await codeOf(failing(2))).toBe("DEVICE_LOST");
    expect(emulated.emulation.live()).toMatchObject({ mappings: 2, reservations: 2 });
    closeAll();
  });

  test.each(["stalls", "cannot tell whether it is done"])(
    "is kept in place, like everything else, when the device %s",
    async (how) => {
      const { allocation, stream, faults, emulated, closeAll } = openEvery();
      faults.stall("fill", 1);
      if (how !== "stalls") faults.failCall("event.query", 1, STATUS.INVALID_VALUE, { forGood: true });
      const write = allocation.withWritableAlias(stream, async (alias) => stream.fill(alias, 0, 1, 5000));
      expect(await codeOf(write)).toBe("DEVICE_STALLED");
      closeAll();
      expect(emulated.emulation.live()).toMatchObject({ mappings: 3, reservations: 3, allocations: 2, streams: 1 });
    },
  );
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
      closeAll();
    }
  });

  test("goes on for as long as the deadline allows", async () => {
    const { stream, scratch, mark, faults, clock, closeAll } = openEvery();
    faults.stall("fill", 1);
    stream.fill(scratch, 0, 0, 1);
    mark.record();
    const sleep = clock.sleep.bind(clock);
    clock.sleep = async (ms) => {
      await sleep(ms);
      if (clock.now > 9000) faults.release();
    };
    await mark.wait(1);
    expect(clock.now).toBeGreaterThan(9000);
    closeAll();
  });

  test("[VR-DEV-05] is not given up by one look past the deadline: the process may have been paused", async () => {
    let paused = false;
    const { stream, scratch, clock, closeAll } = openEvery((driver) => ({
      ...driver,
      event: {
        ...driver.event,
        query: (cuEvent) => {
          const answer = driver.event.query(cuEvent);
          if (paused) return answer;
          // What was true when it was asked is a minute old when it is heard.
          paused = true;
          clock.now += 60_000;
          return "not-ready";
        },
      },
    }));
    stream.fill(scratch, 0, 0, 1);
    await stream.settle(1);
    expect(clock.now).toBeGreaterThan(deadlineMs(1));
    closeAll();
  });

  test("ends with the error of the stream", async () => {
    const { stream, scratch, faults, closeAll } = openEvery();
    faults.breakExecution("fill", 1, STATUS.ECC_UNCORRECTABLE);
    stream.fill(scratch, 0, 0, 1);
    expect(await codeOf(stream.settle(1))).toBe("VRAM_UNREADABLE");
    closeAll();
  });
});

describe("failures", () => {
  const OPENERS: Record<string, (context: DeviceContext) => { close(): void }> = {
    allocation: (context) => openAllocation(context, 5000, "read"),
    "pinned memory": (context) => openPinned(context, 4096),
    stream: openStream,
    kernel: (context) => openHashKernel(context, EMULATED_MODULE_IMAGE),
    ring: (context) => {
      const stream = openStream(context);
      try {
        const ring = openRing(context, stream, 3, MIB / 2);
        const close = (): void => {
          ring.close();
          stream.close();
        };
        return { close };
      } catch (error) {
        stream.close();
        throw error;
      }
    },
  };

  test.each(Object.keys(OPENERS))("[VR-MEM-03] of any driver call while opening a %s leave nothing", (kind) => {
    const opener = OPENERS[kind];
    let nth = 1;
    for (let fired = 1; fired > 0; nth += 1) {
      const { context, faults, emulated, reports } = openAll();
      faults.reset();
      const fatal = nth % 2 === 0;
      faults.failCall("*", nth, fatal ? STATUS.UNKNOWN : STATUS.OUT_OF_MEMORY);
      let opened: { close(): void } | undefined;
      const code = codeBy(() => {
        opened = opener?.(context);
      });
      fired = faults.fired();
      if (fired > 0) expect(code, `call ${nth}`).toBe(fatal ? "DEVICE_LOST" : "OUT_OF_VRAM");
      opened?.close();
      expect(emulated.emulation.live(), `call ${nth}`).toEqual({ contexts: 1 });
      expect(liveHandles(), `call ${nth}`).toEqual({ context: 1 });
      expect(reports, `call ${nth}`).toEqual([]);
      context.close();
    }
    expect(nth).toBeGreaterThan(kind === "allocation" ? 10 : 2);
  });

  test("[VR-MEM-03] of every release are reported once, by name, and never thrown", () => {
    const { faults, reports, handles, closeAll } = openEvery();
    faults.reset();
    faults.failCall("*", 1, STATUS.UNKNOWN, { forGood: true });
    closeAll();
    closeAll();
    const names = ["event", "event", "module", "pinned memory", "stream", "context"];
    const each = ["address range", "mapping", "memory handle"];
    expect([...reports].sort()).toEqual([...names, ...each, ...each].sort());
    expect(Object.keys(handles)).toHaveLength(6);
  });

  test("[VR-MEM-03] of an opening and of its undoing: the first is thrown, the second reported", () => {
    const { context, faults, reports } = openAll();
    faults.failCall("memory.setAccess", 1, STATUS.OUT_OF_MEMORY);
    faults.failCall("memory.unmap", 1, STATUS.UNKNOWN);
    expect(codeBy(() => openAllocation(context, 5000, "read"))).toBe("OUT_OF_VRAM");
    expect(reports).toEqual(["mapping", "address range", "memory handle"].slice(0, reports.length));
    expect(reports[0]).toBe("mapping");
    context.close();
  });
});

describe("closing", () => {
  test("[VR-MEM-03] twice calls the driver once", () => {
    const { faults, reports, emulated, closeAll } = openEvery();
    closeAll();
    const calls = faults.calls().length;
    closeAll();
    expect(faults.calls()).toHaveLength(calls);
    expect([reports, emulated.emulation.live(), liveHandles()]).toEqual([[], {}, {}]);
  });

  test("makes every later use CLOSED, before the driver is asked", async () => {
    const { faults, allocation, scratch, pinned, stream, context, closeAll } = openEvery();
    const other = openPinned(context, 100);
    scratch.close();
    pinned.close();
    faults.reset();
    expect(codeBy(() => stream.fill(scratch, 0, 0, 1))).toBe("CLOSED");
    expect(codeBy(() => stream.copyToHost(pinned, 0, allocation, 0, 1))).toBe("CLOSED");
    expect(codeBy(() => stream.copyToHost(other, 0, scratch, 0, 1))).toBe("CLOSED");
    expect(codeBy(() => scratch.facts())).toBe("CLOSED");
    expect(await codeOf(scratch.withWritableAlias(stream, async () => undefined))).toBe("CLOSED");
    expect(faults.calls()).toEqual([]);
    other.close();
    closeAll();
    expect(codeBy(() => openStream(context))).toBe("CLOSED");
    expect(faults.calls().at(-1)).toBe("context.releasePrimary");
  });

  test("after the device was given up releases nothing, and still ends the handles", () => {
    const { context, emulated, faults, reports, closeAll } = openEvery();
    const before = emulated.emulation.live();
    faults.reset();
    context.abandon();
    closeAll();
    expect([emulated.emulation.live(), faults.calls(), reports]).toEqual([before, [], []]);
  });

  test("a context that can no longer be made current is released all the same", () => {
    const { context, faults, emulated, reports } = openAll();
    faults.failCall("context.setCurrent", 1, STATUS.UNKNOWN, { forGood: true });
    context.close();
    expect([emulated.emulation.live(), reports]).toEqual([{}, []]);
  });

  test("access flags have names, and unknown ones none", () => {
    const flags = [0, 1, 3, 3n, 2, 7, undefined];
    expect(flags.map(accessName)).toEqual(["none", "read", "readWrite", "readWrite", "unknown", "unknown", "unknown"]);
  });
});
