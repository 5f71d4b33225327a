/** What handles refuse and what they hide: ranges that are not theirs, and pointers. */
import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import type { CudaDriver } from "../../src/cuda/driver.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { codeBy, openAll, openEvery } from "../helpers/handles.ts";
import "../helpers/vram.ts";

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
          `${name} ${range.join(", ")}`,
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

describe("pointers", () => {
  /** A driver that writes down every pointer and handle it gives out, and every pointer it is given. */
  function spied(driver: CudaDriver, seen: Set<bigint>): CudaDriver {
    const note = (value: unknown): void => {
      if (typeof value === "bigint") seen.add(value);
      else if (typeof value === "object" && value !== null) for (const part of Object.values(value)) note(part);
    };
    const spy = <T extends object>(calls: T): T =>
      new Proxy(calls, {
        get: (target, name) => {
          const call: unknown = Reflect.get(target, name);
          if (typeof call !== "function") return call;
          return (...args: unknown[]): unknown => {
            const result: unknown = Reflect.apply(call, target, args);
            for (const value of [result, ...args]) if (!(value instanceof Uint8Array)) note(value);
            return result;
          };
        },
      });
    const { device, context, memory, stream, event, module } = driver;
    const nouns = { device, context, memory, stream, event, module };
    return { ...driver, ...Object.fromEntries(Object.entries(nouns).map(([noun, calls]) => [noun, spy(calls)])) };
  }

  test("[VR-MEM-07] no handle shows one, however it is looked at", async () => {
    const seen = new Set<bigint>();
    const { handles, allocation, stream, scratch, kernel, pinned, closeAll } = openEvery((driver) =>
      spied(driver, seen),
    );
    const looks: string[] = [];
    const look = (value: unknown): void => {
      looks.push(inspect(value, { depth: 10, showHidden: true }), JSON.stringify(value));
      try {
        looks.push(inspect(structuredClone(value)));
      } catch (error) {
        // Handles have methods, so they cannot be cloned; what cannot be cloned must not be named either.
        looks.push(inspect(error));
      }
    };
    await allocation.withWritableAlias(stream, async (alias) => {
      look(alias);
      const job = { source: allocation, offset: 0, byteLength: 5000, target: scratch, targetOffset: 4096 };
      kernel.enqueue(stream, [job], { pinned, device: scratch, offset: 0 }, { memory: scratch, offset: 1024 });
      look(job);
    });
    for (const handle of Object.values(handles)) look({ ...handle, ...("bytes" in handle ? { bytes: 0 } : {}) });
    looks.push(inspect(allocation.facts()));
    const failing = [codeBy(() => stream.fill(scratch, 5999, 0, 2)), codeBy(() => stream.fill(allocation, -1, 0, 1))];
    expect(failing).toEqual(["OUT_OF_BOUNDS", "OUT_OF_BOUNDS"]);
    const pointers = [...seen].filter((value) => value > 2n ** 32n);
    expect(pointers.length).toBeGreaterThan(10);
    const text = looks.join("\n").toLowerCase();
    for (const cuPointer of pointers) {
      expect(text.includes(cuPointer.toString(16)), "as hex").toBe(false);
      expect(text.includes(cuPointer.toString()), "as a number").toBe(false);
    }
    closeAll();
  });
});
