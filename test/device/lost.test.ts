/** The product when its context is lost under it. The only test of its file: no context of this process works afterwards. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ask, onGpu, openOnGpu } from "../helpers/gpu.ts";
import { codeOf } from "../helpers/vram.ts";

onGpu("a context that is lost", () => {
  test("[VR-DEV-05] shards are lost, every call is refused, closing still works, and the next process finds a GPU", async () => {
    const { vram, open } = await openOnGpu();
    await vram.seal({ bytes: Buffer.alloc(100_000, 1), name: "a" }, { format: "raw" });
    const { driver } = open;
    const cuDevice = driver.device.get(0);
    driver.context.setCurrent(driver.context.retainPrimary(cuDevice));
    const cuModule = driver.module.load(readFileSync(new URL("../../kernels/probes.ptx", import.meta.url)));
    const store = driver.module.getFunction(cuModule, "vram_probe_store");
    const nowhere = driver.memory.reserveAddress(driver.memory.granularity(cuDevice));
    driver.stream.launch(driver.stream.create(), store, {
      gridX: 1,
      blockX: 32,
      parameters: [
        { kind: "u64", value: nowhere },
        { kind: "u32", value: 1 },
      ],
    });
    expect(await codeOf(vram.verify("a"))).toBe("DEVICE_LOST");
    expect(vram.inspect("a")).toMatchObject({ sealed: false });
    expect(vram.devices()[0]).toMatchObject({ state: "lost" });
    expect(await codeOf(vram.seal({ bytes: Buffer.alloc(10), name: "b" }, { format: "raw" }))).not.toMatch(/^no error/);
    expect(await vram.evict("a")).toMatchObject({ zeroed: false });
    await vram.close();
    const { done } = await ask("digests", "imad-umulhi");
    expect(done).toBe("answered");
  });
});
