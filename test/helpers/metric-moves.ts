/** For each type of entry one example, and every series it moves, by how much: what `metrics.test.ts` compares with. */
import type { EntryBody } from "../../src/journal/entry.ts";

export const DEVICE = { ordinal: 0, uuid: "EMU-0b7f4c8e-1d5a-4f0e-9a39-3c1d7e2b5a60" } as const;
const device = DEVICE;
const on = `device="${DEVICE.uuid}"`;

/** Half a second. */
const HALF = { durationMs: 500 } as const;

const WORK = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000];

/** What the first observation of half a second moves. With labels, its series are new. */
function observed(metric: string, labels: string): Record<string, number> {
  const isNew = labels !== "";
  const inner = (le: string): string => `${metric}_bucket{le="${le}"${isNew ? `,${labels}` : ""}}`;
  const outer = isNew ? `{${labels}}` : "";
  // The one without labels is that of the audit log, which ends at 10 seconds.
  const bounds = WORK.filter((bound) => isNew || (bound >= 0.5 && bound <= 10));
  return {
    ...Object.fromEntries(bounds.map((bound) => [inner(String(bound)), bound >= 0.5 ? 1 : 0])),
    [inner("+Inf")]: 1,
    [`${metric}_sum${outer}`]: 0.5,
    [`${metric}_count${outer}`]: 1,
  };
}

const FIGURES = {
  bytesTotal: 1100,
  bytesUsed: 2,
  bytesFree: 3,
  bytesReserved: 4,
  bytesHeadroom: 5,
  bytesUnreclaimed: 6,
};
/** After `device_opened` with 1,000 bytes. */
const CAPACITY = {
  [`capacity_total_bytes{${on}}`]: 100,
  [`capacity_used_bytes{${on}}`]: 2,
  [`capacity_free_bytes{${on}}`]: 3,
  [`capacity_reserved_bytes{${on}}`]: 4,
  [`capacity_headroom_bytes{${on}}`]: 5,
  [`capacity_unreclaimed_bytes{${on}}`]: 6,
};

const NAME = { name: "m", shardId: "shard-1" } as const;
const DIGEST = "ab".repeat(32);
const REASON = { reason: "a text" } as const;
const LEASE = { device, ...NAME, leaseId: "lease-1" } as const;
const PROCESS_STATES = ["starting", "running", "lost", "stopped", "wedged"];

type Moves = Readonly<Record<string, number>>;
export type Examples = { readonly [B in EntryBody as B["type"]]: readonly [body: B, moves: Moves] };

/** Names without the prefix. `journal_entries_total` moves each time and is left out. */
export const EXAMPLES: Examples = {
  service_started: [
    {
      type: "service_started",
      backend: "cuda",
      version: "1.2.3",
      instanceId: "",
      policyDigest: "",
      devices: [{ ...device, keyId: "", stopped: true }],
    },
    { 'service_info{backend="cuda",version="1.2.3"}': 1, [`worker_stopped{${on}}`]: 1 },
  ],
  service_stopped: [{ type: "service_stopped", because: "failed", code: "INTERNAL" }, {}],
  device_opened: [
    { type: "device_opened", device, name: "a GPU", backend: "cuda", bytesTotal: 1001 },
    { [`capacity_total_bytes{${on}}`]: 1, [`device_info{${on},backend="cuda"}`]: 1 },
  ],
  device_lost: [
    { type: "device_lost", device, code: "DEVICE_STALLED" },
    { [`device_lost{${on}}`]: 1, [`device_losses_total{${on},reason="DEVICE_STALLED"}`]: 1 },
  ],
  device_process_changed: [
    { type: "device_process_changed", device, state: "wedged", restarts: 3 },
    {
      ...Object.fromEntries(
        PROCESS_STATES.map((state) => [`device_process_state{${on},state="${state}"}`, state === "wedged" ? 1 : 0]),
      ),
      [`device_process_restarts{${on}}`]: 3,
    },
  ],
  lease_granted: [
    {
      ...{ type: "lease_granted", ...LEASE, digest: DIGEST, holder: "h", caller: "uid 1000" },
      ...{ durationMs: 60_000, measuredAgeMs: 5 },
    },
    { [`leases_granted_total{${on}}`]: 1, [`leases_active{${on}}`]: 1 },
  ],
  lease_renewed: [{ type: "lease_renewed", ...LEASE, durationMs: 60_000 }, { leases_renewed_total: 1 }],
  lease_released: [{ type: "lease_released", ...LEASE }, { [`leases_ended_total{${on},because="released"}`]: 1 }],
  lease_expired: [{ type: "lease_expired", ...LEASE }, { [`leases_ended_total{${on},because="expired"}`]: 1 }],
  lease_revoked: [
    { type: "lease_revoked", ...LEASE, because: "unreliable" },
    { [`leases_ended_total{${on},because="unreliable"}`]: 1 },
  ],
  shard_exported: [
    {
      ...{ type: "shard_exported", ...LEASE, digest: DIGEST, exportId: "export-1", caller: "uid 1000" },
      ...{ peer: { pid: 4711, startTicks: 12 }, byteLength: 4096 },
    },
    { [`exports_total{${on}}`]: 1, [`exports_active{${on}}`]: 1 },
  ],
  export_ended: [
    { type: "export_ended", device, ...NAME, exportId: "export-1", because: "service_gone", held: true },
    { [`exports_ended_total{${on},because="service_gone"}`]: 1 },
  ],
  statement_issued: [
    {
      ...{ type: "statement_issued", device, ...NAME, digest: DIGEST, statementId: "statement-1", caller: "uid 1000" },
      ...{ nonce: DIGEST, statementDigest: DIGEST, keyId: DIGEST, verifiedSeq: 17 },
    },
    { [`statements_total{${on}}`]: 1 },
  ],
  key_rotated: [
    { type: "key_rotated", purpose: "statement", from: DIGEST, to: DIGEST, publicKey: "PEM", ...REASON },
    { keys_rotated_total: 1 },
  ],
  wanted_refused: [
    { type: "wanted_refused", name: "m", code: "SOURCE_NOT_FOUND", ...REASON },
    { 'wanted_refusals_total{reason="SOURCE_NOT_FOUND"}': 1 },
  ],
  auth_failed: [
    { type: "auth_failed", failure: "bad-token", transport: "tcp", caller: "token 3fa2b1" },
    { 'auth_failures_total{failure="bad-token",transport="tcp"}': 1 },
  ],
  request_refused: [
    { type: "request_refused", status: 413, code: "REQUEST_REFUSED", transport: "socket", caller: "uid 1000" },
    { 'requests_refused_total{reason="REQUEST_REFUSED"}': 1 },
  ],
  request_served: [
    { type: "request_served", route: "GET /v1/shards/{shard}", status: 404, ...HALF, transport: "tcp" },
    {
      'http_requests_total{route="GET /v1/shards/{shard}",status="404"}': 1,
      ...observed("http_request_duration_seconds", 'route="GET /v1/shards/{shard}"'),
    },
  ],
  worker_stopped: [{ type: "worker_stopped", device, ...REASON }, { [`worker_stopped{${on}}`]: 1 }],
  worker_resumed: [{ type: "worker_resumed", device, ...REASON }, {}],
  capacity_changed: [{ type: "capacity_changed", device, capacity: FIGURES }, CAPACITY],
  capacity_queried: [{ type: "capacity_queried", device, capacity: FIGURES }, CAPACITY],
  capacity_reserved: [{ type: "capacity_reserved", device, name: "m", byteLength: 1, bytesFree: 1 }, {}],
  operation_ended: [
    { type: "operation_ended", operation: "seal", ...HALF, code: "SOURCE_EMPTY" },
    {
      'operations_total{operation="seal",result="failed",reason="SOURCE_EMPTY"}': 1,
      'seals_total{result="failed",reason="SOURCE_EMPTY"}': 1,
      ...observed("operation_duration_seconds", 'operation="seal",result="failed"'),
    },
  ],
  source_opened: [{ type: "source_opened", name: "m", format: "gguf", byteLength: 1, tensorCount: 1 }, {}],
  upload_progressed: [{ type: "upload_progressed", name: "m", bytesDone: 1, bytesTotal: 2 }, {}],
  uploaded: [
    { type: "uploaded", name: "m", byteLength: 7, ...HALF, comparedWith: "expected" },
    {
      'uploaded_bytes_total{compared_with="expected"}': 7,
      ...observed("upload_duration_seconds", 'compared_with="expected"'),
    },
  ],
  facts_checked: [{ type: "facts_checked", device, name: "m", access: "read" }, {}],
  measured: [
    { type: "measured", device, name: "other", digest: DIGEST, bytesCovered: 7, ...HALF },
    { 'measured_bytes_total{during="seal"}': 7, ...observed("measure_duration_seconds", 'during="seal"') },
  ],
  seal_computed: [{ type: "seal_computed", device, ...NAME, sequence: 1, keyId: "" }, {}],
  vram_sealed: [
    { type: "vram_sealed", device, ...NAME, byteLength: 1, digest: DIGEST, comparedWith: "expected", sequence: 1 },
    {},
  ],
  set_sealed: [{ type: "set_sealed", name: "m", totalShards: 2, mac: DIGEST }, { sets_sealed_total: 1 }],
  seal_refused: [{ type: "seal_refused", device, shardId: "shard-1", ...REASON }, { seal_refusals_total: 1 }],
  seal_verified: [
    { type: "seal_verified", device, ...NAME, digest: DIGEST, bytesCovered: 7, measuredAtMs: 1, ...HALF },
    {
      [`verifications_total{${on},result="ok",reason="none"}`]: 1,
      'measured_bytes_total{during="verify"}': 7,
      ...observed("measure_duration_seconds", 'during="verify"'),
    },
  ],
  seal_verification_failed: [
    {
      ...{ type: "seal_verification_failed", device, ...NAME, failure: "mac", message: "" },
      ...{ ranges: [], rangesTotal: 0, tensors: [], tensorsTotal: 0 },
    },
    { [`verifications_total{${on},result="failed",reason="mac"}`]: 1 },
  ],
  vram_allocated: [
    { type: "vram_allocated", device, name: "m", byteLength: 1 },
    { [`allocations_total{${on},result="ok",reason="none"}`]: 1 },
  ],
  vram_allocation_failed: [
    { type: "vram_allocation_failed", device, name: "m", bytesNeeded: 2, bytesAvailable: 1, code: "OUT_OF_VRAM" },
    { [`allocations_total{${on},result="failed",reason="OUT_OF_VRAM"}`]: 1 },
  ],
  vram_deallocated: [
    { type: "vram_deallocated", device, name: "m", byteLength: 1, because: "undone", zeroed: false },
    { [`deallocations_total{${on},because="undone",zeroed="false"}`]: 1 },
  ],
  policy_violation: [
    { type: "policy_violation", device, rule: "managed-memory", expected: "false", actual: "true" },
    { 'policy_violations_total{rule="managed-memory"}': 1 },
  ],
  release_failed: [{ type: "release_failed", what: "stream", message: "" }, { release_failures_total: 1 }],
  audit_committed: [
    { type: "audit_committed", entries: 3, byteLength: 900, ...HALF, waiting: 2 },
    {
      ...{ audit_up: 1, audit_entries_total: 3, audit_bytes_total: 900, audit_waiting_entries: 2 },
      audit_last_commit_timestamp_seconds: 1_700_000_000,
      ...observed("audit_commit_duration_seconds", ""),
    },
  ],
  audit_failed: [
    { type: "audit_failed", message: "", final: true },
    { audit_up: 0, 'audit_failures_total{final="true"}': 1 },
  ],
  audit_gap: [{ type: "audit_gap", entries: 4, types: [] }, { audit_gap_entries_total: 4 }],
  audit_recovered: [{ type: "audit_recovered", segment: 1, tornBytes: 9 }, { audit_recoveries_total: 1 }],
  audit_pruned: [
    { type: "audit_pruned", entries: 5, prunedEntries: 12, lastSegment: 1 },
    { audit_pruned_entries_total: 5 },
  ],
  epoch_started: [{ type: "epoch_started", because: "time" }, {}],
  heartbeat: [{ type: "heartbeat" }, {}],
  entry_unrecorded: [
    { type: "entry_unrecorded", lost: "vram_deallocated", message: "" },
    { entries_unrecorded_total: 1 },
  ],
};
