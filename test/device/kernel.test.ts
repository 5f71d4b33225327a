/** The kernels, compiled by this driver for this GPU, against implementations that share nothing with them. */
import { expect, test } from "vitest";
import { KERNEL_VARIANTS, type KernelVariant, readKernelImage } from "../../src/cuda/native/kernel-image.ts";
import { openMeter } from "../../src/device/measure.ts";
import { VramError } from "../../src/errors.ts";
import { openAllocation } from "../../src/handles/allocation.ts";
import { openHashKernel } from "../../src/handles/kernel.ts";
import { bytesOf, gpu, type Handles, onGpu, sized, withHandles } from "../helpers/gpu.ts";
import { codeBy } from "../helpers/handles.ts";
import { digestOf } from "../helpers/reference.ts";
import { MIB } from "../helpers/vram.ts";

/** Measures `bytes` where they lie on the device; windows of 4 MiB, so that a few MiB are several. */
async function measure(handles: Handles, bytes: Buffer, salt?: Uint8Array, variant?: KernelVariant) {
  const { context, stream } = handles;
  const kernel = openHashKernel(context, readKernelImage(variant));
  const meter = await openMeter(context, kernel, 4 * MIB);
  const memory = openAllocation(context, bytes.byteLength, "read");
  try {
    await memory.withWritableAlias(stream, (alias) => handles.upload(alias, 0, bytes));
    return await meter.measure(memory, salt);
  } finally {
    memory.close();
    await meter.close();
    kernel.close();
  }
}

const BLOCK = 4096;
/** Around one block, one block of hashes, one range, one window. */
const LENGTHS = [
  1,
  BLOCK - 1,
  BLOCK,
  BLOCK + 1,
  128 * BLOCK - 1,
  128 * BLOCK,
  128 * BLOCK + 1,
  4 * MIB - 1,
  4 * MIB,
  4 * MIB + 1,
];

onGpu("the kernels", () => {
  test.each(KERNEL_VARIANTS)("%s: its digests are node:crypto's, for jobs and tails at random", async (variant) => {
    await withHandles(async ({ context }) => {
      const kernel = openHashKernel(context, readKernelImage(variant));
      const meter = await openMeter(context, kernel, 4 * MIB);
      await meter.selfTest();
      await meter.close();
      kernel.close();
    });
  });

  test.each(LENGTHS)("[VR-SEAL-05] the measurement of %i bytes is the fs-verity digest", async (byteLength) => {
    const bytes = bytesOf(byteLength, "measured");
    await withHandles(async (handles) => {
      const { digest, bytesCovered, windows } = await measure(handles, bytes);
      expect(Buffer.from(digest)).toEqual(Buffer.from(digestOf(bytes)));
      expect([bytesCovered, windows]).toEqual([byteLength, Math.ceil(byteLength / (4 * MIB))]);
    });
  });

  test("every variant measures the same, with and without a salt", async () => {
    const bytes = bytesOf(sized(9 * MIB, 2 * MIB) + 13, "variants");
    await withHandles(async (handles) => {
      for (const salt of [undefined, Uint8Array.of(1), bytesOf(32, "salt")]) {
        const expected = Buffer.from(digestOf(bytes, salt));
        for (const variant of KERNEL_VARIANTS) {
          const { digest } = await measure(handles, bytes, salt, variant);
          expect(Buffer.from(digest), `${variant}, salt of ${salt?.byteLength ?? 0}`).toEqual(expected);
        }
      }
    });
  });

  test("what the driver will not compile is refused with its words, and the context goes on", async () => {
    await withHandles(async (handles) => {
      const image = Buffer.from(readKernelImage());
      const unknown = Buffer.from(image.toString("latin1").replace(".version 6.3", ".version 99.0"), "latin1");
      // A substituted library reads no further than the head.
      const torn = image.subarray(0, sized(20_000, 10));
      for (const bad of [unknown, torn, Buffer.from("no kernel at all\n")]) {
        const refused = () => openHashKernel(handles.context, bad);
        expect(refused).toThrow(VramError);
        expect(refused).toThrow(expect.objectContaining({ code: "DEVICE_UNUSABLE", fatal: false }));
      }
      const { digest } = await measure(handles, bytesOf(5000, "after"));
      expect(Buffer.from(digest)).toEqual(Buffer.from(digestOf(bytesOf(5000, "after"))));
    });
  });

  test("a kernel that is not in the module is refused, and the context goes on", async () => {
    await withHandles(async ({ context }) => {
      const cuModule = context.run((driver) => driver.module.load(readKernelImage()));
      expect(codeBy(() => gpu().driver.module.getFunction(cuModule, "vram_hash_block"))).toBe("CUDA_FAILED");
      expect(gpu().driver.module.getFunction(cuModule, "vram_hash_blocks")).not.toBe(0n);
      context.run((driver) => driver.module.unload(cuModule));
    });
  });
});
