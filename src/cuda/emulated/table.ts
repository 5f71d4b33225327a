/**
 * Handles of one kind (streams, events, modules, functions). Values are never issued twice, so the use of
 * a handle that is gone is told apart from one that never was: the first is a lint, the second a status. Real drivers
 * re-use values and may answer for an innocent object; each kind here has a range of its own.
 */
import { cudaError } from "../status.ts";
import { EmulatorLint } from "./lint.ts";

export interface HandleTable<T> {
  add(value: T): bigint;
  /** The live object, or: lint if it is gone, status if it never was. */
  get(handle: bigint, call: string): T;
  remove(handle: bigint, call: string): T;
  /** Removes all that `matches`: what goes with a context or a module. */
  removeWhere(matches: (value: T) => boolean): void;
  readonly size: number;
}

const STEP = 0x100n;

/** `what` names one object in lints; `unknown` is the status for values that were never issued. */
export function handleTable<T>(what: string, base: bigint, unknown: number): HandleTable<T> {
  const live = new Map<bigint, T>();
  let next = base;

  const get = (handle: bigint, call: string): T => {
    const value = live.get(handle);
    if (value !== undefined) return value;
    if (handle >= base && handle < next && (handle - base) % STEP === 0n) {
      throw new EmulatorLint(`${call}: the ${what} is gone`);
    }
    throw cudaError(call, unknown);
  };

  return {
    add: (value) => {
      const handle = next;
      next += STEP;
      live.set(handle, value);
      return handle;
    },
    get,
    remove: (handle, call) => {
      const value = get(handle, call);
      live.delete(handle);
      return value;
    },
    removeWhere: (matches) => {
      for (const [handle, value] of live) if (matches(value)) live.delete(handle);
    },
    get size() {
      return live.size;
    },
  };
}
