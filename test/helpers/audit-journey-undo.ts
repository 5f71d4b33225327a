/** What a seal that fails must put into the audit log: what it had done, and that it is undone. */
import { expect } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import type { TestOptions, VramOptions } from "../../src/open.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { type Row, sealModel, TEXT, told, WRONG } from "./audit-journey.ts";
import { folderOf, member, sealedMember, tensors } from "./audit-journey-seal.ts";

const { allocated, allocationFailed, deallocated, refused } = told;
/** A member that was sealed already, under an id of its own. */
const sealedBefore = (file: string) => ({
  ...member(file),
  shardId: expect.stringMatching(/^shard-/) as string,
});
const undone = (other: object = {}) => deallocated({ because: "undone", ...other });
const lostMemory = { zeroed: false, reason: TEXT };

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
    path: "the memory that was written cannot be read",
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
      undone(sealedBefore("a.safetensors")),
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
      ...[undone(sealedBefore("b.safetensors")), undone(sealedBefore("a.safetensors"))],
    ],
  },
];

/** Stages at whose entry the caller aborts; all of them come before the seal is on record. */
const STAGES =
  "source_opened capacity_reserved vram_allocated upload_progressed uploaded facts_checked measured seal_computed";

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

export const UNDOING: readonly Row[] = [...UNDONE, ...UNRECORDED, ...ABORTED];
