/** Metrics of a service: leases and exports that stand, devices that come back, and routes that no caller can make up. */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import type { Metrics } from "../../src/metrics/metrics.ts";
import { DEVICE, EXAMPLES } from "../helpers/metric-moves.ts";
import { figuresOf, OPENED, opened } from "../helpers/metrics.ts";

describe("what a service adds", () => {
  const [granted] = EXAMPLES.lease_granted;
  const at = `{device="${DEVICE.uuid}"}`;
  const figure = async (metrics: Metrics, series: string): Promise<number | undefined> =>
    (await figuresOf(metrics)).get(series);
  it("[VR-MET-01] leases stand from their grant to their end, each once", async () => {
    const metrics = await opened();
    const active = (): Promise<number | undefined> => figure(metrics, `leases_active${at}`);
    expect(await active()).toBe(0);
    for (const leaseId of ["a", "b", "c", "d"]) metrics.take({ ...granted, leaseId });
    expect(await active()).toBe(4);
    metrics.take({ ...EXAMPLES.lease_renewed[0], leaseId: "a" });
    expect(await active()).toBe(4);
    metrics.take({ ...EXAMPLES.lease_released[0], leaseId: "a" });
    metrics.take({ ...EXAMPLES.lease_released[0], leaseId: "a" });
    metrics.take({ ...EXAMPLES.lease_expired[0], leaseId: "unknown" });
    expect(await active()).toBe(3);
    metrics.take({ ...EXAMPLES.lease_expired[0], leaseId: "b" });
    metrics.take({ ...EXAMPLES.lease_revoked[0], leaseId: "c" });
    expect(await active()).toBe(1);
  });

  it("[VR-MET-01] a grant that could not be put on record is no lease", async () => {
    const metrics = await opened();
    metrics.take({ ...granted, leaseId: "a" });
    metrics.take({ ...EXAMPLES.lease_revoked[0], leaseId: "a", because: "unrecorded" });
    expect(await figure(metrics, `leases_active${at}`)).toBe(0);
    expect(await figure(metrics, `leases_ended_total{device="${DEVICE.uuid}",because="unrecorded"}`)).toBe(1);
  });

  it("[VR-MET-01] leases are followed up to a limit, and nothing throws beyond it", async () => {
    const metrics = await opened();
    for (let nth = 0; nth < LIMITS.metricsLeases + 10; nth += 1) metrics.take({ ...granted, leaseId: `lease ${nth}` });
    expect(await figure(metrics, `leases_active${at}`)).toBe(LIMITS.metricsLeases);
    expect(await figure(metrics, "reader_failures_total")).toBe(0);
  });

  it("[VR-MET-01] exports stand from their beginning to their end, each once, and up to a limit", async () => {
    const metrics = await opened();
    const active = (): Promise<number | undefined> => figure(metrics, `exports_active${at}`);
    const [begun] = EXAMPLES.shard_exported;
    const [ended] = EXAMPLES.export_ended;
    expect(await active()).toBe(0);
    for (const exportId of ["a", "b", "c"]) metrics.take({ ...begun, exportId });
    expect(await active()).toBe(3);
    metrics.take({ ...ended, exportId: "of an earlier start" });
    metrics.take({ ...ended, exportId: "a", because: "closed", held: false });
    metrics.take({ ...ended, exportId: "b", because: "failed", held: false });
    expect(await active()).toBe(1);
    expect(await figure(metrics, `exports_total${at}`)).toBe(3);
    expect(await figure(metrics, `exports_ended_total{device="${DEVICE.uuid}",because="service_closed"}`)).toBe(0);
    for (let nth = 0; nth < LIMITS.metricsExports + 10; nth += 1) metrics.take({ ...begun, exportId: `export ${nth}` });
    expect(await active()).toBe(LIMITS.metricsExports);
    expect(await figure(metrics, "reader_failures_total")).toBe(0);
  });

  it("[VR-MET-01] a device whose process is lost and runs again is not lost, and nothing is resident on it", async () => {
    const metrics = await opened();
    const resident = (): Promise<number | undefined> => figure(metrics, `shards_resident${at}`);
    const lost = (): Promise<number | undefined> => figure(metrics, `device_lost${at}`);
    const state = (of: string): Promise<number | undefined> =>
      figure(metrics, `device_process_state{device="${DEVICE.uuid}",state="${of}"}`);
    const enter = (to: "lost" | "starting" | "running", restarts: number): void =>
      metrics.take({ type: "device_process_changed", device: DEVICE, state: to, restarts });
    for (const name of ["a", "b"]) {
      metrics.take({ ...EXAMPLES.measured[0], name });
      metrics.take({ ...EXAMPLES.vram_sealed[0], name });
    }
    enter("running", 0);
    expect([await resident(), await lost(), await state("running")]).toEqual([2, 0, 1]);
    metrics.take(EXAMPLES.device_lost[0]);
    enter("lost", 0);
    for (const name of ["a", "b"]) {
      metrics.take({ ...EXAMPLES.vram_deallocated[0], name, because: "lost" });
    }
    expect([await resident(), await lost(), await state("running"), await state("lost")]).toEqual([0, 1, 0, 1]);
    expect(await figure(metrics, `oldest_measurement_timestamp_seconds${at}`)).toBeUndefined();
    enter("starting", 1);
    expect(await lost()).toBe(1);
    enter("running", 1);
    expect([await resident(), await lost(), await state("running"), await state("lost")]).toEqual([0, 0, 1, 0]);
    expect(await figure(metrics, `device_process_restarts${at}`)).toBe(1);
    metrics.take(OPENED);
    metrics.take({ ...EXAMPLES.measured[0], name: "a" });
    metrics.take({ ...EXAMPLES.vram_sealed[0], name: "a" });
    expect(await resident()).toBe(1);
    const freed = `deallocations_total{device="${DEVICE.uuid}",because="lost",zeroed="false"}`;
    expect(await figure(metrics, freed)).toBe(2);
  });

  it("[VR-MET-01] no path that a caller asks for becomes a route, and no status a series of its own", async () => {
    const metrics = await opened();
    const [served] = EXAMPLES.request_served;
    for (let nth = 0; nth < 100; nth += 1) metrics.take({ ...served, route: `GET /v1/shards/${nth}`, status: nth });
    expect(await figure(metrics, 'http_requests_total{route="other",status="other"}')).toBe(100);
    const routes = [...(await figuresOf(metrics)).keys()].filter((series) => series.startsWith("http_requests_total"));
    expect(routes).toHaveLength(1);
  });
});
