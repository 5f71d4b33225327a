/**
 * Leases: revocable rights to rely on residency, for a time (design §2). A shard that is leased is not evicted. A lease
 * ends when it is released, when its time is over by the monotonic clock, or when it is revoked, because what it vouched
 * for does not hold any more. It revokes no mapping: who relies on a shard has to ask whether his lease still stands.
 *
 * Granting and renewing wait for the audit log and fail without it; whatever ends a lease proceeds anyway (VR-AUD-03).
 * Leases are of this process: after a restart there are none.
 */
import { closedError } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { onNobodysBehalf } from "../journal/scope.ts";
import type { LeaseRevocation } from "../journal/service-body.ts";
import { LIMITS } from "../limits.ts";
import type { Shard } from "../residency/shard.ts";
import { requireRunning, type System } from "../residency/worker.ts";
import { createId } from "../seal/names.ts";
import { type Held, type Lease, type LeaseEnd, type LeaseTerms, leaseOf } from "./lease.ts";

export interface Leases {
  /** Grants a lease on a shard that was just verified. Not granted unless it is on record. */
  grant(shard: Shard, terms: LeaseTerms): Promise<Lease>;
  /** From now on for so long. `LEASE_NOT_FOUND` if it has ended, and whatever keeps it from being granted now. */
  renew(leaseId: string, durationMs: number): Promise<Lease>;
  release(leaseId: string): Promise<Lease>;
  find(leaseId: string): Lease;
  shardOf(leaseId: string): Shard;
  /** Who it was granted to, as the service knows him. */
  callerOf(leaseId: string): string;
  all(): readonly Lease[];
  /** Calls `listener` when the lease ends, until the function returned is called. `LEASE_NOT_FOUND` if it has ended. */
  watch(leaseId: string, listener: (because: LeaseEnd) => void): () => void;
  /** Grants nothing on these any more, until the function returned is called. `SHARD_BUSY` if one of them is leased. */
  bar(shards: readonly Shard[]): () => void;
  /** Ends what `applies` to, at once; resolves when that is on record. */
  revoke(applies: (shard: Shard) => boolean, because: LeaseRevocation): Promise<void>;
  /** Resolves when there is none, or `signal` fires. */
  ended(signal: AbortSignal): Promise<void>;
  /** Revokes what is left; nothing is granted any more. May be called twice. */
  close(): Promise<void>;
}

/** A timer is never set further ahead; Node's own limit is 24 days. */
const TIMER_MS = 60_000;

/** Throws unless the shard may be relied on. */
function requireReliable({ worker, state, seal }: Shard): void {
  requireRunning(worker);
  if (state === "sealed") return;
  throw new VramError("SHARD_NOT_RESIDENT", `${seal.name} is ${state} and cannot be relied on`, {
    details: { shardId: seal.shardId, state },
  });
}

const refOf = ({ leaseId, shard }: Held) => ({
  device: shard.device,
  leaseId,
  shardId: shard.seal.shardId,
  name: shard.seal.name,
});

class OpenLeases implements Leases {
  readonly #system: Pick<System, "journal" | "clock">;
  readonly #max: number;
  readonly #held = new Map<string, Held>();
  /** Shards that are about to be evicted. */
  readonly #barred = new Set<Shard>();
  readonly #waiting = new Set<() => void>();
  #granting = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(system: Pick<System, "journal" | "clock">, max: number) {
    this.#system = system;
    this.#max = max;
  }

  #show(held: Held): Lease {
    return leaseOf(held, this.#system.clock);
  }

  #require(leaseId: string): Held {
    this.#expire();
    const held = this.#held.get(leaseId);
    if (held === undefined) throw new VramError("LEASE_NOT_FOUND", `there is no lease ${leaseId}`);
    return held;
  }

  async grant(shard: Shard, terms: LeaseTerms): Promise<Lease> {
    const { clock } = this.#system;
    if (this.#closed) throw closedError("the book of leases");
    requireReliable(shard);
    if (this.#barred.has(shard)) {
      const { name, shardId } = shard.seal;
      throw new VramError("SHARD_BUSY", `${name} is being evicted`, { details: { shardId } });
    }
    if (this.#held.size + this.#granting >= this.#max) {
      throw new VramError("SERVICE_BUSY", `${this.#max} leases are held already, and that is the most`);
    }
    const grantedAtMs = clock.wallMs();
    const { durationMs } = terms;
    const held: Held = {
      leaseId: createId("lease"),
      shard,
      terms,
      grantedAtMs,
      durationMs,
      endsAtMs: 0,
      listeners: new Set(),
    };
    // From here on the shard is not evicted. Whatever ends its reliability meanwhile is seen below.
    shard.leases += 1;
    this.#granting += 1;
    try {
      await this.#record(held);
      this.#requireStill(held);
    } catch (error) {
      shard.leases -= 1;
      this.#wake();
      throw error;
    } finally {
      this.#granting -= 1;
    }
    held.endsAtMs = clock.monotonicMs() + durationMs;
    this.#held.set(held.leaseId, held);
    this.#schedule();
    return this.#show(held);
  }

  /** Puts it on record. What could not be may have been written all the same, and is then revoked there. */
  async #record(held: Held): Promise<void> {
    const { digest } = held.shard.seal;
    try {
      await this.#system.journal.append({ type: "lease_granted", ...refOf(held), digest, ...held.terms });
    } catch (error) {
      void this.#tell({ type: "lease_revoked", ...refOf(held), because: "unrecorded" });
      throw error;
    }
  }

  /** What is on record as granted, and cannot be, is on record as revoked. */
  #requireStill(held: Held): void {
    try {
      if (this.#closed) throw closedError("the book of leases");
      requireReliable(held.shard);
    } catch (error) {
      void this.#tell({ type: "lease_revoked", ...refOf(held), because: this.#closed ? "closed" : "unreliable" });
      throw error;
    }
  }

  async renew(leaseId: string, durationMs: number): Promise<Lease> {
    const held = this.#require(leaseId);
    requireReliable(held.shard);
    await this.#system.journal.append({ type: "lease_renewed", ...refOf(held), durationMs });
    // It may have ended while that was written down.
    this.#require(leaseId);
    held.durationMs = durationMs;
    held.endsAtMs = this.#system.clock.monotonicMs() + durationMs;
    this.#schedule();
    return this.#show(held);
  }

  async release(leaseId: string): Promise<Lease> {
    const held = this.#require(leaseId);
    const released = this.#show(held);
    this.#remove(held, "released");
    await this.#tell({ type: "lease_released", ...refOf(held) });
    return released;
  }

  find(leaseId: string): Lease {
    return this.#show(this.#require(leaseId));
  }

  shardOf(leaseId: string): Shard {
    return this.#require(leaseId).shard;
  }

  callerOf(leaseId: string): string {
    return this.#require(leaseId).terms.caller;
  }

  watch(leaseId: string, listener: (because: LeaseEnd) => void): () => void {
    const { listeners } = this.#require(leaseId);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  all(): readonly Lease[] {
    this.#expire();
    return [...this.#held.values()].map((held) => this.#show(held));
  }

  bar(shards: readonly Shard[]): () => void {
    const leased = shards.find(({ leases }) => leases > 0);
    if (leased !== undefined) {
      const { name, shardId } = leased.seal;
      throw new VramError("SHARD_BUSY", `${name} is leased (${leased.leases})`, {
        fix: "release its leases, or revoke them with it: `vram evict --revoke`",
        details: { shardId, leases: leased.leases },
      });
    }
    for (const shard of shards) this.#barred.add(shard);
    return () => {
      for (const shard of shards) this.#barred.delete(shard);
    };
  }

  async revoke(applies: (shard: Shard) => boolean, because: LeaseRevocation): Promise<void> {
    const revoked = [...this.#held.values()].filter(({ shard }) => applies(shard));
    for (const held of revoked) this.#remove(held, because);
    await Promise.all(revoked.map((held) => this.#tell({ type: "lease_revoked", ...refOf(held), because })));
  }

  ended(signal: AbortSignal): Promise<void> {
    if (this.#held.size + this.#granting === 0 || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        this.#waiting.delete(done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      this.#waiting.add(done);
      signal.addEventListener("abort", done, { once: true });
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.revoke(() => true, "closed");
    clearTimeout(this.#timer);
  }

  #tell(entry: Parameters<System["journal"]["appendAnyway"]>[0]): Promise<void> {
    return this.#system.journal.appendAnyway(entry);
  }

  #remove(held: Held, because: LeaseEnd): void {
    this.#held.delete(held.leaseId);
    held.shard.leases -= 1;
    for (const listener of held.listeners) listener(because);
    this.#wake();
  }

  #wake(): void {
    if (this.#held.size + this.#granting > 0) return;
    for (const wake of [...this.#waiting]) wake();
  }

  /** Ends what is over. */
  #expire(): void {
    const nowMs = this.#system.clock.monotonicMs();
    for (const held of [...this.#held.values()]) {
      if (held.endsAtMs > nowMs) continue;
      this.#remove(held, "expired");
      void this.#tell({ type: "lease_expired", ...refOf(held) });
    }
  }

  /** Looks again when the next one is over. */
  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#held.size === 0) return;
    let nextMs = Number.POSITIVE_INFINITY;
    for (const { endsAtMs } of this.#held.values()) nextMs = Math.min(nextMs, endsAtMs);
    const waitMs = Math.min(Math.max(nextMs - this.#system.clock.monotonicMs(), 1), TIMER_MS);
    const look = (): void => {
      this.#expire();
      this.#schedule();
    };
    this.#timer = onNobodysBehalf(() => setTimeout(look, waitMs)).unref();
  }
}

/** An empty book of leases, of which so many may be held at once. */
export function createLeases(system: Pick<System, "journal" | "clock">, max: number = LIMITS.serviceLeases): Leases {
  return new OpenLeases(system, max);
}
