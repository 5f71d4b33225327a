import { createHmac } from "node:crypto";
import { appendFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import { encodeSet } from "../../src/index.ts";
import type { SetResult } from "../../src/residency/seal-set.ts";
import type { SetSeal } from "../../src/seal/set.ts";
import { createFaultPlan } from "../../src/testing.ts";
import type { Damage } from "../../src/verify/report.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, lastDurable, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const FOUR = { emulated: { devices: 4, byteLength: 128 * MIB } };
const ALL = { devices: [0, 1, 2, 3] };

/** A file of `count` tensors of different sizes, about 4 MiB in all. */
async function modelFile(count = 11, name = "model.safetensors"): Promise<{ path: string; file: Uint8Array }> {
  const tensors = Array.from({ length: count }, (_, index) => {
    const size = 200_000 + ((index * 7919) % 5) * 60_001;
    const data = Uint8Array.from({ length: size }, (_unused, at) => (at * 31 + index) % 256);
    return { name: `layers.${index}.weight`, dtype: "U8", shape: [size], data };
  });
  const path = join(await temporaryFolder(), name);
  const file = buildSafetensors(tensors);
  await writeFile(path, file);
  return { path, file };
}

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe("one file cut into shards", () => {
  it("[VR-SEAL-06] every byte is in exactly one shard, no tensor is split, the set covers all", async () => {
    const { path, file } = await modelFile();
    const { vram, open } = await openSmall(FOUR);
    for (const shards of [1, 2, 3, 4, 7, 11]) {
      const { set, members } = await vram.sealSet(path, { shards, ...ALL, name: `cut ${shards}` });
      expect(set).toMatchObject({ totalShards: shards, digest: shards === 1 ? toHex(digestOf(file)) : "" });
      let at = 0;
      for (const [index, { record, seal }] of members.entries()) {
        expect(seal).toMatchObject({ shardIndex: index, totalShards: shards, sourceOffset: at });
        expect(record.device.ordinal).toBe(index % 4);
        expect(record.digest).toBe(toHex(digestOf(file.subarray(at, at + record.byteLength))));
        at += record.byteLength;
      }
      expect(at).toBe(file.byteLength);
      const shardsOf = members.map(({ record }) => open.system.registry.find(record.shardId));
      const names = shardsOf.flatMap((shard) => shard.tensors.map((tensor) => tensor.name));
      expect(names).toEqual(Array.from({ length: 11 }, (_, index) => `layers.${index}.weight`));
      const sizes = members.map(({ record }) => record.byteLength);
      if (shards === 4) expect(Math.max(...sizes) / Math.min(...sizes)).toBeLessThan(2);
      expect(await vram.verifySet(set)).toMatchObject({ totalShards: shards });
      for (const { record } of members) await vram.evict(record.shardId);
    }
    expect(await codeOf(vram.sealSet(path, { shards: 12 }))).toBe("INVALID_ARGUMENT");
  });

  it("[VR-SEAL-06] is never called by a digest that was not measured: only a file sealed whole may be expected", async () => {
    const { path, file } = await modelFile();
    const { vram } = await openSmall(FOUR);
    const expected = `fsverity:${toHex(digestOf(file))}`;
    expect(await codeOf(vram.sealSet(path, { shards: 3, expected }))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(vram.sealSet(path, { expected: "0".repeat(64) }))).toBe("DIGEST_MISMATCH");
    expect(vram.list()).toEqual([]);
    const { set, members } = await vram.sealSet(path, { expected });
    expect(members[0]?.record.comparedWith).toBe("expected");
    expect(await vram.verifySet(set)).toMatchObject({ digest: toHex(digestOf(file)) });
  });

  it("[VR-VER-03] names the tensor and the byte in a shard that does not begin at the file's start", async () => {
    const { path } = await modelFile();
    const { vram, open, flipBit } = await openSmall(FOUR);
    const { set, members } = await vram.sealSet(path, { shards: 4, ...ALL });
    const third = members[2]?.record.shardId ?? "";
    const [tensor] = open.system.registry.find(third).tensors;
    const offset = (tensor?.offset ?? 0) + 4321;
    await flipBit(third, offset, 2);
    const error = await errorOf(vram.verifySet(set));
    expect(error).toMatchObject({
      code: "MEASUREMENT_MISMATCH",
      details: { shardIndex: 2, members: ["ok", "ok", "MEASUREMENT_MISMATCH", "ok"] },
    });
    const damage = error.details["damage"] as Damage;
    expect(damage).toMatchObject({ precision: "block", blocks: [{ byteOffsets: [offset], tensors: [tensor?.name] }] });
    expect(vram.devices().map((device) => device.state)).toEqual(["running", "running", "stopped", "running"]);
  });

  it("[VR-IN-03] is refused when the file changes between being cut and being read", async () => {
    const { path } = await modelFile();
    let meddled = false;
    const accept = async (entry: { readonly type: string }): Promise<void> => {
      if (entry.type !== "vram_sealed" || meddled) return;
      meddled = true;
      await appendFile(path, "x");
    };
    const { vram } = await openSmall({ ...FOUR, readers: [{ required: true, accept }] });
    const before = await vram.capacity();
    expect(await codeOf(vram.sealSet(path, { shards: 4 }))).toBe("SOURCE_CHANGED");
    expect(vram.list()).toEqual([]);
    expect(await vram.capacity()).toEqual(before);
  });
});

describe("a set that is handed in", () => {
  /** Two models of three shards each, side by side. */
  async function twoModels() {
    const [a, b] = [await modelFile(11), await modelFile(12, "other.safetensors")];
    const system = await openSmall(FOUR);
    const first = await system.vram.sealSet(a.path, { shards: 3, ...ALL });
    const second = await system.vram.sealSet(b.path, { shards: 3, ...ALL });
    return { ...system, first, second };
  }

  it("[VR-SEAL-06] is refused with a member missing, doubled, swapped, or of another model", async () => {
    const { vram, entries, first, second } = await twoModels();
    const [m0 = "", m1 = "", m2 = ""] = first.set.macs;
    const other = second.set.macs[1] ?? "";
    const forged: [string, Partial<SetSeal>][] = [
      ["missing", { macs: [m0, m1] }],
      ["missing, total adjusted", { macs: [m0, m1], totalShards: 2 }],
      ["doubled", { macs: [m0, m1, m1] }],
      ["added", { macs: [m0, m1, m2, other], totalShards: 4 }],
      ["swapped", { macs: [m1, m0, m2] }],
      ["mixed", { macs: [m0, other, m2] }],
      ["with another mac", { mac: second.set.mac }],
      ["with another digest", { digest: "0".repeat(64) }],
    ];
    for (const [what, change] of forged) {
      const error = await errorOf(vram.verifySet({ ...first.set, ...change }));
      expect(error, what).toMatchObject({ code: "SEAL_REFUSED", message: "the seal was refused" });
      expect(lastDurable(entries), what).toMatchObject({ type: "seal_refused" });
    }
    for (const odd of [null, {}, { ...first.set, extra: 1 }, { ...first.set, version: 2 }]) {
      expect(await codeOf(vram.verifySet(odd as never))).toBe("SEAL_REFUSED");
    }
    expect(await vram.verifySet(JSON.parse(JSON.stringify(first.set)) as SetSeal)).toMatchObject({ totalShards: 3 });
  });

  it("[VR-SEAL-06] is not resident once a member is gone, or was sealed again on its own", async () => {
    const { vram, first } = await twoModels();
    await vram.evict(first.members[1]?.record.shardId ?? "");
    expect(await errorOf(vram.verifySet(first.set))).toMatchObject({
      code: "SHARD_NOT_RESIDENT",
      details: { shardIndex: 1, totalShards: 3 },
    });
  });

  it("[VR-SEAL-06] carries a mac anybody with the set key can recompute from the documented bytes", async () => {
    const { open, first } = await twoModels();
    const bytes = encodeSet(first.set.digest, first.set.macs);
    expect(toHex(createHmac("sha256", open.system.setKey).update(bytes).digest())).toBe(first.set.mac);
    const prefix = "vram-residency/set/v1\n";
    expect(Buffer.from(bytes).subarray(0, prefix.length).toString()).toBe(prefix);
    // u32 count 4, total 3; count 0 for the absent digest; count 32 before the first mac.
    expect(toHex(bytes.subarray(prefix.length, prefix.length + 16))).toBe("04000000030000000000000020000000");
  });
});

describe("sets at the same time, and sets of odd names", () => {
  it("[VR-SEAL-06] two of one name do not undo each other; a member that is evicted meanwhile fails the set", async () => {
    const { path } = await modelFile();
    let evictAt = "";
    const { vram, open } = await openSmall({
      ...FOUR,
      readers: [
        {
          required: true,
          accept: async (entry) => {
            if (entry.type !== evictAt) return;
            evictAt = "";
            const [first] = open.system.registry.all();
            await vram.evict(first?.seal.shardId ?? "");
          },
        },
      ],
    });
    const outcomes = await Promise.allSettled(
      [1, 2, 3].map(() => vram.sealSet(path, { shards: 4, ...ALL, name: "m" })),
    );
    const done = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
    expect(done).toHaveLength(1);
    for (const { set } of done) expect(await vram.verifySet(set)).toMatchObject({ totalShards: 4 });
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "SEAL_IN_PROGRESS" });
    }
    for (const { shardId } of vram.list()) await vram.evict(shardId);
    evictAt = "set_sealed";
    expect(await codeOf(vram.sealSet(path, { shards: 4, ...ALL, name: "n" }))).toBe("SHARD_NOT_RESIDENT");
    expect(vram.list()).toEqual([]);
  });

  it("[VR-IN-01] a name too long for its members is refused before anything is sealed", async () => {
    const { path } = await modelFile();
    const { vram, types } = await openSmall(FOUR);
    expect(await codeOf(vram.sealSet(path, { shards: 2, name: "x".repeat(1024) }))).toBe("INVALID_ARGUMENT");
    expect(types()).not.toContain("vram_allocated");
  });
});

describe("several files", () => {
  async function folderOf(count: number): Promise<string> {
    const folder = await temporaryFolder();
    for (let index = 1; index <= count; index += 1) {
      const data = Buffer.alloc(50_000, index);
      const file = buildSafetensors([{ name: `w${index}`, dtype: "U8", shape: [50_000], data }]);
      await writeFile(join(folder, `m-0000${index}-of-0000${count}.safetensors`), file);
    }
    return folder;
  }

  it("are one set, sealed over the devices; sealing it again is the same set", async () => {
    const folder = await folderOf(5);
    const { vram } = await openSmall(FOUR);
    const first: SetResult = await vram.sealSet(folder, { name: "m", ...ALL, sha256: true });
    expect(first.members.map(({ record }) => record.device.ordinal)).toEqual([0, 1, 2, 3, 0]);
    expect(first.members.map(({ record }) => record.name)[4]).toBe("m/m-00005-of-00005.safetensors");
    expect(await vram.sealSet(folder, { name: "m", ...ALL, sha256: true })).toEqual(first);
    expect(await vram.verifySet(first.set, { maxAgeMs: 60_000 })).toMatchObject({ totalShards: 5 });
    expect(
      (await vram.verifySet(first.set, { salt: "ab" })).members.every((member) => member.salted !== undefined),
    ).toBe(true);
    expect(await codeOf(vram.sealSet(folder, { shards: 2 }))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(vram.sealSet(folder, { expected: "0".repeat(64) }))).toBe("INVALID_ARGUMENT");
  });

  it("stay or go together: a failure of any, on any device, leaves none", async () => {
    const folder = await folderOf(5);
    for (let nth = 1; nth <= 40; nth += 3) {
      const faults = createFaultPlan();
      const { vram, open } = await openSmall(FOUR, { faults });
      faults.reset();
      faults.breakExecution("copyToDevice", nth, 700);
      const outcome = await vram.sealSet(folder, { ...ALL }).catch((error: unknown) => error as VramError);
      if (faults.fired() > 0) expect(outcome).toMatchObject({ code: "DEVICE_LOST" });
      if (outcome instanceof Error) expect(vram.list()).toEqual([]);
      expect(open.driver.emulation.pendingLint()).toBeUndefined();
    }
  });

  it("leave none when the set's own entry cannot be recorded, nor when the caller aborts", async () => {
    const folder = await folderOf(3);
    const controller = new AbortController();
    let failing = true;
    const accept = (entry: { readonly type: string }): void => {
      if (entry.type === "set_sealed" && failing) throw new Error("disk full");
      if (entry.type === "vram_sealed" && !failing) controller.abort();
    };
    const { vram } = await openSmall(FOUR, {});
    await vram.close();
    const system = await openSmall({ ...FOUR, readers: [{ required: true, accept }] });
    expect(await codeOf(system.vram.sealSet(folder))).toBe("AUDIT_UNAVAILABLE");
    expect(system.vram.list()).toEqual([]);
    failing = false;
    expect(await codeOf(system.vram.sealSet(folder, { signal: controller.signal }))).toBe("ABORTED");
    expect(system.vram.list()).toEqual([]);
    const { path } = await randomFile(100);
    expect(await codeOf(system.vram.sealSet(path, { shards: 2 }))).toBe("INVALID_ARGUMENT");
  });
});
