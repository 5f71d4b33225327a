/** Stray accesses, each in a process of its own: the sealed bytes stay what they are, and the context ends. */
import { expect, test } from "vitest";
import { ask, gpu, onGpu } from "../helpers/gpu.ts";

const SUCCESS = "SUCCESS (0)";

/** Through a read-only mapping. */
const WRITES = [
  ["a kernel's store", "kernel-store-read-only"],
  ["a copy", "copy-to-read-only"],
  ["a fill", "fill-read-only"],
] as const;

/** Where nothing is mapped, or what is mapped may not be read. */
const READS = [
  ["a kernel's load where nothing is mapped", "kernel-load-unmapped"],
  ["a kernel's store where nothing is mapped", "kernel-store-unmapped"],
  ["a copy from where nothing is mapped", "copy-from-unmapped"],
  ["a kernel's load through a mapping without access", "kernel-load-without-access"],
  ["a kernel's load where a mapping was", "kernel-load-after-unmap"],
] as const;

onGpu("stray accesses", () => {
  test.each(WRITES)(
    "[VR-MEM-01] %s through a read-only mapping changes nothing, and is noticed",
    async (_, question) => {
      const { data, error } = await ask("faults", question);
      expect(error).toBeUndefined();
      expect(data).toMatchObject({ isUnchanged: true, isNoticed: true });
    },
  );

  test.each(READS)("%s is noticed, and the sealed bytes beside it stay", async (_, question) => {
    const { data, error } = await ask("faults", question);
    expect(error).toBeUndefined();
    expect(data).toMatchObject({ isUnchanged: true, isNoticed: true });
  });

  test("[VR-DEV-05] after one every call that needs the context is refused with the same status", async () => {
    const { data } = await ask("faults", "kernel-load-unmapped");
    const { whenSettled } = data["seen"] as { whenSettled: string };
    expect(whenSettled).not.toBe(SUCCESS);
    expect(data["laterCalls"]).toMatchObject({ memoryInfo: whenSettled, createStream: whenSettled });
  });

  test("the GPU works on for this process, whatever other processes did to their contexts", async () => {
    await ask("faults", "kernel-store-misaligned");
    const { driver } = gpu();
    expect(driver.device.count()).toBeGreaterThan(0);
    const { done } = await ask("digests", "imad-umulhi");
    expect(done).toBe("answered");
  });
});
