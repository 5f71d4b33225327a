import { describe, expect, it } from "vitest";
import { codeOf, MIB, openSmall, randomFile } from "../helpers/vram.ts";

describe("the journey", () => {
  it("seals, verifies, finds one flipped bit, stops the worker", async () => {
    const { path } = await randomFile(3 * MIB + 17);
    const { vram, flipBit, types } = await openSmall();
    const { record, seal } = await vram.seal(path);
    expect(record.sealed).toBe(true);
    const report = await vram.verify(record.shardId, { seal });
    expect(report.digest).toBe(record.digest);
    await flipBit(record.shardId, 2 * MIB + 5, 3);
    expect(await codeOf(vram.verify(record.shardId))).toBe("MEASUREMENT_MISMATCH");
    expect(types()).toContain("worker_stopped");
  });
});
