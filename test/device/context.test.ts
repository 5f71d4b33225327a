/** The device as the driver describes it, and contexts on it. */
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { systemClock } from "../../src/clock.ts";
import { readDeviceInfo } from "../../src/device/facts.ts";
import { openContext } from "../../src/handles/context.ts";
import { ask, gpu, onGpu, openOnGpu, withHandles } from "../helpers/gpu.ts";

onGpu("the device", () => {
  test("[VR-DEV-04] its UUID is the one that nvidia-smi prints, where there is nvidia-smi", () => {
    const { driver, isReal } = gpu();
    const uuid = driver.device.uuid(driver.device.get(0));
    expect(uuid).toMatch(/^(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    const { status, stdout } = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8", timeout: 30_000 });
    if (isReal && status === 0) expect(stdout).toContain(uuid);
  });

  test("[VR-DEV-02] it is Turing or newer, with virtual memory management and descriptors to share", () => {
    const info = readDeviceInfo(gpu().driver, 0, false);
    expect(Number(info.computeCapability)).toBeGreaterThanOrEqual(7.5);
    expect(info.facts).toMatchObject({
      integrated: false,
      virtualMemoryManagement: true,
      posixFileDescriptorHandles: true,
    });
    expect(info.granuleBytes % 4096).toBe(0);
    expect(info.bytesTotal).toBeGreaterThan(256 * info.granuleBytes);
  });

  test("[VR-POL-01] the VRAM-only policy has nothing against it, and it opens as what it is", async () => {
    const { vram } = await openOnGpu();
    expect(vram.checkPolicy().map(({ violations }) => violations)).toEqual(vram.devices().map(() => []));
    expect(vram.backend.backend).toBe(gpu().isReal ? "cuda" : "cuda-substituted");
    expect(vram.devices()[0]).toMatchObject({ state: "running", name: gpu().name });
  });

  test("two contexts on it: one is closed, and the other works on", async () => {
    await withHandles(async ({ context }) => {
      const second = openContext(gpu().driver, 0, systemClock, () => undefined);
      const before = second.run((driver) => driver.context.memoryInfo());
      second.close();
      second.close();
      const after = context.run((driver) => driver.context.memoryInfo());
      expect(after.bytesTotal).toBe(before.bytesTotal);
      expect(() => second.run((driver) => driver.context.memoryInfo())).toThrow("closed");
    });
  });

  test("another process works on it meanwhile", async () => {
    await withHandles(async ({ context }) => {
      const { done, data } = await ask("digests", "plain");
      expect(done).toBe("answered");
      expect(data).toMatchObject({ cases: 12, wrong: 0 });
      expect(context.run((driver) => driver.context.memoryInfo()).bytesFree).toBeGreaterThan(0);
    });
  });

  test("two systems in one process, each with shards of its own", async () => {
    const [first, second] = [await openOnGpu(), await openOnGpu()];
    const bytes = Buffer.alloc(5000, 7);
    await first.vram.seal({ bytes, name: "a" }, { format: "raw" });
    await second.vram.seal({ bytes, name: "a" }, { format: "raw" });
    await first.vram.close();
    expect((await second.vram.verify("a")).bytesCovered).toBe(5000);
  });
});
