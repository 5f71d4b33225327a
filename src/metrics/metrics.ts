/**
 * Prometheus metrics, fed by the journal: a best-effort reader that turns entries into figures and hands them out as
 * text. It does arithmetic only, at once: no timer, no wait, and nothing it could throw. The registry is its own, so
 * that two systems in one process, or the metrics of the program around us, do not mix. prom-client takes 30 ms to load
 * (measured, Node 20), which only those pay who ask for metrics.
 */
import type * as Prom from "prom-client";
import type { Entry } from "../journal/entry.ts";
import { LIMITS } from "../limits.ts";
import { type LabelValues, METRICS, type MetricName, OTHER, PREFIX } from "./table.ts";
import { put, type Update, updatesOf } from "./updates.ts";

/** Figures of one system; docs/metrics.md has each of them. */
export interface Metrics {
  /** For `openVram({ readers: [metrics.reader] })`: takes entries at once, and no operation waits for it. */
  readonly reader: {
    /** No operation fails for want of a figure. */
    readonly required: false;
    /** Takes an entry at once; never throws. */
    accept(entry: Entry): void;
  };
  /** The `Content-Type` of the text. */
  readonly contentType: string;
  /** All figures as of now, in Prometheus' text format. */
  text(): Promise<string>;
}

/** A shard in VRAM: when the last good measurement of it began, and whether it was sealed since. */
interface FollowedShard {
  begunMs: number;
  sealed: boolean;
}

/** What is followed of a device: its shards by name, which is unique on it, and the ids of its leases and exports. */
interface Followed {
  readonly shards: Map<string, FollowedShard>;
  readonly leases: Set<string>;
  readonly exports: Set<string>;
}

/** The opened devices that have a label. */
type Devices = Map<string, Followed>;

interface Instrument {
  record(labels: Record<string, string>, value: number): void;
  /** Removes every series; gauges only. */
  clear?(): void;
}

const NAMES = Object.keys(METRICS) as readonly MetricName[];
const VERSION = /^\d{1,5}\.\d{1,5}\.\d{1,5}(-[0-9A-Za-z.-]{1,32})?$/;
/** `GPU-…`, `MIG-…` and `EMU-…` with the usual 36 characters, and what tests may use instead. */
const UUID = /^[A-Z]{3}-[0-9A-Za-z-]{1,40}$/;

function createInstrument(prom: typeof Prom, registry: Prom.Registry, metric: MetricName): Instrument {
  const row = METRICS[metric];
  const config = {
    name: PREFIX + metric,
    help: row.help,
    labelNames: Object.keys(row.labels),
    registers: [registry],
  };
  if (row.type === "counter") {
    const counter = new prom.Counter(config);
    return { record: (labels, value) => counter.inc(labels, value) };
  }
  if (row.type === "histogram") {
    const histogram = new prom.Histogram({ ...config, buckets: [...row.buckets] });
    return { record: (labels, value) => histogram.observe(labels, value) };
  }
  const gauge = new prom.Gauge(config);
  const clear = (): void => {
    gauge.reset();
    // Without labels there is a series with 0, which would be a claim.
    if (config.labelNames.length === 0) gauge.remove();
  };
  clear();
  return { record: (labels, value) => gauge.set(labels, value), clear };
}

function boundedValue(values: LabelValues, value: string, devices: Devices): string {
  const known =
    values === "device" ? devices.has(value) : values === "version" ? VERSION.test(value) : values.includes(value);
  return known ? value : OTHER;
}

/** Records updates, with labels held against their sets and figures that are none left out. */
function createFigures(prom: typeof Prom, registry: Prom.Registry, devices: Devices) {
  const instruments = new Map(NAMES.map((metric) => [metric, createInstrument(prom, registry, metric)]));

  const apply = ({ metric, labels: given, value }: Update): void => {
    if (!Number.isFinite(value) || value < 0) return;
    const { type, labels: sets } = METRICS[metric];
    const bounded = Object.entries<LabelValues>(sets).map(([label, values]) => [
      label,
      boundedValue(values, given[label] ?? OTHER, devices),
    ]);
    const labels = Object.fromEntries(bounded) as Record<string, string>;
    // Counts of devices without a label add up; of their states the last one would pass for all.
    if (type === "gauge" && labels["device"] === OTHER) return;
    // One service runs in a process: what ran before it is no series any more.
    if (metric === "service_info") instruments.get(metric)?.clear?.();
    instruments.get(metric)?.record(labels, value);
  };

  /** Makes the series that are there from the beginning: of this device, or those of no device. */
  const begin = (device?: string): void => {
    for (const metric of NAMES) {
      const row = METRICS[metric];
      if (row.type !== "counter" || "device" in row.labels !== (device !== undefined)) continue;
      for (const zero of row.zeros) {
        apply({ metric, labels: device === undefined ? zero : { ...zero, device }, value: 0 });
      }
    }
  };

  const clear = (metric: MetricName): void => instruments.get(metric)?.clear?.();
  return { apply, begin, clear };
}

/** Follows the shards of devices with a label, at most `metricsShards` of each. */
function followShard(devices: Devices, entry: Entry): void {
  if (!("device" in entry && "name" in entry)) return;
  const shards = devices.get(entry.device.uuid)?.shards;
  const shard = shards?.get(entry.name);
  if (entry.type === "measured" && shards !== undefined) {
    // Freshness counts from the beginning of a measurement.
    const begunMs = entry.timeMs - entry.durationMs;
    if (shard !== undefined || shards.size < LIMITS.metricsShards) shards.set(entry.name, { begunMs, sealed: false });
  }
  if (entry.type === "vram_sealed" && shard !== undefined) shard.sealed = true;
  if (entry.type === "seal_verified" && shard !== undefined) shard.begunMs = entry.timeMs - entry.durationMs;
  if (entry.type === "vram_deallocated") shards?.delete(entry.name);
}

/** Follows the leases of devices with a label, at most `metricsLeases` of each. */
function followLease(devices: Devices, entry: Entry): void {
  if (entry.type === "lease_granted") {
    const leases = devices.get(entry.device.uuid)?.leases;
    if (leases !== undefined && leases.size < LIMITS.metricsLeases) leases.add(entry.leaseId);
  } else if (entry.type === "lease_released" || entry.type === "lease_expired" || entry.type === "lease_revoked") {
    devices.get(entry.device.uuid)?.leases.delete(entry.leaseId);
  }
}

/** Follows the exports of devices with a label, at most `metricsExports` of each. */
function followExport(devices: Devices, entry: Entry): void {
  if (entry.type === "shard_exported") {
    const exports = devices.get(entry.device.uuid)?.exports;
    if (exports !== undefined && exports.size < LIMITS.metricsExports) exports.add(entry.exportId);
  } else if (entry.type === "export_ended") {
    devices.get(entry.device.uuid)?.exports.delete(entry.exportId);
  }
}

/** What is known of the resident shards of each device, and of its leases and exports. */
function followedUpdates(devices: Devices): readonly Update[] {
  return [...devices].flatMap(([device, { shards, leases, exports }]) => {
    const begun = [...shards.values()].filter(({ sealed }) => sealed).map(({ begunMs }) => begunMs);
    const oldestMs = begun.reduce((oldest, ms) => Math.min(oldest, ms), Number.POSITIVE_INFINITY);
    return [
      put("shards_resident", { device }, begun.length),
      put("leases_active", { device }, leases.size),
      put("exports_active", { device }, exports.size),
      put("oldest_measurement_timestamp_seconds", { device }, oldestMs / 1000),
    ];
  });
}

/**
 * Tells when a worker runs again. Its entry comes before that and may fail to be recorded, which leaves it stopped; the
 * end of the operation, of the same correlation id, says which it was. A new stop in between stands.
 */
function createResumes() {
  const pending = new Map<string, string>();
  return (entry: Entry): readonly Update[] => {
    const key = entry.correlationId ?? "";
    if (entry.type === "worker_resumed" && pending.size < LIMITS.metricsDevices) pending.set(key, entry.device.uuid);
    if (entry.type === "worker_stopped") {
      for (const [other, device] of pending) if (device === entry.device.uuid) pending.delete(other);
    }
    if (entry.type !== "operation_ended" || entry.operation !== "resume") return [];
    const device = pending.get(key);
    pending.delete(key);
    return device === undefined || entry.code !== undefined ? [] : [put("worker_stopped", { device }, 0)];
  };
}

/** Metrics of one system, all their own. Loads prom-client. */
export async function createMetrics(): Promise<Metrics> {
  const prom = await import("prom-client");
  const registry = new prom.Registry();
  const devices: Devices = new Map();
  const figures = createFigures(prom, registry, devices);
  const resumed = createResumes();
  figures.begin();

  const take = (entry: Entry): void => {
    const updates = [...updatesOf(entry), ...resumed(entry)];
    if (entry.type === "device_opened") {
      const { uuid } = entry.device;
      const hasRoom = devices.size < LIMITS.metricsDevices && UUID.test(uuid);
      if (!devices.has(uuid) && hasRoom) {
        devices.set(uuid, { shards: new Map(), leases: new Set(), exports: new Set() });
        figures.begin(uuid);
      }
    }
    followShard(devices, entry);
    followLease(devices, entry);
    followExport(devices, entry);
    for (const update of updates) figures.apply(update);
  };

  return {
    reader: {
      required: false,
      accept: (entry) => {
        try {
          take(entry);
        } catch {
          figures.apply({ metric: "reader_failures_total", labels: {}, value: 1 });
        }
      },
    },
    contentType: registry.contentType,
    text: () => {
      figures.clear("oldest_measurement_timestamp_seconds");
      for (const update of followedUpdates(devices)) figures.apply(update);
      return registry.metrics();
    },
  };
}
