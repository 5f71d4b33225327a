/**
 * On whose behalf and by which worker something happens, carried through every await by `AsyncLocalStorage`. The edge
 * (the library's methods, later a request) opens a scope; the journal reads it when an entry is stamped, so that no
 * stage hands ids on.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { randomUUID } from "node:crypto";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

export interface Scope {
  /** Whatever the caller calls this piece of work; a random UUID if it calls it nothing. */
  readonly correlationId: string;
  /** UUID of the device whose worker is at work; absent before one is chosen. */
  readonly workerId?: string;
}

const scopes = new AsyncLocalStorage<Scope>();

/** The scope of the code that runs now. */
export function currentScope(): Scope | undefined {
  return scopes.getStore();
}

/** Letters, digits and `. _ : / -`: what may stand unquoted in a log line, a header and a file name's neighbour. */
const CORRELATION_ID = /^[A-Za-z0-9._:/-]+$/;

/**
 * Runs `task` so that every entry it causes carries this correlation id: 1 to 128 of letters, digits and `. _ : / -`;
 * `INVALID_ARGUMENT` otherwise.
 */
export function withCorrelation<T>(correlationId: string, task: () => T): T {
  if (!CORRELATION_ID.test(correlationId) || correlationId.length > LIMITS.correlationIdLength) {
    throw new VramError(
      "INVALID_ARGUMENT",
      `a correlation id is 1 to ${LIMITS.correlationIdLength} letters, digits and . _ : / -`,
      { details: { argument: "correlationId" } },
    );
  }
  return scopes.run({ correlationId }, task);
}

/** Runs `task` under the correlation id that is there, or a fresh one. */
export function inOperation<T>(task: () => T): T {
  return currentScope() === undefined ? scopes.run({ correlationId: randomUUID() }, task) : task();
}

/** Runs `task` on nobody's behalf: what serves everyone must not look like the work of whoever came first. */
export function onNobodysBehalf<T>(task: () => T): T {
  return scopes.exit(task);
}

/** Runs `task` as the work of this worker. */
export function inWorker<T>(workerId: string, task: () => T): T {
  const scope = currentScope();
  return scopes.run({ correlationId: scope?.correlationId ?? randomUUID(), workerId }, task);
}
