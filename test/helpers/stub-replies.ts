/** Replies of a service for tests: one shard of an emulated device, and what belongs to it. Times are fixed. */
import type {
  DeviceState,
  Eviction,
  GrantedLease,
  LeaseReply,
  Listing,
  MissingShard,
  OperationReply,
  Plan,
  Readiness,
  ShardRecordReply,
  Verification,
} from "../../src/client.ts";

/** When the tests are. */
export const NOW = Date.parse("2026-03-01T12:00:00.000Z");
export const before = (ms: number): string => new Date(NOW - ms).toISOString();

const UUID = "EMU-00000000-0000-4000-8000-000000000001";
export const DEVICE = { ordinal: 0, uuid: UUID };
export const DIGEST = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
export const EVIDENCE = "host memory plays the GPU; nothing measured here is evidence about one";

export const record = (more: Partial<ShardRecordReply> = {}): ShardRecordReply => ({
  shardId: "shard-aaaaaaaaaaaaaaaaaaaaaaaaaa",
  name: "llama.safetensors",
  state: "sealed",
  sealed: true,
  backend: "emulated",
  device: DEVICE,
  byteLength: 5_368_709_120,
  digestAlgorithm: "fsverity-sha256-4096",
  digest: DIGEST,
  comparedWith: "witnessed",
  shardIndex: 0,
  totalShards: 1,
  sealedAt: before(7_300_000),
  lastVerifiedAt: before(12_000),
  leases: 2,
  exports: 0,
  exportsTotal: 0,
  ...more,
});

export const missing = (more: Partial<MissingShard> = {}): MissingShard => ({
  shardId: "shard-bbbbbbbbbbbbbbbbbbbbbbbbbb",
  name: "qwen/00001-of-00002",
  digest: "a".repeat(64),
  byteLength: 1_073_741_824,
  deviceUuid: UUID,
  state: "restoring",
  ...more,
});

export const operation = (more: Partial<OperationReply> = {}): OperationReply => ({
  operationId: "op-aaaaaaaaaaaaaaaaaaaaaaaaaa",
  correlationId: "c-1",
  kind: "seal",
  name: "llama.safetensors",
  state: "running",
  bytesDone: 0,
  startedAt: before(3000),
  ...more,
});

export const succeeded = (more: Partial<OperationReply> = {}): OperationReply =>
  operation({
    state: "succeeded",
    bytesDone: 5_368_709_120,
    bytesTotal: 5_368_709_120,
    endedAt: before(0),
    result: { shards: [{ record: record({ leases: 0 }), seal: { version: 1 } }] },
    ...more,
  });

export const failed = (code: string, message: string, details: Record<string, unknown> = {}): OperationReply =>
  operation({
    state: "failed",
    endedAt: before(0),
    error: { code, message, fix: "mend it", retriable: false, details },
  });

export const listing = (more: Partial<Listing> = {}): Listing => ({
  backend: "emulated",
  evidence: EVIDENCE,
  shards: [record()],
  missing: [],
  operations: [],
  ...more,
});

/** One of everything. */
export const fullListing = (): Listing =>
  listing({
    shards: [record(), record({ shardId: "shard-c", name: "old.gguf", state: "mismatched", sealed: false, leases: 0 })],
    missing: [
      missing(),
      missing({
        shardId: "shard-d",
        name: "gone",
        state: "refused",
        reason: "the source changed",
        deviceUuid: "GPU-9f",
      }),
    ],
    operations: [
      operation({ operationId: "op-b", kind: "restore", name: "qwen", bytesDone: 42, bytesTotal: 100 }),
      operation({ bytesDone: 1, bytesTotal: 8, name: "new.gguf" }),
      operation({ operationId: "op-c", name: "begun" }),
      succeeded({ operationId: "op-d", name: "ended" }),
    ],
  });

export const verification = (more: Partial<Verification> = {}): Verification => ({
  record: record({ lastVerifiedAt: before(0) }),
  backend: "emulated",
  device: DEVICE,
  digest: DIGEST,
  basis: "measured",
  ageMs: 2,
  measuredAt: before(0),
  bytesCovered: 5_368_709_120,
  durationMs: 2500,
  bytesPerSecond: 2_147_483_648,
  readFrom: "emulated",
  ...more,
});

export const lease = (more: Partial<LeaseReply> = {}): LeaseReply => ({
  leaseId: "lease-aaaaaaaaaaaaaaaaaaaaaaaaaa",
  shardId: "shard-aaaaaaaaaaaaaaaaaaaaaaaaaa",
  name: "llama.safetensors",
  digest: DIGEST,
  backend: "emulated",
  device: DEVICE,
  holder: "engine",
  grantedAt: before(0),
  expiresAt: new Date(NOW + 60_000).toISOString(),
  remainingMs: 60_000,
  durationMs: 60_000,
  ...more,
});

export const granted = (more: Partial<LeaseReply> = {}): GrantedLease => ({
  lease: lease(more),
  verification: verification(),
});

const CAPACITY = {
  bytesTotal: 8_589_934_592,
  bytesUsed: 1_073_741_824,
  bytesFree: 7_448_035_328,
  bytesReserved: 0,
  bytesHeadroom: 67_108_864,
  bytesUnreclaimed: 0,
};

export const plan = (more: Partial<Plan> = {}): Plan => ({
  fits: true,
  name: "llama.safetensors",
  byteLength: 5_368_709_120,
  members: [
    { name: "llama.safetensors", byteLength: 5_368_709_120, format: "safetensors", tensorCount: 291, fits: true },
  ],
  device: DEVICE,
  capacity: CAPACITY,
  resident: false,
  ...more,
});

export const eviction = (more: Partial<Eviction> = {}): Eviction => ({
  name: "llama.safetensors",
  shards: [{ record: record({ state: "evicted", sealed: false, leases: 0 }), zeroed: true }],
  wanted: true,
  ...more,
});

export const device = (more: Partial<DeviceState> = {}): DeviceState => ({
  ...DEVICE,
  name: "emulated device",
  backend: "emulated",
  driverVersion: 0,
  computeCapability: "0.0",
  state: "running",
  process: { state: "running", pid: 4711, restarts: 0 },
  capacity: CAPACITY,
  ...more,
});

export const readiness = (more: Partial<Readiness> = {}): Readiness => ({
  ready: true,
  state: "running",
  reasons: [],
  version: "0.1.0",
  instanceId: "00112233445566778899aabbccddeeff",
  startedAt: before(9_000_000),
  backend: "emulated",
  because: "asked for",
  evidence: EVIDENCE,
  audit: { mode: "required" },
  shards: [record()],
  missing: [],
  devices: [device()],
  ...more,
});

/** What the error of a mismatch carries: three ranges, ten tensors, one block. */
export const DAMAGE = {
  shardId: "shard-aaaaaaaaaaaaaaaaaaaaaaaaaa",
  expected: `fsverity:${DIGEST}`,
  actual: `fsverity:${"b".repeat(64)}`,
  damage: {
    ranges: [0, 524_288, 1_048_576].map((offset) => ({ offset, byteLength: 524_288 })),
    rangeCount: 3,
    tensors: Array.from({ length: 10 }, (_, index) => `layers.${index}.weight`),
    tensorCount: 10,
    precision: "block",
    because: "the source could not be compared further",
    blocks: [{ offset: 4096, differing: 1, byteOffsets: [4100], tensors: ["layers.0.weight"] }],
    blockCount: 1,
  },
};
