/** Leases one by one: what is on record, what is refused and with which words (VR-API-01, VR-AUD-03). */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { VramError } from "../../src/errors.ts";
import type { LeaseEnd } from "../../src/lease/lease.ts";
import { DEVICE, gone, held, isOver, openBook, refOf, refusal, shardOf, TERMS } from "../helpers/lease-book.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("[VR-API-01] a lease", () => {
  it("is shown as plain data, and is on record before it is", async () => {
    const { leases, entries, pass } = openBook();
    const shard = shardOf("a");
    const lease = await leases.grant(shard, TERMS);
    const { leaseId } = lease;
    expect(leaseId).toMatch(/^lease-[a-z2-7]{26}$/);
    const shown = {
      leaseId,
      ...{ shardId: "shard-a", name: "a", digest: "digest-a", backend: "emulated", holder: "engine" },
      device: DEVICE,
      grantedAt: "2026-01-01T00:00:01.000Z",
      expiresAt: "2026-01-01T00:00:06.000Z",
      remainingMs: 5000,
      durationMs: 5000,
    };
    expect(lease).toEqual(shown);
    expect(entries).toEqual([{ type: "lease_granted", ...refOf(shard, leaseId), digest: "digest-a", ...TERMS }]);
    pass(1000);
    expect(leases.find(leaseId)).toEqual({ ...shown, remainingMs: 4000 });
    expect(leases.all()).toEqual([{ ...shown, remainingMs: 4000 }]);
    expect(leases.shardOf(leaseId)).toBe(shard);
    expect(leases.callerOf(leaseId)).toBe("uid 7");
    expect(shard.leases).toBe(1);
  });

  it("is renewed from now on, on record, as long as its shard may be relied on", async () => {
    const { leases, entries, pass } = openBook();
    const shard = shardOf("a");
    const { leaseId } = await leases.grant(shard, TERMS);
    pass(3000);
    expect(await leases.renew(leaseId, 9000)).toMatchObject({ leaseId, remainingMs: 9000, durationMs: 9000 });
    expect(entries.slice(1)).toEqual([{ type: "lease_renewed", ...refOf(shard, leaseId), durationMs: 9000 }]);
    pass(8999);
    expect(leases.all()).toHaveLength(1);
    shard.state = "mismatched";
    const details = { shardId: "shard-a", state: "mismatched" };
    expect(await refusal(leases.renew(leaseId, 9000))).toEqual([
      ...["SHARD_NOT_RESIDENT", "a is mismatched and cannot be relied on", details],
    ]);
    expect(entries).toHaveLength(2);
  });

  it("that ends while its renewal is put on record is not renewed", async () => {
    const { leases, record, late } = openBook();
    const { leaseId } = await leases.grant(shardOf("a"), TERMS);
    record.append = async () => late(5000);
    expect(await refusal(leases.renew(leaseId, 9000))).toEqual(gone(leaseId));
  });

  it("is given back once: told to who watches it, on record, and shown as it stood", async () => {
    const { leases, entries } = openBook();
    const shard = shardOf("a");
    const granted = await leases.grant(shard, TERMS);
    const { leaseId } = granted;
    const told: LeaseEnd[] = [];
    leases.watch(leaseId, (because) => told.push(because));
    const unwatch = leases.watch(leaseId, () => told.push("lost"));
    unwatch();
    expect(await leases.release(leaseId)).toEqual(granted);
    expect(told).toEqual(["released"]);
    expect(entries.slice(1)).toEqual([{ type: "lease_released", ...refOf(shard, leaseId) }]);
    expect(shard.leases).toBe(0);
    const after = [() => leases.find(leaseId), () => leases.shardOf(leaseId), () => leases.callerOf(leaseId)];
    const tasks = [...after, () => leases.watch(leaseId, () => undefined)];
    for (const task of tasks) expect(await refusal(task)).toEqual(gone(leaseId));
    for (const task of [leases.release(leaseId), leases.renew(leaseId, 1)]) {
      expect(await refusal(task)).toEqual(gone(leaseId));
    }
    expect(leases.all()).toEqual([]);
  });
});

describe("[VR-API-01] no lease is granted", () => {
  const NOT_RESIDENT = { shardId: "shard-a", state: "lost" };
  it.each([
    [
      "on a shard that is lost",
      { state: "lost" },
      "SHARD_NOT_RESIDENT",
      "a is lost and cannot be relied on",
      NOT_RESIDENT,
    ],
    [
      "on a stopped worker",
      { worker: { stopped: "noon", ref: DEVICE } },
      "WORKER_STOPPED",
      expect.anything(),
      expect.anything(),
    ],
    ["on a lost device", { worker: { lost: true, ref: DEVICE } }, "DEVICE_LOST", expect.anything(), {}],
  ])("%s", async (_where, changed, ...refused) => {
    const { leases, entries } = openBook();
    const shard = Object.assign(shardOf("a"), changed);
    expect(await refusal(leases.grant(shard, TERMS))).toEqual(refused);
    expect([entries, shard.leases, leases.all()]).toEqual([[], 0, []]);
  });

  it("beyond the most there may be, those that are being put on record included", async () => {
    const { leases, record } = openBook(2);
    const full = ["SERVICE_BUSY", "2 leases are held already, and that is the most", {}];
    const shard = shardOf("a");
    const written = held();
    record.append = () => written.promise;
    const granting = [leases.grant(shard, TERMS), leases.grant(shard, TERMS)];
    expect(await refusal(leases.grant(shard, TERMS))).toEqual(full);
    written.resolve();
    const [first] = await Promise.all(granting);
    expect(await refusal(leases.grant(shard, TERMS))).toEqual(full);
    await leases.release(first?.leaseId ?? "");
    await leases.grant(shard, TERMS);
    expect(await refusal(leases.grant(shard, TERMS))).toEqual(full);
    expect(shard.leases).toBe(2);
  });

  it("on a shard that is about to be evicted, until it is decided otherwise", async () => {
    const { leases } = openBook();
    const [one, other] = [shardOf("a"), shardOf("b")];
    const lift = leases.bar([one]);
    const refused = ["SHARD_BUSY", "a is being evicted", { shardId: "shard-a" }];
    expect(await refusal(leases.grant(one, TERMS))).toEqual(refused);
    await leases.grant(other, TERMS);
    lift();
    await leases.grant(one, TERMS);
    expect(await refusal(() => leases.bar([shardOf("c"), one]))).toEqual([
      ...["SHARD_BUSY", "a is leased (1)", { shardId: "shard-a", leases: 1 }],
    ]);
    await new Promise<void>((done) => {
      try {
        leases.bar([one]);
      } catch (error) {
        expect((error as VramError).fix).toBe("release its leases, or revoke them with it: `vram evict --revoke`");
        done();
      }
    });
  });

  it("by a book that is closed, and closing ends every lease; on record once", async () => {
    const { leases, entries } = openBook();
    const shard = shardOf("a");
    const { leaseId } = await leases.grant(shard, TERMS);
    const told: LeaseEnd[] = [];
    leases.watch(leaseId, (because) => told.push(because));
    await leases.close();
    await leases.close();
    expect(told).toEqual(["closed"]);
    expect(entries.slice(1)).toEqual([{ type: "lease_revoked", ...refOf(shard, leaseId), because: "closed" }]);
    const [code, message] = await refusal(leases.grant(shard, TERMS));
    expect([code, message]).toEqual(["CLOSED", expect.stringContaining("the book of leases")]);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("[VR-AUD-03] a lease that is being put on record", () => {
  it("counts at once, and not any more if it cannot be; what may have been written is revoked", async () => {
    const { leases, record, entries } = openBook();
    const shard = shardOf("a");
    const failed = new VramError("AUDIT_UNAVAILABLE", "no disk");
    let during = 0;
    record.append = async () => {
      during = shard.leases;
      throw failed;
    };
    expect(await refusal(leases.grant(shard, TERMS))).toEqual(["AUDIT_UNAVAILABLE", "no disk", {}]);
    expect([during, shard.leases]).toEqual([1, 0]);
    const leaseId = expect.stringMatching(/^lease-/) as unknown;
    expect(entries).toEqual([{ type: "lease_revoked", ...refOf(shard, ""), leaseId, because: "unrecorded" }]);
    expect(await isOver(leases.ended(new AbortController().signal))).toBe(true);
  });

  it.each([
    ["unreliable", "SHARD_NOT_RESIDENT"],
    ["closed", "CLOSED"],
  ] as const)("and may not be relied on by then is revoked there: %s", async (because, code) => {
    const { leases, record, entries } = openBook();
    const shard = shardOf("a");
    record.append = async (entry) => {
      entries.push(entry);
      if (because === "closed") await leases.close();
      else shard.state = "mismatched";
    };
    const [refused, message] = await refusal(leases.grant(shard, TERMS));
    expect(refused).toBe(code);
    if (because === "closed") expect(message).toContain("the book of leases");
    const leaseId = expect.stringMatching(/^lease-/) as unknown;
    expect(entries.slice(1)).toEqual([{ type: "lease_revoked", ...refOf(shard, ""), leaseId, because }]);
    expect([shard.leases, leases.all()]).toEqual([0, []]);
  });
});
