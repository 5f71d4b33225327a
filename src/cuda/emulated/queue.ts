/**
 * Streams and events. Work is enqueued by a call and executes later, in order within a stream, interleaved between
 * streams, one operation per turn of the event loop. Its effects, and what it reads, are those of the moment it
 * executes: a staging slot that is filled again too early really corrupts what is copied from it.
 *
 * A stream that is destroyed lets its work finish, as CUDA does. A context that fails or goes abandons its work: what
 * has not executed never does, and its events never complete. Not modelled: a bounded launch queue, priorities, the
 * default stream, waits between streams.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { cudaError } from "../status.ts";
import { type Context, isLive } from "./context.ts";
import type { EmulatedFaults, OperationKind } from "./faults.ts";
import { ExecutionFault, type LintBook } from "./lint.ts";

export interface Operation {
  readonly kind: OperationKind | "record";
  /** At execution. Throws `ExecutionFault` to fail the context. */
  run(): void | Promise<void>;
  /** Lets go of what it refers to: once, whether it ran or was abandoned. */
  settle(): void;
}

export interface Stream {
  readonly context: Context;
  enqueue(operation: Operation): void;
  /** No more work will come; what is enqueued finishes. */
  retire(): void;
}

/** An event. `latest` is the newest point that was recorded; older points do not matter. */
export interface Marker {
  readonly context: Context;
  latest: { reached: boolean } | undefined;
}

/** What streams of one driver share. */
export interface Execution {
  readonly faults: EmulatedFaults;
  readonly lints: LintBook;
  /** Operations executed so far, by kind. */
  readonly executed: Map<OperationKind, number>;
}

/** Asks the fault plan about `kind`, then runs it, drops it, or lets it wait. */
async function execute(operation: Operation, context: Context, execution: Execution): Promise<void> {
  const { kind } = operation;
  if (kind !== "record") {
    const nth = (execution.executed.get(kind) ?? 0) + 1;
    execution.executed.set(kind, nth);
    const verdict = execution.faults.onExecute?.({ kind, ordinal: context.ordinal, nth });
    if (verdict === "drop") return;
    if (verdict === "stall") await new Promise<void>((resume) => execution.faults.onStall?.(resume));
    else if (verdict !== undefined) throw new ExecutionFault(verdict.status);
    if (!isLive(context)) return;
  }
  await operation.run();
}

export function openStream(context: Context, execution: Execution): Stream {
  let waiting: Operation[] = [];
  let pumping = false;
  let retired = false;

  const abandon = (): void => {
    for (const operation of waiting) operation.settle();
    waiting = [];
    context.abandons.delete(abandon);
  };
  context.abandons.add(abandon);

  /** Never rejects: an error fails the context or is remembered for the next call. */
  const pump = async (): Promise<void> => {
    pumping = true;
    for (let operation = waiting[0]; operation !== undefined; operation = waiting[0]) {
      await nextTurn();
      if (waiting[0] !== operation) continue;
      try {
        await execute(operation, context, execution);
      } catch (error) {
        if (error instanceof ExecutionFault) context.fail(error.status);
        else execution.lints.remember(error);
      }
      // Empty when it was abandoned meanwhile; a context that ended takes no new work.
      waiting.shift()?.settle();
    }
    pumping = false;
    if (retired) context.abandons.delete(abandon);
  };

  return {
    context,
    enqueue: (operation) => {
      waiting.push(operation);
      if (!pumping) void pump();
    },
    retire: () => {
      retired = true;
      if (!pumping) context.abandons.delete(abandon);
    },
  };
}

/** Records `marker` at the current end of `stream`. */
export function recordMarker(marker: Marker, stream: Stream): void {
  const point = { reached: false };
  marker.latest = point;
  const run = (): void => {
    point.reached = true;
  };
  stream.enqueue({ kind: "record", run, settle: () => undefined });
}

/** `complete` for an event that was never recorded, as the real driver answers. */
export function queryMarker(marker: Marker): "complete" | "not-ready" {
  if (marker.context.sticky !== undefined) throw cudaError("event.query", marker.context.sticky);
  return marker.latest === undefined || marker.latest.reached ? "complete" : "not-ready";
}
