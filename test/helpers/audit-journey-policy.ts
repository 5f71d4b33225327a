/** What the policy, ending residency and the service itself must put into the audit log. */
import type { DeviceAttribute, PointerAttribute } from "../../src/cuda/driver.ts";
import type { Device } from "../../src/device/device.ts";
import { inOperation } from "../../src/journal/scope.ts";
import { openWorker } from "../../src/residency/worker.ts";
import type { FaultPlan } from "../../src/testing.ts";
import { type Row, type Stage, sealModel, TEXT, told } from "./audit-journey.ts";
import { MIB } from "./vram.ts";

const { allocated, deallocated, violated, workerStopped, workerResumed, started, stopped } = told;
const seal = (stage: Stage) => sealModel(stage);
const refusedStart = stopped({ because: "failed", code: "POLICY_VIOLATION" });

/** A device whose driver answers so. */
function device(rules: readonly string[], attributes: Partial<Record<DeviceAttribute, number>>): Row {
  const found = rules.map((rule) => {
    const isMissing = rule === "no-virtual-memory-management";
    return violated({ rule, expected: String(isMissing), actual: String(!isMissing) });
  });
  return {
    path: `a start on a device that is: ${rules.join(", ")}`,
    test: { deviceSpec: { attributes } },
    ends: "POLICY_VIOLATION",
    lines: [...found, refusedStart],
  };
}

const AT_START: readonly Row[] = [
  { path: "a start", ends: "ok", lines: [started()] },
  device(["integrated-gpu"], { integrated: 1 }),
  device(["mps"], { mpsEnabled: 1 }),
  device(["no-virtual-memory-management"], { virtualMemoryManagement: 0 }),
  device(["integrated-gpu", "mps"], { integrated: 1, mpsEnabled: 1 }),
  {
    path: "a start on a device shared through MPS, which is allowed",
    options: { allowMps: true },
    test: { deviceSpec: { attributes: { mpsEnabled: 1 } } },
    ends: "ok",
    lines: [started()],
  },
  {
    // No emulated device is one of Windows: the worker is opened over one that says so.
    path: "a worker on a device that is: wddm",
    act: ({ open }) => {
      const [real] = open.devices;
      const info = real === undefined ? undefined : { ...real.info, facts: { ...real.info.facts, wddm: true } };
      const lying = Object.create(real ?? null, { info: { value: info } }) as Device;
      return inOperation(() => openWorker(open.system, lying));
    },
    ends: "POLICY_VIOLATION",
    lines: [violated({ rule: "wddm", expected: "false", actual: "true" })],
  },
];

/** Memory of which the driver says so: nothing is sealed in it. */
function memory(rule: string, expected: string, actual: string, lie: (faults: FaultPlan) => void): Row {
  return {
    path: `a seal in memory that is: ${rule} (${actual})`,
    before: async ({ faults }) => lie(faults),
    act: seal,
    ends: "POLICY_VIOLATION",
    lines: [allocated(), violated({ rule, expected, actual }), deallocated({ because: "undone" })],
  };
}

const pointer = (attribute: PointerAttribute, value: number | undefined) => (faults: FaultPlan) =>
  faults.overrideAttribute(attribute, value);

const AT_ALLOCATION: readonly Row[] = [
  memory("allocation-not-pinned", "pinned", "managed", (faults) => faults.overrideProperties({ allocationType: 2 })),
  memory("location-not-device", "device", "host", (faults) => faults.overrideProperties({ locationType: 2 })),
  memory("host-resident-memory", "device", "host", pointer("memoryType", 1)),
  memory("unknown-memory-type", "device", "unknown", pointer("memoryType", 9)),
  memory("managed-memory", "false", "true", pointer("isManaged", 1)),
  memory("managed-memory", "false", "unknown", pointer("isManaged", undefined)),
  memory("wrong-ordinal", "true", "false", pointer("deviceOrdinal", 5)),
  memory("wrong-size", "true", "false", pointer("rangeSize", 4096)),
  memory("wrong-mapping-access", "read", "unknown", pointer("accessFlags", 3)),
  memory("writable-mapping", "read", "readWrite", (faults) => {
    faults.overrideAccess(3);
    faults.overrideAttribute("accessFlags", 3);
  }),
  {
    path: "a seal in memory that breaks two rules: a line for each",
    before: async ({ faults }) => {
      faults.overrideProperties({ allocationType: 2 });
      faults.overrideAttribute("isManaged", 1);
    },
    act: seal,
    ends: "POLICY_VIOLATION",
    lines: [
      allocated(),
      violated({ rule: "allocation-not-pinned", expected: "pinned", actual: "managed" }),
      violated({ rule: "managed-memory", expected: "false", actual: "true" }),
      deallocated({ because: "undone" }),
    ],
  },
];

const sealedAnd =
  (then: (stage: Stage) => unknown) =>
  async (stage: Stage): Promise<void> => {
    await sealModel(stage);
    stage.faults.reset();
    await then(stage);
  };
const evictModel = ({ vram }: Stage) => vram.evict("m");
const notZeroed = deallocated({ zeroed: false, reason: TEXT });

export const ENDING: readonly Row[] = [
  { path: "an eviction", before: seal, act: evictModel, ends: "ok", lines: [deallocated()] },
  {
    path: "an eviction of memory that cannot be zeroed",
    before: sealedAnd(({ faults }) => faults.breakExecution("fill", 1, 700)),
    act: evictModel,
    ends: "ok",
    lines: [notZeroed],
  },
  {
    path: "an eviction from a device that was lost",
    before: sealedAnd(async ({ faults, vram }) => {
      faults.breakExecution("launch", 1, 700);
      await vram.verify("m").catch(() => undefined);
    }),
    act: evictModel,
    ends: "ok",
    lines: [notZeroed],
  },
  {
    path: "an eviction of what was found to differ",
    before: sealedAnd(async ({ flipBit, vram }) => {
      await flipBit("m", 1, 1);
      await vram.verify("m").catch(() => undefined);
    }),
    act: evictModel,
    ends: "ok",
    lines: [deallocated()],
  },
  {
    path: "an eviction while the disk is full: written as soon as there is room",
    before: sealedAnd(({ disk }) => disk.fill("vram_deallocated")),
    act: evictModel,
    ends: "ok",
    lines: [deallocated()],
  },
  {
    path: "a second eviction",
    before: sealedAnd(evictModel),
    act: evictModel,
    ends: "SHARD_NOT_FOUND",
    lines: [],
  },
  {
    path: "an eviction of what is leased",
    before: sealedAnd(({ open }) => {
      open.system.registry.find("m").leases = 1;
    }),
    act: evictModel,
    ends: "SHARD_BUSY",
    lines: [],
  },
  {
    path: "the end: everything is given back",
    options: { emulated: { devices: 2, byteLength: 128 * MIB } },
    before: async (stage) => {
      await sealModel(stage);
      await sealModel(stage, "n");
    },
    act: ({ vram }) => vram.close(),
    ends: "ok",
    lines: [deallocated({ because: "closed" }), deallocated({ name: "n", because: "closed" }), stopped()],
  },
  {
    path: "the end while something is being sealed: that is undone first",
    act: async (stage) => {
      const waiting = stage.disk.hold("vram_allocated");
      const sealing = sealModel(stage).catch(() => undefined);
      const release = await waiting;
      const closing = stage.vram.close();
      release();
      await Promise.all([sealing, closing]);
    },
    ends: "ok",
    calls: 2,
    lines: [allocated(), deallocated({ because: "undone" }), stopped()],
  },
  { path: "the end of nothing", act: ({ vram }) => vram.close(), ends: "ok", lines: [stopped()] },
];

/** Stops the worker: a shard was found to differ. */
async function stopIt(stage: Stage): Promise<void> {
  await sealModel(stage);
  await stage.flipBit("m", 1, 1);
  await stage.vram.verify("m").catch(() => undefined);
}

export const STANDING: readonly Row[] = [
  {
    path: "a worker is resumed",
    before: stopIt,
    act: ({ vram }) => vram.resume("seen"),
    ends: "ok",
    lines: [workerResumed()],
  },
  {
    path: "a worker that runs is resumed: nothing to tell",
    act: ({ vram }) => vram.resume("seen"),
    ends: "ok",
    lines: [],
  },
  {
    path: "a worker cannot be resumed on record, and stays stopped",
    before: async (stage) => {
      await stopIt(stage);
      stage.disk.fill("worker_resumed");
    },
    act: ({ vram }) => vram.resume("seen"),
    ends: "AUDIT_UNAVAILABLE",
    // In case the entry of the resume got through after all.
    lines: [workerStopped({ reason: "m: the measured digest differs from the sealed one" })],
  },
  {
    path: "a worker that was resumed stops again",
    before: async (stage) => {
      await stopIt(stage);
      await stage.vram.resume("seen");
      await sealModel(stage, "n");
      await stage.flipBit("n", 1, 1);
    },
    act: ({ vram }) => vram.verify("n"),
    ends: "MEASUREMENT_MISMATCH",
    lines: [
      workerStopped({ reason: "n: the measured digest differs from the sealed one" }),
      told.failed({
        ...{ name: "n", shardId: "id-n", ranges: [{ offset: 0, byteLength: MIB / 2 }], rangesTotal: 1 },
      }),
    ],
  },
];

export const POLICY: readonly Row[] = [...AT_START, ...AT_ALLOCATION];
