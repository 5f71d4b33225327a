/**
 * A stream of device work, and marks in it that can be awaited. Completion is polled (`cuEventQuery`): `setImmediate`
 * while it may be a matter of microseconds, then a 1 ms timer. Anything but "not ready" ends the wait: an error that
 * surfaces here belongs to the stream, not to the call that was made last.
 */
import { requireInteger } from "../assert.ts";
import { countHandle } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { DeviceContext } from "./context.ts";
import { deviceAddress, hostAddress, type Mapped, type Pinned } from "./mapped.ts";

/** A point in a stream. Reusable: each `record` moves it to the stream's current end. */
export interface Mark {
  record(): void;
  /** Resolves when the work before the mark is done; `byteLength` is how much that is, for the deadline. */
  wait(byteLength: number): Promise<void>;
  close(): void;
}

/** An ordered queue of device work. Offsets and lengths in bytes, bounds-checked. */
export interface Stream {
  copyToDevice(to: Mapped, toOffset: number, from: Pinned, fromOffset: number, byteLength: number): void;
  copyToHost(to: Pinned, toOffset: number, from: Mapped, fromOffset: number, byteLength: number): void;
  /** Sets bytes to `value` (0–255). */
  fill(to: Mapped, toOffset: number, value: number, byteLength: number): void;
  createMark(): Mark;
  /**
   * Resolves when all work so far is done. Rejects with `DEVICE_STALLED` when that cannot be known: whoever waits here
   * is about to take memory away.
   */
  settle(byteLength: number): Promise<void>;
  /** The driver's handle, for this folder only. */
  cuStream(): bigint;
  close(): void;
}

const SPIN_MS = 2;
const GIB = 2 ** 30;

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Deadline of a wait for `byteLength` bytes of device work, in ms (LIMITS). */
export function deadlineMs(byteLength: number): number {
  return LIMITS.deviceFloorMs + (byteLength / GIB) * LIMITS.deviceMsPerGib;
}

function openMark(context: DeviceContext, cuStream: bigint): Mark {
  const cuEvent = context.run((driver) => driver.event.create());
  const gone = countHandle("event");
  let recorded = false;
  let open = true;
  return {
    record: () => {
      context.run((driver) => driver.event.record(cuEvent, cuStream));
      recorded = true;
    },
    wait: async (byteLength) => {
      // An event that was never recorded reports success (facts/cuda.md): waiting on one would wait for nothing.
      if (!recorded) throw new VramError("INTERNAL", "a mark was awaited before it was recorded");
      const limit = deadlineMs(byteLength);
      let waited = 0;
      let looked = context.clock.monotonicMs();
      while (context.run((driver) => driver.event.query(cuEvent)) === "not-ready") {
        const now = context.clock.monotonicMs();
        // A process that was paused, or its machine, has not been waiting: between two polls no more than this counts.
        waited += Math.min(now - looked, LIMITS.devicePollMs);
        looked = now;
        if (waited > limit) {
          context.abandon();
          throw new VramError("DEVICE_STALLED", `the device did not finish within ${Math.round(limit)} ms`);
        }
        await (waited < SPIN_MS ? nextTurn() : context.clock.sleep(1));
      }
    },
    close: () => {
      if (!open) return;
      open = false;
      context.release("event", (driver) => driver.event.destroy(cuEvent));
      gone();
    },
  };
}

/** Creates a non-blocking stream. */
export function openStream(context: DeviceContext): Stream {
  const cuStream = context.run((driver) => driver.stream.create());
  const gone = countHandle("stream");
  let open = true;
  const destroy = (): void => {
    context.release("stream", (driver) => driver.stream.destroy(cuStream));
    gone();
  };
  // Made here, so that settling needs nothing that could be refused for want of memory.
  let tail: Mark;
  try {
    tail = openMark(context, cuStream);
  } catch (error) {
    destroy();
    throw error;
  }
  return {
    copyToDevice: (to, toOffset, from, fromOffset, byteLength) => {
      const cuTo = deviceAddress(to, toOffset, byteLength);
      const cuFrom = hostAddress(from, fromOffset, byteLength);
      context.run((driver) => driver.stream.copyToDevice(cuStream, cuTo, cuFrom, byteLength));
    },
    copyToHost: (to, toOffset, from, fromOffset, byteLength) => {
      const cuTo = hostAddress(to, toOffset, byteLength);
      const cuFrom = deviceAddress(from, fromOffset, byteLength);
      context.run((driver) => driver.stream.copyToHost(cuStream, cuTo, cuFrom, byteLength));
    },
    fill: (to, toOffset, value, byteLength) => {
      requireInteger(value, "fill value", 0, 255);
      const cuTo = deviceAddress(to, toOffset, byteLength);
      context.run((driver) => driver.stream.fill(cuStream, cuTo, value, byteLength));
    },
    createMark: () => openMark(context, cuStream),
    settle: async (byteLength) => {
      try {
        tail.record();
        await tail.wait(byteLength);
      } catch (thrown) {
        const error = toVramError(thrown);
        if (error.fatal) throw error;
        context.abandon();
        throw new VramError("DEVICE_STALLED", "the device cannot say whether it is done", { cause: error });
      }
    },
    cuStream: () => cuStream,
    close: () => {
      if (!open) return;
      open = false;
      tail.close();
      destroy();
    },
  };
}

/**
 * Runs `task`, which enqueues work, and returns only when that work is done, even if the task failed halfway: whoever
 * enqueued it may then take the memory away. `byteLength` is how much work there is, for the deadline.
 */
export async function settled<T>(stream: Stream, byteLength: number, task: () => T | Promise<T>): Promise<T> {
  let value: T;
  try {
    value = await task();
  } catch (thrown) {
    // A context that is lost answers everything with the same error: the call that lost it is the one to name.
    await stream.settle(byteLength).catch((graver: unknown) => {
      throw toVramError(thrown).fatal ? thrown : graver;
    });
    throw thrown;
  }
  await stream.settle(byteLength);
  return value;
}
