/**
 * Deadlines that count the time between looks, at most so much of it a look: a machine or a terminal job that was
 * paused, or a service that was busy, is not taken for a device that hangs. Deadlines keep the event loop alive, unless
 * they are added so that they do not.
 */
import type { Clock } from "../clock.ts";
import { LIMITS } from "../limits.ts";

const GIB = 1024 ** 3;

/** 30 × the estimate of `byteLength` bytes of device work, and the floor; in ms. */
export const deadlineFor = (byteLength: number, floorMs: number): number =>
  floorMs + (byteLength / GIB) * LIMITS.deviceMsPerGib;

export interface Deadlines {
  /** Calls `onLate` once when `ms` have passed. The function returned calls it off. */
  add(ms: number, onLate: () => void, options?: { readonly keepsAlive?: boolean }): () => void;
}

/** `onLook` is called at each look: as long as there is a deadline, each `lookMs`. */
export function openDeadlines(clock: Pick<Clock, "monotonicMs">, lookMs: number, onLook: () => void): Deadlines {
  const waiting = new Set<{ leftMs: number; readonly onLate: () => void; readonly keepsAlive: boolean }>();
  let timer: NodeJS.Timeout | undefined;
  let lastMs = 0;
  const look = (): void => {
    const nowMs = clock.monotonicMs();
    const passedMs = Math.min(nowMs - lastMs, lookMs);
    lastMs = nowMs;
    onLook();
    for (const one of [...waiting]) {
      one.leftMs -= passedMs;
      if (one.leftMs > 0 || !waiting.delete(one)) continue;
      one.onLate();
    }
    rest();
  };
  const rest = (): void => {
    if ([...waiting].some(({ keepsAlive }) => keepsAlive)) timer?.ref();
    else timer?.unref();
    if (waiting.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
  return {
    add: (ms, onLate, { keepsAlive = true } = {}) => {
      const one = { leftMs: ms, onLate, keepsAlive };
      waiting.add(one);
      if (timer === undefined) {
        lastMs = clock.monotonicMs();
        timer = setInterval(look, lookMs);
      }
      rest();
      return () => {
        waiting.delete(one);
        rest();
      };
    },
  };
}
