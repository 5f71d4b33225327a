/** What waits for the disk has an end (VR-AUD-03): queue, size of the log, refused requests, closing. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { parseVkey } from "../../src/audit/note.ts";
import { readStoredCheckpoints } from "../../src/audit/stored-checkpoints.ts";
import { verifyLog } from "../../src/audit/verify-log.ts";
import { inWorker, withCorrelation } from "../../src/journal/scope.ts";
import { systemError } from "../helpers/audit-writer-disk.ts";
import {
  durable,
  gate,
  openUnit,
  outcomeOf,
  refusal,
  turns,
  type UnitLog,
  until,
} from "../helpers/audit-writer-unit.ts";
import { codeOf } from "../helpers/vram.ts";

const REFUSED = "AUDIT_UNAVAILABLE";
const ENDED = "AUDIT_UNAVAILABLE final";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

/** The disk answers no fdatasync of lines until the gate opens. */
function hang({ disk }: UnitLog): { readonly open: () => void; readonly hangs: () => boolean } {
  const hold = gate();
  let hangs = false;
  disk.onSync = async (name) => {
    if (!name.endsWith(".jsonl")) return;
    hangs = true;
    await hold.opened;
  };
  return { open: hold.open, hangs: () => hangs };
}

const settled = (log: UnitLog, count: number, gates: boolean): Promise<string>[] =>
  Array.from({ length: count }, (_, n) => outcomeOf(() => log.log.reader.accept(durable(`entry ${n}`, gates))));

describe("the queue", () => {
  test("[VR-AUD-03] takes 4096 that gate and 8192 that must proceed; what found no place is told", async () => {
    const log = await openUnit();
    const { open, hangs } = hang(log);
    const gating = settled(log, 4096, true);
    await until(hangs);
    expect(await outcomeOf(() => log.log.reader.accept(durable("one more")))).toBe(REFUSED);
    const anyway = settled(log, 4096, false);
    expect(await Promise.all(settled(log, 3, false))).toEqual([REFUSED, REFUSED, REFUSED]);
    expect(await outcomeOf(() => log.log.reader.accept(refusal(1)))).toBe(REFUSED);
    open();
    expect(new Set(await Promise.all([...gating, ...anyway]))).toEqual(new Set(["ok"]));
    await until(() => log.notes.some(({ type }) => type === "audit_gap"));
    await log.closeSound();
    const entries = await log.entries();
    expect(entries.filter(({ type }) => type === "worker_stopped")).toHaveLength(8192);
    expect(entries.filter(({ type }) => type === "audit_gap").map(({ data }) => data)).toEqual([
      { entries: 4, types: ["worker_stopped", "seal_refused"] },
    ]);
  });

  test("[VR-AUD-03] of a log that reaches its limit refuses what gates first, and the rest at the end", async () => {
    const log = await openUnit({ maxBytes: 40_000 });
    const outcomes = { gating: 0, anyway: 0 };
    while ((await outcomeOf(() => log.log.reader.accept(durable("x".repeat(500))))) === "ok") outcomes.gating += 1;
    while ((await outcomeOf(() => log.log.reader.accept(durable("x".repeat(500), false)))) === "ok")
      outcomes.anyway += 1;
    expect(outcomes.gating).toBeGreaterThan(15);
    expect(Math.abs(outcomes.gating - outcomes.anyway)).toBeLessThan(4);
    // Timers that have something to say find no place either, and nothing is thrown at nobody.
    vi.advanceTimersByTime(600_000);
    await turns();
    await log.closeSound();
  });
});

describe("refused requests", () => {
  const told = async (log: UnitLog): Promise<unknown[]> =>
    (await log.entries())
      .filter(({ type }) => type === "seal_refused")
      .map(({ data }) => data["repeated"] ?? "written");
  const EIGHT = Array.from({ length: 8 }, () => "written");

  test("[VR-AUD-03] are written eight times in a minute, and the others counted", async () => {
    const log = await openUnit();
    for (let n = 0; n < 20; n += 1) await log.log.reader.accept(refusal(n));
    expect(await told(log)).toEqual(EIGHT);
    vi.advanceTimersByTime(60_000);
    await until(async () => (await told(log)).length === 9);
    expect((await told(log)).at(-1)).toBe(12);
    const last = (await log.entries()).find(({ data }) => data["repeated"] === 12)?.data;
    expect(last).toMatchObject({ shardId: "shard-19", repeated: 12 });
    expect(last?.["sinceMs"]).toBeGreaterThanOrEqual(60_000);
    // In the minute behind a count everything is counted; after a quiet one they are written again.
    for (let n = 0; n < 9; n += 1) await log.log.reader.accept(refusal(n));
    expect(await told(log)).toEqual([...EIGHT, 12]);
    vi.advanceTimersByTime(60_000);
    await until(async () => (await told(log)).length === 10);
    vi.advanceTimersByTime(60_000);
    for (let n = 0; n < 9; n += 1) await log.log.reader.accept(refusal(n));
    await log.closeSound();
    expect(await told(log)).toEqual([...EIGHT, 12, 9, ...EIGHT, 1]);
  });

  test("[VR-AUD-03] are told each minute also while other entries keep coming", async () => {
    const log = await openUnit();
    for (let second = 0; second < 180; second += 1) {
      await log.log.reader.accept(refusal(second));
      await log.log.reader.accept(durable("keeps coming"));
      vi.advanceTimersByTime(1000);
    }
    await log.closeSound();
    expect(await told(log)).toEqual([...EIGHT, 52, 60, 60]);
  });

  test("[VR-AUD-03] of more kinds than are told apart are counted together", async () => {
    const log = await openUnit();
    for (let n = 0; n < 1000; n += 1) {
      const uuid = `EMU-${String(n).padStart(8, "0")}-0b7e-4d38-9c41-5e2a8f70d3b6`;
      await log.log.reader.accept(refusal(n, { ordinal: n, uuid }));
    }
    await log.closeSound();
    const all = await told(log);
    // 64 devices, the others as one.
    expect(all.filter((what) => what === "written")).toHaveLength(64 + 8);
    expect(all.filter((what) => what !== "written")).toEqual([1000 - 64 - 8]);
  });
});

describe("timers", () => {
  test("[VR-AUD-02] an idle log beats every minute, one with entries does not", async () => {
    const log = await openUnit();
    const beats = async (): Promise<number> => (await log.types()).filter((type) => type === "heartbeat").length;
    vi.advanceTimersByTime(59_999);
    await turns();
    expect(await beats()).toBe(0);
    await log.log.reader.accept(durable("keeps coming"));
    await turns();
    vi.advanceTimersByTime(59_999);
    await turns();
    expect(await beats()).toBe(0);
    for (let beat = 1; beat < 4; beat += 1) {
      vi.advanceTimersByTime(60_000);
      await until(async () => (await beats()) === beat);
      await until(() => log.notes.filter(({ type }) => type === "heartbeat").length === beat);
    }
    await log.closeSound();
  });

  test("[VR-AUD-02] a log checkpoint covers an entry within a second", async () => {
    const log = await openUnit();
    const signed = async (): Promise<boolean> => {
      const stored = await readStoredCheckpoints(log.state.folder, parseVkey(log.log.vkey));
      return stored.checkpoints.at(-1)?.size === 2;
    };
    await log.log.reader.accept(durable("one"));
    await turns();
    vi.advanceTimersByTime(999);
    await turns();
    expect(await signed()).toBe(false);
    vi.advanceTimersByTime(1);
    await until(signed);
    await log.closeSound();
  });

  test("[VR-AUD-03] a full disk is tried again each second for what must proceed", async () => {
    const log = await openUnit();
    await log.log.reader.accept(durable("one"));
    log.disk.onWrite = () => Promise.reject(systemError("ENOSPC"));
    expect(await outcomeOf(() => log.log.reader.accept(durable("evicted", false)))).toBe(REFUSED);
    let tries = 0;
    log.disk.onWrite = async () => {
      tries += 1;
      throw systemError("ENOSPC");
    };
    const tried = async (count: number): Promise<void> => {
      await until(() => {
        vi.advanceTimersByTime(100);
        return tries >= count;
      });
    };
    await tried(3);
    log.disk.onWrite = () => Promise.resolve();
    await until(async () => {
      vi.advanceTimersByTime(100);
      return (await log.types()).includes("worker_stopped") && (await log.entries()).length >= 3;
    });
    await log.closeSound();
    const reasons = (await log.entries()).map(({ data }) => data["reason"]).filter((reason) => reason !== undefined);
    expect(reasons).toEqual(["one", "evicted"]);
  });
});

describe("closing", () => {
  test("[VR-AUD-04] writes what waits and a last log checkpoint, and refuses what comes later", async () => {
    const log = await openUnit();
    const waiting = settled(log, 100, true);
    await log.log.close();
    expect(await Promise.all(waiting)).toEqual(Array.from({ length: 100 }, () => "ok"));
    expect(await outcomeOf(() => log.log.reader.accept(durable("later")))).toBe(ENDED);
    await log.log.close();
    const { entries, checkpoints } = await verifyLog(log.state.folder);
    expect([entries, checkpoints.covered]).toEqual([101, 101]);
  });

  test("[VR-AUD-03] does not wait longer than ten seconds for a disk that hangs; its files are closed when that answers", async () => {
    const log = await openUnit();
    const { open, hangs } = hang(log);
    const waiting = outcomeOf(() => log.log.reader.accept(durable("hangs")));
    await until(hangs);
    const closing = log.log.close();
    await turns();
    vi.advanceTimersByTime(10_000);
    await closing;
    expect(await waiting).toBe(ENDED);
    expect(log.notes).toContainEqual(expect.objectContaining({ type: "audit_failed", final: true }));
    expect(log.disk.openFiles()).toBeGreaterThan(0);
    open();
    await until(() => log.disk.openFiles() === 0);
  });
});

describe("modes", () => {
  const body = { type: "worker_resumed", device: { ordinal: 0, uuid: "EMU-0" }, reason: "a test" } as const;

  test("[VR-AUD-03] `required` fails the operation, `best-effort` does not", async () => {
    for (const mode of ["required", "best-effort"] as const) {
      const { log, journal, disk } = await openUnit({ mode });
      await journal.append(body);
      disk.onSync = () => Promise.reject(systemError("EIO"));
      expect(await codeOf(journal.append(body)), mode).toBe(mode === "required" ? REFUSED : "no error: undefined");
      await log.close();
    }
  });

  test("[VR-AUD-01] what the journal stamps becomes the line's own; long lists are cut and counted", async () => {
    const log = await openUnit();
    await withCorrelation("a-correlation", async () => {
      await log.journal.append(body);
      await log.journal.append({
        type: "seal_verification_failed",
        device: body.device,
        shardId: "shard-a",
        name: "a",
        failure: "mismatch",
        message: "differs",
        ranges: Array.from({ length: 200 }, (_, n) => ({ offset: n * 524_288, byteLength: 524_288 })),
        rangesTotal: 200_000,
        tensors: Array.from({ length: 100 }, (_, n) => `tensor.${n}.${"x".repeat(200)}`),
        tensorsTotal: 100,
      });
    });
    await withCorrelation("a-correlation", () =>
      inWorker("EMU-1", () => log.journal.append({ type: "service_stopped", because: "closed" })),
    );
    await log.closeSound();
    const [, resumed, failed, stopped] = await log.entries();
    expect(resumed?.data).toEqual({ correlationId: "a-correlation", device: body.device, reason: "a test" });
    expect(failed?.data).toMatchObject({ correlationId: "a-correlation", rangesTotal: 200_000, tensorsTotal: 100 });
    expect(failed?.data["ranges"]).toHaveLength(64);
    expect(failed?.data["tensors"]).toHaveLength(64);
    expect(failed?.data).not.toHaveProperty("workerId");
    expect(stopped?.data).toEqual({ because: "closed", correlationId: "a-correlation", workerId: "EMU-1" });
  });
});
