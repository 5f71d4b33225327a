/**
 * Whoever reaches the service can be refused as often as he likes: what that leaves in the log is bounded (VR-AUD-03),
 * and what is told apart is what he cannot choose. And entries of a service with texts as long as they can be fit a line.
 */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { draftOf } from "../../src/audit/data.ts";
import { createRefusals } from "../../src/audit/refusals.ts";
import type { EntryBody } from "../../src/journal/entry.ts";
import type { AuthFailure } from "../../src/journal/service-body.ts";
import { LIMITS } from "../../src/limits.ts";
import { CODES } from "../../src/metrics/table.ts";
import { openUnit, type UnitLog, until } from "../helpers/audit-writer-unit.ts";
import { stamped } from "../helpers/narration.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

const accept = (log: UnitLog, body: EntryBody) => log.log.reader.accept(stamped(body, { durability: "durable" }));
const told = async (log: UnitLog, type: string): Promise<Record<string, unknown>[]> =>
  (await log.entries()).filter((entry) => entry.type === type).map(({ data }) => data);
const badToken = (caller: string, transport: "socket" | "tcp" = "tcp"): EntryBody => ({
  ...{ type: "auth_failed", failure: "bad-token", transport, caller },
});

describe("callers who are not let in", () => {
  test("[VR-AUD-03] are written eight times in a minute, then counted, whatever they call themselves", async () => {
    const log = await openUnit();
    for (let n = 0; n < 1000; n += 1) await accept(log, badToken(`token ${n}`));
    expect(await told(log, "auth_failed")).toHaveLength(8);
    vi.advanceTimersByTime(60_000);
    await until(async () => (await told(log, "auth_failed")).length === 9);
    const last = (await told(log, "auth_failed")).at(-1);
    expect(last).toMatchObject({ failure: "bad-token", transport: "tcp", caller: "token 999", repeated: 992 });
    expect(last?.["sinceMs"]).toBeGreaterThanOrEqual(60_000);
    await log.closeSound();
  });

  test("[VR-AUD-03] are told apart by failure and by the way they came: one kind hides no other", async () => {
    const log = await openUnit();
    const failures: Record<AuthFailure, true> = {
      ...{ "no-token": true, "bad-token": true, "wrong-scope": true, "wrong-peer": true },
      ...{ "wrong-host": true, "cross-site": true },
    };
    for (let n = 0; n < 100; n += 1) await accept(log, badToken("token 3fa2b1"));
    for (const failure of Object.keys(failures) as AuthFailure[]) {
      for (const transport of ["socket", "tcp"] as const)
        await accept(log, { type: "auth_failed", failure, transport });
    }
    await log.closeSound();
    const lines = await told(log, "auth_failed");
    const kinds = new Set(lines.map(({ failure, transport }) => `${String(failure)} ${String(transport)}`));
    expect(kinds.size).toBe(12);
    // Eight of the flood and its sum, with the one of its kind that came last in it; one of each other kind.
    expect(lines).toHaveLength(8 + 1 + 11);
    expect(lines.filter(({ repeated }) => repeated !== undefined)).toEqual([expect.objectContaining({ repeated: 93 })]);
  });
});

describe("requests that are refused", () => {
  test("[VR-AUD-03] are told apart by code and way, not by status or caller", async () => {
    const log = await openUnit();
    for (const status of [400, 408, 413, 431]) {
      for (let n = 0; n < 5; n += 1) {
        const caller = `uid ${1000 + n}`;
        await accept(log, { type: "request_refused", status, code: "REQUEST_REFUSED", transport: "socket", caller });
      }
    }
    await accept(log, { type: "request_refused", status: 400, code: "REQUEST_REFUSED", transport: "tcp" });
    await accept(log, { type: "request_refused", status: 403, code: "SOURCE_REFUSED", transport: "socket" });
    await log.closeSound();
    const lines = await told(log, "request_refused");
    expect(lines.map(({ code, transport, repeated }) => [code, transport, repeated])).toEqual([
      ...Array.from({ length: 8 }, () => ["REQUEST_REFUSED", "socket", undefined]),
      ["REQUEST_REFUSED", "tcp", undefined],
      ["SOURCE_REFUSED", "socket", undefined],
      ["REQUEST_REFUSED", "socket", 12],
    ]);
  });

  test("[VR-AUD-03] of every code by every way leave a bounded number of lines a minute", () => {
    const refusals = createRefusals(() => 0);
    let written = 0;
    const take = (body: EntryBody): void => {
      if (refusals.take(draftOf(stamped(body, { durability: "durable" })))) written += 1;
    };
    for (let round = 0; round < 20; round += 1) {
      for (const code of CODES) {
        for (const transport of ["socket", "tcp"] as const) {
          take({ type: "request_refused", status: 400, code, transport });
        }
      }
    }
    expect(CODES.length * 2).toBeGreaterThan(LIMITS.auditRefusalKinds);
    expect(written).toBe((LIMITS.auditRefusalKinds + 1) * LIMITS.auditRefusals);
    // Whoever fills all kinds hides nobody of another type.
    take(badToken("token 3fa2b1"));
    expect(written).toBe((LIMITS.auditRefusalKinds + 1) * LIMITS.auditRefusals + 1);
    const settled = refusals.settle(true);
    expect(settled).toHaveLength(LIMITS.auditRefusalKinds + 1);
    const repeated = settled.reduce((sum, { data }) => sum + Number(data["repeated"]), 0);
    expect(repeated + written).toBe(20 * CODES.length * 2 + 1);
  });

  test("[VR-AUD-01] entries that nobody causes by asking are never counted together", () => {
    const refusals = createRefusals(() => 0);
    const lost = { type: "wanted_refused", name: "m", code: "SOURCE_NOT_FOUND", reason: "gone" } as const;
    for (let n = 0; n < 100; n += 1) {
      expect(refusals.take(draftOf(stamped(lost, { durability: "durable" })))).toBe(true);
    }
    expect(refusals.settle(true)).toEqual([]);
  });
});

describe("entries of a service with the longest texts", () => {
  const device = { ordinal: 63, uuid: "GPU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" };
  /** Six bytes of JSON each. */
  const evil = "\u0001".repeat(1024);
  const shardId = "s".repeat(LIMITS.idLength);
  const digest = "ab".repeat(32);
  const lostShard = { shardId, name: evil, digest };
  const peer = { pid: 4_194_304, startTicks: Number.MAX_SAFE_INTEGER };
  const exportId = `export-${"a".repeat(26)}`;
  const orphan = { exportId, shardId, name: evil, deviceUuid: device.uuid, byteLength: 2 ** 40, peer };
  const started: EntryBody = {
    ...{ type: "service_started", backend: "cuda", version: "0.1.0", instanceId: digest, policyDigest: digest },
    ...{ configDigest: digest, kernel: digest, devices: [] },
  };
  const ids = { device, shardId, name: evil, leaseId: `lease-${"a".repeat(26)}` };

  test("[VR-AUD-01] fit into a line, cut where they must be, and what was cut is counted", async () => {
    const log = await openUnit();
    const text = "x".repeat(100_000);
    const bodies: EntryBody[] = [
      { type: "lease_granted", ...ids, digest, holder: text, caller: evil, durationMs: 1, measuredAgeMs: 1 },
      {
        ...{ type: "shard_exported", ...ids, exportId, digest, expected: `fsverity:${digest}`, caller: text, peer },
        byteLength: 1,
      },
      { type: "export_ended", ...ids, exportId, because: "service_gone", held: true },
      { type: "wanted_refused", name: evil, code: "SOURCE_REFUSED", reason: text },
      { type: "auth_failed", failure: "bad-token", transport: "tcp", caller: text },
      { type: "request_refused", status: 400, code: "REQUEST_REFUSED", transport: "tcp", caller: text },
      {
        ...started,
        ...{ lost: Array.from({ length: 300 }, () => lostShard), lostTotal: 8192 },
        devices: Array.from({ length: 64 }, () => ({ ...device, keyId: "1e".repeat(16), stopped: false })),
      },
    ];
    for (const body of bodies) {
      await log.log.reader.accept(stamped(body, { durability: "durable", correlationId: "c".repeat(128) }));
    }
    await log.closeSound();
    const [granted] = await told(log, "lease_granted");
    expect(String(granted?.["holder"])).toMatch(/^x{4000,}…$/);
    expect([granted?.["shardId"], granted?.["digest"]]).toEqual([shardId, digest]);
    const [start] = await told(log, "service_started");
    expect(start).toMatchObject({ lost: [{ shardId, digest }, { shardId }, { shardId }], lostTotal: 8192 });
    expect(start?.["devices"]).toHaveLength(64);
    for (const type of ["shard_exported", "export_ended", "wanted_refused", "auth_failed", "request_refused"])
      expect(await told(log, type)).toHaveLength(1);
  });

  test("[VR-AUD-01] of what was lost the first 64 are named, and how many there are", () => {
    const lost = Array.from({ length: 100 }, (_, n) => ({ shardId: `shard-${n}`, name: `m/${n}`, digest }));
    const { data } = draftOf(stamped({ ...started, lost }, { durability: "durable" }));
    expect(data).toMatchObject({ lost: lost.slice(0, 64), lostTotal: 100 });
    const few = draftOf(stamped({ ...started, lost: lost.slice(0, 2), lostTotal: 2 }, { durability: "durable" }));
    expect(few.data).toMatchObject({ lost: lost.slice(0, 2), lostTotal: 2 });
  });

  test("[VR-AUD-01] what was lost and what others hold share the line, and no device is left out", async () => {
    const lost = Array.from({ length: 64 }, () => lostShard);
    const devices = Array.from({ length: 64 }, () => ({ ...device, keyId: "1e".repeat(16), stopped: false }));
    const full: EntryBody = { ...started, devices, lost, lostTotal: 8192, orphans: lost.map(() => orphan) };
    const log = await openUnit();
    await log.log.reader.accept(stamped(full, { durability: "durable", correlationId: "c".repeat(128) }));
    await log.closeSound();
    const [start] = await told(log, "service_started");
    expect(start).toMatchObject({ lost: { length: 2 }, lostTotal: 8192, orphans: { length: 2 }, orphansTotal: 64 });
    expect(start).toMatchObject({ devices: { length: 64 }, kernel: digest });
    const usual = Array.from({ length: 40 }, () => ({ ...orphan, name: "model.safetensors", shardId: exportId }));
    const { data } = draftOf(stamped({ ...full, lost: [], lostTotal: 0, orphans: usual }, { durability: "durable" }));
    expect(data).toMatchObject({ orphans: usual });
    expect(data).not.toHaveProperty("orphansTotal");
  });
});
