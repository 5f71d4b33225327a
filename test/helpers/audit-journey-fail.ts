/** What verifications that fail otherwise than by the bytes must put into the audit log, and evidence that is refused. */
import { createSecretKey } from "node:crypto";
import type { Seal } from "../../src/seal/encoding.ts";
import { deriveWorkerKeys } from "../../src/seal/key.ts";
import { createSeal } from "../../src/seal/seal.ts";
import { FIGURE, type Row, SHARD_ID, type Stage, sealModel, TEXT, told, WRONG } from "./audit-journey.ts";
import { DIFFERS, manyTensors, SALT, sealedAnd, stoppedBy, verifyModel } from "./audit-journey-verify.ts";

const { verified, failed, refused, violated, workerStopped } = told;
const seal = (stage: Stage) => sealModel(stage);

const MANAGED = { rule: "managed-memory", expected: "false", actual: "true" };

const FAILURES: readonly Row[] = [
  {
    path: "our own record does not carry its mac",
    before: async (stage) => {
      await sealModel(stage);
      const shard = stage.open.system.registry.find("m") as { seal: Seal };
      shard.seal = { ...shard.seal, digest: WRONG };
    },
    act: verifyModel,
    ends: "REGISTRY_CORRUPT",
    lines: [
      stoppedBy("our own record of the shard no longer carries a valid mac"),
      failed({ failure: "mac", message: "our own record of the shard no longer carries a valid mac" }),
    ],
  },
  {
    path: "the mapping has turned writable",
    before: sealedAnd((faults) => {
      faults.overrideAccess(3);
      faults.overrideAttribute("accessFlags", 3);
    }),
    act: verifyModel,
    ends: "POLICY_VIOLATION",
    lines: [
      workerStopped({ reason: TEXT }),
      failed({ failure: "facts" }),
      violated({ rule: "writable-mapping", expected: "read", actual: "readWrite" }),
    ],
  },
  {
    path: "two facts have changed",
    before: sealedAnd((faults) => {
      faults.overrideAttribute("isManaged", 1);
      faults.overrideAttribute("deviceOrdinal", 5);
    }),
    act: verifyModel,
    ends: "POLICY_VIOLATION",
    lines: [
      workerStopped({ reason: TEXT }),
      failed({ failure: "facts" }),
      violated(MANAGED),
      violated({ rule: "wrong-ordinal", expected: "true", actual: "false" }),
    ],
  },
  {
    path: "the memory cannot be read",
    before: sealedAnd((faults) => faults.markUncorrectable({ allocation: 2, offset: 5000, byteLength: 1 })),
    act: verifyModel,
    ends: "VRAM_UNREADABLE",
    lines: [failed({ failure: "unreadable" })],
  },
  {
    path: "a launch does nothing",
    before: sealedAnd((faults) => faults.dropLaunch(1)),
    act: verifyModel,
    ends: "MEASUREMENT_INVALID",
    lines: [failed({ failure: "invalid" })],
  },
  {
    path: "the result of a measurement does not arrive",
    before: sealedAnd((faults) => faults.dropCopyToHost(1)),
    act: verifyModel,
    ends: "MEASUREMENT_INVALID",
    lines: [failed({ failure: "invalid" })],
  },
  {
    path: "the measurement under a salt does not work",
    before: sealedAnd((faults) => faults.dropLaunch(4)),
    act: ({ vram }) => vram.verify("m", { salt: SALT }),
    ends: "MEASUREMENT_INVALID",
    lines: [failed({ failure: "invalid" })],
  },
  {
    path: "the device is lost while it measures",
    before: sealedAnd((faults) => faults.breakExecution("launch", 1, 700)),
    act: verifyModel,
    ends: "DEVICE_LOST",
    lines: [failed({ failure: "device" })],
  },
  {
    path: "the driver refuses to measure",
    before: sealedAnd((faults) => faults.failCall("stream.launch", 1, 1)),
    act: verifyModel,
    ends: "CUDA_FAILED",
    lines: [failed({ failure: "device" })],
  },
  {
    path: "the driver does not answer what the memory is",
    before: sealedAnd((faults) => faults.failCall("memory.getAccess", 1, 1)),
    act: verifyModel,
    ends: "CUDA_FAILED",
    lines: [failed({ failure: "device" })],
  },
  {
    path: "a member of a set differs: the others are still told of",
    before: async (stage) => {
      await manyTensors(stage, 2);
      const { members } = await stage.vram.sealSet(stage.path, { name: "s", shards: 2 });
      await stage.flipBit(members[1]?.record.shardId ?? "", 3, 3);
    },
    act: ({ vram, entries, open }) => {
      const macs = open.system.registry.all().map((shard) => shard.seal.mac);
      const [set] = entries.filter((entry) => entry.type === "set_sealed");
      return vram.verifySet({ version: 1, totalShards: 2, digest: "", macs, mac: set?.mac ?? "" });
    },
    ends: "MEASUREMENT_MISMATCH",
    lines: [
      verified({ name: "s/00001-of-00002", shardId: SHARD_ID, digest: TEXT, bytesCovered: FIGURE }),
      workerStopped({ reason: `s/00002-of-00002: ${DIFFERS}` }),
      failed({
        ...{ name: "s/00002-of-00002", shardId: SHARD_ID, message: DIFFERS, tensors: ["t001"], tensorsTotal: 1 },
        ...{ ranges: [{ offset: 0, byteLength: FIGURE }], rangesTotal: 1 },
      }),
    ],
  },
];

/** Evidence that does not hold changes nothing: one line says why, and no worker stops. */
const presented = (reason: string, forge: (current: Seal, stage: Stage) => unknown): Row => ({
  path: `a seal handed in that does not hold: ${reason}`,
  before: async (stage) => {
    await sealModel(stage, "n");
    await sealModel(stage);
  },
  act: (stage) => {
    const current = stage.open.system.registry.find("m").seal;
    return stage.vram.verify("m", { seal: forge(current, stage) as Seal });
  },
  ends: "SEAL_REFUSED",
  lines: [refused({ reason })],
});

function foreign({ version: _v, mac: _m, keyId: _k, ...fields }: Seal): Seal {
  return createSeal(deriveWorkerKeys(createSecretKey(Buffer.alloc(32, 7)), "emulated", fields.deviceUuid), fields);
}

function ofAnotherStart({ version: _v, mac: _m, keyId: _k, ...fields }: Seal, { open }: Stage): Seal | undefined {
  const keys = open.workers[0]?.keys;
  return keys === undefined ? undefined : createSeal(keys, { ...fields, instanceId: "0".repeat(32) });
}

const REFUSED: readonly Row[] = [
  presented("malformed", () => "no seal"),
  presented("key", foreign),
  presented("mac", (current) => ({ ...current, digest: WRONG })),
  presented("instance", ofAnotherStart),
  presented("record", (_, { open }) => open.system.registry.find("n").seal),
  {
    path: "a seal of a set handed in that does not hold",
    act: ({ vram }) => vram.verifySet({ version: 1, totalShards: 1, digest: "", macs: [WRONG], mac: WRONG }),
    ends: "SEAL_REFUSED",
    lines: [refused({ shardId: "set", reason: "mac" })],
  },
  { path: "a shard that nobody knows", act: verifyModel, ends: "SHARD_NOT_FOUND", lines: [] },
  {
    path: "aborted before it began",
    before: seal,
    act: ({ vram }) => vram.verify("m", { signal: AbortSignal.abort() }),
    ends: "ABORTED",
    lines: [],
  },
];

export const FAILING: readonly Row[] = [...FAILURES, ...REFUSED];
