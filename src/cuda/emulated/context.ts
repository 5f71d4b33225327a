/**
 * Primary contexts, one per device, counted. Calls that need one answer INVALID_CONTEXT when none is current. A context
 * that failed stays failed: its status comes back from every call that needs it, until the last reference is released
 * and the next retain makes a fresh one. Allocations and mappings survive that, as VMM objects do; streams, events,
 * modules and pinned memory do not.
 *
 * Not modelled: threads (one thread calls this driver), the context stack. Real drivers may refuse a fresh primary
 * context after a sticky error until the process ends; the device process does end, so nothing relies on it.
 */
import { cudaError, STATUS } from "../status.ts";

export interface Context {
  readonly ordinal: number;
  readonly cuContext: bigint;
  /** The status it failed with. */
  sticky: number | undefined;
  /** False once its last reference is released. */
  retained: boolean;
  /** Fails it; the first status stays. Work that is enqueued is abandoned. */
  fail(status: number): void;
  /** What abandons enqueued work when it fails or goes: one per stream. */
  readonly abandons: Set<() => void>;
}

export interface Contexts {
  retain(ordinal: number): Context;
  /** The context, if that was its last reference. */
  release(ordinal: number): Context | undefined;
  setCurrent(cuContext: bigint): void;
  /** The current context, or throws INVALID_CONTEXT or its sticky status. */
  current(call: string): Context;
  /** Ends all of them: the driver closes. */
  endAll(): void;
  /** Contexts that are retained. */
  readonly size: number;
}

const BASE = 0x00c0_0000_0000_0000n;
const STEP = 0x1000n;

/** Whether work of this context may still have effects. */
export const isLive = (context: Context): boolean => context.retained && context.sticky === undefined;

const abandonAll = (context: Context): void => {
  for (const abandon of context.abandons) abandon();
};

function openContext(ordinal: number, cuContext: bigint): Context {
  const context: Context = {
    ordinal,
    cuContext,
    sticky: undefined,
    retained: true,
    abandons: new Set(),
    fail: (status) => {
      if (!isLive(context)) return;
      context.sticky = status;
      abandonAll(context);
    },
  };
  return context;
}

export function openContexts(): Contexts {
  const live = new Map<number, { readonly context: Context; count: number }>();
  const byHandle = new Map<bigint, Context>();
  let current: Context | undefined;
  let next = BASE;

  const end = (ordinal: number, context: Context): void => {
    live.delete(ordinal);
    byHandle.delete(context.cuContext);
    context.retained = false;
    abandonAll(context);
  };

  return {
    retain: (ordinal) => {
      const known = live.get(ordinal);
      if (known !== undefined) {
        known.count += 1;
        return known.context;
      }
      const context = openContext(ordinal, next);
      next += STEP;
      live.set(ordinal, { context, count: 1 });
      byHandle.set(context.cuContext, context);
      return context;
    },
    release: (ordinal) => {
      const known = live.get(ordinal);
      if (known === undefined) throw cudaError("context.releasePrimary", STATUS.INVALID_CONTEXT);
      known.count -= 1;
      if (known.count > 0) return undefined;
      end(ordinal, known.context);
      return known.context;
    },
    setCurrent: (cuContext) => {
      const found = byHandle.get(cuContext);
      if (found === undefined && cuContext !== 0n) throw cudaError("context.setCurrent", STATUS.INVALID_CONTEXT);
      current = found;
    },
    current: (call) => {
      if (current?.retained !== true) throw cudaError(call, STATUS.INVALID_CONTEXT);
      if (current.sticky !== undefined) throw cudaError(call, current.sticky);
      return current;
    },
    endAll: () => {
      for (const [ordinal, { context }] of live) end(ordinal, context);
    },
    get size() {
      return live.size;
    },
  };
}
