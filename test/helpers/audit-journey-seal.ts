/** What sealing must put into the audit log: when it works, when it is refused, and when it has to be undone. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Entry } from "../../src/journal/entry.ts";
import type { TestOptions, VramOptions } from "../../src/open.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { DIGEST, FIGURE, MODEL, type Row, SHARD_ID, type Stage, sealModel, TEXT, told, WRONG } from "./audit-journey.ts";
import { buildSafetensors } from "./model-files.ts";
import { MIB } from "./vram.ts";

const { allocated, allocationFailed, deallocated, sealed, setSealed, refused } = told;
/** What can be promised on a fresh device of 128 MiB: our own scratch takes a granule. */
const FREE = 126 * MIB;
const undone = (other: object = {}) => deallocated({ because: "undone", ...other });
const lostMemory = { zeroed: false, reason: TEXT };

const PARTS = ["a.safetensors", "b.safetensors"];

/** A file with two tensors of 300,000 bytes. */
function tensors(): Uint8Array {
  const data = new Uint8Array(300_000).fill(7);
  return buildSafetensors(["v", "w"].map((name) => ({ name, dtype: "U8", shape: [data.byteLength], data })));
}

/** A folder with two files that are a model together. */
async function folderOf({ path }: Stage): Promise<string> {
  const folder = join(dirname(path), "s");
  await mkdir(folder);
  for (const name of PARTS) await writeFile(join(folder, name), tensors());
  return folder;
}

const member = (name: string, other: object = {}) => ({ name: `s/${name}`, byteLength: tensors().byteLength, ...other });
const sealedMember = (name: string, sequence: number) =>
  sealed(member(name, { shardId: SHARD_ID, digest: TEXT, sequence }));

/** A source that nobody reads. */
async function* nothing(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(0);
}

/** A required reader that calls `then` when it is told of an entry of this type. */
function onEntry(type: Entry["type"], then: () => unknown): VramOptions {
  const accept = (entry: Entry): void => {
    if (entry.type === type) then();
  };
  return { readers: [{ required: true, accept }] };
}

/** Files whose third read fails. */
function failingReads(): TestOptions {
  let reads = 0;
  const fs: FileSystem = {
    ...nodeFileSystem,
    open: async (file, flags) => {
      const handle = await nodeFileSystem.open(file, flags);
      return {
        fd: handle.fd,
        stat: (options) => handle.stat(options),
        close: () => handle.close(),
        read: async (...args) => {
          reads += 1;
          if (reads === 3) throw Object.assign(new Error("EIO: i/o error, read"), { code: "EIO" });
          return handle.read(...args);
        },
      };
    },
  };
  return { fs };
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
    lines: [1, 2].flatMap((nth) => {
      const part = member(`0000${nth}-of-00002`, { byteLength: FIGURE });
      return [allocated(part), sealed({ ...part, shardId: SHARD_ID, digest: TEXT, sequence: nth })];
    }).concat(setSealed()),
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

/** Nothing was sealed, and what was allocated is given back. */
const UNDONE: readonly Row[] = [
  {
    path: "the digest is another than the expected one",
    act: (stage) => sealModel(stage, "m", { expected: WRONG }),
    ends: "DIGEST_MISMATCH",
    lines: [allocated(), refused(), undone()],
  },
  {
    path: "the plain SHA-256 is another than the expected one",
    act: (stage) => sealModel(stage, "m", { expected: `sha256:${WRONG}` }),
    ends: "DIGEST_MISMATCH",
    lines: [allocated(), refused(), undone()],
  },
  {
    path: "what is resident has another digest than the expected one",
    before: (stage) => sealModel(stage),
    act: (stage) => sealModel(stage, "m", { expected: WRONG }),
    ends: "DIGEST_MISMATCH",
    lines: [refused()],
  },
  {
    path: "the copy in VRAM differs from what was read",
    before: async ({ faults }) => faults.dropCopyToDevice(1),
    act: (stage) => sealModel(stage),
    ends: "DIGEST_MISMATCH",
    lines: [allocated(), refused(), undone()],
  },
  {
    path: "the source cannot be read any further",
    test: failingReads(),
    act: (stage) => sealModel(stage),
    ends: "SOURCE_READ_FAILED",
    lines: [allocated(), undone()],
  },
  {
    path: "the measurement does not work",
    before: async ({ faults }) => faults.dropLaunch(1),
    act: (stage) => sealModel(stage),
    ends: "MEASUREMENT_INVALID",
    lines: [allocated(), undone()],
  },
  {
    path: "the memory cannot be read",
    before: async ({ faults }) => faults.markUncorrectable({ allocation: 2, offset: 5000, byteLength: 1 }),
    act: (stage) => sealModel(stage),
    ends: "VRAM_UNREADABLE",
    lines: [allocated(), undone(lostMemory)],
  },
  {
    path: "the device is lost during the upload",
    before: async ({ faults }) => faults.breakExecution("copyToDevice", 2, 700),
    act: (stage) => sealModel(stage),
    ends: "DEVICE_LOST",
    lines: [allocated(), undone(lostMemory)],
  },
  {
    path: "a set whose second file cannot be allocated: the first one goes too",
    before: async ({ faults }) => faults.failCall("memory.create", 2, 2),
    act: async (stage) => stage.vram.sealSet(await folderOf(stage)),
    ends: "OUT_OF_VRAM",
    lines: [
      ...[allocated(member("a.safetensors")), sealedMember("a.safetensors", 1)],
      allocationFailed({ name: "s/b.safetensors", bytesNeeded: tensors().byteLength }),
      undone(member("a.safetensors")),
    ],
  },
  {
    path: "a worker that was stopped meanwhile seals nothing",
    before: async (stage) => {
      await sealModel(stage);
      await stage.flipBit("m", 1, 1);
      await stage.vram.verify("m").catch(() => undefined);
    },
    act: (stage) => sealModel(stage, "n"),
    ends: "WORKER_STOPPED",
    lines: [],
  },
];

/** The log has no room for a line: what waits for it is undone, what cannot wait is written as soon as there is room. */
const UNRECORDED: readonly Row[] = [
  {
    path: "the allocation cannot be recorded",
    before: async ({ disk }) => disk.fill("vram_allocated"),
    act: (stage) => sealModel(stage),
    ends: "AUDIT_UNAVAILABLE",
    lines: [undone()],
  },
  {
    path: "the seal cannot be recorded",
    before: async ({ disk }) => disk.fill("vram_sealed"),
    act: (stage) => sealModel(stage),
    ends: "AUDIT_UNAVAILABLE",
    lines: [allocated(), undone()],
  },
  {
    path: "the set cannot be recorded: its members go, the last one first",
    before: async ({ disk }) => disk.fill("set_sealed"),
    act: async (stage) => stage.vram.sealSet(await folderOf(stage)),
    ends: "AUDIT_UNAVAILABLE",
    lines: [
      ...[allocated(member("a.safetensors")), sealedMember("a.safetensors", 1)],
      ...[allocated(member("b.safetensors")), sealedMember("b.safetensors", 2)],
      ...[undone(member("b.safetensors")), undone(member("a.safetensors"))],
    ],
  },
];

/** Stages at whose entry the caller aborts; all of them come before the seal is on record. */
const STAGES = "source_opened capacity_reserved vram_allocated upload_progressed uploaded facts_checked measured seal_computed";

function aborted(at: Entry["type"]): Row {
  const controller = new AbortController();
  return {
    path: `abort at ${at}`,
    options: onEntry(at, () => controller.abort()),
    act: (stage) => sealModel(stage, "m", { signal: controller.signal }),
    ends: "ABORTED",
    lines: [allocated(), undone()],
  };
}

const ABORTED: readonly Row[] = [
  {
    path: "abort before anything was done",
    act: (stage) => sealModel(stage, "m", { signal: AbortSignal.abort() }),
    ends: "ABORTED",
    lines: [],
  },
  ...STAGES.split(" ").map((type) => aborted(type as Entry["type"])),
];

export const SEALING: readonly Row[] = [...WORKS, ...NO_ALLOCATION, ...UNDONE, ...UNRECORDED, ...ABORTED];
