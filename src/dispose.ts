/**
 * "A call that fails has done nothing": work is built under an undo stack, disarmed on success, unwound in reverse on
 * failure. A release that fails never hides the error that caused the unwinding, and is reported once, under the name
 * of the thing that was being released. Node.js 20 has `Symbol.asyncDispose` but no `DisposableStack`; this is ours.
 */
import { assert } from "./assert.ts";
import { throwIfAborted, VramError } from "./errors.ts";

/** Told of every release that failed: which one, and why. Must not throw. */
export type ReleaseFailureReporter = (what: string, error: unknown) => void;

type Release = () => void | Promise<void>;

/** Releases, in reverse order of their acquisition. */
export class UndoStack {
  readonly #report: ReleaseFailureReporter;
  #steps: { readonly what: string; readonly release: Release }[] = [];
  #done = false;

  constructor(report: ReleaseFailureReporter) {
    this.#report = report;
  }

  /** Remembers how to undo what was just done. `what` names it in a release failure. */
  defer(what: string, release: Release): void {
    assert(!this.#done, "an undo stack is not used after it was disarmed or unwound");
    this.#steps.push({ what, release });
  }

  /** The work is complete: nothing will be undone. */
  disarm(): void {
    this.#done = true;
    this.#steps = [];
  }

  /** Undoes everything, newest first; goes on past failures. Safe to call twice. */
  async unwind(): Promise<void> {
    this.#done = true;
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.release();
      } catch (error) {
        this.#report(step.what, error);
      }
    }
  }
}

/** Serialises work: each task starts when the one before it has settled. A failed task does not fail the next. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  /** `signal` ends the waiting only: a task that has started is not left alone. */
  async run<T>(task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    let started = false;
    const result = this.#tail.then(() => {
      started = true;
      throwIfAborted(signal);
      return task();
    });
    this.#tail = result.catch(() => undefined);
    if (signal === undefined) return result;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        if (!started) reject(new VramError("ABORTED", "the operation was aborted", { cause: signal.reason }));
      };
      if (signal.aborted) onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      const done = (): void => signal.removeEventListener("abort", onAbort);
      result.then(resolve, reject).finally(done);
    });
  }
}

const live = new Map<string, number>();

/** Counts a handle of `kind` as live. The function returned counts it as gone; calling it twice is harmless. */
export function countHandle(kind: string): () => void {
  live.set(kind, (live.get(kind) ?? 0) + 1);
  let gone = false;
  return () => {
    if (gone) return;
    gone = true;
    live.set(kind, (live.get(kind) ?? 0) - 1);
  };
}

/** Live handles of this process by kind, without the kinds that have none. Empty after every closed journey. */
export function liveHandles(): Record<string, number> {
  return Object.fromEntries([...live].filter(([, count]) => count !== 0));
}

/** The error for use after close. */
export function closedError(what: string): VramError {
  return new VramError("CLOSED", `${what} is closed`);
}
