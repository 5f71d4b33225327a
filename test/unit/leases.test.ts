/** Leases: what they need, what ends them, and what a lease never does: outlive what it vouches for (VR-API-01, VR-AUD-03). */
import { afterEach, describe, expect, it } from "vitest";
import type { Vram } from "../../src/api.ts";
import type { JournalReader } from "../../src/journal/journal.ts";
import type { TestVram } from "../../src/testing.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { codeOf, openSmall, randomFile } from "../helpers/vram.ts";

const opened: Vram[] = [];
afterEach(async () => {
  for (const vram of opened.splice(0)) await vram.close();
});

async function openSealed(readers: readonly JournalReader[] = [], monotonic?: () => number) {
  const clock = {
    wallMs: () => Date.now(),
    monotonicMs: monotonic ?? (() => performance.now()),
    sleep: async () => undefined,
  };
  const test = await openSmall({ readers }, monotonic === undefined ? {} : { clock });
  opened.push(test.vram);
  const { path } = await randomFile(8192);
  const { record } = await test.vram.seal(path);
  const typed = (type: string) => test.entries.filter((entry) => entry.type === type);
  return { ...test, shardId: record.shardId, typed };
}

const leaseOf = async ({ vram }: Pick<TestVram, "vram">, shardId: string, more: object = {}) =>
  (await vram.acquire(shardId, { durationMs: 60_000, ...more })).lease;

describe("[VR-API-01] the execute gate", () => {
  it("measures, then grants; the lease blocks eviction until it is released", async () => {
    const test = await openSealed();
    const { lease, verification } = await test.vram.acquire(test.shardId, { durationMs: 5000, holder: "engine" });
    expect(verification).toMatchObject({ basis: "measured", record: { leases: 1 } });
    expect(lease).toMatchObject({ shardId: test.shardId, holder: "engine", durationMs: 5000 });
    expect(lease.remainingMs).toBeGreaterThan(0);
    expect(test.typed("lease_granted")).toMatchObject([{ holder: "engine", digest: lease.digest, durationMs: 5000 }]);
    expect(await codeOf(test.vram.evict(test.shardId))).toBe("SHARD_BUSY");
    await test.vram.release(lease.leaseId);
    expect(await codeOf(test.vram.release(lease.leaseId))).toBe("LEASE_NOT_FOUND");
    await test.vram.evict(test.shardId);
    expect(test.vram.leases()).toEqual([]);
  });

  it("[VR-VER-07] settles for a measurement that is fresh enough, and says so", async () => {
    const test = await openSealed();
    const granted = await test.vram.acquire(test.shardId, { durationMs: 5000, maxAgeMs: 60_000 });
    expect(granted.verification).toMatchObject({ basis: "fresh-enough", bytesCovered: 0 });
    const salted = await test.vram.acquire(test.shardId, { durationMs: 5000, maxAgeMs: 60_000, salt: "00ff" });
    expect(salted.verification).toMatchObject({ basis: "measured", salted: { salt: "00ff" } });
  });

  it("grants nothing on bytes that changed", async () => {
    const test = await openSealed();
    const held = await leaseOf(test, test.shardId);
    await test.flipBit(test.shardId, 1, 1);
    expect(await codeOf(test.vram.acquire(test.shardId, { durationMs: 5000 }))).toBe("MEASUREMENT_MISMATCH");
    expect(test.typed("lease_granted")).toHaveLength(1);
    // And revokes what was granted on them.
    expect(await codeOf(test.vram.renew(held.leaseId, { durationMs: 5000 }))).toBe("LEASE_NOT_FOUND");
    expect(test.typed("lease_revoked")).toMatchObject([{ leaseId: held.leaseId }]);
    expect(test.vram.inspect(test.shardId).leases).toBe(0);
  });

  it("grants nothing on a stopped worker, however fresh the measurement is", async () => {
    const test = await openSealed();
    const other = await test.vram.seal((await randomFile(4096, "other.bin")).path);
    const held = await leaseOf(test, other.record.shardId);
    await test.flipBit(test.shardId, 1, 1);
    expect(await codeOf(test.vram.verify(test.shardId))).toBe("MEASUREMENT_MISMATCH");
    const again = test.vram.acquire(other.record.shardId, { durationMs: 5000, maxAgeMs: 60_000 });
    expect(await codeOf(again)).toBe("WORKER_STOPPED");
    expect(test.typed("lease_revoked")).toMatchObject([{ leaseId: held.leaseId, because: "stopped" }]);
  });
});

describe("the time of a lease", () => {
  it("is over by the monotonic clock, and renewed from then on", async () => {
    let nowMs = 1000;
    const test = await openSealed([], () => nowMs);
    const lease = await leaseOf(test, test.shardId, { durationMs: 5000 });
    nowMs += 4999;
    expect((await test.vram.renew(lease.leaseId, { durationMs: 2000 })).lease.remainingMs).toBe(2000);
    nowMs += 1999;
    expect(test.vram.leases()).toHaveLength(1);
    nowMs += 1;
    expect(await codeOf(test.vram.renew(lease.leaseId, { durationMs: 2000 }))).toBe("LEASE_NOT_FOUND");
    expect(test.typed("lease_expired")).toMatchObject([{ leaseId: lease.leaseId }]);
    await test.vram.evict(test.shardId);
  });

  it("ends by itself: nobody has to ask", async () => {
    const test = await openSealed();
    await leaseOf(test, test.shardId, { durationMs: 1 });
    await until("the lease expires", () => test.typed("lease_expired").length === 1);
  });
});

describe("[VR-AUD-03] without a record", () => {
  it("nothing is granted or renewed; releasing and revoking proceed", async () => {
    let broken = false;
    const accept = (): void => {
      if (broken) throw new Error("no disk");
    };
    const test = await openSealed([{ required: true, accept }]);
    const lease = await leaseOf(test, test.shardId);
    const second = await leaseOf(test, test.shardId);
    broken = true;
    const acquired = test.vram.acquire(test.shardId, { durationMs: 5000, maxAgeMs: 60_000 });
    expect(await codeOf(acquired)).toBe("AUDIT_UNAVAILABLE");
    expect(await codeOf(test.vram.renew(lease.leaseId, { durationMs: 5000 }))).toBe("AUDIT_UNAVAILABLE");
    expect(test.vram.inspect(test.shardId).leases).toBe(2);
    await test.vram.release(lease.leaseId);
    await test.open.leases.revoke((shard) => shard.seal.shardId === test.shardId, "evicted");
    expect(await codeOf(test.vram.release(second.leaseId))).toBe("LEASE_NOT_FOUND");
    await test.vram.evict(test.shardId);
  });

  it("a shard that changes while its lease is put on record is not leased", async () => {
    const granted: { listen?: () => void } = {};
    const accept: JournalReader["accept"] = (entry) => {
      if (entry.type === "lease_granted") granted.listen?.();
    };
    const test = await openSealed([{ required: true, accept }]);
    granted.listen = () => {
      test.open.system.registry.find(test.shardId).state = "mismatched";
    };
    expect(await codeOf(leaseOf(test, test.shardId))).toBe("SHARD_NOT_RESIDENT");
    expect(test.typed("lease_revoked")).toMatchObject([{ because: "unreliable" }]);
    expect(test.vram.inspect(test.shardId).leases).toBe(0);
  });
});

describe("the end of all leases", () => {
  it("is waited for, and what is left is revoked", async () => {
    const test = await openSealed();
    const { leases } = test.open;
    const lease = await leaseOf(test, test.shardId);
    const waiting = leases.ended(new AbortController().signal);
    await test.vram.release(lease.leaseId);
    await waiting;
    await leaseOf(test, test.shardId);
    await leases.ended(AbortSignal.abort());
    await leases.close();
    expect(test.typed("lease_revoked")).toMatchObject([{ because: "closed" }]);
    expect(await codeOf(leaseOf(test, test.shardId))).toBe("CLOSED");
  });
});
