import { execFile } from "node:child_process";
import { truncate } from "node:fs/promises";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import type { Tenant } from "../../src/cuda/monitor.ts";
import type { VramError } from "../../src/errors.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { codeOf, lastDurable, MIB, openSmall, randomFile } from "../helpers/vram.ts";

describe("capacity", () => {
  it("[VR-MEM-04] accounts for every byte: total, used, free, reserved, headroom, unreclaimed", async () => {
    const { path } = await randomFile(3 * MIB);
    const { vram } = await openSmall({ headroomBytes: 8 * MIB });
    const before = await vram.capacity();
    expect(before).toMatchObject({
      bytesTotal: 128 * MIB,
      bytesUsed: 0,
      bytesReserved: 0,
      bytesHeadroom: 8 * MIB,
      bytesUnreclaimed: 0,
    });
    expect(before.bytesFree % (2 * MIB)).toBe(0);
    const { record } = await vram.seal(path);
    const during = await vram.capacity();
    expect(during.bytesUsed).toBe(4 * MIB);
    expect(during.bytesFree).toBe(before.bytesFree - 4 * MIB);
    await vram.evict(record.shardId);
    expect(await vram.capacity()).toEqual(before);
  });

  it("[VR-MEM-06] a shard of exactly bytesFree fits, one byte more does not", async () => {
    const { path } = await randomFile(1);
    const { vram } = await openSmall();
    const { bytesFree } = await vram.capacity();
    await truncate(path, bytesFree + 1);
    expect(await codeOf(vram.seal(path))).toBe("OUT_OF_VRAM");
    await truncate(path, bytesFree);
    const { record } = await vram.seal(path);
    expect(record.byteLength).toBe(bytesFree);
    expect((await vram.capacity()).bytesFree).toBe(0);
    expect(await vram.verify(record.shardId)).toMatchObject({ bytesCovered: bytesFree });
  });

  it("[VR-MEM-06] the model size limit is configurable and defaults to 100 GB", async () => {
    const { path } = await randomFile(MIB + 1);
    const { vram, types } = await openSmall({ maxModelBytes: MIB });
    expect(await codeOf(vram.seal(path))).toBe("SOURCE_TOO_LARGE");
    expect(types()).not.toContain("capacity_reserved");
    const { vram: other } = await openSmall();
    async function* chunks() {
      yield new Uint8Array(MIB);
    }
    const tooLarge = { chunks: chunks(), byteLength: 100_000_000_001 };
    expect(await codeOf(other.seal(tooLarge))).toBe("SOURCE_TOO_LARGE");
  });

  it("[VR-MEM-05] too little VRAM fails before allocating, with figures and who holds the rest", async () => {
    const tenants: Tenant[] = [{ pid: 4242, name: "python3 train.py", byteLength: 100 * MIB }];
    const { path } = await randomFile(30 * MIB);
    const { vram, open, entries } = await openSmall({}, { deviceSpec: { tenants } });
    const allocations = open.driver.emulation.allocations().length;
    const error = await vram.seal(path).then(
      () => expect.fail("it should not fit"),
      (thrown: unknown) => thrown as VramError,
    );
    const { bytesFree } = await vram.capacity();
    expect(error).toMatchObject({ code: "OUT_OF_VRAM", retriable: true });
    expect(error.details).toMatchObject({ bytesNeeded: 30 * MIB, bytesAvailable: bytesFree, tenants });
    expect(error.message).toContain("python3 train.py (pid 4242)");
    expect(open.driver.emulation.allocations()).toHaveLength(allocations);
    expect(lastDurable(entries)).toMatchObject({
      type: "vram_allocation_failed",
      bytesNeeded: 30 * MIB,
      code: "OUT_OF_VRAM",
    });
    tenants.length = 0;
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });

  it("[VR-MEM-04] of ten seals at once exactly those that fit succeed", async () => {
    const { path } = await randomFile(24 * MIB);
    const { vram } = await openSmall();
    const before = await vram.capacity();
    const fit = Math.floor(before.bytesFree / (24 * MIB));
    const seals = Array.from({ length: 10 }, (_, index) => vram.seal(path, { name: `n${index}` }));
    const outcomes = await Promise.allSettled(seals);
    expect(outcomes.filter((outcome) => outcome.status === "fulfilled")).toHaveLength(fit);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "OUT_OF_VRAM" });
    }
    expect(await vram.capacity()).toMatchObject({ bytesUsed: fit * 24 * MIB, bytesReserved: 0 });
    for (const record of vram.list()) await vram.evict(record.shardId);
    expect(await vram.capacity()).toEqual(before);
  });

  it("[VR-MEM-04] memory an importer still maps is unreclaimed until it lets go", async () => {
    const { path } = await randomFile(6 * MIB);
    const { vram, open } = await openSmall();
    const before = await vram.capacity();
    const handles: bigint[] = [];
    const create = open.driver.memory.create.bind(open.driver.memory);
    Object.assign(open.driver.memory, {
      create: (...args: Parameters<typeof create>) => {
        handles.push(create(...args));
        return handles.at(-1);
      },
    });
    const { record } = await vram.seal(path);
    const fd = open.driver.memory.exportFd(handles[0] ?? 0n);
    await vram.evict(record.shardId);
    expect(await vram.capacity()).toMatchObject({ bytesUnreclaimed: 6 * MIB, bytesFree: before.bytesFree - 6 * MIB });
    open.driver.emulation.closeExportedFd(fd);
    expect(await vram.capacity()).toEqual(before);
  });
});

describe("freeing", () => {
  it("[VR-MEM-03] zeroes on the device first, is idempotent, and says so when it could not", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(MIB);
    const { vram, open, entries } = await openSmall({}, { faults });
    const { record } = await vram.seal(path);
    const { allocationId } = open.system.registry.find(record.shardId);
    expect(await vram.evict(record.shardId)).toMatchObject({
      zeroed: true,
      record: { state: "evicted", sealed: false },
    });
    expect(await codeOf(vram.evict(record.shardId))).toBe("SHARD_NOT_FOUND");
    expect(await open.devices[0]?.free(allocationId)).toEqual({ zeroed: false, reason: "it was freed before" });
    expect(lastDurable(entries)).toMatchObject({ type: "vram_deallocated", zeroed: true, because: "evicted" });

    const second = await vram.seal(path);
    faults.reset();
    faults.breakExecution("fill", 1, 700);
    expect(await vram.evict(second.record.shardId)).toMatchObject({ zeroed: false });
    const last = entries.findLast((entry) => entry.type === "vram_deallocated");
    expect(last).toMatchObject({ zeroed: false });
    expect(JSON.stringify(last)).toContain("ILLEGAL_ADDRESS");
  });

  it("[VR-MEM-03] what was sealed does not stay in VRAM", async () => {
    const { path } = await randomFile(2 * MIB);
    const { vram, open } = await openSmall();
    const { record } = await vram.seal(path);
    const stored = open.driver.emulation.storedBytes();
    const calls: string[] = [];
    const original = open.driver.stream.fill.bind(open.driver.stream);
    Object.assign(open.driver.stream, {
      fill: (...args: Parameters<typeof original>) => {
        calls.push(`${args[2]} × ${args[3]}`);
        original(...args);
      },
    });
    await vram.evict(record.shardId);
    expect(calls).toEqual([`0 × ${2 * MIB}`]);
    expect(open.driver.emulation.storedBytes()).toBeLessThan(stored);
  });

  it("[VR-MEM-08] sealing a gigabyte takes at most 256 MiB of host memory beyond the idle process", async () => {
    const { path } = await randomFile(1);
    await truncate(path, 1024 * MIB);
    // Zeros need no storage in the emulated device, so what grows is the host's share: the ring and the rest.
    const script = `
      import { readFileSync } from "node:fs";
      // VmHWM, because ru_maxrss begins with what the parent had.
      const peakBytes = () => Number(/VmHWM:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
      import { openTestVram } from ${JSON.stringify(new URL("../../dist/testing.js", import.meta.url).href)};
      const { vram, open } = await openTestVram();
      await new Promise((resolve) => setImmediate(resolve));
      const idle = peakBytes();
      const stored = open.driver.emulation.storedBytes();
      await vram.seal(process.argv[1], { format: "raw" });
      const peak = peakBytes();
      console.log(JSON.stringify({ grown: peak - idle, stored: open.driver.emulation.storedBytes() - stored }));
      await vram.close();`;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script, path]);
    const { grown, stored } = JSON.parse(stdout) as { grown: number; stored: number };
    expect(stored).toBeLessThan(64 * MIB);
    expect(grown - stored).toBeLessThan(256 * MIB);
  });
});
