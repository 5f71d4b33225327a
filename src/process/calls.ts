/**
 * The calls to a device's process that are under way: each with its deadline, answered once. As long as there are any,
 * the process is asked for a sign of life each second, else each 10 seconds; how long it may take for that depends on
 * what keeps it busy.
 */
import { type Clock, systemClock } from "../clock.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { deadlineFor, openDeadlines } from "./deadlines.ts";

/** What a call brings along. */
export interface CallOptions {
  /** Bytes of work for the device, for its deadline. */
  readonly byteLength?: number;
  /** It waits for a file or a stream: only the process itself has a deadline meanwhile. */
  readonly sourcePaced?: boolean;
  /** The process answers nothing else while it works. */
  readonly blocking?: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((bytesDone: number) => void) | undefined;
}

type Outcome = { readonly value: unknown } | { readonly error: VramError };

/** A call under way. */
export interface Pending {
  /** What its answer must be; throws if it is not. */
  readonly check: (value: unknown) => unknown;
  readonly onProgress: ((bytesDone: number) => void) | undefined;
  readonly settle: (outcome: Outcome) => void;
}

export interface CallsOptions {
  readonly clock: Pick<Clock, "monotonicMs"> | undefined;
  /** What every call has beyond its estimate; in ms. */
  readonly floorMs: number;
  /** An idle process is asked for a sign of life this often; in ms. */
  readonly idlePingMs: number;
  readonly sendPing: (id: number) => void;
  /** A deadline has passed: that of the call named so, or of a sign of life. */
  readonly onStall: (what: string) => void;
}

/** The number of the call that opens the device: nothing is asked while it is under way. */
export const OPENING = 0;

export type Calls = ReturnType<typeof openCalls>;

export function openCalls({ clock = systemClock, floorMs, idlePingMs, sendPing, onStall }: CallsOptions) {
  const pending = new Map<number, Pending & { readonly blockingBytes: number }>();
  let lastId = OPENING;
  let ping: { readonly id: number; readonly callOff: () => void } | undefined;

  const look = (): void => {
    if (ping !== undefined || pending.has(OPENING)) return;
    lastId += 1;
    const bytes = [...pending.values()].reduce((sum, { blockingBytes }) => sum + blockingBytes, 0);
    const onLate = (): void => onStall("a sign of life");
    // Of no account to whoever waits for nothing: what is under way has the event loop kept alive itself.
    ping = { id: lastId, callOff: deadlines.add(deadlineFor(bytes, floorMs), onLate, { keepsAlive: false }) };
    sendPing(lastId);
  };
  const deadlines = openDeadlines(clock, Math.min(LIMITS.devicePollMs, Math.ceil(floorMs / 4)), look);
  const idleTimer = setInterval(look, idlePingMs).unref();
  const dropPing = (): void => {
    ping?.callOff();
    ping = undefined;
  };
  const get = (id: number): Pending => {
    const found = pending.get(id);
    if (found === undefined) throw new VramError("INTERNAL", `call ${id} is not under way`);
    return found;
  };

  return {
    nextId: (): number => {
      lastId += 1;
      return lastId;
    },
    /** A call that has just been sent. Without `deadlineMs` only the process has a deadline. */
    add: (
      id: number,
      what: string,
      deadlineMs: number | undefined,
      check: (value: unknown) => unknown,
      { blocking = false, byteLength = 0, onProgress }: CallOptions = {},
    ): Promise<unknown> =>
      new Promise((resolve, reject) => {
        const callOff = deadlines.add(deadlineMs ?? Number.POSITIVE_INFINITY, () => onStall(what));
        const settle = (outcome: Outcome): void => {
          pending.delete(id);
          callOff();
          if ("error" in outcome) reject(outcome.error);
          else resolve(outcome.value);
        };
        pending.set(id, { check, onProgress, settle, blockingBytes: blocking ? byteLength : 0 });
      }),
    /** The call with this number. Throws `INTERNAL` if there is none. */
    get,
    isUnderWay: (id: number): boolean => pending.has(id),
    isIdle: (): boolean => pending.size === 0,
    onPong: (id: number): void => {
      if (ping?.id !== id) throw new VramError("INTERNAL", `nobody asked ${id}`);
      dropPing();
    },
    /** All of them end with this; nothing is asked any more. */
    settleAll: (error: VramError): void => {
      clearInterval(idleTimer);
      dropPing();
      for (const one of [...pending.values()]) one.settle({ error });
    },
  };
}
