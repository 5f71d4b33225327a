/** Many times the same: what is left over after each time would add up. */
import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { openAllocation } from "../../src/handles/allocation.ts";
import { bytesOf, gpu, onGpu, openOnGpu, sized, slackBytes, withHandles } from "../helpers/gpu.ts";
import { MIB } from "../helpers/vram.ts";

const CYCLES = 200;
const RAW = { format: "raw" } as const;

const bytesFree = (): number => gpu().driver.context.memoryInfo().bytesFree;
const openDescriptors = (): number => readdirSync("/proc/self/fd").length;

onGpu("after many cycles", () => {
  test(`${CYCLES} allocations of many sizes leave free memory as it was after a warm-up`, async () => {
    await withHandles(async ({ context, reports }) => {
      const once = (cycle: number): void => {
        const memory = openAllocation(context, 1 + cycle * sized(MIB, 10_000), cycle % 2 === 0 ? "read" : "readWrite");
        expect(memory.facts().memoryType).toBe(2n);
        memory.close();
      };
      once(CYCLES);
      const before = bytesFree();
      for (let cycle = 0; cycle < CYCLES; cycle += 1) once(cycle);
      expect(Math.abs(bytesFree() - before)).toBeLessThanOrEqual(slackBytes());
      expect(reports).toEqual([]);
    });
  });

  test(`[VR-MEM-03] ${CYCLES} seals, verifications and evictions leave memory, descriptors and the account as they were`, async () => {
    const { vram, entries } = await openOnGpu();
    const once = async (cycle: number): Promise<void> => {
      const bytes = bytesOf(100_000 + cycle, "cycle");
      const { record, seal } = await vram.seal({ bytes, name: "same" }, RAW);
      await vram.verify(record.shardId, { seal });
      expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true });
    };
    for (const warmUp of [0, 1, 2]) await once(warmUp);
    const before = { free: bytesFree(), descriptors: openDescriptors(), capacity: await vram.capacity() };
    for (let cycle = 0; cycle < CYCLES; cycle += 1) await once(cycle);
    expect(Math.abs(bytesFree() - before.free)).toBeLessThanOrEqual(slackBytes());
    expect(openDescriptors()).toBe(before.descriptors);
    expect((await vram.capacity()).bytesUsed).toBe(before.capacity.bytesUsed);
    expect(entries.filter(({ type }) => type === "release_failed")).toEqual([]);
  });

  test("20 systems one after the other leave free memory as it was after the first", async () => {
    const once = async (): Promise<void> => {
      const { vram } = await openOnGpu();
      await vram.seal({ bytes: bytesOf(5000, "system"), name: "a" }, RAW);
      await vram.close();
    };
    await withHandles(async ({ context }) => {
      await once();
      const free = () => context.run((driver) => driver.context.memoryInfo().bytesFree);
      const before = free();
      for (let cycle = 0; cycle < 20; cycle += 1) await once();
      expect(Math.abs(free() - before)).toBeLessThanOrEqual(slackBytes());
    });
  });
});
