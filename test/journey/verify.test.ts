import { appendFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Clock } from "../../src/clock.ts";
import type { DeviceFacts } from "../../src/device/device.ts";
import type { VramError } from "../../src/errors.ts";
import type { Seal } from "../../src/seal/encoding.ts";
import { createFaultPlan } from "../../src/testing.ts";
import type { Damage } from "../../src/verify/report.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, lastDurable, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

/** A clock a test can move; its timers are immediate. */
function movableClock(): Clock & { add(ms: number): void } {
  let now = 1_000_000;
  return {
    wallMs: () => 1_700_000_000_000 + now,
    monotonicMs: () => now,
    sleep: () => new Promise((resolve) => setImmediate(resolve)),
    add: (ms) => {
      now += ms;
    },
  };
}

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

const damageOf = (error: VramError): Damage => error.details["damage"] as Damage;

describe("a verification that passes", () => {
  it("[VR-VER-01] checks mac, facts and every byte in VRAM, and reports what it did", async () => {
    const { path, bytes } = await randomFile(5 * MIB + 7);
    const { vram, entries } = await openSmall();
    const { record, seal } = await vram.seal(path);
    const report = await vram.verify(record.name, { seal });
    expect(report).toMatchObject({
      basis: "measured",
      digest: toHex(digestOf(bytes)),
      bytesCovered: bytes.length,
      backend: "emulated",
      readFrom: "emulated",
    });
    expect(report.durationMs).toBeGreaterThan(0);
    expect(report.ageMs).toBeGreaterThanOrEqual(report.durationMs);
    expect(report.bytesPerSecond).toBeGreaterThan(0);
    expect(lastDurable(entries)?.type).toBe("seal_verified");
  });

  it("[VR-VER-07] a salt of the caller gives the salted digest that only the bytes at hand can", async () => {
    const { path, bytes } = await randomFile(MIB + 9);
    const { vram, entries } = await openSmall();
    await vram.seal(path, { name: "m" });
    for (const salt of ["ab", "00".repeat(16), "0102".repeat(16)]) {
      const report = await vram.verify("m", { salt, maxAgeMs: 60_000 });
      const expected = toHex(digestOf(bytes, Buffer.from(salt, "hex")));
      expect(report).toMatchObject({ basis: "measured", salted: { salt, digest: expected } });
      expect(lastDurable(entries)).toMatchObject({ type: "seal_verified", salt, saltedDigest: expected });
    }
    for (const salt of ["", "a", "zz", "00".repeat(33)]) {
      expect(await codeOf(vram.verify("m", { salt }))).toBe("INVALID_ARGUMENT");
    }
  });

  it("[VR-VER-07] a measurement no older than demanded will do, by the monotonic clock", async () => {
    const clock = movableClock();
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall({}, { clock });
    const { record } = await vram.seal(path);
    clock.add(1000);
    expect(await vram.verify(record.shardId, { maxAgeMs: 1000 })).toMatchObject({ basis: "fresh-enough", ageMs: 1000 });
    expect(await vram.verify(record.shardId, { maxAgeMs: 999 })).toMatchObject({ basis: "measured" });
    expect(await vram.verify(record.shardId, { maxAgeMs: 0 })).toMatchObject({ basis: "fresh-enough", ageMs: 0 });
    expect(await vram.verify(record.shardId)).toMatchObject({ basis: "measured" });
  });

  it("[VR-VER-07] a seal's own maximum age bounds what a caller may settle for", async () => {
    const clock = movableClock();
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall({}, { clock });
    const { record, seal } = await vram.seal(path, { maxAgeMs: 500 });
    expect(seal.maxAgeMs).toBe(500);
    clock.add(501);
    expect(await vram.verify(record.shardId, { maxAgeMs: 60_000 })).toMatchObject({ basis: "measured" });
    clock.add(500);
    expect(await vram.verify(record.shardId, { maxAgeMs: 60_000 })).toMatchObject({ basis: "fresh-enough" });
  });
});

describe("a verification that fails", () => {
  it("[VR-VER-03] names the 512 KiB range, and the 4 KiB block and byte while the source still matches", async () => {
    const { path } = await randomFile(3 * MIB + 11);
    const { vram, flipBit } = await openSmall();
    await vram.seal(path, { name: "m" });
    await flipBit("m", 2 * MIB + 5000, 0);
    await flipBit("m", 2 * MIB + 5001, 7);
    const error = await errorOf(vram.verify("m"));
    expect(error.code).toBe("MEASUREMENT_MISMATCH");
    expect(damageOf(error)).toMatchObject({
      precision: "block",
      ranges: [{ offset: 2 * MIB, byteLength: MIB / 2 }],
      blocks: [{ offset: 2 * MIB + 4096, differing: 2, byteOffsets: [2 * MIB + 5000, 2 * MIB + 5001] }],
      blockCount: 1,
    });
  });

  it("[VR-VER-03] says that it could be located no closer, and why, when the source changed or is gone", async () => {
    const { path, bytes } = await randomFile(2 * MIB);
    const { vram, flipBit } = await openSmall({ onMismatch: "quarantine" });
    await vram.seal(path, { name: "file" });
    await vram.seal({ bytes, name: "bytes" });
    await appendFile(path, "x");
    await flipBit("file", 5, 0);
    await flipBit("bytes", 5, 0);
    expect(damageOf(await errorOf(vram.verify("file")))).toMatchObject({
      precision: "range",
      because: "the source file has another size now",
      ranges: [{ offset: 0, byteLength: MIB / 2 }],
    });
    expect(damageOf(await errorOf(vram.verify("bytes")))).toMatchObject({
      precision: "range",
      because: "the source cannot be read again",
    });
  });

  it("[VR-VER-05] a launch that does nothing is an invalid measurement: neither pass nor mismatch", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(6 * MIB);
    const { vram, entries } = await openSmall({}, { faults });
    await vram.seal(path, { name: "m" });
    for (const nth of [1, 2, 3, 4]) {
      faults.reset();
      faults.dropLaunch(nth);
      expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_INVALID");
      expect(lastDurable(entries)).toMatchObject({ type: "seal_verification_failed", failure: "invalid" });
    }
    faults.reset();
    faults.dropCopyToHost(1);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_INVALID");
    faults.reset();
    expect(vram.inspect("m").state).toBe("sealed");
    expect(await vram.verify("m")).toMatchObject({ basis: "measured" });
    faults.reset();
    faults.dropLaunch(1);
    expect(await codeOf(vram.seal(path, { name: "other" }))).toBe("MEASUREMENT_INVALID");
    expect(vram.list()).toHaveLength(1);
  });

  it("[VR-VER-03] memory that cannot be read is a third outcome; the device's shards are lost", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openSmall({}, { faults });
    await vram.seal(path, { name: "m" });
    faults.markUncorrectable({ allocation: 2, offset: 5000, byteLength: 1 });
    expect(await codeOf(vram.verify("m"))).toBe("VRAM_UNREADABLE");
    expect(entries.map((entry) => entry.type)).toContain("device_lost");
    expect(vram.inspect("m")).toMatchObject({ state: "lost", sealed: false });
    expect(vram.devices()[0]?.state).toBe("lost");
    expect(await codeOf(vram.verify("m", { maxAgeMs: 60_000 }))).toBe("SHARD_NOT_RESIDENT");
    expect(await codeOf(vram.seal(path, { name: "n" }))).toBe("DEVICE_LOST");
    expect(await vram.evict("m")).toMatchObject({ zeroed: false });
  });
});

describe("what a mismatch stops", () => {
  it("[VR-VER-06] the worker: durably, until resumed with a reason; other devices go on", async () => {
    const stateDir = `${await temporaryFolder()}/state`;
    const { path } = await randomFile(MIB);
    const options = { stateDir, emulated: { devices: 2, byteLength: 128 * MIB } };
    const first = await openSmall(options);
    await first.vram.seal(path, { name: "zero", device: 0 });
    await first.flipBit("zero", 1, 1);
    expect(await codeOf(first.vram.verify("zero"))).toBe("MEASUREMENT_MISMATCH");
    expect(await codeOf(first.vram.seal(path, { name: "more", device: 0 }))).toBe("WORKER_STOPPED");
    expect(await codeOf(first.vram.verify("zero"))).toBe("SHARD_NOT_RESIDENT");
    expect((await first.vram.seal(path, { name: "one", device: 1 })).record.sealed).toBe(true);
    expect(await first.vram.verify("one")).toMatchObject({ basis: "measured" });
    await first.vram.close();

    const second = await openSmall(options);
    expect(second.vram.devices().map((device) => device.state)).toEqual(["stopped", "running"]);
    expect(await codeOf(second.vram.seal(path, { device: 0 }))).toBe("WORKER_STOPPED");
    expect(await codeOf(second.vram.resume(""))).toBe("INVALID_ARGUMENT");
    await second.vram.resume("cosmic ray, replaced the card", 0);
    expect((await second.vram.seal(path, { device: 0 })).record.sealed).toBe(true);
    expect(second.types()).toContain("worker_resumed");
    await second.vram.close();
    expect((await openSmall(options)).vram.devices().map((device) => device.state)).toEqual(["running", "running"]);
  });

  it("[VR-VER-06] or the shard alone, when configured", async () => {
    const { path } = await randomFile(MIB);
    const { vram, flipBit, types } = await openSmall({ onMismatch: "quarantine" });
    await vram.seal(path, { name: "a" });
    await flipBit("a", 1, 1);
    expect(await codeOf(vram.verify("a"))).toBe("MEASUREMENT_MISMATCH");
    expect(types()).not.toContain("worker_stopped");
    expect(vram.inspect("a")).toMatchObject({ state: "mismatched", sealed: false });
    expect(await codeOf(vram.seal(path, { name: "a" }))).toBe("SHARD_NOT_RESIDENT");
    expect((await vram.seal(path, { name: "b" })).record.sealed).toBe(true);
    expect(await vram.evict("a")).toMatchObject({ zeroed: true });
  });

  it("[VR-VER-06] a worker that cannot be resumed on record stays stopped", async () => {
    let broken = false;
    const { path } = await randomFile(MIB);
    const reader = {
      required: true,
      accept: () => {
        if (broken) throw new Error("disk full");
      },
    };
    const { vram, flipBit, types } = await openSmall({ readers: [reader] });
    await vram.seal(path, { name: "a" });
    await flipBit("a", 1, 1);
    broken = true;
    expect(await codeOf(vram.verify("a"))).toBe("MEASUREMENT_MISMATCH");
    expect(types()).toContain("entry_unrecorded");
    expect(await codeOf(vram.resume("no"))).toBe("AUDIT_UNAVAILABLE");
    expect(await vram.evict("a")).toMatchObject({ zeroed: true });
    expect(vram.devices()[0]?.state).toBe("stopped");
    broken = false;
    await vram.resume("yes");
    expect(vram.devices()[0]?.state).toBe("running");
  });

  it("[VR-VER-06] changed facts, and a bad mac in our own registry, stop it too", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(MIB);
    const one = await openSmall({}, { faults });
    await one.vram.seal(path, { name: "a" });
    faults.overrideAttribute("isManaged", 1);
    expect(await codeOf(one.vram.verify("a"))).toBe("POLICY_VIOLATION");
    expect(one.vram.devices()[0]?.state).toBe("stopped");
    expect(one.types()).toEqual(expect.arrayContaining(["policy_violation", "worker_stopped"]));
    faults.reset();

    const two = await openSmall();
    await two.vram.seal(path, { name: "a" });
    const shard = two.open.system.registry.find("a") as { seal: Seal };
    shard.seal = { ...shard.seal, digest: "0".repeat(64) };
    expect(await codeOf(two.vram.verify("a"))).toBe("REGISTRY_CORRUPT");
    expect(two.vram.devices()[0]?.state).toBe("stopped");
  });
});

it("facts of a healthy emulated device are reported", async () => {
  const { vram } = await openSmall();
  const facts: DeviceFacts | undefined = vram.devices()[0]?.facts;
  expect(facts).toMatchObject({ integrated: false, virtualMemoryManagement: true });
});
