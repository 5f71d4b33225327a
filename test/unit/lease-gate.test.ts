/** The execute gate over the emulated device: what comes with a lease, and who gets none although it was granted. */
import { describe, expect, it } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import { acquire, renew } from "../../src/lease/gate.ts";
import { codeOf, openSmall, randomFile } from "../helpers/vram.ts";

async function openSealed() {
  const heard: { listen?: (entry: Entry) => void } = {};
  const accept = (entry: Entry): void => heard.listen?.(entry);
  const test = await openSmall({ readers: [{ required: true, accept }] });
  const { path } = await randomFile(8192);
  const { record } = await test.vram.seal(path);
  const { leases, system } = test.open;
  const shard = system.registry.find(record.shardId);
  const typed = (type: string) => test.entries.filter((entry) => entry.type === type);
  const flip = () => test.flipBit(record.shardId, 1, 1);
  return { heard, leases, system, shard, typed, flip };
}

const REQUEST = { durationMs: 5000, maxAgeMs: undefined, salt: undefined, signal: undefined };

describe("[VR-API-01] the gate", () => {
  it("names who asked, or says that he is unnamed and of this process; and the age that it granted on", async () => {
    const { leases, system, shard, typed } = await openSealed();
    const { lease } = await acquire(system, leases, shard, REQUEST);
    expect([lease.holder, leases.callerOf(lease.leaseId)]).toEqual(["unnamed", "in-process"]);
    const named = await acquire(system, leases, shard, { ...REQUEST, holder: "engine", caller: "uid 7" });
    expect([named.lease.holder, leases.callerOf(named.lease.leaseId)]).toEqual(["engine", "uid 7"]);
    expect(named.verification.record.leases).toBe(2);
    expect(typed("lease_granted")).toMatchObject([
      { holder: "unnamed", caller: "in-process" },
      { holder: "engine", caller: "uid 7", measuredAgeMs: named.verification.ageMs },
    ]);
    await leases.close();
  });

  it("grants nothing to who has gone meanwhile: he would not give it back", async () => {
    const { heard, leases, system, shard, typed } = await openSealed();
    const gone = new AbortController();
    heard.listen = ({ type }) => {
      if (type === "lease_granted") gone.abort();
    };
    expect(await codeOf(acquire(system, leases, shard, { ...REQUEST, signal: gone.signal }))).toBe("ABORTED");
    expect([leases.all(), shard.leases]).toEqual([[], 0]);
    expect([typed("lease_granted").length, typed("lease_released").length]).toEqual([1, 1]);
    const patient = new AbortController();
    const { lease } = await acquire(system, leases, shard, { ...REQUEST, signal: patient.signal });
    expect(leases.all()).toEqual([expect.objectContaining({ leaseId: lease.leaseId })]);
    await leases.close();
  });

  it("[VR-VER-07] renews without looking unless a freshness is asked for; then it verifies first", async () => {
    const { leases, system, shard, typed } = await openSealed();
    const { lease } = await acquire(system, leases, shard, REQUEST);
    const verified = typed("seal_verified").length;
    const plain = await renew(system, leases, lease.leaseId, { ...REQUEST, durationMs: 7000 });
    expect(Object.keys(plain)).toEqual(["lease"]);
    expect(plain.lease).toMatchObject({ leaseId: lease.leaseId, durationMs: 7000 });
    expect(typed("seal_verified")).toHaveLength(verified);
    const fresh = await renew(system, leases, lease.leaseId, { ...REQUEST, maxAgeMs: 3_600_000 });
    expect(fresh.verification).toMatchObject({ basis: "fresh-enough" });
    const measured = await renew(system, leases, lease.leaseId, { ...REQUEST, maxAgeMs: -1 });
    expect(measured.verification).toMatchObject({ basis: "measured", record: { shardId: shard.seal.shardId } });
    expect(typed("seal_verified")).toHaveLength(verified + 1);
    await leases.close();
  });

  it("[VR-VER-07] does not renew on bytes that changed, and the lease is revoked", async () => {
    const { leases, system, shard, flip, typed } = await openSealed();
    const { lease } = await acquire(system, leases, shard, REQUEST);
    await flip();
    const { leaseId } = lease;
    expect(await codeOf(renew(system, leases, leaseId, { ...REQUEST, maxAgeMs: -1 }))).toBe("MEASUREMENT_MISMATCH");
    expect(typed("lease_revoked")).toMatchObject([{ leaseId, because: "unreliable" }]);
    expect(await codeOf(renew(system, leases, leaseId, REQUEST))).toBe("LEASE_NOT_FOUND");
  });
});
