import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import { createFaultPlan } from "../../src/testing.ts";
import type { Damage } from "../../src/verify/report.ts";
import { vram as vramCli } from "../helpers/cli.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe("what a caller may hand in", () => {
  it("[VR-IN-01] options of the wrong type, out of range, or unknown are refused by name", async () => {
    const bad: [object, string][] = [
      [{ onMismatch: "stopp" }, "options.onMismatch"],
      [{ headroomBytes: Number.NaN }, "options.headroomBytes"],
      [{ headroomBytes: -1 }, "options.headroomBytes"],
      [{ hashThreads: -1 }, "options.hashThreads"],
      [{ backend: "foo" }, "options.backend"],
      [{ modelRoots: "/tmp" }, "options.modelRoots"],
      [{ maxModelBytes: 0 }, "options.maxModelBytes"],
      [{ emulated: { devices: 17, byteLength: 128 * MIB } }, "options.emulated.devices"],
      [{ emulated: { byteLength: 1 } }, "options.emulated.byteLength"],
      [{ modelRoot: ["/"] }, "options"],
      [{ readers: [{}] }, "options.readers.1"],
    ];
    for (const [options, argument] of bad) {
      expect(await errorOf(openSmall(options)), argument).toMatchObject({
        code: "INVALID_ARGUMENT",
        details: { argument },
      });
    }
  });

  it("[VR-IN-04] sources, options and names of the wrong type are typed refusals, never a TypeError", async () => {
    const { path } = await randomFile(10);
    const { vram } = await openSmall();
    const odd = (value: unknown): never => value as never;
    const calls = [
      () => vram.seal(odd(42)),
      () => vram.seal(odd(undefined)),
      () => vram.seal(odd({ path: 5 })),
      () => vram.seal(odd({ chunks: 5, byteLength: 1 })),
      () => vram.seal(odd({ bytes: "abc" })),
      () => vram.seal(odd({ path, extra: 1 })),
      () => vram.seal(path, odd({ name: 5 })),
      () => vram.seal(path, odd({ format: "zip" })),
      () => vram.seal(path, odd({ maxHeaderBytes: 2 ** 40 })),
      () => vram.seal(path, odd({ signal: {} })),
      () => vram.sealSet(odd(5)),
      () => vram.sealSet(path, odd({ nmae: "x" })),
      () => vram.verify(odd(5)),
      () => vram.verify("x", odd({ maxAgeMs: "1" })),
      () => vram.evict(odd(null)),
      () => vram.resume(odd(5)),
      async () => vram.inspect(odd({})),
    ];
    for (const [index, call] of calls.entries()) expect(await codeOf(call()), `call ${index}`).toBe("INVALID_ARGUMENT");
  });

  it("a resident name does not excuse a wrong source, or other terms", async () => {
    const [a, b] = [await randomFile(MIB), await randomFile(MIB)];
    const { vram } = await openSmall();
    const { record } = await vram.seal(a.path, { name: "m" });
    const expected = `fsverity:${toHex(digestOf(a.bytes))}`;
    expect(await codeOf(vram.seal(b.path, { name: "m", expected }))).toBe("DIGEST_MISMATCH");
    expect((await vram.seal(a.path, { name: "m", expected })).record).toEqual(record);
    for (const terms of [{ shardId: "other" }, { sha256: true }, { maxAgeMs: 5 }]) {
      expect(await errorOf(vram.seal(a.path, { name: "m", ...terms }))).toMatchObject({ code: "NAME_CONFLICT" });
    }
    expect((await vram.seal(a.path, { name: "m", shardId: record.shardId })).record).toEqual(record);
  });

  it("a name may be copied to another device by its digest, and then must be named by id", async () => {
    const { path, bytes } = await randomFile(MIB);
    const { vram } = await openSmall({ emulated: { devices: 2, byteLength: 128 * MIB } });
    await vram.seal(path, { name: "m", device: 0 });
    expect(await codeOf(vram.seal(path, { name: "m", device: 1 }))).toBe("NAME_CONFLICT");
    expect(await codeOf(vram.seal(path, { name: "m", device: 1, expected: "0".repeat(64) }))).toBe("NAME_CONFLICT");
    const copy = await vram.seal(path, { name: "m", device: 1, expected: toHex(digestOf(bytes)) });
    expect(copy.record.device.ordinal).toBe(1);
    expect(await codeOf(vram.verify("m"))).toBe("INVALID_ARGUMENT");
    expect(await vram.verify(copy.record.shardId)).toMatchObject({ basis: "measured" });
  });

  it("ids and names share one space: neither can hide the other", async () => {
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall();
    await vram.seal(path, { name: "one", shardId: "first" });
    expect(await codeOf(vram.seal(path, { name: "first" }))).toBe("NAME_CONFLICT");
    expect(await codeOf(vram.seal(path, { name: "two", shardId: "one" }))).toBe("NAME_CONFLICT");
  });
});

describe("what waits, and what is handed out", () => {
  it("an aborted seal does not wait behind another one that hangs", async () => {
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall();
    async function* hanging() {
      yield new Uint8Array(MIB);
      await new Promise(() => undefined);
    }
    const stop = new AbortController();
    const first = codeOf(vram.seal({ chunks: hanging(), byteLength: 2 * MIB }, { signal: stop.signal }));
    await new Promise((resolve) => setImmediate(resolve));
    const abort = new AbortController();
    const second = codeOf(vram.seal(path, { signal: abort.signal }));
    setImmediate(() => setImmediate(() => abort.abort()));
    expect(await second).toBe("ABORTED");
    expect(await vram.capacity()).toMatchObject({ bytesReserved: 0 });
    stop.abort();
    expect(await first).toBe("ABORTED");
  });

  it("[VR-DEV-04] nobody outside can rename a device", async () => {
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openSmall();
    const [report] = vram.checkPolicy();
    const handed = [report?.device, vram.devices()[0]?.facts, entries[0]];
    for (const one of handed) expect(Object.isFrozen(one)).toBe(true);
    expect(() => Object.assign(report?.device ?? {}, { uuid: "EMU-hacked" })).toThrow(TypeError);
    expect((await vram.seal(path)).record.device.uuid).toBe(report?.device.uuid);
  });

  it("[VR-DEV-04] one id never stands for two shards, not even of one name on two devices", async () => {
    const { path, bytes } = await randomFile(MIB);
    const { vram } = await openSmall({ emulated: { devices: 2, byteLength: 128 * MIB } });
    await vram.seal(path, { name: "n", shardId: "x", device: 0 });
    const copy = { name: "n", shardId: "x", device: 1, expected: toHex(digestOf(bytes)) };
    expect(await codeOf(vram.seal(path, copy))).toBe("NAME_CONFLICT");
    expect((await vram.capacity(1)).bytesUsed).toBe(0);
  });

  it("a leased shard is not evicted, but closing does not wait for it", async () => {
    const { path } = await randomFile(MIB);
    const { vram, open } = await openSmall();
    await vram.seal(path, { name: "m" });
    open.system.registry.find("m").leases = 1;
    expect(await codeOf(vram.evict("m"))).toBe("SHARD_BUSY");
    expect(vram.inspect("m")).toMatchObject({ state: "sealed", leases: 1 });
  });

  it("[VR-VER-07] freshness counts from the beginning of a measurement", async () => {
    const { path } = await randomFile(2 * MIB);
    let now = 1000;
    const clock = {
      wallMs: () => now,
      // Every look at the clock takes a millisecond: a measurement looks at it many times.
      monotonicMs: () => {
        now += 1;
        return now;
      },
      sleep: () => new Promise<void>((resolve) => setImmediate(resolve)),
    };
    const { vram } = await openSmall({}, { clock });
    await vram.seal(path, { name: "m" });
    const { ageMs, durationMs } = await vram.verify("m");
    expect(ageMs).toBeGreaterThan(durationMs);
    expect(await vram.verify("m", { maxAgeMs: ageMs - 1 })).toMatchObject({ basis: "measured" });
  });
});

describe("a mismatch stays a mismatch", () => {
  it("[VR-VER-06] when the kept hashes are damaged too, the worker stops all the same", async () => {
    const { path } = await randomFile(2 * MIB);
    const { vram, open, flipBit } = await openSmall();
    await vram.seal(path, { name: "m" });
    await flipBit("m", 5, 5);
    const { kept } = open.system.registry.find("m");
    kept[0] = (kept[0] ?? 0) ^ 1;
    const error = await errorOf(vram.verify("m"));
    expect(error.code).toBe("MEASUREMENT_MISMATCH");
    expect(error.details["damage"] as Damage).toMatchObject({ precision: "range", rangeCount: 0 });
    expect(vram.inspect("m").state).toBe("mismatched");
    expect(vram.devices()[0]?.state).toBe("stopped");
    expect(await codeOf(vram.verify("m", { maxAgeMs: 60_000 }))).toBe("SHARD_NOT_RESIDENT");
  });

  it("[VR-VER-06] when the device dies while the damage is being located", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(2 * MIB);
    const { vram, flipBit } = await openSmall({}, { faults });
    await vram.seal(path, { name: "m" });
    await flipBit("m", 5, 5);
    faults.reset();
    faults.breakExecution("launch", 3, 700);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    expect(vram.inspect("m").state).toBe("mismatched");
    expect(vram.devices()[0]?.state).toBe("lost");
  });

  it("[VR-VER-03] every overlapping tensor is named, however many there are", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "many.safetensors");
    const sizes = [...Array.from({ length: 199 }, () => 1024), 2048];
    const tensors = sizes.map((size, index) => ({
      name: `t${index}`,
      dtype: "U8",
      shape: [size],
      data: new Uint8Array(size),
    }));
    await writeFile(path, buildSafetensors(tensors));
    const { vram, flipBit, entries } = await openSmall();
    await vram.seal(path, { name: "m" });
    await flipBit("m", 100, 1);
    const damage = (await errorOf(vram.verify("m"))).details["damage"] as Damage;
    expect(damage.tensors).toEqual(tensors.map((tensor) => tensor.name));
    const entry = entries.find((one) => one.type === "seal_verification_failed");
    expect(entry).toMatchObject({ tensors: { length: 64 } });
    expect(await vramCli(["try", "--tamper", path])).toMatchObject({ code: 0 });
    const empty = join(folder, "empty.safetensors");
    await writeFile(empty, buildSafetensors([{ name: "nothing", dtype: "F32", shape: [0], data: new Uint8Array(0) }]));
    expect(await vramCli(["try", "--tamper", empty])).toMatchObject({ code: 0 });
  });
});
