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
import { codeOf } from "../helpers/vram.ts";

/** Bytes without a pattern, the same in every run. */
const bytesOf = (byteLength: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), Buffer.alloc(16)).update(Buffer.alloc(byteLength));

/** Three windows of 512 KiB, the last one short. */
const THREE = bytesOf(2 * RANGE_BYTES + 5000);

/** The driver with some calls on streams and events replaced, once `armed` is set. */
function wrapped(parts: (driver: CudaDriver) => { stream?: object; event?: object }) {
  const state = { armed: false };
  const wrap = (driver: CudaDriver): CudaDriver => {
    const { stream, event } = parts(driver);
    const live = <T extends object>(plain: T, changed: object | undefined): T =>
      new Proxy(plain, { get: (target, key) => Reflect.get(state.armed ? { ...target, ...changed } : target, key) });
    return { ...driver, stream: live(driver.stream, stream), event: live(driver.event, event) };
  };
  return { state, wrap };
}

describe("windows of a measurement", () => {
  test("are enqueued one ahead: the device has the next one while the host waits for an answer", async () => {
    const order: string[] = [];
    const asked = new Set<bigint>();
    const { state, wrap } = wrapped((driver) => ({
      stream: {
        launch: (cuStream: bigint, cuFunction: bigint, launch: Launch) => {
          order.push("launch");
          driver.stream.launch(cuStream, cuFunction, launch);
        },
      },
      event: {
        record: (cuEvent: bigint, cuStream: bigint) => {
          asked.delete(cuEvent);
          driver.event.record(cuEvent, cuStream);
        },
        query: (cuEvent: bigint) => {
          if (!asked.has(cuEvent)) order.push("wait");
          asked.add(cuEvent);
          return driver.event.query(cuEvent);
        },
      },
    }));
    const local = await deviceMachine(wrap).open();
    const bytes = bytesOf(4 * RANGE_BYTES);
    const { allocationId } = await uploadBytes(local, bytes);
    state.armed = true;
    const { digest, windows } = await local.measure(allocationId);
    expect([toHex(digest), windows]).toEqual([toHex(digestOf(bytes)), 4]);
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
    let copies = 0;
    let spoilt = { window: 0, canary: 0 };
    const { state, wrap } = wrapped((driver) => ({
      stream: {
        copyToHost: (cuStream: bigint, cuTo: bigint, cuFrom: bigint, byteLength: number) => {
          copies += 1;
          if (copies === spoilt.window) {
            driver.stream.fill(cuStream, cuFrom + BigInt(spoilt.canary * HASH_BYTES), 0, HASH_BYTES);
          }
          driver.stream.copyToHost(cuStream, cuTo, cuFrom, byteLength);
        },
      },
    }));
    const local = await deviceMachine(wrap).open();
    const { allocationId } = await uploadBytes(local, THREE);
    state.armed = true;
    for (let window = 1; window <= 3; window += 1) {
      for (let canary = 0; canary < 4; canary += 1) {
        copies = 0;
        spoilt = { window, canary };
        await expect(local.measure(allocationId), `window ${window}`).rejects.toMatchObject({
          code: "MEASUREMENT_INVALID",
          message: expect.stringContaining(`canary block ${canary} `) as string,
        });
        // The one after it was on its way already, and none after that.
        expect(copies).toBe(Math.min(window + 1, 3));
      }
    }
    spoilt = { window: 0, canary: 0 };
    expect(toHex((await local.measure(allocationId)).digest)).toBe(toHex(digestOf(THREE)));
    await local.close();
  });

  test("[VR-MEM-03] that are invalid are not reported before the one behind them is done", async () => {
    const machine = deviceMachine();
    const { faults } = machine;
    let records = 0;
    let released = false;
    const { state, wrap } = wrapped((driver) => ({
      event: {
        record: (cuEvent: bigint, cuStream: bigint) => {
          driver.event.record(cuEvent, cuStream);
          records += 1;
          if (records < 3) return;
          // Two windows, then this one: the stream is being settled.
          setImmediate(() => {
            released = true;
            faults.release();
          });
        },
      },
    }));
    const local = await machine.open(wrap);
    const { allocationId } = await uploadBytes(local, THREE);
    faults.reset();
    faults.dropLaunch(1);
    faults.stall("launch", 3);
    state.armed = true;
    expect(await codeOf(local.measure(allocationId))).toBe("MEASUREMENT_INVALID");
    expect({ records, released, fired: faults.fired() }).toEqual({ records: 3, released: true, fired: 2 });
    await local.close();
  });

  test("[VR-MEM-03] fail like one alone, whichever call of theirs is refused: the stream is settled, the next one works", async () => {
    const codes = new Set<unknown>();
    for (let nth = 1, fired = 1; fired > 0; nth += 1) {
      const { faults, open } = deviceMachine();
      const local = await open();
      const { allocationId } = await uploadBytes(local, THREE);
      faults.reset();
      faults.failCall("*", nth, STATUS.INVALID_VALUE);
      const outcome: unknown = await local.measure(allocationId).catch((error: unknown) => error);
      fired = faults.fired();
      const code = outcome instanceof VramError ? outcome.code : "measured";
      codes.add(code);
      expect(code === "measured", `call ${nth}`).toBe(fired === 0);
      // Only where the settling itself cannot be known to be done is the device given up.
      const again = await local.measure(allocationId).then(({ digest }) => toHex(digest), codeBy);
      expect(again, `call ${nth}`).toBe(code === "DEVICE_STALLED" ? "DEVICE_LOST" : toHex(digestOf(THREE)));
      await local.close();
    }
    expect([...codes].sort()).toEqual(["CUDA_FAILED", "DEVICE_STALLED", "measured"]);
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
      let launches = 0;
      const { state, wrap } = wrapped((driver) => ({
        stream: {
          launch: (cuStream: bigint, cuFunction: bigint, launch: Launch) => {
            launches += 1;
            driver.stream.launch(cuStream, cuFunction, launches === nth ? cut(launch) : launch);
          },
        },
      }));
      const local = await deviceMachine(wrap, { measureWindowBytes: 4 * RANGE_BYTES }).open();
      const { allocationId } = await uploadBytes(local, bytesOf(6 * RANGE_BYTES + BLOCK_BYTES));
      state.armed = true;
      const outcome = await codeOf(local.measure(allocationId));
      // Level 1 of such a window fits into one block of threads: nothing is missing there.
      const harmless = cut === narrow && nth % 2 === 0;
      expect(outcome, `launch ${nth}`).toBe(harmless ? undefined : "MEASUREMENT_INVALID");
      await local.close();
    }
  });
});
