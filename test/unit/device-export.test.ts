/** Memory of a device that is handed to another process: what that reads, and what freeing does under it. */
import { randomUUID } from "node:crypto";
import { closeSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { openEmulatedDriver } from "../../src/cuda/emulated/driver.ts";
import { openShareable } from "../../src/cuda/emulated/shareable.ts";
import { liveHandles } from "../../src/dispose.ts";
import { MEMFD_SEALS, sealsOf } from "../../src/ffi/memory.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { openProcessDevice } from "../../src/process/open-device.ts";
import { GRANULE, MIB } from "../helpers/emulated.ts";
import { deviceMachine, uploadBytes } from "../helpers/handles.ts";
import { type Holder, startHolder } from "../helpers/holder.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, temporaryFolder } from "../helpers/vram.ts";

const SIZE = 2 * GRANULE + 5000;
const holders: Holder[] = [];
afterEach(async () => {
  for (const holder of holders.splice(0)) await holder.end();
  expect(liveHandles()).toEqual({});
});

/** A device whose memory can be shared, with bytes on it that are nowhere 0, and a process that has mapped them. */
async function handedOver() {
  const spec = { uuid: `EMU-${randomUUID()}`, byteLength: 64 * MIB, shareable: openShareable };
  const driver = openEmulatedDriver({ devices: [spec], pool: openHashPool(0) });
  const local = await deviceMachine(() => driver).open();
  const bytes = new Uint8Array(SIZE).map((_, index) => (index % 251) + 1);
  const { bytesFree } = await local.memory();
  const { allocationId } = await uploadBytes(local, bytes);
  const memory = await local.exportMemory(allocationId);
  const holder = await startHolder({ fd: memory.descriptor }, memory.byteLength);
  holders.push(holder);
  closeSync(memory.descriptor);
  const free = async (): Promise<number> => (await local.memory()).bytesFree;
  return { local, bytes, allocationId, memory, holder, free, bytesFree };
}

test("[VR-SEAL-04] the process of an emulated device has memory that can be handed over, sealed", async () => {
  const request = { backend: "emulated", uuid: `EMU-${randomUUID()}`, byteLength: 64 * MIB, hashThreads: 0 } as const;
  const { device, close } = await openProcessDevice(
    { ...request, runtimeDir: await temporaryFolder() },
    () => expect.fail("a release failed"),
    { sizes: { ringSlots: 2, ringSlotBytes: MIB / 2, measureWindowBytes: MIB / 2 } },
  );
  const { descriptor, byteLength } = await device.exportMemory(await device.allocate(5000));
  expect([byteLength, sealsOf(descriptor)]).toEqual([GRANULE, MEMFD_SEALS]);
  closeSync(descriptor);
  await close();
});

describe("memory that another process has mapped", () => {
  test("[VR-SEAL-04] is the bytes that were uploaded, with zeros behind them, and measures as before", async () => {
    const { local, bytes, allocationId, memory, holder } = await handedOver();
    expect(memory.byteLength).toBe(3 * GRANULE);
    for (const at of [0, 4999, GRANULE, SIZE - 1]) expect(await holder.read(at), String(at)).toBe(bytes[at]);
    for (const at of [SIZE, SIZE + 4096, 3 * GRANULE - 1]) expect(await holder.read(at), String(at)).toBe(0);
    expect(toHex((await local.measure(allocationId)).digest)).toBe(toHex(digestOf(bytes)));
    const again = await local.exportMemory(allocationId);
    closeSync(again.descriptor);
    expect(toHex((await local.measure(allocationId, Uint8Array.of(1))).digest)).not.toBe(toHex(digestOf(bytes)));
    await local.close();
    expect(await codeOf(local.exportMemory(allocationId))).toBe("CLOSED");
  });

  test("[VR-VER-01] shows a bit that was flipped, and so does a measurement", async () => {
    const { local, bytes, allocationId, holder } = await handedOver();
    await local.flipBit(allocationId, GRANULE + 17, 3);
    expect(await holder.read(GRANULE + 17)).toBe((bytes[GRANULE + 17] ?? 0) ^ 8);
    expect(toHex((await local.measure(allocationId)).digest)).not.toBe(toHex(digestOf(bytes)));
    await local.close();
  });

  test("[VR-MEM-03] is zeroed under it when it is freed, and its room is not free before it lets go", async () => {
    const { local, bytes, allocationId, holder, free, bytesFree } = await handedOver();
    expect(await holder.read(7)).toBe(bytes[7]);
    expect(await local.free(allocationId)).toEqual({ zeroed: true });
    for (const at of [0, 7, GRANULE, SIZE - 1]) expect(await holder.read(at), String(at)).toBe(0);
    expect(await free()).toBe(bytesFree - 3 * GRANULE);
    await holder.end();
    expect(await free()).toBe(bytesFree);
    await local.close();
  });

  test("[VR-MEM-03] stays as it is when it is freed with a reason not to zero it", async () => {
    const { local, bytes, allocationId, holder, free, bytesFree } = await handedOver();
    const reason = "process 1 may be reading it";
    expect(await local.free(allocationId, reason)).toEqual({ zeroed: false, reason });
    expect(await local.free(allocationId, reason)).toEqual({ zeroed: false, reason: "it was freed before" });
    for (const at of [0, 7, GRANULE, SIZE - 1]) expect(await holder.read(at), String(at)).toBe(bytes[at]);
    expect(await free()).toBe(bytesFree - 3 * GRANULE);
    await local.close();
    expect(await holder.read(SIZE - 1)).toBe(bytes[SIZE - 1]);
  });
});
