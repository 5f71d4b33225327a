/**
 * What each entry of the journal does to the figures: one row for each type, also for those that do nothing, so that a
 * new type does not compile before somebody has decided. Rows are pure; what needs memory of earlier entries (age of
 * measurements, leases and exports that stand, a resume that worked) is in `metrics.ts`.
 */
import type { CapacityFigures, DeviceRef, Entry } from "../journal/entry.ts";
import { type LabelsOf, type MetricName, type NamesOf, PROCESS_STATES } from "./table.ts";

/** Adds to a counter, sets a gauge, or is observed by a histogram; in base units. */
export interface Update {
  readonly metric: MetricName;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const add = <M extends NamesOf<"counter">>(metric: M, labels: LabelsOf<M>, value = 1): Update => ({
  metric,
  labels,
  value,
});

export const put = <M extends NamesOf<"gauge">>(metric: M, labels: LabelsOf<M>, value: number): Update => ({
  metric,
  labels,
  value,
});

/** Entries have milliseconds, Prometheus has seconds. */
const observe = <M extends NamesOf<"histogram">>(metric: M, labels: LabelsOf<M>, durationMs: number): Update => ({
  metric,
  labels,
  value: durationMs / 1000,
});

const nothing = (): readonly Update[] => [];

const on = ({ uuid }: DeviceRef) => ({ device: uuid });
const outcome = (reason: string | undefined) => ({
  result: reason === undefined ? "ok" : "failed",
  reason: reason ?? "none",
});

const capacity = (device: DeviceRef, figures: CapacityFigures): readonly Update[] => [
  put("capacity_total_bytes", on(device), figures.bytesTotal),
  put("capacity_used_bytes", on(device), figures.bytesUsed),
  put("capacity_free_bytes", on(device), figures.bytesFree),
  put("capacity_reserved_bytes", on(device), figures.bytesReserved),
  put("capacity_headroom_bytes", on(device), figures.bytesHeadroom),
  put("capacity_unreclaimed_bytes", on(device), figures.bytesUnreclaimed),
];

const measured = (during: "seal" | "verify", bytesCovered: number, durationMs: number): readonly Update[] => [
  add("measured_bytes_total", { during }, bytesCovered),
  observe("measure_duration_seconds", { during }, durationMs),
];

const leaseEnded = (device: DeviceRef, because: string): readonly Update[] => [
  add("leases_ended_total", { ...on(device), because }),
];

type Rows = { readonly [E in Entry as E["type"]]: (entry: E) => readonly Update[] };

const ROWS: Rows = {
  service_started: ({ backend, version, devices }) => [
    put("service_info", { backend, version }, 1),
    ...devices.map((device) => put("worker_stopped", on(device), device.stopped ? 1 : 0)),
  ],
  // Whoever scrapes sees that it is gone.
  service_stopped: nothing,
  device_opened: ({ device, backend, bytesTotal }) => [
    put("device_info", { ...on(device), backend }, 1),
    put("device_lost", on(device), 0),
    put("capacity_total_bytes", on(device), bytesTotal),
  ],
  device_lost: ({ device, code }) => [
    put("device_lost", on(device), 1),
    add("device_losses_total", { ...on(device), reason: code }),
  ],
  // A process that runs again has a new device, whatever became of the one before.
  device_process_changed: ({ device, state, restarts }) => [
    ...PROCESS_STATES.map((one) => put("device_process_state", { ...on(device), state: one }, one === state ? 1 : 0)),
    put("device_process_restarts", on(device), restarts),
    ...(state === "running" ? [put("device_lost", on(device), 0)] : []),
  ],
  worker_stopped: ({ device }) => [put("worker_stopped", on(device), 1)],
  // It runs again once this is on record, which the end of the operation tells.
  worker_resumed: nothing,

  capacity_changed: ({ device, capacity: figures }) => capacity(device, figures),
  capacity_queried: ({ device, capacity: figures }) => capacity(device, figures),
  // Its figures are of one moment: a promise that is given up again has no entry.
  capacity_reserved: nothing,

  operation_ended: ({ operation, durationMs, code }) => [
    add("operations_total", { operation, ...outcome(code) }),
    observe("operation_duration_seconds", { operation, result: outcome(code).result }, durationMs),
    ...(operation === "seal" || operation === "seal_set" ? [add("seals_total", outcome(code))] : []),
  ],

  // What was opened is counted by what becomes of it.
  source_opened: nothing,
  // Bytes count once the upload is complete.
  upload_progressed: nothing,
  uploaded: ({ byteLength, durationMs, comparedWith }) => [
    add("uploaded_bytes_total", { compared_with: comparedWith }, byteLength),
    observe("upload_duration_seconds", { compared_with: comparedWith }, durationMs),
  ],
  // Facts that break a rule are `policy_violation` entries.
  facts_checked: nothing,
  measured: ({ bytesCovered, durationMs }) => measured("seal", bytesCovered, durationMs),
  seal_computed: nothing,
  // The call may still fail, for want of a record; `operation_ended` knows.
  vram_sealed: nothing,
  set_sealed: () => [add("sets_sealed_total", {})],
  seal_refused: () => [add("seal_refusals_total", {})],

  seal_verified: ({ device, bytesCovered, durationMs }) => [
    add("verifications_total", { ...on(device), ...outcome(undefined) }),
    ...measured("verify", bytesCovered, durationMs),
  ],
  seal_verification_failed: ({ device, failure }) => [
    add("verifications_total", { ...on(device), ...outcome(failure) }),
  ],

  // How many there are, `metrics.ts` knows: some of these fail for want of a record.
  lease_granted: ({ device }) => [add("leases_granted_total", on(device))],
  lease_renewed: () => [add("leases_renewed_total", {})],
  lease_released: ({ device }) => leaseEnded(device, "released"),
  lease_expired: ({ device }) => leaseEnded(device, "expired"),
  lease_revoked: ({ device, because }) => leaseEnded(device, because),
  shard_exported: ({ device }) => [add("exports_total", on(device))],
  export_ended: ({ device, because }) => [add("exports_ended_total", { ...on(device), because })],
  statement_issued: ({ device }) => [add("statements_total", on(device))],
  key_rotated: () => [add("keys_rotated_total", {})],
  wanted_refused: ({ code }) => [add("wanted_refusals_total", { reason: code })],

  request_served: ({ route, status, durationMs }) => [
    add("http_requests_total", { route, status: String(status) }),
    observe("http_request_duration_seconds", { route }, durationMs),
  ],
  auth_failed: ({ failure, transport }) => [add("auth_failures_total", { failure, transport })],
  request_refused: ({ code }) => [add("requests_refused_total", { reason: code })],

  vram_allocated: ({ device }) => [add("allocations_total", { ...on(device), ...outcome(undefined) })],
  vram_allocation_failed: ({ device, code }) => [add("allocations_total", { ...on(device), ...outcome(code) })],
  vram_deallocated: ({ device, because, zeroed }) => [
    add("deallocations_total", { ...on(device), because, zeroed: String(zeroed) }),
  ],
  policy_violation: ({ rule }) => [add("policy_violations_total", { rule })],
  release_failed: () => [add("release_failures_total", {})],

  audit_committed: ({ entries, byteLength, durationMs, waiting, timeMs }) => [
    put("audit_up", {}, 1),
    add("audit_entries_total", {}, entries),
    add("audit_bytes_total", {}, byteLength),
    put("audit_waiting_entries", {}, waiting),
    put("audit_last_commit_timestamp_seconds", {}, timeMs / 1000),
    observe("audit_commit_duration_seconds", {}, durationMs),
  ],
  audit_failed: ({ final }) => [put("audit_up", {}, 0), add("audit_failures_total", { final: String(final) })],
  audit_gap: ({ entries }) => [add("audit_gap_entries_total", {}, entries)],
  audit_recovered: () => [add("audit_recoveries_total", {})],
  audit_pruned: ({ entries }) => [add("audit_pruned_entries_total", {}, entries)],
  // Lines of the log about itself; that it is being written, `audit_committed` says.
  epoch_started: nothing,
  heartbeat: nothing,
  entry_unrecorded: () => [add("entries_unrecorded_total", {})],
};

/** What `entry` does to the figures. Throws if it is not an entry. */
export function updatesOf(entry: Entry): readonly Update[] {
  // Row and entry have the same type, which TypeScript cannot follow through the look-up.
  const row = ROWS[entry.type] as (entry: Entry) => readonly Update[];
  return [add("journal_entries_total", { durability: entry.durability }), ...row(entry)];
}
