/** Allocations, transfers and bounds, by way of the handles. */
import { expect, test } from "vitest";
import { type Allocation, openAllocation } from "../../src/handles/allocation.ts";
import { openPinned } from "../../src/handles/pinned.ts";
import { openStream, settled } from "../../src/handles/stream.ts";
import { bytesOf, gpu, type Handles, onGpu, sized, slackBytes, withHandles } from "../helpers/gpu.ts";
import { codeBy } from "../helpers/handles.ts";
import { codeOf, MIB } from "../helpers/vram.ts";

/** Runs `task` with an allocation that is freed afterwards. */
async function withMemory<T>(
  { context }: Handles,
  byteLength: number,
  access: "read" | "readWrite",
  task: (memory: Allocation) => Promise<T>,
): Promise<T> {
  const memory = openAllocation(context, byteLength, access);
  try {
    return await task(memory);
  } finally {
    memory.close();
  }
}

const free = ({ context }: Handles): number => context.run((driver) => driver.context.memoryInfo().bytesFree);

onGpu("device memory", () => {
  test("an allocation takes whole granules", async () => {
    await withHandles(async (handles) => {
      const granule = gpu().driver.memory.granularity(0);
      for (const [byteLength, granules] of [
        [1, 1],
        [granule, 1],
        [granule + 1, 2],
        [40 * granule - 1, 40],
      ] as const) {
        await withMemory(handles, byteLength, "read", async (memory) => {
          expect(memory.mappedBytes).toBe(granules * granule);
          expect(memory.facts().rangeBytes).toBe(BigInt(memory.mappedBytes));
        });
      }
    });
  });

  test("free memory shows an allocation while it is there, and not afterwards", async () => {
    await withHandles(async (handles) => {
      const byteLength = sized(1024 * MIB, 8 * MIB);
      await withMemory(handles, byteLength, "read", async () => undefined);
      const before = free(handles);
      await withMemory(handles, byteLength, "read", async () => {
        expect(Math.abs(before - byteLength - free(handles))).toBeLessThanOrEqual(slackBytes());
      });
      expect(Math.abs(before - free(handles))).toBeLessThanOrEqual(slackBytes());
    });
  });

  test("[VR-MEM-01] the driver says pinned, on the device, not managed, read-only", async () => {
    await withHandles((handles) =>
      withMemory(handles, 5 * MIB + 3, "read", async (memory) => {
        expect(memory.facts()).toMatchObject({
          allocationType: 1,
          locationType: 1,
          locationId: 0,
          memoryType: 2n,
          isManaged: 0n,
          hostPointerKnown: false,
          deviceOrdinal: 0n,
          rangeBytes: BigInt(memory.mappedBytes),
          mappingAccess: 1,
          pointerAccess: 1n,
        });
      }),
    );
  });

  test("bytes go there and back, at odd offsets and of odd lengths", async () => {
    const byteLength = sized(300 * MIB + 7, 3 * MIB + 7);
    await withHandles((handles) =>
      withMemory(handles, byteLength, "readWrite", async (memory) => {
        for (const [offset, length] of [
          [0, 1],
          [1, 4095],
          [4095, 4098],
          [2 * MIB - 3, 7],
          [byteLength - 1, 1],
          [byteLength - 70_001, 70_001],
        ] as const) {
          const bytes = bytesOf(length, `${offset}`);
          await handles.upload(memory, offset, bytes);
          expect((await handles.download(memory, offset, length)).equals(bytes), `${length} at ${offset}`).toBe(true);
        }
      }),
    );
  });

  test("a large transfer arrives whole", async () => {
    const byteLength = sized(256 * MIB, MIB);
    await withHandles((handles) =>
      withMemory(handles, byteLength, "readWrite", async (memory) => {
        const bytes = bytesOf(byteLength, "large");
        await handles.upload(memory, 0, bytes);
        expect((await handles.download(memory, 0, byteLength)).equals(bytes)).toBe(true);
      }),
    );
  });

  test("a fill sets its range and not a byte beside it", async () => {
    await withHandles((handles) =>
      withMemory(handles, 8192, "readWrite", async (memory) => {
        const bytes = bytesOf(8192, "filled");
        await handles.upload(memory, 0, bytes);
        await settled(handles.stream, 1000, () => handles.stream.fill(memory, 1001, 0xee, 1000));
        bytes.fill(0xee, 1001, 2001);
        expect((await handles.download(memory, 0, 8192)).equals(bytes)).toBe(true);
      }),
    );
  });

  test("[VR-MEM-02] nothing is enqueued one byte out of bounds, though the granule would have room", async () => {
    await withHandles((handles) =>
      withMemory(handles, 5000, "readWrite", async (memory) => {
        const { stream } = handles;
        const pinned = openPinned(handles.context, 6000);
        const bytes = bytesOf(5000, "kept");
        await handles.upload(memory, 0, bytes);
        for (const act of [
          () => stream.copyToDevice(memory, 0, pinned, 0, 5001),
          () => stream.copyToDevice(memory, 1, pinned, 0, 5000),
          () => stream.copyToDevice(memory, 4096, pinned, 5999, 2),
          () => stream.copyToHost(pinned, 5999, memory, 0, 2),
          () => stream.copyToHost(pinned, 0, memory, 5000, 1),
          () => stream.fill(memory, 4999, 1, 2),
          () => stream.fill(memory, -1, 1, 1),
        ]) {
          expect(codeBy(act)).toBe("OUT_OF_BOUNDS");
        }
        expect((await handles.download(memory, 0, 5000)).equals(bytes)).toBe(true);
        pinned.close();
      }),
    );
  });

  test("what is written through the alias is read through the read-only mapping; then the alias is gone", async () => {
    await withHandles((handles) =>
      withMemory(handles, MIB, "read", async (memory) => {
        for (const round of ["first", "second"]) {
          const bytes = bytesOf(MIB, round);
          const alias = await memory.withWritableAlias(handles.stream, async (writable) => {
            await handles.upload(writable, 0, bytes);
            return writable;
          });
          expect((await handles.download(memory, 0, MIB)).equals(bytes), round).toBe(true);
          await expect(handles.upload(alias, 0, bytes)).rejects.toMatchObject({ code: "CLOSED" });
        }
        expect(memory.facts()).toMatchObject({ mappingAccess: 1, pointerAccess: 1n });
      }),
    );
  });

  test("[VR-MEM-05] more than there is is OUT_OF_VRAM, takes nothing, and hurts nothing", async () => {
    await withHandles(async (handles) => {
      const { bytesTotal } = handles.context.run((driver) => driver.context.memoryInfo());
      const before = free(handles);
      expect(codeBy(() => openAllocation(handles.context, bytesTotal + MIB, "read"))).toBe("OUT_OF_VRAM");
      expect(Math.abs(before - free(handles))).toBeLessThanOrEqual(slackBytes());
      await withMemory(handles, 100, "readWrite", async (memory) => {
        await handles.upload(memory, 0, bytesOf(100, "after"));
        expect((await handles.download(memory, 0, 100)).equals(bytesOf(100, "after"))).toBe(true);
      });
    });
  });

  test("two streams do not wait for each other, and a mark waits for its own stream's work", async () => {
    await withHandles((handles) =>
      withMemory(handles, sized(64 * MIB, MIB), "readWrite", async (memory) => {
        const second = openStream(handles.context);
        const mark = second.createMark();
        const half = memory.byteLength / 2;
        handles.stream.fill(memory, 0, 0x11, half);
        second.fill(memory, half, 0x22, half);
        mark.record();
        await mark.wait(half);
        expect((await handles.download(memory, half - 1, 2)).toString("hex")).toBe("1122");
        mark.close();
        second.close();
      }),
    );
  });

  test("pinned memory is shared with threads, and is refused once it is freed", async () => {
    await withHandles((handles) =>
      withMemory(handles, 4096, "readWrite", async (memory) => {
        const pinned = openPinned(handles.context, 4097);
        expect(pinned.bytes.buffer).toBeInstanceOf(SharedArrayBuffer);
        pinned.close();
        pinned.close();
        expect(codeBy(() => handles.stream.copyToDevice(memory, 0, pinned, 0, 1))).toBe("CLOSED");
        expect(handles.reports).toEqual([]);
      }),
    );
  });

  test("a freed allocation is refused, and freeing it again does nothing", async () => {
    await withHandles(async (handles) => {
      const memory = openAllocation(handles.context, 100, "read");
      memory.close();
      memory.close();
      expect(codeBy(() => memory.facts())).toBe("CLOSED");
      expect(await codeOf(handles.download(memory, 0, 1))).toBe("CLOSED");
      expect(handles.reports).toEqual([]);
    });
  });
});
