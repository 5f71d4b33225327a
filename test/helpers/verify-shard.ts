/**
 * A shard under verification with everything around it made up: device, journal, clock. What the device answers can be
 * changed, and every step that is taken is listed in order.
 */
import { createSecretKey } from "node:crypto";
import { toHex } from "../../src/bytes.ts";
import type { AllocationFacts, DeviceInfo, Located, LocateRequest, Measurement } from "../../src/device/device.ts";
import { Mutex } from "../../src/dispose.ts";
import { RANGE_BYTES } from "../../src/hash/geometry.ts";
import { foldKept } from "../../src/hash/tree.ts";
import { VRAM_ONLY_POLICY } from "../../src/residency/policy.ts";
import type { Shard } from "../../src/residency/shard.ts";
import type { System, Worker } from "../../src/residency/worker.ts";
import { deriveKey, deriveWorkerKeys } from "../../src/seal/key.ts";
import { createSeal } from "../../src/seal/seal.ts";
import { type VerifyRequest, verify } from "../../src/verify/verify.ts";

export const UUID = "EMU-00000000-0000-4000-8000-000000000001";
export const REF = { ordinal: 1, uuid: UUID };
/** When the shard was last measured, and how long ago that is. */
export const MEASURED_MS = Date.UTC(2026, 0, 1);
export const AGE_MS = 500;
/** Two ranges and a bit: the last one is short. */
export const BYTES = 2 * RANGE_BYTES + 100;
export const KEPT = Uint8Array.from({ length: 96 }, (_, index) => index);

export const INFO = {
  ...{ ...REF, name: "made up", backend: "emulated", driverVersion: 1, computeCapability: "0.0" },
  ...{ bytesTotal: 2 ** 30, granuleBytes: 2 ** 21, l2CacheBytes: 2 ** 20, facts: {} },
} as unknown as DeviceInfo;

const SOUND = {
  ...{ allocationType: "pinned", locationType: "device", memoryType: "device", managed: false },
  ...{ ordinalMatches: true, mainAccess: "read", sizeMatches: true },
} as unknown as AllocationFacts;

const tensor = (name: string, offset: number, byteLength: number) => ({
  ...{ name, offset, byteLength, dtype: "U8", shape: [byteLength] },
});
export const TENSORS = [
  tensor("a", 0, RANGE_BYTES),
  tensor("b", RANGE_BYTES, 10),
  tensor("c", RANGE_BYTES + 10, RANGE_BYTES),
];

const root = createSecretKey(Buffer.alloc(32, 3));
const keys = deriveWorkerKeys(root, "emulated", UUID);
export const SET_KEY = deriveKey(root, "set", "emulated", "");

export interface ShardOptions {
  readonly maxAgeMs?: number;
  readonly name?: string;
  readonly shardIndex?: number;
  readonly totalShards?: number;
  readonly source?: Shard["source"];
}

/** What a measurement gives whose level 1 is `kept`. */
export const measured = (kept: Uint8Array, bytesCovered = BYTES): Measurement => ({
  ...{ digest: foldKept(kept, BYTES).digest, kept, bytesCovered, durationMs: 4, windows: 1 },
});
export const damaged = (...ranges: readonly number[]): Uint8Array =>
  KEPT.map((byte, at) => (ranges.includes(Math.floor(at / 32)) ? byte ^ 1 : byte));

export function openShard(options: ShardOptions = {}) {
  const steps: unknown[] = [];
  let nowMs = 10_000;
  const answers = {
    facts: async (): Promise<AllocationFacts> => SOUND,
    measure: async (_salt?: Uint8Array): Promise<Measurement> => measured(KEPT),
    locate: async (_request: LocateRequest): Promise<Located> => ({ precision: "block", blocks: [], blockCount: 0 }),
  };
  const device = {
    info: INFO,
    facts: () => answers.facts(),
    measure: (_id: number, salt?: Uint8Array) => {
      steps.push(salt === undefined ? "measure" : `measure with ${toHex(salt)}`);
      return answers.measure(salt);
    },
    locate: (request: LocateRequest) => answers.locate(request),
  };
  const worker = { device, ref: REF, keys, stopped: undefined, stoppedAgain: undefined, stopRecorded: false };
  Object.assign(worker, { standing: new Mutex(), lost: false });
  const shards: Shard[] = [];
  const system = {
    journal: { appendAnyway: async (entry: unknown) => void steps.push(entry) },
    clock: { wallMs: () => MEASURED_MS + nowMs, monotonicMs: () => nowMs, sleep: async () => undefined },
    registry: { all: () => shards },
    state: { setStopped: async () => undefined },
    policy: VRAM_ONLY_POLICY,
    setKey: SET_KEY,
    onMismatch: "quarantine",
    onUnreliable: ({ because, shard }: { because: string; shard?: Shard }) => {
      steps.push(`${because}: ${shard?.state ?? "all"}`);
    },
  };
  const add = (more: ShardOptions): Shard => {
    const { maxAgeMs = 0, name = "m", shardIndex = 0, totalShards = 1, source } = more;
    const { digest } = foldKept(KEPT, BYTES);
    const shard = {
      seal: createSeal(keys, {
        ...{ instanceId: "01".repeat(16), sequence: shards.length + 1, shardId: `shard-${name}`, name },
        ...{ shardIndex, totalShards, sourceOffset: 0, byteLength: BYTES, digest: toHex(digest), sha256: "" },
        ...{ digestAlgorithm: "fsverity-sha256-4096", comparedWith: "witnessed", backend: "emulated" },
        ...{ deviceUuid: UUID, policyDigest: "03".repeat(32), sealedAtMs: MEASURED_MS, maxAgeMs },
      }),
      ...{ device: REF, worker, allocationId: 7, tensors: TENSORS, kept: KEPT.slice(), source, use: new Mutex() },
      lastMeasured: { wallMs: MEASURED_MS, monotonicMs: nowMs - AGE_MS },
      ...{ state: "sealed", leases: 0, exports: 0, exportsTotal: 0 },
    } as unknown as Shard;
    shards.push(shard);
    return shard;
  };
  const shard = add(options);
  const made = { system: system as unknown as System, worker: worker as unknown as Worker, shard };
  const ask = (request: Partial<VerifyRequest> = {}) =>
    verify(made.system, made.worker, shard, {
      ...{ presented: undefined, maxAgeMs: undefined, salt: undefined, signal: undefined },
      ...request,
    });
  /** Lets the test's time pass. */
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  const set = (changed: Partial<typeof system>): void => void Object.assign(system, changed);
  return { ...made, answers, steps, ask, pass, add, set, shards };
}
