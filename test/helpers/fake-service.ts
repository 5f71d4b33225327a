/** A service in memory: answers as the contract says, does what a test tells it to, and writes down what it is told. */
import { VramError } from "../../src/errors.ts";
import type { Entry, EntryBody } from "../../src/journal/entry.ts";
import { currentScope } from "../../src/journal/scope.ts";
import type * as replies from "../../src/service/replies.ts";
import type { FeedItem, Service } from "../../src/service/service.ts";

const HEX = "ab".repeat(32);
const TIME = "2025-01-01T00:00:00.000Z";
const DEVICE = { ordinal: 0, uuid: "EMU-00000000-0000-0000-0000-000000000000" };
const CAPACITY = {
  ...{ bytesTotal: 1024, bytesUsed: 0, bytesFree: 1024, bytesReserved: 0, bytesHeadroom: 0, bytesUnreclaimed: 0 },
};

export const INSTANCE = "0123456789abcdef0123456789abcdef";

export const record = (name: string): replies.ShardRecordReply => ({
  ...{ shardId: "shard-aaaaaaaaaaaaaaaaaaaaaaaaaa", name, state: "sealed", sealed: true, backend: "emulated" },
  ...{ device: DEVICE, byteLength: 4096, digestAlgorithm: "fsverity-sha256-4096", digest: HEX },
  ...{ comparedWith: "witnessed", shardIndex: 0, totalShards: 1, sealedAt: TIME, lastVerifiedAt: TIME },
  ...{ leases: 0, exports: 0, exportsTotal: 0 },
});

const verification = (name: string): replies.Verification => ({
  ...{ record: record(name), backend: "emulated", device: DEVICE, digest: HEX, basis: "measured", ageMs: 0 },
  ...{ measuredAt: TIME, bytesCovered: 4096, durationMs: 1, bytesPerSecond: 4_096_000, readFrom: "emulated" },
});

const lease = (leaseId: string, name = "model"): replies.LeaseReply => ({
  ...{ leaseId, shardId: record(name).shardId, name, digest: HEX, backend: "emulated", device: DEVICE },
  ...{ holder: "test", grantedAt: TIME, expiresAt: TIME, remainingMs: 60_000, durationMs: 60_000 },
});

const operation = (state: "running" | "succeeded"): replies.OperationReply => ({
  ...{ operationId: "op-aaaaaaaaaaaaaaaaaaaaaaaaaa", correlationId: currentScope()?.correlationId ?? "none" },
  ...{ kind: "seal", name: "model", state, bytesDone: 0, bytesTotal: 4096, startedAt: TIME },
  ...(state === "succeeded" ? { endedAt: TIME, result: { shards: [{ record: record("model"), seal: {} }] } } : {}),
});

const deviceState: replies.DeviceState = {
  ...{ ...DEVICE, name: "emulated device", backend: "emulated", driverVersion: 0, computeCapability: "9.0" },
  ...{ state: "running", process: { state: "running", pid: 4711, restarts: 0 }, capacity: CAPACITY },
};

export const KNOWN = new Set(["model", "org/model:7b", "größe", "shard-aaaaaaaaaaaaaaaaaaaaaaaaaa"]);

function requireKnown(idOrName: string): string {
  if (KNOWN.has(idOrName)) return idOrName;
  throw new VramError("SHARD_NOT_FOUND", `there is no shard ${idOrName}`, { details: { shard: idOrName } });
}

export interface FakeFeed {
  append(body: EntryBody, correlationId?: string): Entry;
  /** Readers that are reading now. */
  readonly readers: () => number;
}

/** A feed that keeps its last entries. */
function createFeed(kept: number): FakeFeed & Service["feed"] {
  const entries: Entry[] = [];
  const waiting = new Set<() => void>();
  let seq = 0;
  let readers = 0;
  async function* read(after: number, signal: AbortSignal): AsyncGenerator<FeedItem> {
    let next = after + 1;
    readers += 1;
    try {
      while (!signal.aborted) {
        const oldest = entries[0]?.seq ?? seq + 1;
        if (next < oldest) {
          yield { kind: "gap", entries: oldest - next };
          next = oldest;
        }
        const entry = entries.find((one) => one.seq === next);
        if (entry === undefined) {
          await new Promise<void>((resolve) => {
            const wake = (): void => {
              waiting.delete(wake);
              signal.removeEventListener("abort", wake);
              resolve();
            };
            waiting.add(wake);
            signal.addEventListener("abort", wake);
          });
        } else {
          next += 1;
          yield { kind: "entry", entry };
        }
      }
    } finally {
      readers -= 1;
    }
  }
  return {
    newest: () => seq,
    read,
    readers: () => readers,
    append: (body, correlationId) => {
      seq += 1;
      const stamp = { seq, timeMs: 0, durability: "transient" as const, gates: false };
      const entry = { ...body, ...stamp, ...(correlationId === undefined ? {} : { correlationId }) };
      entries.push(entry);
      entries.splice(0, Math.max(0, entries.length - kept));
      for (const wake of [...waiting]) wake();
      return entry;
    },
  };
}

type Note = { readonly type: "auth_failed" | "request_refused" | "request_served" } & Readonly<Record<string, unknown>>;

export interface FakeService extends Service {
  readonly feed: FakeFeed & Service["feed"];
  readonly notes: Note[];
  /** Each call by its name, its arguments and the correlation id it came under. */
  readonly calls: { readonly name: string; readonly args: readonly unknown[]; readonly correlationId: string }[];
  /** Done in place of what a method does. */
  readonly instead: { [Name in keyof Service]?: Service[Name] };
  ready_: boolean;
}

const listing = (): replies.Listing => ({
  ...{ backend: "emulated", evidence: "none: emulated", shards: [record("model")], missing: [], operations: [] },
});

const readiness = (): replies.Readiness => ({
  ...{ ready: true, state: "running", reasons: [], version: "0.1.0", instanceId: INSTANCE, startedAt: TIME },
  ...{ backend: "emulated", because: "asked for", evidence: "none: emulated", audit: { mode: "off" } },
  ...{ shards: [record("model")], missing: [], devices: [deviceState] },
});

const STATEMENT_KEYS: replies.StatementKeysReply = {
  ...{ keyId: "0".repeat(64), publicKey: "-----BEGIN PUBLIC KEY-----\n" },
  ...{ logKey: "vram-residency/0123+00000000+AAAA", origin: "vram-residency/0123" },
};

function answers(fake: Pick<FakeService, "ready_">): Omit<Service, "instanceId" | "feed" | "note"> {
  return {
    plan: async ({ name = "model" }) => ({
      ...{
        fits: true,
        name,
        byteLength: 4096,
        members: [{ name, byteLength: 4096, format: "raw", tensorCount: 0, fits: true }],
      },
      ...{ device: DEVICE, capacity: CAPACITY, resident: false },
    }),
    seal: async () => ({ operation: operation("running"), ended: Promise.resolve(operation("succeeded")) }),
    operation: (operationId) => {
      const one = operation("running");
      if (operationId === one.operationId) return one;
      throw new VramError("OPERATION_NOT_FOUND", `there is no operation ${operationId}`);
    },
    cancel: async () => operation("succeeded"),
    attach: () => Promise.reject(new VramError("SHARD_NOT_FOUND", "this service has no memory to hand out")),
    attest: async ({ shard }) => ({
      ...{ statementId: "statement-1", record: record(requireKnown(shard)) },
      envelope: {
        ...{ payload: "e30=", payloadType: "application/vnd.in-toto+json" },
        signatures: [{ keyid: "0".repeat(64), sig: "MAA=" }],
      },
    }),
    statementKeys: () => STATEMENT_KEYS,
    rotateStatementKey: async () => STATEMENT_KEYS,
    list: listing,
    show: (idOrName) => ({ shards: [record(requireKnown(idOrName))], missing: [] }),
    verify: async (idOrName) => verification(requireKnown(idOrName)),
    grant: async ({ shard }) => ({ lease: lease("lease-1", requireKnown(shard)), verification: verification(shard) }),
    lease: (leaseId) => {
      if (leaseId === "lease-1") return lease(leaseId);
      throw new VramError("LEASE_NOT_FOUND", `there is no lease ${leaseId}`);
    },
    leases: () => [lease("lease-1")],
    renew: async (leaseId, { maxAgeMs }) => ({
      lease: lease(leaseId),
      ...(maxAgeMs === undefined ? {} : { verification: verification("model") }),
    }),
    release: async (leaseId) => lease(leaseId),
    evict: async (idOrName) => ({
      ...{ name: requireKnown(idOrName), shards: [{ record: record(idOrName), zeroed: true }], wanted: true },
    }),
    resume: async () => [deviceState],
    devices: async () => [deviceState],
    ready: async () => readiness(),
    isReady: () => fake.ready_,
    logCheckpoint: async () => "vram-residency/0123\n1\nAAAA\n\n— x AAAA\n",
    logLines: async (last) => ['{"v":1,"seq":0}', '{"v":1,"seq":1}'].slice(-last),
    logProof: async (seq) => `c2sp.org/tlog-proof@v1\nindex ${seq}\n`,
    metrics: async () => "# TYPE vram_residency_service_info gauge\nvram_residency_service_info 1\n",
  };
}

/** A service that keeps so many entries for its feed. */
export function createFakeService({ kept = 100 }: { readonly kept?: number } = {}): FakeService {
  const state = { ready_: true };
  const notes: Note[] = [];
  const calls: FakeService["calls"] = [];
  const instead: FakeService["instead"] = {};
  const methods = Object.fromEntries(
    Object.entries(answers(state)).map(([name, answer]) => [
      name,
      (...args: readonly unknown[]): unknown => {
        calls.push({ name, args, correlationId: currentScope()?.correlationId ?? "none" });
        const chosen = (instead[name as keyof Service] ?? answer) as (...given: readonly unknown[]) => unknown;
        return chosen(...args);
      },
    ]),
  ) as unknown as ReturnType<typeof answers>;
  return Object.assign(state, {
    ...{ ...methods, instanceId: INSTANCE, feed: createFeed(kept), notes, calls, instead },
    note: {
      authFailed: (note) => void notes.push({ type: "auth_failed", ...note }),
      requestRefused: (note) => void notes.push({ type: "request_refused", ...note }),
      requestServed: (note) => void notes.push({ type: "request_served", ...note }),
    } satisfies Service["note"],
  });
}
