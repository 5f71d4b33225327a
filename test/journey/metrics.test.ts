/** A journey on the emulated device, and what the metrics say of it: what happened, and nothing of what it happened to. */
import { describe, expect, it } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import { createMetrics, type Metrics } from "../../src/metrics/metrics.ts";
import { PREFIX } from "../../src/metrics/table.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { promtool, seriesOf, withoutPromtool } from "../helpers/promtool.ts";
import { codeOf, MIB, openSmall, type Recorded, randomFile, temporaryFolder } from "../helpers/vram.ts";

/** Figures by the name of their series, without prefix and device. */
async function figuresOf(metrics: Metrics): Promise<Map<string, number>> {
  const series = [...seriesOf(await metrics.text())];
  return new Map(
    series.map(([name, value]) => [
      name
        .slice(PREFIX.length)
        .replace(/device="[^"]+",?/, "")
        .replace("{}", ""),
      value,
    ]),
  );
}

/** The figures that are not zero, without those of time, capacity, journal and audit log. */
const counted = (figures: Map<string, number>): Record<string, number> =>
  Object.fromEntries(
    [...figures].filter(([name, value]) => value !== 0 && !/_seconds|^(capacity|journal|audit|service)_/.test(name)),
  );

interface Journey extends Recorded {
  readonly metrics: Metrics;
  readonly path: string;
  readonly stateDir: string;
  readonly shardId: string;
}

/** Seals two models, verifies, flips a bit, verifies, asks for too much, evicts, resumes. */
async function travel(): Promise<Journey> {
  const metrics = await createMetrics();
  const stateDir = `${await temporaryFolder()}/state`;
  const recorded = await openSmall({ stateDir, readers: [metrics.reader] });
  const { vram, flipBit } = recorded;
  const { path } = await randomFile(5 * MIB + 7, "secret-model.bin");
  const { record, seal } = await vram.seal(path, { name: "secret name" });
  await vram.seal((await randomFile(MIB)).path, { name: "another name" });
  await vram.verify("secret name", { seal });
  await vram.verify("another name");
  expect(await codeOf(vram.verify("another name", { seal }))).toBe("SEAL_REFUSED");
  expect(await codeOf(vram.seal((await randomFile(127 * MIB)).path))).toBe("OUT_OF_VRAM");
  expect(await codeOf(vram.seal(path, { name: "wrong bytes", expected: "00".repeat(32) }))).toBe("DIGEST_MISMATCH");
  await flipBit("secret name", 3 * MIB, 3);
  expect(await codeOf(vram.verify("secret name"))).toBe("MEASUREMENT_MISMATCH");
  return { ...recorded, metrics, path, stateDir, shardId: record.shardId };
}

describe("the metrics of a journey", () => {
  it("[VR-MET-01] say how often what happened, and how much", async () => {
    const { vram, metrics } = await travel();
    const stopped = await figuresOf(metrics);
    expect(stopped.get("worker_stopped")).toBe(1);
    expect(stopped.get("shards_resident")).toBe(2);
    expect(await codeOf(vram.seal((await randomFile(MIB)).path))).toBe("WORKER_STOPPED");
    await vram.evict("secret name");
    await vram.resume("seen");

    const sealed = 5 * MIB + 7 + MIB;
    const figures = await figuresOf(metrics);
    expect(counted(figures)).toEqual({
      'device_info{backend="emulated"}': 1,
      shards_resident: 1,
      'operations_total{operation="seal",result="ok",reason="none"}': 2,
      'operations_total{operation="seal",result="failed",reason="OUT_OF_VRAM"}': 1,
      'operations_total{operation="seal",result="failed",reason="DIGEST_MISMATCH"}': 1,
      'operations_total{operation="seal",result="failed",reason="WORKER_STOPPED"}': 1,
      'operations_total{operation="verify",result="ok",reason="none"}': 2,
      'operations_total{operation="verify",result="failed",reason="SEAL_REFUSED"}': 1,
      'operations_total{operation="verify",result="failed",reason="MEASUREMENT_MISMATCH"}': 1,
      'operations_total{operation="evict",result="ok",reason="none"}': 1,
      'operations_total{operation="resume",result="ok",reason="none"}': 1,
      'seals_total{result="ok",reason="none"}': 2,
      'seals_total{result="failed",reason="OUT_OF_VRAM"}': 1,
      'seals_total{result="failed",reason="DIGEST_MISMATCH"}': 1,
      'seals_total{result="failed",reason="WORKER_STOPPED"}': 1,
      seal_refusals_total: 2,
      'uploaded_bytes_total{compared_with="witnessed"}': sealed,
      'uploaded_bytes_total{compared_with="expected"}': 5 * MIB + 7,
      'verifications_total{result="ok",reason="none"}': 2,
      'verifications_total{result="failed",reason="mismatch"}': 1,
      'measured_bytes_total{during="seal"}': sealed + 5 * MIB + 7,
      'measured_bytes_total{during="verify"}': sealed,
      'allocations_total{result="ok",reason="none"}': 3,
      'allocations_total{result="failed",reason="OUT_OF_VRAM"}': 1,
      'deallocations_total{because="undone",zeroed="true"}': 1,
      'deallocations_total{because="evicted",zeroed="true"}': 1,
    });
    expect(figures.get("worker_stopped")).toBe(0);
    expect(figures.get("device_lost")).toBe(0);
    expect(figures.get('operation_duration_seconds_count{operation="seal",result="ok"}')).toBe(2);
    expect(figures.get('measure_duration_seconds_count{during="verify"}')).toBe(2);
    expect(figures.get('upload_duration_seconds_count{compared_with="witnessed"}')).toBe(2);
  });

  it("[VR-MET-01] say of capacity what `capacity()` says, and when the oldest measurement was", async () => {
    const { vram, metrics, entries } = await travel();
    const capacity = await vram.capacity();
    const figures = await figuresOf(metrics);
    for (const [field, bytes] of Object.entries(capacity)) {
      expect(figures.get(`capacity_${field.slice("bytes".length).toLowerCase()}_bytes`), field).toBe(bytes);
    }
    // The one that mismatched was found right before the other was.
    const isFirst = (entry: Entry): entry is Extract<Entry, { type: "seal_verified" }> =>
      entry.type === "seal_verified" && entry.name === "secret name";
    const first = entries.find(isFirst);
    const oldest = figures.get("oldest_measurement_timestamp_seconds");
    expect(oldest).toBeCloseTo(((first?.timeMs ?? 0) - (first?.durationMs ?? 0)) / 1000, 3);
    await vram.evict("secret name");
    await vram.evict("another name");
    const empty = await figuresOf(metrics);
    expect(empty.has("oldest_measurement_timestamp_seconds")).toBe(false);
    expect(empty.get("shards_resident")).toBe(0);
    expect(empty.get("capacity_used_bytes")).toBe(0);
  });

  it("[VR-MET-01] say nothing of names, ids, digests, paths and messages", async () => {
    const { vram, metrics, entries, path, stateDir, shardId } = await travel();
    const text = await metrics.text();
    const device = vram.devices()[0]?.uuid ?? "";
    expect(text).toContain(device);
    for (const word of ["secret", "another name", path, stateDir, shardId]) expect(text).not.toContain(word);
    // Every longer text of every entry, but for codes and the device, which are labels.
    const texts = new Set<string>();
    const labels = new Set<string>([device, ...entries.flatMap((entry) => ("code" in entry ? [entry.code] : []))]);
    JSON.stringify(entries, (key, part: unknown) => {
      if (typeof part === "string" && key !== "type" && part.length > 12 && !labels.has(part)) texts.add(part);
      return part;
    });
    expect(texts.size).toBeGreaterThan(10);
    for (const one of texts) expect(text).not.toContain(one);
    expect(text).not.toMatch(/[0-9a-f]{32}/);
  });

  it("[VR-MET-01] tell that the audit log is written, how much, and that nothing waits", async () => {
    const { metrics, entries } = await travel();
    const figures = await figuresOf(metrics);
    const durable = entries.filter(({ durability }) => durability === "durable").length;
    expect(figures.get("audit_up")).toBe(1);
    expect(figures.get("audit_waiting_entries")).toBe(0);
    expect(figures.get("audit_entries_total")).toBeGreaterThanOrEqual(durable);
    expect(figures.get("audit_bytes_total")).toBeGreaterThan(100 * durable);
    expect(figures.get('journal_entries_total{durability="durable"}')).toBe(durable);
    expect(figures.get('audit_failures_total{final="true"}')).toBe(0);
  });

  it("without a state directory there is no audit log, and none that is down", async () => {
    const metrics = await createMetrics();
    await openSmall({ readers: [metrics.reader] });
    expect((await figuresOf(metrics)).has("audit_up")).toBe(false);
  });

  it("[VR-MET-01] tell of a device that was lost", async () => {
    const faults = createFaultPlan();
    const metrics = await createMetrics();
    const { vram } = await openSmall({ readers: [metrics.reader] }, { faults });
    await vram.seal((await randomFile(MIB)).path, { name: "m" });
    faults.reset();
    faults.breakExecution("launch", 1, 700);
    expect(await codeOf(vram.verify("m"))).toBe("DEVICE_LOST");
    const figures = await figuresOf(metrics);
    expect(figures.get("device_lost")).toBe(1);
    expect(figures.get('device_losses_total{reason="DEVICE_LOST"}')).toBe(1);
    expect(figures.get('verifications_total{result="failed",reason="device"}')).toBe(1);
  });

  it("[VR-MET-01] a resume that could not be put on record leaves the worker stopped", async () => {
    const metrics = await createMetrics();
    let isDown = false;
    const audit = {
      required: true,
      accept: (entry: Entry) => {
        if (isDown && entry.durability === "durable") throw new Error("no space left");
      },
    };
    const { vram, flipBit } = await openSmall({ readers: [audit, metrics.reader] });
    await vram.seal((await randomFile(MIB)).path, { name: "m" });
    await flipBit("m", 1, 1);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    isDown = true;
    expect(await codeOf(vram.resume("seen"))).toBe("AUDIT_UNAVAILABLE");
    expect((await figuresOf(metrics)).get("worker_stopped")).toBe(1);
    await vram.evict("m");
    // The eviction, and that the worker did not resume after all.
    expect((await figuresOf(metrics)).get("entries_unrecorded_total")).toBe(2);
    isDown = false;
    await vram.resume("seen");
    expect((await figuresOf(metrics)).get("worker_stopped")).toBe(0);
  });

  it("[VR-MET-01] a seal that could not be put on record is no resident shard and no seal that went well", async () => {
    const metrics = await createMetrics();
    const audit = {
      required: true,
      accept: (entry: Entry) => {
        if (entry.type === "vram_sealed") throw new Error("no space left");
      },
    };
    const { vram } = await openSmall({ readers: [audit, metrics.reader] });
    expect(await codeOf(vram.seal((await randomFile(MIB)).path))).toBe("AUDIT_UNAVAILABLE");
    const figures = await figuresOf(metrics);
    expect(figures.get("shards_resident")).toBe(0);
    expect(figures.get('seals_total{result="ok",reason="none"}')).toBe(0);
    expect(figures.get('seals_total{result="failed",reason="AUDIT_UNAVAILABLE"}')).toBe(1);
  });

  it.skipIf(withoutPromtool !== "")(
    `[VR-MET-01] promtool has nothing to say about them${withoutPromtool}`,
    async () => {
      const { metrics } = await travel();
      expect(promtool(["check", "metrics"], await metrics.text())).toEqual({ code: 0, said: "" });
    },
  );
});
