/** Whole journeys through the library over the native driver, with the fake libcuda behind it. */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import { deriveWorkerKeys, readRootKey } from "../../src/seal/key.ts";
import { checkMac } from "../../src/seal/seal.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { everyValueOf, fakeLog, openNative } from "../helpers/native.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, lastDurable, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const KIB = 1024;
const SALT = "5a17".repeat(8);
const hasTool = spawnSync("fsverity", ["--version"]).status === 0;
if (!hasTool) console.log("skipped: the tool fsverity is not installed (Debian package fsverity)");

const fsverity = (path: string, ...salt: string[]): string =>
  execFileSync("fsverity", ["digest", "--compact", ...salt, path], { encoding: "utf8" }).trim();

/** A file of twelve tensors, about 3 MiB. */
async function modelFile(): Promise<{ path: string; file: Uint8Array }> {
  const tensors = Array.from({ length: 12 }, (_, index) => {
    const size = 200_000 + (index % 5) * 30_001;
    const data = Uint8Array.from({ length: size }, (_unused, at) => (at * 31 + index) % 256);
    return { name: `layers.${index}.weight`, dtype: "U8", shape: [size], data };
  });
  const path = join(await temporaryFolder(), "model.safetensors");
  const file = buildSafetensors(tensors);
  await writeFile(path, file);
  return { path, file };
}

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe.skipIf(fakeCuda() === undefined)(`a journey over the native driver${whyNoFakeCuda()}`, () => {
  it.each([1, 4095, 4096, 4097, 512 * KIB - 1, 512 * KIB, 512 * KIB + 1, 4 * MIB + 5])(
    "[VR-SEAL-01] [VR-SEAL-05] [VR-VER-07] %d bytes: sealed witnessed and expected, verified, salted, evicted",
    async (size) => {
      const { path, bytes } = await randomFile(size);
      const digest = toHex(digestOf(bytes));
      const salted = toHex(digestOf(bytes, Buffer.from(SALT, "hex")));
      const { vram } = await openNative();
      const before = await vram.capacity();
      for (const expected of [undefined, `fsverity:${digest}`]) {
        const { record, seal } = await vram.seal(path, expected === undefined ? {} : { expected });
        const comparedWith = expected === undefined ? "witnessed" : "expected";
        expect(record).toMatchObject({ sealed: true, digest, byteLength: size, comparedWith });
        const report = await vram.verify(record.shardId, { seal, salt: SALT });
        expect(report).toMatchObject({ basis: "measured", digest, bytesCovered: size, readFrom: "substituted" });
        expect(report.salted).toEqual({ salt: SALT, digest: salted });
        expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true, record: { state: "evicted" } });
        expect(await vram.capacity()).toEqual(before);
      }
      expect(await codeOf(vram.seal(path, { expected: "0".repeat(64) }))).toBe("DIGEST_MISMATCH");
      expect(vram.list()).toEqual([]);
      expect(await vram.capacity()).toEqual(before);
    },
  );

  it.skipIf(!hasTool).each([1, 4097, 4 * MIB + 5])(
    "[VR-SEAL-05] the measurement of %d bytes equals `fsverity digest`, plain and salted (needs fsverity)",
    async (size) => {
      const { path } = await randomFile(size);
      const { vram } = await openNative();
      const { record } = await vram.seal(path, { expected: fsverity(path) });
      const report = await vram.verify(record.shardId, { salt: SALT });
      expect(report.salted?.digest).toBe(fsverity(path, `--salt=${SALT}`));
    },
  );

  it("[VR-SEAL-05] the same digest whatever the windows and slots, and on the emulated device", async () => {
    const { path, bytes } = await randomFile(5 * MIB + 13);
    const digests: string[] = [];
    for (const measureWindowBytes of [MIB / 2, 2 * MIB, 64 * MIB]) {
      for (const ringSlotBytes of [MIB / 2, 8 * MIB]) {
        const { vram } = await openNative({}, {}, { measureWindowBytes, ringSlotBytes });
        digests.push((await vram.seal(path)).record.digest);
        await vram.close();
      }
    }
    digests.push((await (await openSmall()).vram.seal(path)).record.digest);
    expect(new Set(digests)).toEqual(new Set([toHex(digestOf(bytes))]));
  });

  it("[VR-DEV-03] everything is stamped cuda-substituted: record, seal, report, device, entry, error", async () => {
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openNative();
    const { record, seal } = await vram.seal(path, { name: "m" });
    const report = await vram.verify("m", { seal });
    const things = [vram.backend, record, seal, report, vram.devices()[0], entries[0], vram.inspect("m")];
    for (const thing of things) expect(thing).toMatchObject({ backend: "cuda-substituted" });
    expect(entries[0]).toMatchObject({ type: "device_opened", name: "Fake GPU 0" });
    const stamps = everyValueOf("backend", [...things, vram.list(), entries, (await vram.evict("m")).record]);
    expect(stamps.length).toBeGreaterThan(things.length);
    expect(new Set(stamps)).toEqual(new Set(["cuda-substituted"]));
    expect(vram.devices()[0]).toMatchObject({ computeCapability: "9.0", driverVersion: 13000, name: "Fake GPU 0" });
  });

  it("[VR-VER-03] [VR-VER-06] a flipped bit is caught, named by range, tensor, block and byte, and stops the worker", async () => {
    const { path } = await modelFile();
    const { vram, open, flipBit, types } = await openNative();
    const { record } = await vram.seal(path, { name: "m" });
    const target = open.system.registry.find("m").tensors[7] ?? expect.fail("it has twelve tensors");
    const offset = target.offset + 4321;
    await flipBit("m", offset, 6);
    const error = await errorOf(vram.verify("m"));
    expect(error.code).toBe("MEASUREMENT_MISMATCH");
    const block = Math.floor(offset / 4096) * 4096;
    expect(error.details["damage"]).toMatchObject({
      precision: "block",
      ranges: [{ offset: Math.floor(offset / (512 * KIB)) * 512 * KIB }],
      blocks: [{ offset: block, differing: 1, byteOffsets: [offset] }],
    });
    expect(everyValueOf("tensors", error.details["damage"]).flat()).toContain(target.name);
    expect(types()).toEqual(expect.arrayContaining(["seal_verification_failed", "worker_stopped"]));
    expect(await codeOf(vram.seal(path, { name: "other" }))).toBe("WORKER_STOPPED");
    expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true });
    await vram.resume("the test flipped it");
    expect((await vram.seal(path, { name: "m" })).record.sealed).toBe(true);
  });

  it("[VR-SEAL-06] [VR-VER-03] a file cut into three shards over two devices is sealed, verified and caught as one", async () => {
    const { path, file } = await modelFile();
    const { vram, flipBit } = await openNative({ DEVICES: 2 });
    const { set, members } = await vram.sealSet(path, { shards: 3, devices: [0, 1] });
    expect(members.map(({ record }) => record.device.ordinal)).toEqual([0, 1, 0]);
    let at = 0;
    for (const { record } of members) {
      expect(record.digest).toBe(toHex(digestOf(file.subarray(at, at + record.byteLength))));
      at += record.byteLength;
    }
    expect(at).toBe(file.byteLength);
    expect(await vram.verifySet(set)).toMatchObject({ totalShards: 3 });
    await flipBit(members[1]?.record.shardId ?? "", 100_000, 0);
    expect(await codeOf(vram.verifySet(set))).toBe("MEASUREMENT_MISMATCH");
    expect(vram.devices().map(({ state }) => state)).toEqual(["running", "stopped"]);
    for (const { record } of members) expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true });
  });

  it("[VR-DEV-04] [VR-VER-04] two devices have UUIDs and accounts of their own, and refuse each other's seals", async () => {
    const { path } = await randomFile(3 * MIB);
    const { vram, entries } = await openNative({ DEVICES: 2 });
    const [zero, one] = vram.devices();
    expect(zero?.uuid).toMatch(/^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    expect(one?.uuid).not.toBe(zero?.uuid);
    const first = await vram.seal(path, { name: "a", device: 0 });
    expect((await vram.capacity(1)).bytesUsed).toBe(0);
    const second = await vram.seal(path, { name: "b", device: one?.uuid ?? "" });
    expect(second.record.device).toEqual({ ordinal: 1, uuid: one?.uuid });
    expect(second.seal.keyId).not.toBe(first.seal.keyId);
    const copied = { ...first.seal, shardId: second.seal.shardId, name: "b" };
    for (const seal of [first.seal, copied]) {
      const error = await errorOf(vram.verify("b", { seal }));
      expect(error).toMatchObject({ code: "SEAL_REFUSED", message: "the seal was refused" });
      expect(lastDurable(entries)).toMatchObject({ type: "seal_refused", reason: "key", device: { ordinal: 1 } });
    }
    expect(await vram.verify("b", { seal: second.seal })).toMatchObject({ basis: "measured" });
    expect(await vram.verify("a", { seal: first.seal })).toMatchObject({ basis: "measured" });
  });

  it("[VR-SEAL-03] [VR-DEV-03] a seal never holds under another backend's keys, even from the same root key", async () => {
    const { path } = await randomFile(MIB);
    const folder = await temporaryFolder();
    const stateDir = join(folder, "native");
    const native = await openNative({}, { stateDir });
    const { record, seal } = await native.vram.seal(path, { name: "m" });
    const root = () => readRootKey(new Uint8Array(readFileSync(join(stateDir, "root.key"))));
    const verdicts = (["cuda-substituted", "cuda", "emulated"] as const).map((backend) =>
      checkMac(deriveWorkerKeys(root(), backend, record.device.uuid), seal),
    );
    expect(verdicts).toEqual(["valid", "key", "key"]);

    const other = join(folder, "emulated");
    await mkdir(other, { mode: 0o700 });
    await cp(join(stateDir, "root.key"), join(other, "root.key"));
    const emulated = await openSmall({ stateDir: other });
    const twin = await emulated.vram.seal(path, { name: "m", shardId: record.shardId });
    expect(twin.record.digest).toBe(record.digest);
    expect(await codeOf(emulated.vram.verify("m", { seal }))).toBe("SEAL_REFUSED");
    expect(await codeOf(native.vram.verify("m", { seal: twin.seal }))).toBe("SEAL_REFUSED");
    await emulated.vram.close();
    await native.vram.close();
    expect(await codeOf(openSmall({ stateDir }))).toBe("BACKEND_CHANGED");
    await expect(openNative({}, { stateDir: other })).rejects.toMatchObject({ code: "BACKEND_CHANGED" });
    await expect(openNative({ DEVICES: 2 }, { stateDir })).rejects.toMatchObject({ code: "BACKEND_CHANGED" });
  });

  it("[VR-VER-06] a stopped worker stays stopped over a restart of the driver, and its old seals are refused", async () => {
    const { path } = await randomFile(MIB);
    const stateDir = join(await temporaryFolder(), "state");
    const first = await openNative({}, { stateDir });
    const { seal } = await first.vram.seal(path, { name: "m" });
    await first.flipBit("m", 77, 1);
    expect(await codeOf(first.vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    await first.vram.close();
    const second = await openNative({}, { stateDir });
    expect(second.vram.devices()[0]).toMatchObject({ state: "stopped" });
    await second.vram.resume("seen");
    await second.vram.seal(path, { name: "m", shardId: seal.shardId });
    expect(await codeOf(second.vram.verify("m", { seal }))).toBe("SEAL_REFUSED");
  });

  it("[VR-VER-01] a device that is late is waited for: every event not ready some times, nothing else different", async () => {
    const { path, bytes } = await randomFile(MIB + 1);
    const log = await fakeLog();
    const { vram, flipBit } = await openNative({ NOT_READY: 7, LOG: log.LOG });
    const { record } = await vram.seal(path, { name: "m" });
    expect(record.digest).toBe(toHex(digestOf(bytes)));
    expect(await vram.verify("m", { salt: "ab" })).toMatchObject({ basis: "measured" });
    await flipBit("m", 9, 3);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    expect(await vram.evict("m")).toMatchObject({ zeroed: true });
    expect(log.count("cuEventQuery")).toBeGreaterThan(4 * log.count("cuEventRecord"));
  });
});
