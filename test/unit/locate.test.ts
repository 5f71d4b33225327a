/** Naming damage as closely as the source allows, and saying why when that is not close. */
import { truncate, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { STATUS } from "../../src/cuda/status.ts";
import type { LocalDevice } from "../../src/device/local.ts";
import { differingRanges } from "../../src/device/locate.ts";
import { RANGE_BYTES } from "../../src/hash/geometry.ts";
import { LIMITS } from "../../src/limits.ts";
import { deviceMachine, uploadBytes } from "../helpers/handles.ts";
import { codeOf, randomFile } from "../helpers/vram.ts";

describe("locating damage", () => {
  async function damaged(size: number, flips: readonly number[]) {
    const { path } = await randomFile(size);
    const local = await deviceMachine().open();
    const { sourceId } = await local.openSource({ kind: "path", path }, { format: "raw" });
    const allocationId = await local.allocate(size);
    await local.upload({ sourceId, allocationId, witness: false, sha256: false }, {});
    const { kept } = await local.measure(allocationId);
    for (const offset of flips) await local.flipBit(allocationId, offset, 6);
    const rangeOffsets = differingRanges(kept, (await local.measure(allocationId)).kept);
    return { path, local, request: { allocationId, rangeOffsets, kept, source: { kind: "path", path } as const } };
  }

  test("[VR-VER-03] names ranges, blocks and bytes, also in the last, partial block", async () => {
    const size = 2 * RANGE_BYTES + 4096 + 10;
    const { local, request } = await damaged(size, [5, 4095, 4096, RANGE_BYTES + 77, size - 1]);
    expect(request.rangeOffsets).toEqual([0, RANGE_BYTES, 2 * RANGE_BYTES]);
    const block = (offset: number, byteLength: number, ...byteOffsets: number[]) => {
      return { offset, byteLength, differing: byteOffsets.length, byteOffsets };
    };
    const blocks = [block(0, 4096, 5, 4095), block(4096, 4096, 4096), block(RANGE_BYTES, 4096, RANGE_BYTES + 77)];
    blocks.push(block(2 * RANGE_BYTES + 4096, 10, size - 1));
    expect(await local.locate(request)).toEqual({ precision: "block", blocks, blockCount: 4 });
    await local.close();
  });

  test.each([10, 4096])("a shard of one block (%i bytes) has its leaf for a range", async (size) => {
    const { local, request } = await damaged(
      size,
      Array.from({ length: 10 }, (_, at) => at),
    );
    const located = await local.locate(request);
    expect(located).toMatchObject({ precision: "block", blocks: [{ offset: 0, byteLength: size, differing: 10 }] });
    await local.close();
  });

  test("more damage than is listed is counted: blocks, and bytes of a block", async () => {
    const everywhere = Array.from({ length: LIMITS.locatedRanges + 6 }, (_, block) => block * 4096);
    const oneBlock = Array.from({ length: LIMITS.reportedOffsets + 1 }, (_, at) => 1 + at);
    const { local, request } = await damaged(RANGE_BYTES, [...everywhere, ...oneBlock]);
    const located = await local.locate(request);
    if (located.precision !== "block") throw new Error(located.because);
    expect([located.blocks.length, located.blockCount]).toEqual([LIMITS.locatedRanges, LIMITS.locatedRanges + 6]);
    expect(located.blocks[0]?.differing).toBe(LIMITS.reportedOffsets + 2);
    expect(located.blocks[0]?.byteOffsets).toEqual([0, ...oneBlock.slice(0, LIMITS.reportedOffsets - 1)]);
    await local.close();
  });

  test("a source that is gone, changed, larger or unreadable only costs precision", async () => {
    const { local, request, path } = await damaged(RANGE_BYTES + 5, [3]);
    const because = async (source?: Parameters<LocalDevice["locate"]>[0]["source"]) => {
      const { source: _, ...rest } = request;
      const located = await local.locate(source === undefined ? rest : { ...rest, source });
      return located.precision === "range" ? located.because : "a block";
    };
    expect(await because()).toBe("the source cannot be read again");
    expect(await because({ kind: "bytes", bytes: new Uint8Array(1) })).toBe("the source cannot be read again");
    expect(await because({ kind: "path", path, roots: ["/usr"] })).toContain("(SOURCE_REFUSED)");
    expect(await because({ kind: "path", path: `${path}.gone` })).toContain("(SOURCE_NOT_FOUND)");
    await writeFile(path, Buffer.alloc(RANGE_BYTES + 5, 1));
    expect(await because({ kind: "path", path })).toBe("the source file no longer has the sealed bytes");
    await truncate(path, RANGE_BYTES);
    expect(await because({ kind: "path", path })).toBe("the source file has another size now");
    await local.close();
  });

  test("a measurement that does not work costs precision, a device that is lost is not hidden", async () => {
    const { faults, open } = deviceMachine();
    const local = await open();
    const { path, bytes } = await randomFile(RANGE_BYTES + 5);
    const { allocationId } = await uploadBytes(local, bytes);
    const { kept } = await local.measure(allocationId);
    const request = { allocationId, rangeOffsets: [0], kept, source: { kind: "path", path } as const };
    faults.reset();
    faults.dropLaunch(1);
    const because = "comparing with the source failed (MEASUREMENT_INVALID)";
    expect(await local.locate(request)).toEqual({ precision: "range", because });
    expect(await local.locate(request)).toEqual({ precision: "block", blocks: [], blockCount: 0 });
    faults.reset();
    faults.breakExecution("launch", 1, STATUS.LAUNCH_FAILED);
    expect(await codeOf(local.locate(request))).toBe("DEVICE_LOST");
    await local.close();
  });
});
