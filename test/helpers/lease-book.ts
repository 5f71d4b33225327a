/**
 * The book of leases alone: a shard made up, a clock and a journal of the test's own. Timers are held: they fire when
 * the test's time passes.
 */
import { vi } from "vitest";
import { VramError } from "../../src/errors.ts";
import { createLeases } from "../../src/lease/leases.ts";
import type { Shard } from "../../src/residency/shard.ts";
import type { System } from "../../src/residency/worker.ts";

const WALL_MS = Date.UTC(2026, 0, 1);
export const DEVICE = { ordinal: 1, uuid: "EMU-00000000-0000-4000-8000-000000000001" };

/** A shard as far as leases look at one. */
export function shardOf(name: string, worker: object = {}): Shard {
  const seal = { shardId: `shard-${name}`, name, digest: `digest-${name}`, backend: "emulated" };
  const running = { ref: DEVICE, stopped: undefined, lost: false, ...worker };
  return { seal, device: { ...DEVICE, more: 1 }, worker: running, state: "sealed", leases: 0 } as unknown as Shard;
}

export function openBook(max?: number) {
  let nowMs = 1000;
  const entries: unknown[] = [];
  const record: { append: (entry: unknown) => Promise<void> } = { append: async (entry) => void entries.push(entry) };
  const journal = {
    append: (entry: unknown) => record.append(entry),
    appendAnyway: async (entry: unknown) => void entries.push(entry),
  };
  const clock = { wallMs: () => WALL_MS + nowMs, monotonicMs: () => nowMs, sleep: async () => undefined };
  const leases = createLeases({ journal, clock } as unknown as System, max);
  const pass = (ms: number): void => {
    nowMs += ms;
    vi.advanceTimersByTime(ms);
  };
  /** The clock goes on, and no timer fires. */
  const late = (ms: number): void => {
    nowMs += ms;
  };
  return { leases, entries, record, pass, late };
}

export const TERMS = { holder: "engine", caller: "uid 7", durationMs: 5000, measuredAgeMs: 12 };
export const refOf = (shard: Shard, leaseId: string) => {
  const { shardId, name } = shard.seal;
  return { device: shard.device, leaseId, shardId, name };
};

/** Code, message and details of what `task` ends with. */
export async function refusal(task: Promise<unknown> | (() => unknown)): Promise<readonly unknown[]> {
  const error = await Promise.resolve(typeof task === "function" ? new Promise((done) => done(task())) : task).then(
    () => "nothing was refused",
    (thrown: unknown) => thrown,
  );
  return error instanceof VramError ? [error.code, error.message, error.details] : [error];
}
export const gone = (leaseId: string) => ["LEASE_NOT_FOUND", `there is no lease ${leaseId}`, {}];
/** Whether `waiting` is over once everything that can go on has gone on. */
export async function isOver(waiting: Promise<void>): Promise<boolean> {
  let over = false;
  void waiting.then(() => {
    over = true;
  });
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
  return over;
}

/** A promise, and what resolves it. */
export function held(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => undefined;
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
