/** How leases end, all of them: revoked, when their time is over, and what wakes whoever waits for the end. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { currentScope, withCorrelation } from "../../src/journal/scope.ts";
import type { LeaseEnd } from "../../src/lease/lease.ts";
import { gone, held, isOver, openBook, refOf, refusal, shardOf, TERMS } from "../helpers/lease-book.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("revoking", () => {
  it("ends what it applies to and nothing else", async () => {
    const { leases, entries } = openBook();
    const [one, other] = [shardOf("a"), shardOf("b")];
    const first = await leases.grant(one, TERMS);
    const kept = await leases.grant(other, TERMS);
    const told: LeaseEnd[] = [];
    for (const { leaseId } of [first, kept]) leases.watch(leaseId, (because) => told.push(because));
    await leases.revoke((shard) => shard === one, "evicted");
    expect(told).toEqual(["evicted"]);
    expect(entries.slice(2)).toEqual([{ type: "lease_revoked", ...refOf(one, first.leaseId), because: "evicted" }]);
    expect(leases.all().map(({ leaseId }) => leaseId)).toEqual([kept.leaseId]);
    expect([one.leases, other.leases]).toEqual([0, 1]);
  });
});

describe("the time of a lease", () => {
  it("ends it without anybody asking: told, on record, and the next one in its turn", async () => {
    const { leases, entries, pass } = openBook();
    const shard = shardOf("a");
    const long = await leases.grant(shard, { ...TERMS, durationMs: 100_000 });
    const short = await leases.grant(shard, { ...TERMS, durationMs: 2000 });
    const told: string[] = [];
    for (const { leaseId, durationMs } of [long, short]) {
      leases.watch(leaseId, (because) => told.push(`${durationMs} ${because}`));
    }
    pass(1999);
    expect(told).toEqual([]);
    pass(1);
    expect(told).toEqual(["2000 expired"]);
    expect(entries.slice(2)).toEqual([{ type: "lease_expired", ...refOf(shard, short.leaseId) }]);
    pass(97_999);
    expect(told).toHaveLength(1);
    pass(1);
    expect(told).toEqual(["2000 expired", "100000 expired"]);
    expect([shard.leases, vi.getTimerCount()]).toEqual([0, 0]);
  });

  it("is over for whoever asks, whether or not a timer was on time", async () => {
    const { leases, late } = openBook();
    const { leaseId } = await leases.grant(shardOf("a"), TERMS);
    late(4999);
    expect(leases.find(leaseId).remainingMs).toBe(1);
    late(1);
    expect(leases.all()).toEqual([]);
    expect(await refusal(() => leases.find(leaseId))).toEqual(gone(leaseId));
  });

  it("is looked after by one timer, never more than a minute ahead nor less than a millisecond", async () => {
    const { leases } = openBook();
    const setTimer = vi.spyOn(globalThis, "setTimeout");
    const waits = (): unknown[] => setTimer.mock.calls.splice(0).map(([, ms]) => ms);
    const { leaseId } = await leases.grant(shardOf("a"), { ...TERMS, durationMs: 86_400_000 });
    expect(waits()).toEqual([60_000]);
    await leases.renew(leaseId, 30_000);
    expect(waits()).toEqual([30_000]);
    await leases.renew(leaseId, 0.25);
    expect(waits()).toEqual([1]);
    expect(vi.getTimerCount()).toBe(1);
  });

  it("is looked after on nobody's behalf", async () => {
    const { leases, pass } = openBook();
    const { leaseId } = await withCorrelation("asked-by-me", () => leases.grant(shardOf("a"), TERMS));
    const scopes: unknown[] = [];
    leases.watch(leaseId, () => scopes.push(currentScope()));
    pass(5000);
    expect(scopes).toEqual([undefined]);
  });
});

describe("the end of all leases", () => {
  it("is there at once when there is none, and comes with the last one", async () => {
    const { leases } = openBook();
    const { signal } = new AbortController();
    expect(await isOver(leases.ended(signal))).toBe(true);
    const [one, other] = [await leases.grant(shardOf("a"), TERMS), await leases.grant(shardOf("b"), TERMS)];
    const waiting = [leases.ended(signal), leases.ended(signal)];
    const isAny = (): Promise<boolean> => isOver(Promise.race(waiting));
    expect(await isAny()).toBe(false);
    await leases.release(one.leaseId);
    expect(await isAny()).toBe(false);
    await leases.release(other.leaseId);
    expect(await isOver(Promise.all(waiting).then(() => undefined))).toBe(true);
  });

  it("is not there while one is being put on record, and is when that has failed", async () => {
    const { leases, record } = openBook();
    const written = held();
    record.append = async () => {
      await written.promise;
      throw new Error("no disk");
    };
    const refused = refusal(leases.grant(shardOf("a"), TERMS));
    const waiting = leases.ended(new AbortController().signal);
    expect(await isOver(waiting)).toBe(false);
    written.resolve();
    expect(await refused).toEqual([new Error("no disk")]);
    expect(await isOver(leases.ended(new AbortController().signal))).toBe(true);
  });

  it("is waited for no longer than asked, and leaves no listener behind", async () => {
    const { leases } = openBook();
    const { leaseId } = await leases.grant(shardOf("a"), TERMS);
    expect(await isOver(leases.ended(AbortSignal.abort()))).toBe(true);
    const patience = new AbortController();
    const waiting = leases.ended(patience.signal);
    expect(await isOver(waiting)).toBe(false);
    patience.abort();
    expect(await isOver(waiting)).toBe(true);
    const other = new AbortController();
    const removed = vi.spyOn(other.signal, "removeEventListener");
    const last = leases.ended(other.signal);
    await leases.release(leaseId);
    expect(await isOver(last)).toBe(true);
    expect(removed).toHaveBeenCalledWith("abort", expect.any(Function));
  });
});
