/** What sealing must put into the audit log: when it works, and when there is no memory for it. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { DIGEST, FIGURE, MODEL, type Row, SHARD_ID, type Stage, sealModel, TEXT, told } from "./audit-journey.ts";
import { buildSafetensors } from "./model-files.ts";
import { MIB } from "./vram.ts";

const { allocated, allocationFailed, sealed, setSealed } = told;
/** What can be promised on a fresh device of 128 MiB: our own scratch takes a granule. */
const FREE = 126 * MIB;

const PARTS = ["a.safetensors", "b.safetensors"];

/** A file with two tensors of 300,000 bytes. */
export function tensors(): Uint8Array {
  const data = new Uint8Array(300_000).fill(7);
  return buildSafetensors(["v", "w"].map((name) => ({ name, dtype: "U8", shape: [data.byteLength], data })));
}

/** A folder with two files that are a model together. */
export async function folderOf({ path }: Stage): Promise<string> {
  const folder = join(dirname(path), "s");
  await mkdir(folder);
  for (const name of PARTS) await writeFile(join(folder, name), tensors());
  return folder;
}

export const member = (name: string, other: object = {}) => ({
  name: `s/${name}`,
  byteLength: tensors().byteLength,
  ...other,
});
export const sealedMember = (name: string, sequence: number) =>
  sealed(member(name, { shardId: SHARD_ID, digest: TEXT, sequence }));

/** The beginning of a source, of which no more is read. */
async function* nothing(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(MIB);
}

const WORKS: readonly Row[] = [
  {
    path: "seal, by the digest that is expected",
    act: (stage) => sealModel(stage, "m", { expected: DIGEST }),
    ends: "ok",
    lines: [allocated(), sealed({ comparedWith: "expected" })],
  },
  {
    path: "seal, witnessed",
    act: (stage) => sealModel(stage),
    ends: "ok",
    lines: [allocated(), sealed()],
  },
  {
    path: "seal of bytes in memory under names that are made up",
    act: ({ vram }) => vram.seal({ bytes: MODEL, name: "b" }),
    ends: "ok",
    lines: [allocated({ name: "b" }), sealed({ name: "b", shardId: SHARD_ID })],
  },
  {
    path: "seal on the second device",
    options: { emulated: { devices: 2, byteLength: 128 * MIB } },
    act: (stage) => sealModel(stage, "m", { device: 1 }),
    ends: "ok",
    lines: [
      allocated({ device: { ...(allocated().data["device"] as object), ordinal: 1 } }),
      sealed({ device: { ...(allocated().data["device"] as object), ordinal: 1 } }),
    ],
  },
  {
    path: "seal of what is resident: the same shard, and nothing new",
    before: (stage) => sealModel(stage),
    act: (stage) => sealModel(stage),
    ends: "ok",
    lines: [],
  },
  {
    path: "seal after an eviction: the next sequence",
    before: async (stage) => {
      await sealModel(stage);
      await stage.vram.evict("m");
    },
    act: (stage) => sealModel(stage),
    ends: "ok",
    lines: [allocated(), sealed({ sequence: 2 })],
  },
  {
    path: "seal of a set of files",
    act: async (stage) => stage.vram.sealSet(await folderOf(stage)),
    ends: "ok",
    lines: [
      ...[allocated(member("a.safetensors")), sealedMember("a.safetensors", 1)],
      ...[allocated(member("b.safetensors")), sealedMember("b.safetensors", 2)],
      setSealed(),
    ],
  },
  {
    path: "seal of a file that is cut",
    act: async (stage) => {
      await writeFile(stage.path, tensors());
      return stage.vram.sealSet(stage.path, { name: "s", shards: 2 });
    },
    ends: "ok",
    lines: [1, 2]
      .flatMap((nth) => {
        const part = member(`0000${nth}-of-00002`, { byteLength: FIGURE });
        return [allocated(part), sealed({ ...part, shardId: SHARD_ID, digest: TEXT, sequence: nth })];
      })
      .concat(setSealed()),
  },
];

const NO_ALLOCATION: readonly Row[] = [
  {
    path: "no room: nothing is asked of the driver",
    act: ({ vram }) => vram.seal({ chunks: nothing(), byteLength: 127 * MIB }, { name: "m" }),
    ends: "OUT_OF_VRAM",
    lines: [allocationFailed({ bytesNeeded: 127 * MIB, bytesAvailable: FREE })],
  },
  {
    path: "the driver has no memory although it said so",
    before: async ({ faults }) => faults.failCall("memory.create", 1, 2),
    act: (stage) => sealModel(stage),
    ends: "OUT_OF_VRAM",
    lines: [allocationFailed({ bytesAvailable: FREE })],
  },
  {
    path: "the driver allocates, and does not map",
    before: async ({ faults }) => faults.failCall("memory.map", 1, 1),
    act: (stage) => sealModel(stage),
    ends: "CUDA_FAILED",
    lines: [allocationFailed({ bytesAvailable: FREE, code: "CUDA_FAILED" })],
  },
  {
    path: "the device is lost while it is asked for room",
    before: async ({ faults }) => faults.failCall("context.memoryInfo", 1, 700),
    act: (stage) => sealModel(stage),
    ends: "DEVICE_LOST",
    lines: [allocationFailed({ bytesAvailable: 0, code: "DEVICE_LOST" })],
  },
  {
    path: "no room for a second one, twice: two refusals",
    before: async (stage) => stage.faults.failCall("memory.create", 1, 2, { forGood: true }),
    act: async (stage) => {
      await sealModel(stage).catch(() => undefined);
      return sealModel(stage, "n");
    },
    ends: "OUT_OF_VRAM",
    calls: 2,
    lines: [allocationFailed(), allocationFailed({ name: "n" })],
  },
  {
    path: "no room ten times in a minute: eight lines, and one that counts the others",
    before: async (stage) => stage.faults.failCall("memory.create", 1, 2, { forGood: true }),
    act: async (stage) => {
      for (let nth = 1; nth <= 10; nth += 1) await sealModel(stage).catch(() => undefined);
      return stage.vram.close();
    },
    ends: "ok",
    // Eight of the refused ones, the tenth, and the one that closes.
    calls: 10,
    lines: [
      ...Array.from({ length: 8 }, () => allocationFailed()),
      told.stopped(),
      allocationFailed({ repeated: 2, sinceMs: FIGURE }),
    ],
  },
];

export const SEALING: readonly Row[] = [...WORKS, ...NO_ALLOCATION];
