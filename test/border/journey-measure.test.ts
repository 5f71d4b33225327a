/** What crosses the border while a shard is verified, and what a device that only pretends to work is told. */
import { truncate } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { liveHandles } from "../../src/dispose.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { amountOf, fakeLog, openNative, reconfigureFake, runNative } from "../helpers/native.ts";
import { codeOf, lastDurable, MIB, randomFile } from "../helpers/vram.ts";

const HASH_BYTES = 32;
const RANGE_BYTES = 512 * 1024;
/** Two canaries, in each of the two launches of a window. */
const CANARIES_BYTES = 4 * HASH_BYTES;

/** What measuring may ask of the driver: work on memory that is there, and facts. */
const MEASURING = [
  "cuMemRetainAllocationHandle",
  "cuMemRelease",
  ...["cuCtxSetCurrent", "cuMemsetD8Async", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuLaunchKernel"],
  ...["cuEventRecord", "cuEventQuery", "cuPointerGetAttribute", "cuMemGetAccess"],
  "cuMemGetAllocationPropertiesFromHandle",
];

describe.skipIf(fakeCuda() === undefined)(`measuring over the native driver${whyNoFakeCuda()}`, () => {
  it.each([
    { windowMib: 4, windows: 2 },
    { windowMib: 64, windows: 1 },
  ])(
    "[VR-VER-01] [VR-MEM-06] verifying 8 MiB in $windows windows copies digests alone to the host, and allocates nothing",
    async ({ windowMib, windows }) => {
      const { path } = await randomFile(8 * MIB);
      const log = await fakeLog();
      const { vram } = await openNative({ LOG: log.LOG }, {}, { measureWindowBytes: windowMib * MIB });
      const { record, seal } = await vram.seal(path);
      const before = { handles: liveHandles(), capacity: await vram.capacity() };
      log.take();
      await vram.verify(record.shardId, { seal });
      const calls = log.take();
      const digests = (8 * MIB * HASH_BYTES) / RANGE_BYTES;
      expect(amountOf(calls, "cuMemcpyDtoHAsync_v2")).toBe(digests + windows * CANARIES_BYTES);
      // Tables, salt, canaries and a pattern as large as the answer; no weights.
      expect(amountOf(calls, "cuMemcpyHtoDAsync_v2")).toBeLessThan(windows * 16 * 1024);
      const blocks = amountOf(calls, "cuLaunchKernel");
      // Level 0, level 1, and two canaries in each launch.
      expect(blocks).toBe((8 * MIB) / 4096 + digests / HASH_BYTES + windows * 4);
      expect([...new Set(calls.map(({ symbol }) => symbol))].filter((symbol) => !MEASURING.includes(symbol))).toEqual(
        [],
      );
      expect({ handles: liveHandles(), capacity: await vram.capacity() }).toEqual(before);
    },
  );

  it("[VR-VER-01] sealing with an expected digest reads nothing back but digests either, and witnessed as well", async () => {
    const { path } = await randomFile(4 * MIB);
    const log = await fakeLog();
    const { vram } = await openNative({ LOG: log.LOG });
    log.take();
    const { record } = await vram.seal(path);
    await vram.evict(record.shardId);
    await vram.seal(path, { expected: record.digest });
    const calls = log.take();
    expect(amountOf(calls, "cuMemcpyDtoHAsync_v2")).toBe(2 * (8 * HASH_BYTES + CANARIES_BYTES));
    // Two shards, made by one call each, and each written through an alias of its own.
    expect(calls.filter(({ symbol }) => symbol === "cuMemCreate")).toHaveLength(2);
    expect(calls.filter(({ symbol }) => symbol === "cuMemHostRegister")).toEqual([]);
  });

  it("[VR-VER-03] naming the damage copies the damaged blocks, not the shard", async () => {
    const { path } = await randomFile(8 * MIB);
    const log = await fakeLog();
    const { vram, flipBit } = await openNative({ LOG: log.LOG });
    await vram.seal(path, { name: "m" });
    await flipBit("m", 3 * MIB + 1, 0);
    log.take();
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    const copied = amountOf(log.take(), "cuMemcpyDtoHAsync_v2");
    expect(copied).toBeGreaterThan(4096);
    expect(copied).toBeLessThan(4096 + RANGE_BYTES / 16);
  });

  it("[VR-VER-05] a device whose kernels do nothing is not opened at all", async () => {
    await expect(openNative({ DROP_LAUNCHES: 1 })).rejects.toMatchObject({
      code: "DEVICE_UNUSABLE",
      message: expect.stringMatching(/self-test.*canary/) as string,
      cause: { code: "MEASUREMENT_INVALID" },
    });
    expect(liveHandles()).toEqual({});
  });

  it("[VR-VER-05] kernels that stop working later make measurements invalid: no pass, no mismatch, no seal", async () => {
    const { path } = await randomFile(6 * MIB);
    const { vram, entries } = await openNative();
    const before = await vram.capacity();
    await vram.seal(path, { name: "m" });
    const sealed = await vram.capacity();
    reconfigureFake({ DROP_LAUNCHES: 1 });
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_INVALID");
    expect(lastDurable(entries)).toMatchObject({ type: "seal_verification_failed", failure: "invalid" });
    expect(await codeOf(vram.verify("m", { salt: "ab" }))).toBe("MEASUREMENT_INVALID");
    expect(await codeOf(vram.seal(path, { name: "n" }))).toBe("MEASUREMENT_INVALID");
    expect(vram.list()).toHaveLength(1);
    expect(vram.inspect("m")).toMatchObject({ state: "sealed" });
    expect(await vram.capacity()).toEqual(sealed);
    reconfigureFake({});
    expect(await vram.verify("m")).toMatchObject({ basis: "measured" });
    expect(await vram.evict("m")).toMatchObject({ zeroed: true });
    expect(await vram.capacity()).toEqual(before);
  });

  it("[VR-VER-05] a device whose kernels do nothing ends the command with 5, and nothing is emulated instead", async () => {
    const { path } = await randomFile(5000);
    const { code, out, err } = await runNative(["try", path], { DROP_LAUNCHES: 1 });
    expect({ code, out }).toEqual({ code: 5, out: "" });
    expect(err).toMatch(/DEVICE_UNUSABLE: .*the self-test failed/);
  });
});

describe.skipIf(fakeCuda() === undefined)(`capacity over the native driver${whyNoFakeCuda()}`, () => {
  it("[VR-MEM-06] of 64 MiB exactly bytesFree fits, one byte more does not; scratch was taken at the start", async () => {
    const { path } = await randomFile(1);
    const { vram, entries } = await openNative({ BYTES: 64 * MIB });
    const { bytesFree, bytesTotal } = await vram.capacity();
    expect(bytesTotal).toBe(64 * MIB);
    expect(bytesFree).toBe(62 * MIB);
    await truncate(path, bytesFree + 1);
    await expect(vram.seal(path)).rejects.toMatchObject({
      code: "OUT_OF_VRAM",
      retriable: true,
      details: { bytesNeeded: bytesFree + 1, bytesAvailable: bytesFree, tenants: [] },
    });
    expect(lastDurable(entries)).toMatchObject({ type: "vram_allocation_failed", bytesNeeded: bytesFree + 1 });
    await truncate(path, bytesFree);
    const { record } = await vram.seal(path);
    expect(await vram.capacity()).toMatchObject({ bytesFree: 0, bytesUsed: bytesFree });
    expect(await vram.verify(record.shardId)).toMatchObject({ bytesCovered: bytesFree });
    expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true });
    expect(await vram.capacity()).toMatchObject({ bytesFree, bytesUsed: 0, bytesUnreclaimed: 0 });
  });

  it("[VR-MEM-04] of six seals at once exactly those that fit succeed", async () => {
    const { path } = await randomFile(12 * MIB);
    const { vram } = await openNative({ BYTES: 64 * MIB });
    const before = await vram.capacity();
    const seals = Array.from({ length: 6 }, (_, index) => vram.seal(path, { name: `n${index}` }));
    const outcomes = await Promise.allSettled(seals);
    const reasons = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason as unknown] : []));
    expect(reasons).toHaveLength(1);
    expect(reasons[0]).toMatchObject({ code: "OUT_OF_VRAM" });
    for (const { shardId } of vram.list()) await vram.evict(shardId);
    expect(await vram.capacity()).toEqual(before);
  });

  it("[VR-MEM-05] memory that somebody else took in between is refused with the same figures, and nothing stays", async () => {
    const { path } = await randomFile(3 * MIB);
    const log = await fakeLog();
    const { vram, entries } = await openNative({ LOG: log.LOG });
    const before = await vram.capacity();
    const next = log.count("cuMemCreate") + 1;
    reconfigureFake({ FAULTS: `cuMemCreate:${next}:2` });
    const error: unknown = await vram.seal(path).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "OUT_OF_VRAM",
      retriable: true,
      details: { bytesNeeded: 3 * MIB, bytesAvailable: before.bytesFree },
    });
    expect(lastDurable(entries)).toMatchObject({
      type: "vram_allocation_failed",
      code: "OUT_OF_VRAM",
      bytesAvailable: before.bytesFree,
    });
    expect(vram.list()).toEqual([]);
    expect(await vram.capacity()).toEqual(before);
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });
});
