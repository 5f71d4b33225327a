/**
 * Every metric, as data: registry, labels, `docs/metrics.md` and the tests follow from this one table. A label has a
 * closed set of values, or is the UUID of an opened device; whatever else turns up becomes `other`, so that no name, id
 * or message can reach a label or make series without end.
 */
import { ERROR_TABLE, type ErrorCode } from "../errors.ts";
import type { Entry, Operation, VerificationFailure } from "../journal/entry.ts";
import type { AuthFailure, ExportEnd, LeaseRevocation, Transport } from "../journal/service-body.ts";

/** Stands before every name. */
export const PREFIX = "vram_residency_";

/** What a value becomes that its label does not know; also the device of entries about a device that has no label. */
export const OTHER = "other";

/** The values of a label: listed, the UUID of an opened device, or a version number (one at a time). */
export type LabelValues = "device" | "version" | readonly string[];
type Labels = Readonly<Record<string, LabelValues>>;

/** All members of a union, none forgotten: TypeScript compares the keys. */
const every = <T extends string>(members: Readonly<Record<T, true>>): readonly T[] => Object.keys(members) as T[];

export const CODES = Object.keys(ERROR_TABLE) as readonly ErrorCode[];

const OPERATIONS = every<Operation>({
  seal: true,
  seal_set: true,
  verify: true,
  verify_set: true,
  evict: true,
  resume: true,
  capacity: true,
  plan: true,
  lease: true,
  renew: true,
});

const FAILURES = every<VerificationFailure>({
  mismatch: true,
  mac: true,
  facts: true,
  unreadable: true,
  invalid: true,
  device: true,
});

const BECAUSE = every<Extract<Entry, { type: "vram_deallocated" }>["because"]>({
  evicted: true,
  undone: true,
  closed: true,
  lost: true,
});

/** How leases end: by the holder, by time, or for what they were revoked. */
const LEASE_ENDS = every<"released" | "expired" | LeaseRevocation>({
  released: true,
  unrecorded: true,
  expired: true,
  unreliable: true,
  stopped: true,
  lost: true,
  evicted: true,
  closed: true,
});

const EXPORT_ENDS = every<ExportEnd>({ closed: true, failed: true, service_closed: true, service_gone: true });

const AUTH_FAILURES = every<AuthFailure>({
  "no-token": true,
  "bad-token": true,
  "wrong-scope": true,
  "wrong-peer": true,
  "wrong-host": true,
  "cross-site": true,
});

const TRANSPORTS = every<Transport>({ socket: true, tcp: true });

export const PROCESS_STATES = every<Extract<Entry, { type: "device_process_changed" }>["state"]>({
  starting: true,
  running: true,
  lost: true,
  stopped: true,
  wedged: true,
});

const DURABILITIES = every<Entry["durability"]>({ durable: true, transient: true });
const COMPARED = every<Extract<Entry, { type: "uploaded" }>["comparedWith"]>({ expected: true, witnessed: true });
const RESULTS = ["ok", "failed"] as const;
const FLAGS = ["true", "false"] as const;
const BACKENDS = ["cuda", "cuda-substituted", "emulated"] as const;

/** The rules of `residency/policy.ts`, which this folder may not import; a test compares the two. */
export const RULES = [
  ...["integrated-gpu", "wddm", "mps", "no-virtual-memory-management", "allocation-not-pinned"],
  ...["location-not-device", "host-resident-memory", "unknown-memory-type", "managed-memory", "wrong-ordinal"],
  ...["writable-mapping", "wrong-mapping-access", "wrong-size"],
] as const;

/** The routes of the service, which this folder may not import. */
export const ROUTES = [
  ...["POST /v1/plan", "POST /v1/shards", "GET /v1/shards", "GET /v1/shards/{shard}", "DELETE /v1/shards/{shard}"],
  ...["POST /v1/shards/{shard}/verifications", "GET /v1/operations/{operation}", "DELETE /v1/operations/{operation}"],
  ...["POST /v1/leases", "GET /v1/leases", "GET /v1/leases/{lease}", "POST /v1/leases/{lease}/renewals"],
  ...["DELETE /v1/leases/{lease}", "POST /v1/statements", "GET /v1/statement-keys", "POST /v1/statement-keys"],
  ...["POST /v1/resume", "GET /v1/ready", "GET /v1/devices", "GET /v1/feed"],
  ...["GET /v1/audit/checkpoint", "GET /v1/audit/entries", "GET /v1/audit/proofs/{seq}"],
  ...["GET /metrics", "GET /healthz", "GET /readyz", "GET /v1/openapi.json"],
] as const;

/** HTTP statuses that a service of this kind answers with: those of RFC 9110 and RFC 6585 that can come up. */
export const STATUSES = [
  ...["200", "201", "202", "204", "304"],
  ...["400", "401", "403", "404", "405", "406", "408", "409", "410", "411", "412", "413", "414", "415", "417", "421"],
  ...["422", "423", "426", "428", "429", "431"],
  ...["500", "501", "502", "503", "504", "507"],
] as const;

/**
 * 1 ms to 1000 s in steps of 1, 2.5, 5, so that a quantile is at most a factor of 2.5 off. At 1 TB/s a GPU measures
 * 1 GiB in 1 ms and 70 GB in 70 ms; the emulated device takes seconds for 1 GiB. Sealing a small file takes 10 ms,
 * 70 GB at 3 GB/s 23 s, and 100 GB, the default limit, from a disk of 0.2 GB/s 500 s.
 */
const WORK_SECONDS = [
  ...[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5],
  ...[1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000],
] as const;

/** A write and its fdatasync: 0.1 ms on flash with a power-safe cache; after 10 s the journal waits no longer. */
const COMMIT_SECONDS = [
  ...[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025],
  ...[0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
] as const;

const none = {} as const;
const device = { device: "device" } as const;
const OK = { result: "ok", reason: "none" } as const;

/** Label values of series, without the device. */
type Zero = Readonly<Record<string, string>>;

/**
 * `zeros` are the series that are there from the beginning, or from the opening of a device. Prometheus sees no increase
 * in a counter that is first seen with 1, and the first mismatch is the one that must not be missed.
 */
const counter = <const L extends Labels>(help: string, labels: L, zeros: readonly Zero[] = []) =>
  ({ type: "counter", help, labels, zeros }) as const;
/** Absent until something is known. */
const gauge = <const L extends Labels>(help: string, labels: L) => ({ type: "gauge", help, labels }) as const;
const histogram = <const L extends Labels>(help: string, labels: L, buckets: readonly number[]) =>
  ({ type: "histogram", help, labels, buckets }) as const;

export const METRICS = {
  service_info: gauge("always 1; what runs", { backend: BACKENDS, version: "version" }),
  device_info: gauge("always 1; the devices that were opened", { device: "device", backend: BACKENDS }),
  device_lost: gauge("1 after a fatal error of the device, until it is opened again; else 0", device),
  device_losses_total: counter(
    "fatal errors of devices",
    { device: "device", reason: CODES },
    CODES.filter((code) => ERROR_TABLE[code].fatal).map((reason) => ({ reason })),
  ),
  worker_stopped: gauge("1 while the worker of the device seals nothing until `resume`, 0 after that", device),

  device_process_state: gauge("1 for the state of the process that keeps the device, 0 for the others; of a service", {
    device: "device",
    state: PROCESS_STATES,
  }),
  device_process_restarts: gauge("restarts of that process in the last 5 minutes, as of its last change", device),

  capacity_total_bytes: gauge("memory of the device", device),
  capacity_used_bytes: gauge("allocated for shards", device),
  capacity_free_bytes: gauge("a shard of this many bytes fits", device),
  capacity_reserved_bytes: gauge("promised to seals in flight, not yet allocated", device),
  capacity_headroom_bytes: gauge("never promised to anyone", device),
  capacity_unreclaimed_bytes: gauge("freed by us, not yet given back by the driver", device),

  operations_total: counter(
    "calls that ended, by error code",
    { operation: OPERATIONS, result: RESULTS, reason: ["none", ...CODES] },
    OPERATIONS.map((operation) => ({ operation, ...OK })),
  ),
  operation_duration_seconds: histogram(
    "how long calls took",
    { operation: OPERATIONS, result: RESULTS },
    WORK_SECONDS,
  ),

  seals_total: counter(
    "calls that seal (seal and seal_set), by error code; they are in operations_total too",
    { result: RESULTS, reason: ["none", ...CODES] },
    [OK, { result: "failed", reason: "DIGEST_MISMATCH" }],
  ),
  sets_sealed_total: counter("seals of sets that were put on record", none),
  seal_refusals_total: counter("bytes that were not the expected ones, and seals handed in that did not hold", none),
  uploaded_bytes_total: counter("bytes uploaded into VRAM", { compared_with: COMPARED }),
  upload_duration_seconds: histogram(
    "how long uploads took, reading and hashing included",
    { compared_with: COMPARED },
    WORK_SECONDS,
  ),

  verifications_total: counter(
    "verifications of shards that measured or failed, by kind of failure",
    { device: "device", result: RESULTS, reason: ["none", ...FAILURES] },
    [OK, ...FAILURES.map((reason) => ({ result: "failed", reason }))],
  ),
  measured_bytes_total: counter("bytes measured in VRAM", { during: ["seal", "verify"] }),
  measure_duration_seconds: histogram("how long measurements took", { during: ["seal", "verify"] }, WORK_SECONDS),
  shards_resident: gauge("shards that are sealed and not evicted, also mismatched and lost ones", device),
  oldest_measurement_timestamp_seconds: gauge(
    "when the measurement began that is the oldest among the last good ones of all resident shards; absent without any",
    device,
  ),

  leases_active: gauge("leases that were granted and have not ended", device),
  leases_granted_total: counter("leases granted; one that could not be put on record then failed", device, [{}]),
  leases_renewed_total: counter("leases renewed; one that could not be put on record then failed", none),
  leases_ended_total: counter(
    "leases that ended, and why",
    { device: "device", because: LEASE_ENDS },
    LEASE_ENDS.map((because) => ({ because })),
  ),
  exports_active: gauge("processes that were handed the memory of a shard and are still attached", device),
  exports_total: counter(
    "times that the memory of a shard was handed to another process; one that failed afterwards is among exports_ended_total",
    device,
    [{}],
  ),
  exports_ended_total: counter(
    "exports that ended, and why",
    { device: "device", because: EXPORT_ENDS },
    EXPORT_ENDS.map((because) => ({ because })),
  ),
  statements_total: counter("statements for others that were signed and put on record", device, [{}]),
  keys_rotated_total: counter("times that statements got another key", none),
  wanted_refusals_total: counter("tries to seal again what was wanted that failed, by error code", { reason: CODES }, [
    { reason: "DIGEST_MISMATCH" },
  ]),

  allocations_total: counter(
    "allocations of memory for shards, by error code",
    { device: "device", result: RESULTS, reason: ["none", ...CODES] },
    [OK, { result: "failed", reason: "OUT_OF_VRAM" }],
  ),
  deallocations_total: counter("allocations given back", { device: "device", because: BECAUSE, zeroed: FLAGS }),
  policy_violations_total: counter(
    "broken rules of the VRAM-only policy",
    { rule: RULES },
    RULES.map((rule) => ({ rule })),
  ),
  release_failures_total: counter("resources that could not be released", none),

  http_requests_total: counter("requests that the service answered", { route: ROUTES, status: STATUSES }),
  http_request_duration_seconds: histogram("how long answers took, to their end", { route: ROUTES }, WORK_SECONDS),
  auth_failures_total: counter(
    "callers who were not let in, or not that far",
    { failure: AUTH_FAILURES, transport: TRANSPORTS },
    AUTH_FAILURES.flatMap((failure) => TRANSPORTS.map((transport) => ({ failure, transport }))),
  ),
  requests_refused_total: counter("requests that were refused, by error code", { reason: CODES }, [
    { reason: "REQUEST_REFUSED" },
  ]),

  audit_up: gauge("1 after a write of the audit log, 0 after one that failed; absent without an audit log", none),
  audit_entries_total: counter("entries of the audit log that are on disk", none),
  audit_bytes_total: counter("bytes of the audit log that are on disk", none),
  audit_waiting_entries: gauge("entries that waited when the last write ended", none),
  audit_last_commit_timestamp_seconds: gauge("when the last write ended", none),
  audit_commit_duration_seconds: histogram("how long writes took, until the disk had them", none, COMMIT_SECONDS),
  audit_failures_total: counter(
    "writes that failed; a final one is the last",
    { final: FLAGS },
    FLAGS.map((final) => ({ final })),
  ),
  audit_gap_entries_total: counter("entries that the audit log knows it has lost", none),
  audit_recoveries_total: counter("starts that found a torn line at the end of the audit log", none),
  audit_pruned_entries_total: counter("entries removed by retention", none),

  journal_entries_total: counter(
    "entries of the journal",
    { durability: DURABILITIES },
    DURABILITIES.map((durability) => ({ durability })),
  ),
  entries_unrecorded_total: counter("what had to go on although it could not be put on record", none),
  reader_failures_total: counter("entries that could not be turned into figures, a fault of this program", none),
} as const;

export type MetricName = keyof typeof METRICS;

/** The metrics of one type. */
export type NamesOf<T extends "counter" | "gauge" | "histogram"> = {
  [M in MetricName]: (typeof METRICS)[M]["type"] extends T ? M : never;
}[MetricName];

/** The labels of a metric, all of them, with any text as value: the registry holds it against the set. */
export type LabelsOf<M extends MetricName> = { readonly [L in keyof (typeof METRICS)[M]["labels"]]: string };
