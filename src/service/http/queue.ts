/**
 * Places for requests that make a device work: so many at once, so many more that wait, and everyone else is told to
 * come back. Without it a burst of verifications would pile up in front of a GPU until nobody's deadline holds.
 */
import { throwIfAborted, VramError } from "../../errors.ts";

export interface WorkQueue {
  /**
   * Runs `task` when there is a place. `SERVICE_BUSY` if too many wait already. `signal` ends the waiting only: a task
   * that has begun hears of it by itself.
   */
  run<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T>;
  /** Requests at work, and those that wait. */
  readonly atWork: number;
  readonly waiting: number;
}

export interface QueueLimits {
  readonly requests: number;
  readonly waiting: number;
}

export function createWorkQueue(limits: QueueLimits): WorkQueue {
  /** Those that wait, the first first: each takes the place it is given. */
  const waiting = new Set<() => void>();
  let atWork = 0;

  const takePlace = async (signal: AbortSignal): Promise<void> => {
    throwIfAborted(signal);
    if (atWork < limits.requests) {
      atWork += 1;
      return;
    }
    if (waiting.size >= limits.waiting) {
      throw new VramError("SERVICE_BUSY", `${atWork} requests are at work and ${waiting.size} wait already`, {
        details: { atWork, waiting: waiting.size },
      });
    }
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        waiting.delete(enter);
        reject(new VramError("ABORTED", "the caller went away while it waited", { cause: signal.reason }));
      };
      const enter = (): void => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      waiting.add(enter);
      signal.addEventListener("abort", leave, { once: true });
    });
  };

  /** Hands the place on to whoever waits longest. */
  const givePlace = (): void => {
    const [next] = waiting;
    if (next === undefined) {
      atWork -= 1;
      return;
    }
    waiting.delete(next);
    next();
  };

  return {
    run: async (task, signal) => {
      await takePlace(signal);
      try {
        return await task();
      } finally {
        givePlace();
      }
    },
    get atWork() {
      return atWork;
    },
    get waiting() {
      return waiting.size;
    },
  };
}
