/** Which backend a start over the fake libcuda gets, and what passes for a GPU: nothing but one. */
import { dirname } from "node:path";
import { describe, expect, it } from "vitest";
import { readHostTraces } from "../../src/device/detect.ts";
import { openVram } from "../../src/index.ts";
import { doctor } from "../helpers/doctor.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { fakeLibrary, openNative } from "../helpers/native.ts";
import { codeOf } from "../helpers/vram.ts";

/** Whether this machine shows nothing of NVIDIA. */
function isBare(): boolean {
  const { driverLibrary, deviceNodes, wddm } = readHostTraces(undefined);
  return !driverLibrary && deviceNodes.length === 0 && !wddm;
}

describe.skipIf(fakeCuda() === undefined)(`the backend of a start${whyNoFakeCuda()}`, () => {
  it("[VR-DEV-03] without a library by name the machine decides: emulated, and loudly, only without any NVIDIA", async () => {
    const { code, checks, devices } = await doctor({}, { VRAM_LIBCUDA: "" });
    const backend = checks.find(({ id }) => id === "backend");
    if (isBare()) {
      expect(code).toBe(0);
      expect(backend).toMatchObject({ status: "warn", what: expect.stringContaining("emulated") as string });
      expect(devices).toMatchObject([{ backend: "emulated", name: expect.stringMatching(/emulated/i) as string }]);
    } else {
      expect(backend?.what).not.toContain("emulated");
      expect(devices.filter((device) => device.backend !== "cuda")).toEqual([]);
    }
  });

  it.skipIf(!isBare())(
    "[VR-DEV-03] a substitute in the loader's way is neither a GPU nor used in silence (no GPU)",
    async () => {
      const found = dirname(fakeLibrary());
      const { code, checks } = await doctor({}, { VRAM_LIBCUDA: "", LD_LIBRARY_PATH: found });
      expect(code).toBe(5);
      expect(checks.find(({ status }) => status === "fail")).toMatchObject({
        what: expect.stringContaining("has no NVIDIA device node") as string,
        fix: expect.stringContaining("LD_LIBRARY_PATH") as string,
      });
    },
  );

  it("[VR-DEV-01] NVML that does not answer is said, and is no reason to refuse", async () => {
    const { code, checks } = await doctor({});
    expect(code).toBe(0);
    expect(checks.find(({ id }) => id === "nvml-0")?.what).toContain("NVML does not answer");
  });

  it("[VR-DEV-03] requireGpu accepts no substitute, and a substitute is stamped even if it was asked for as cuda", async () => {
    const refused: unknown = await openNative({}, { requireGpu: true }).catch((error: unknown) => error);
    expect(refused).toMatchObject({
      code: "DEVICE_UNUSABLE",
      message: expect.stringContaining("substituted") as string,
      fix: expect.stringContaining("VRAM_LIBCUDA") as string,
    });
    const asked = await openNative({}, { backend: "cuda" });
    expect(asked.vram.backend.backend).toBe("cuda-substituted");
    expect(await codeOf(openVram({ cudaLibrary: fakeLibrary(), requireGpu: true }))).toBe("DEVICE_UNUSABLE");
  });
});
