/**
 * The scenarios that a GPU is asked (profile `gpu` of cucumber.json), over a substituted driver library: that they can be
 * asked of a driver at all. What they show of hardware, they show on hardware.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const CUCUMBER = "node_modules/@cucumber/cucumber/bin/cucumber.js";

function scenarios(library: string): Promise<{ readonly code: number; readonly out: string }> {
  const env = { ...process.env, VRAM_FEATURES_BACKEND: "cuda", VRAM_LIBCUDA: library };
  const options = { cwd: ROOT, env, timeout: 200_000, maxBuffer: 2 ** 26 };
  return new Promise((resolve) => {
    execFile(process.execPath, [CUCUMBER, "--profile", "gpu"], options, (error, out, err) => {
      resolve({ code: typeof error?.code === "number" ? error.code : Number(error !== null), out: out + err });
    });
  });
}

const fake = fakeCuda();

it.skipIf(fake === undefined)(
  `[VR-PRF-02] every scenario for a GPU passes over a substituted libcuda${whyNoFakeCuda()}`,
  { timeout: 240_000 },
  async () => {
    const { code, out } = await scenarios(fake?.library ?? "");
    expect(code, out.slice(-4000)).toBe(0);
    const [, all, passed] = /^(\d+) scenarios \((\d+) passed\)$/m.exec(out) ?? [];
    expect([Number(all) >= 50, passed]).toEqual([true, all]);
  },
);

it("and none of them passes where the library is none", { timeout: 240_000 }, async () => {
  const { code, out } = await scenarios("/nowhere/libcuda.so.1");
  expect(code).toBe(1);
  expect(out).toContain("/nowhere/libcuda.so.1");
});
