/** What verifying must put into the audit log: that it passed, or where the bytes differ; and nothing without measuring. */
import { truncate, writeFile } from "node:fs/promises";
import { toHex } from "../../src/bytes.ts";
import { FIGURE, MODEL, type Row, SHARD_ID, type Stage, sealModel, TEXT, told } from "./audit-journey.ts";
import { buildSafetensors } from "./model-files.ts";
import { digestOf } from "./reference.ts";
import { MIB } from "./vram.ts";

const { verified, failed, workerStopped } = told;
export const RANGE = MIB / 2;
export const SALT = "ab".repeat(16);
/** What the digest of a mismatch says, and with which words the worker stops. */
export const DIFFERS = "the measured digest differs from the sealed one";
export const stoppedBy = (message: string) => workerStopped({ reason: `m: ${message}` });
export const verifyModel = ({ vram }: Stage) => vram.verify("m");
const seal = (stage: Stage) => sealModel(stage);

/** Seals the model, then arms faults. */
export const sealedAnd =
  (arm: (faults: Stage["faults"]) => void) =>
  async (stage: Stage): Promise<void> => {
    await sealModel(stage);
    stage.faults.reset();
    arm(stage.faults);
  };

/** Seals the model and changes it. */
async function damaged(stage: Stage): Promise<void> {
  await sealModel(stage);
  await stage.flipBit("m", RANGE + 5, 5);
}
const DAMAGE = { ranges: [{ offset: RANGE, byteLength: RANGE }], rangesTotal: 1, message: DIFFERS };

const namesOf = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `t${String(index).padStart(3, "0")}`);

/** Makes the model a file with `count` small tensors. */
export async function manyTensors({ path }: Stage, count: number): Promise<void> {
  const data = new Uint8Array(1000).fill(3);
  const named = namesOf(count).map((name) => ({ name, dtype: "U8", shape: [data.length], data }));
  await writeFile(path, buildSafetensors(named));
}

const PASSES: readonly Row[] = [
  { path: "a fresh measurement", before: seal, act: verifyModel, ends: "ok", lines: [verified()] },
  {
    path: "a fresh measurement, with the seal handed in",
    act: async (stage) => stage.vram.verify("m", { seal: (await sealModel(stage)).seal }),
    ends: "ok",
    calls: 2,
    lines: [told.allocated(), told.sealed(), verified()],
  },
  {
    path: "a salted measurement",
    before: seal,
    act: ({ vram }) => vram.verify("m", { salt: SALT, maxAgeMs: 60_000 }),
    ends: "ok",
    lines: [verified({ salt: SALT, saltedDigest: toHex(digestOf(MODEL, Buffer.from(SALT, "hex"))) })],
  },
  {
    path: "a measurement that is fresh enough: none, and no line",
    before: seal,
    act: ({ vram }) => vram.verify("m", { maxAgeMs: 60_000 }),
    ends: "ok",
    lines: [],
  },
  {
    path: "a set: a line for each member",
    act: async (stage) => {
      await manyTensors(stage, 2);
      const { set } = await stage.vram.sealSet(stage.path, { name: "s", shards: 2 });
      return stage.vram.verifySet(set);
    },
    ends: "ok",
    calls: 2,
    lines: [
      ...[1, 2].flatMap((nth) => {
        const part = { name: `s/0000${nth}-of-00002`, byteLength: FIGURE };
        return [told.allocated(part), told.sealed({ ...part, shardId: SHARD_ID, digest: TEXT, sequence: nth })];
      }),
      told.setSealed(),
      ...[1, 2].map((nth) => {
        const part = { name: `s/0000${nth}-of-00002`, shardId: SHARD_ID };
        return verified({ ...part, digest: TEXT, bytesCovered: FIGURE });
      }),
    ],
  },
  {
    path: "what is sound on a worker that is stopped",
    before: async (stage) => {
      await damaged(stage);
      await stage.vram.seal({ bytes: MODEL, name: "n" }, { shardId: "id-n" });
      await stage.vram.verify("m").catch(() => undefined);
    },
    act: ({ vram }) => vram.verify("n"),
    ends: "ok",
    lines: [verified({ name: "n", shardId: "id-n" })],
  },
];

const MISMATCHES: readonly Row[] = [
  {
    path: "one range differs",
    before: damaged,
    act: verifyModel,
    ends: "MEASUREMENT_MISMATCH",
    lines: [stoppedBy(DIFFERS), failed(DAMAGE)],
  },
  {
    path: "several ranges differ, one of them the short one at the end",
    before: async (stage) => {
      await sealModel(stage);
      for (const offset of [0, MODEL.byteLength - 1]) await stage.flipBit("m", offset, 7);
    },
    act: verifyModel,
    ends: "MEASUREMENT_MISMATCH",
    lines: [
      stoppedBy(DIFFERS),
      failed({
        message: DIFFERS,
        ranges: [
          { offset: 0, byteLength: RANGE },
          { offset: MIB, byteLength: 7 },
        ],
        rangesTotal: 2,
      }),
    ],
  },
  {
    path: "more ranges differ than a line lists",
    before: async (stage) => {
      await truncate(stage.path, 66 * RANGE);
      await sealModel(stage, "m", { format: "raw" });
      for (let nth = 0; nth < 66; nth += 1) await stage.flipBit("m", nth * RANGE + nth, 0);
    },
    act: verifyModel,
    ends: "MEASUREMENT_MISMATCH",
    lines: [
      stoppedBy(DIFFERS),
      failed({
        message: DIFFERS,
        ranges: Array.from({ length: 64 }, (_, nth) => ({ offset: nth * RANGE, byteLength: RANGE })),
        rangesTotal: 66,
      }),
    ],
  },
  {
    path: "more tensors are hit than a line lists",
    before: async (stage) => {
      await manyTensors(stage, 70);
      await sealModel(stage);
      await stage.flipBit("m", 50_000, 0);
    },
    act: verifyModel,
    ends: "MEASUREMENT_MISMATCH",
    lines: [
      stoppedBy(DIFFERS),
      failed({
        ...{ message: DIFFERS, ranges: [{ offset: 0, byteLength: FIGURE }], rangesTotal: 1 },
        ...{ tensors: namesOf(64), tensorsTotal: 70 },
      }),
    ],
  },
  {
    path: "the shard alone is given up where that is configured",
    options: { onMismatch: "quarantine" },
    before: damaged,
    act: verifyModel,
    ends: "MEASUREMENT_MISMATCH",
    lines: [failed(DAMAGE)],
  },
  {
    path: "a second shard differs: the worker stops once",
    before: async (stage) => {
      await damaged(stage);
      await stage.vram.seal({ bytes: MODEL, name: "n" }, { shardId: "id-n" });
      await stage.flipBit("n", RANGE, 1);
      await stage.vram.verify("m").catch(() => undefined);
    },
    act: ({ vram }) => vram.verify("n"),
    ends: "MEASUREMENT_MISMATCH",
    lines: [failed({ ...DAMAGE, name: "n", shardId: "id-n" })],
  },
  {
    path: "what was found to differ is not measured again",
    before: async (stage) => {
      await damaged(stage);
      await stage.vram.verify("m").catch(() => undefined);
    },
    act: verifyModel,
    ends: "SHARD_NOT_RESIDENT",
    lines: [],
  },
];

export const VERIFYING: readonly Row[] = [...PASSES, ...MISMATCHES];
