import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const caught = async (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe("sealing", () => {
  it("[VR-SEAL-01] compares the measurement with a given digest, hashing nothing on the host", async () => {
    const { path, bytes } = await randomFile(MIB + 1);
    const { vram, entries } = await openSmall();
    const { record, seal } = await vram.seal(path, { expected: toHex(digestOf(bytes)) });
    expect(record).toMatchObject({ comparedWith: "expected", digest: toHex(digestOf(bytes)), sealed: true });
    expect(record.sha256).toBeUndefined();
    expect(seal.sha256).toBe("");
    expect(entries.find((entry) => entry.type === "uploaded")).toMatchObject({ comparedWith: "expected" });
  });

  it("[VR-SEAL-01] witnesses the bytes that were read when nothing is given", async () => {
    const { path, bytes } = await randomFile(MIB + 1);
    const { vram } = await openSmall();
    const { record } = await vram.seal(path);
    expect(record).toMatchObject({ comparedWith: "witnessed", digest: toHex(digestOf(bytes)) });
  });

  it("[VR-SEAL-01] computes a plain SHA-256 when asked for or given, and is then witnessed", async () => {
    const { path, bytes } = await randomFile(MIB);
    const flat = createHash("sha256").update(bytes).digest("hex");
    const { vram } = await openSmall();
    const asked = await vram.seal(path, { name: "asked", sha256: true, expected: toHex(digestOf(bytes)) });
    expect(asked.record).toMatchObject({ comparedWith: "witnessed", sha256: flat });
    const given = await vram.seal(path, { name: "given", expected: `sha256:${flat}` });
    expect(given.record).toMatchObject({ comparedWith: "witnessed", sha256: flat });
    const wrong = `sha256:${"0".repeat(64)}`;
    const error = await caught(vram.seal(path, { name: "wrong", expected: wrong }));
    expect(error).toMatchObject({ code: "DIGEST_MISMATCH", details: { expected: wrong, actual: `sha256:${flat}` } });
  });

  it("[VR-SEAL-01] a wrong expectation leaves nothing and names both digests", async () => {
    const { path, bytes } = await randomFile(2 * MIB);
    const { vram, types } = await openSmall();
    const before = await vram.capacity();
    const expected = `fsverity:${"ab".repeat(32)}`;
    const error = await caught(vram.seal(path, { expected }));
    expect(error).toMatchObject({
      code: "DIGEST_MISMATCH",
      details: { expected, actual: `fsverity:${toHex(digestOf(bytes))}` },
    });
    expect(await vram.capacity()).toEqual(before);
    expect(vram.list()).toEqual([]);
    expect(types()).toContain("seal_refused");
    expect(types()).not.toContain("vram_sealed");
  });

  it("[VR-SEAL-01] a copy that did not arrive is found by the measurement, not believed", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(2 * MIB);
    const { vram } = await openSmall({}, { faults });
    const before = await vram.capacity();
    faults.reset();
    faults.dropCopyToDevice(2);
    expect(await codeOf(vram.seal(path))).toBe("DIGEST_MISMATCH");
    expect(await vram.capacity()).toEqual(before);
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });

  it("[VR-SEAL-05] every size has the digest of the host, through VRAM", async () => {
    const { vram } = await openSmall();
    for (const size of [
      1,
      4095,
      4096,
      4097,
      524_287,
      524_288,
      524_289,
      4 * MIB - 1,
      4 * MIB,
      4 * MIB + 1,
      9 * MIB + 3,
    ]) {
      const { path, bytes } = await randomFile(size);
      const { record } = await vram.seal(path, { name: `size ${size}`, expected: toHex(digestOf(bytes)) });
      expect(record.byteLength).toBe(size);
    }
  });

  it("[VR-VER-05] zero bytes are digested but refused by seal", async () => {
    const { path } = await randomFile(0);
    const { vram, types } = await openSmall();
    expect(await codeOf(vram.seal(path))).toBe("SOURCE_EMPTY");
    expect(types()).not.toContain("vram_allocated");
  });

  it("[VR-SEAL-04] nothing is listed before its entry is durable, and nothing stays when it cannot be", async () => {
    let broken = true;
    const { path } = await randomFile(MIB);
    const reader = {
      required: true,
      accept: (entry: Entry) => {
        if (entry.type === "vram_sealed" && broken) throw new Error("disk full");
      },
    };
    const { vram } = await openSmall({ readers: [reader] });
    const before = await vram.capacity();
    expect(await codeOf(vram.seal(path))).toBe("AUDIT_UNAVAILABLE");
    expect(vram.list()).toEqual([]);
    expect(await vram.capacity()).toEqual(before);
    broken = false;
    const { record } = await vram.seal(path);
    expect(record.state).toBe("sealed");
    expect(vram.list()).toEqual([record]);
  });

  it("[VR-SEAL-04] the mapping is born read-only and stays so while it is verified and repaired", async () => {
    const { path } = await randomFile(MIB);
    const { vram, open, entries } = await openSmall();
    const { record } = await vram.seal(path);
    await vram.verify(record.shardId);
    const shard = open.system.registry.find(record.shardId);
    const facts = await open.devices[0]?.facts(shard.allocationId);
    expect(facts).toMatchObject({ mainAccess: "read", memoryType: "device", managed: false, sizeMatches: true });
    expect(entries.filter((entry) => entry.type === "facts_checked")).toHaveLength(1);
  });

  it("takes bytes and async iterables of known length", async () => {
    const { bytes } = await randomFile(MIB + 5);
    const { vram } = await openSmall();
    async function* chunks() {
      for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
    }
    const fromBytes = await vram.seal({ bytes, name: "from bytes" });
    const fromChunks = await vram.seal({ chunks: chunks(), byteLength: bytes.length, name: "from chunks" });
    expect(fromChunks.record.digest).toBe(fromBytes.record.digest);
    expect(fromBytes.record.name).toBe("from bytes");
  });
});

describe("names and ids", () => {
  it("the same name and digest again is the same shard; another digest is a conflict", async () => {
    const { path, bytes } = await randomFile(MIB);
    const other = await randomFile(MIB);
    const { vram } = await openSmall();
    const first = await vram.seal(path, { name: "model" });
    const free = (await vram.capacity()).bytesFree;
    expect(await vram.seal(path, { name: "model" })).toEqual(first);
    expect(await vram.seal(path, { name: "model", expected: toHex(digestOf(bytes)) })).toEqual(first);
    expect(await codeOf(vram.seal(other.path, { name: "model" }))).toBe("NAME_CONFLICT");
    expect(await codeOf(vram.seal(path, { name: "other", shardId: first.record.shardId }))).toBe("NAME_CONFLICT");
    expect((await vram.capacity()).bytesFree).toBe(free);
    expect(vram.list()).toHaveLength(1);
  });

  it("two seals of one name at once: one wins, the other may be retried", async () => {
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall();
    const outcomes = await Promise.allSettled([vram.seal(path), vram.seal(path)]);
    expect(outcomes.filter((outcome) => outcome.status === "fulfilled")).toHaveLength(1);
    const refused = outcomes.find((outcome) => outcome.status === "rejected");
    expect(refused).toMatchObject({ reason: { code: "SEAL_IN_PROGRESS", retriable: true } });
    expect(vram.list()).toHaveLength(1);
  });

  it("[VR-IN-01] ids, names, digests, sizes and devices are checked at the edge", async () => {
    const { path } = await randomFile(10);
    const { vram } = await openSmall();
    const bad = [
      { shardId: "" },
      { shardId: "a".repeat(257) },
      { shardId: "../up" },
      { shardId: "a..b" },
      { shardId: ".hidden" },
      { shardId: "a/b" },
      { shardId: "a\0" },
      { shardId: "аlpha" }, // the first letter is Cyrillic
      { name: "" },
      { name: "a\nb" },
      { name: "a\0b" },
      { name: "\u202Egnp.exe" },
      { name: "\ud800" },
      { name: "é".repeat(513) },
      { expected: "abc" },
      { expected: "g".repeat(64) },
      { expected: "AB".repeat(32) },
      { expected: `md5:${"0".repeat(64)}` },
      { maxAgeMs: -1 },
      { maxAgeMs: 1.5 },
    ];
    for (const options of bad)
      expect(await codeOf(vram.seal(path, options)), JSON.stringify(options)).toBe("INVALID_ARGUMENT");
    expect(await codeOf(vram.seal(path, { device: 7 }))).toBe("DEVICE_NOT_FOUND");
    expect(await codeOf(vram.seal(path, { device: "GPU-00" }))).toBe("DEVICE_NOT_FOUND");
    expect(await codeOf(vram.seal(""))).toBe("INVALID_ARGUMENT");
    expect(vram.list()).toEqual([]);
    expect((await vram.seal(path, { name: "Ünïcode 模型 🦙", shardId: "A.b_c-9" })).record.shardId).toBe("A.b_c-9");
  });
});

describe("names that nobody chose", () => {
  it("are those of the source made fit to be one, or unnamed", async () => {
    const { path } = await randomFile(10, "a\nb\u202Egnp.bin");
    const { vram } = await openSmall();
    expect((await vram.seal(path)).record.name).toBe("a_b_gnp.bin");
    const given = ["", "\ud800", "🦙".repeat(300)];
    const names: string[] = [];
    for (const [index, name] of given.entries()) {
      names.push((await vram.seal({ bytes: Uint8Array.of(index), name })).record.name);
    }
    expect(names).toEqual(["unnamed", "\ufffd", "🦙".repeat(256)]);
  });
});

describe("sets", () => {
  it("seals every file of a directory, or none", async () => {
    const folder = await temporaryFolder();
    for (const index of [1, 2, 3]) {
      const data = Buffer.alloc(64, index);
      await writeFile(
        join(folder, `m-0000${index}-of-00003.safetensors`),
        buildSafetensors([{ name: "w", dtype: "U8", shape: [64], data }]),
      );
    }
    const { vram } = await openSmall();
    const sealed = await vram.sealSet(folder);
    expect(sealed.members.map(({ record }) => [record.shardIndex, record.totalShards])).toEqual([
      [0, 3],
      [1, 3],
      [2, 3],
    ]);
    expect(await codeOf(vram.seal(folder))).toBe("INVALID_ARGUMENT");
    for (const { record } of sealed.members) await vram.evict(record.shardId);
    await writeFile(join(folder, "m-00003-of-00003.safetensors"), "broken");
    expect(await codeOf(vram.sealSet(folder))).toBe("MODEL_MALFORMED");
    expect(vram.list()).toEqual([]);
  });
});
