/** Windows two deep: the order of calls, and that two windows in flight are judged, and settled, like one alone. */
import { createCipheriv } from "node:crypto";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { CudaDriver, Launch } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { BLOCK_BYTES, HASH_BYTES, RANGE_BYTES } from "../../src/hash/geometry.ts";
import { deviceMachine, uploadBytes } from "../helpers/handles.ts";
import { digestOf } from "../helpers/reference.ts";

/** Bytes without a pattern, the same in every run. */
const bytesOf = (byteLength: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), Buffer.alloc(16)).update(Buffer.alloc(byteLength));

/** Three windows of 512 KiB, the last one short. */
const THREE = bytesOf(2 * RANGE_BYTES + 5000);

interface Hooks {
  /** What is launched instead. */
  launch?(launch: Launch): Launch;
  /** Before a copy to the host is enqueued. */
  copyToHost?(fill: (offset: number, byteLength: number) => void): void;
  /** After a record, before a query. */
  record?(cuEvent: bigint): void;
  query?(cuEvent: bigint): void;
}

/** The driver with hooks in it, which may be set later. */
function hooked(hooks: Hooks) {
  return ({ stream, event, ...rest }: CudaDriver): CudaDriver => ({
    ...rest,
    stream: {
      ...stream,
      launch: (cuStream, cuFunction, launch) =>
        stream.launch(cuStream, cuFunction, hooks.launch === undefined ? launch : hooks.launch(launch)),
      copyToHost: (cuStream, cuTo, cuFrom, byteLength) => {
        hooks.copyToHost?.((offset, count) => stream.fill(cuStream, cuFrom + BigInt(offset), 0, count));
        stream.copyToHost(cuStream, cuTo, cuFrom, byteLength);
      },
    },
    event: {
      ...event,
      record: (cuEvent, cuStream) => {
        event.record(cuEvent, cuStream);
        hooks.record?.(cuEvent);
      },
      query: (cuEvent) => {
        hooks.query?.(cuEvent);
        return event.query(cuEvent);
      },
    },
  });
}

/** The digest that is measured, as hex, or the code of the error. */
const outcomeOf = (measuring: Promise<{ digest: Uint8Array }>): Promise<string> =>
  measuring.then(
    ({ digest }) => toHex(digest),
    (error: unknown) => (error instanceof VramError ? error.code : String(error)),
  );
const hexOf = (bytes: Uint8Array): string => toHex(digestOf(bytes));

describe("windows of a measurement", () => {
  test("are enqueued one ahead: the device has the next one while the host waits for an answer", async () => {
    const hooks: Hooks = {};
    const local = await deviceMachine(hooked(hooks)).open();
    const bytes = bytesOf(4 * RANGE_BYTES);
    const { allocationId } = await uploadBytes(local, bytes);
    const order: string[] = [];
    const asked = new Set<bigint>();
    hooks.launch = (launch) => {
      order.push("launch");
      return launch;
    };
    hooks.record = (cuEvent) => asked.delete(cuEvent);
    hooks.query = (cuEvent) => {
      if (!asked.has(cuEvent)) order.push("wait");
      asked.add(cuEvent);
    };
    expect(await outcomeOf(local.measure(allocationId))).toBe(hexOf(bytes));
    const window = ["launch", "launch"];
    // Never more than two on their way; at last the stream is settled.
    expect(order).toEqual([
      ...[...window, ...window, "wait"],
      ...[...window, "wait"],
      ...[...window, "wait"],
      ...["wait", "wait"],
    ]);
    await local.close();
  });

  test("[VR-VER-05] with one wrong canary digest are MEASUREMENT_INVALID, whichever window and canary it is", async () => {
    const hooks: Hooks = {};
    const local = await deviceMachine(hooked(hooks)).open();
    const { allocationId } = await uploadBytes(local, THREE);
    for (let window = 1; window <= 3; window += 1) {
      for (let canary = 0; canary < 4; canary += 1) {
        let copies = 0;
        hooks.copyToHost = (fill) => {
          copies += 1;
          if (copies === window) fill(canary * HASH_BYTES, HASH_BYTES);
        };
        await expect(local.measure(allocationId), `window ${window}`).rejects.toMatchObject({
          code: "MEASUREMENT_INVALID",
          message: expect.stringContaining(`canary block ${canary} `) as string,
        });
        // The one after it was on its way already, and none after that.
        expect(copies).toBe(Math.min(window + 1, 3));
      }
    }
    delete hooks.copyToHost;
    expect(await outcomeOf(local.measure(allocationId))).toBe(hexOf(THREE));
    await local.close();
  });

  test("[VR-MEM-03] that are invalid are not reported before the one behind them is done", async () => {
    const hooks: Hooks = {};
    const { faults, open } = deviceMachine(hooked(hooks));
    const local = await open();
    const { allocationId } = await uploadBytes(local, THREE);
    let records = 0;
    let released = false;
    hooks.record = () => {
      records += 1;
    };
    hooks.query = () => {
      // Two windows, then the mark of the settling; the second window has come to its launch.
      if (records < 3 || faults.fired() < 2) return;
      released = true;
      faults.release();
    };
    faults.reset();
    faults.dropLaunch(1);
    faults.stall("launch", 3);
    expect(await outcomeOf(local.measure(allocationId))).toBe("MEASUREMENT_INVALID");
    expect({ records, released, fired: faults.fired() }).toEqual({ records: 3, released: true, fired: 2 });
    await local.close();
  });

  test("[VR-MEM-03] fail like one alone, whichever call of theirs is refused: the stream is settled, the next one works", async () => {
    // Not "*": how often a context is made current depends on how often an event is polled.
    const CALLS = ["stream.fill", "stream.copyToDevice", "stream.launch", "stream.copyToHost", "event.record"];
    const outcomes: string[] = [];
    for (const call of CALLS) {
      for (let nth = 1, fired = 1; fired > 0; nth += 1) {
        const { faults, open } = deviceMachine();
        const local = await open();
        const { allocationId } = await uploadBytes(local, THREE);
        faults.reset();
        faults.failCall(call, nth, STATUS.INVALID_VALUE);
        const outcome = await outcomeOf(local.measure(allocationId));
        fired = faults.fired();
        faults.reset();
        outcomes.push(outcome);
        expect(outcome === hexOf(THREE), `${call} ${nth}`).toBe(fired === 0);
        // The device is given up only where it cannot be known whether the stream is settled.
        const next = outcome === "DEVICE_STALLED" ? "DEVICE_LOST" : hexOf(THREE);
        expect(await outcomeOf(local.measure(allocationId)), `after ${call} ${nth}`).toBe(next);
        await local.close();
      }
    }
    // Of three windows: a fill, a copy of patterns, two of tables, two launches, an answer and a mark each.
    expect(outcomes.filter((code) => code === "CUDA_FAILED")).toHaveLength(3 * 8);
    // The mark of the settling itself.
    expect(outcomes.filter((code) => code === "DEVICE_STALLED")).toHaveLength(1);
  });
});

describe("a launch that is cut short", () => {
  const shorter = (launch: Launch): Launch => ({
    ...launch,
    parameters: launch.parameters.map((parameter, at) =>
      at === 2 && parameter.kind === "u64" ? { kind: "u64", value: parameter.value - 1n } : parameter,
    ),
  });
  const narrow = (launch: Launch): Launch => ({ ...launch, gridX: 1 });

  test.each([
    ["at its last block", shorter],
    ["after its first 256 blocks", narrow],
  ])("[VR-VER-05] %s is MEASUREMENT_INVALID and no mismatch, also at level 0", async (_where, cut) => {
    for (let nth = 1; nth <= 4; nth += 1) {
      const hooks: Hooks = {};
      const local = await deviceMachine(hooked(hooks), { measureWindowBytes: 4 * RANGE_BYTES }).open();
      const bytes = bytesOf(6 * RANGE_BYTES + BLOCK_BYTES);
      const { allocationId } = await uploadBytes(local, bytes);
      let launches = 0;
      hooks.launch = (launch) => {
        launches += 1;
        return launches === nth ? cut(launch) : launch;
      };
      // Level 1 of such a window fits into one block of threads: nothing is missing there.
      const harmless = cut === narrow && nth % 2 === 0;
      const expected = harmless ? hexOf(bytes) : "MEASUREMENT_INVALID";
      expect(await outcomeOf(local.measure(allocationId)), `launch ${nth}`).toBe(expected);
      await local.close();
    }
  });
});
