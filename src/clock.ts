/** Time as the journey sees it: a wall clock for records, a monotonic one for freshness and deadlines. */
import { setTimeout as sleep } from "node:timers/promises";

/** A source of time. Tests and fault sweeps supply their own. */
export interface Clock {
  /** Milliseconds since 1970; may jump. Only written down, never subtracted. */
  wallMs(): number;
  /** Milliseconds since an arbitrary start; never goes back. Ends with the process. */
  monotonicMs(): number;
  /** Resolves after about `ms` milliseconds. */
  sleep(ms: number): Promise<void>;
}

/** The machine's clocks. */
export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: async (ms) => {
    await sleep(ms);
  },
};

const nothing = (): void => undefined;

/**
 * Fires when one of `signals` does. That of `AbortSignal.timeout` is collected by Node 20 while only `AbortSignal.any`
 * waits for it, and then never fires: one that is listened to stays. The same listener is added once, however often.
 */
export function firstOf(...signals: readonly AbortSignal[]): AbortSignal {
  for (const signal of signals) signal.addEventListener("abort", nothing, { once: true });
  return AbortSignal.any([...signals]);
}

/**
 * Rejects unless `answer` comes within `ms`, by the machine's clock. What was asked is not called off; `onLate` may do
 * that.
 */
export async function within(ms: number, answer: Promise<void>, onLate?: () => void): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      onLate?.();
      reject(new Error(`no answer within ${ms} ms`));
    }, ms);
  });
  try {
    await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
