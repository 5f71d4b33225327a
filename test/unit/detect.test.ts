/** Which backend a start gets: the emulated one only where there is nothing of NVIDIA, and never in place of a GPU. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type BackendWish, chooseBackend, type HostTraces, readHostTraces } from "../../src/device/detect.ts";
import { VramError } from "../../src/errors.ts";
import { errorOf } from "../helpers/header-parses.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const NOTHING: HostTraces = { driverLibrary: false, deviceNodes: [], deniedNodes: [], wddm: false };
const nodes = ["nvidia0", "nvidiactl"];
/** Machines whose GPU already the files show to be unusable, and what the refusal must name. */
const UNUSABLE: Record<string, [HostTraces, RegExp]> = {
  "nodes without a library": [{ ...NOTHING, deviceNodes: nodes }, /nvidia0.*libcuda\.so\.1 is not where/],
  "nodes this user may not open": [
    { ...NOTHING, driverLibrary: true, deviceNodes: nodes, deniedNodes: ["nvidia0"] },
    /this user may not use \/dev\/nvidia0/,
  ],
  "WSL without a driver": [{ ...NOTHING, wddm: true }, /\/dev\/dxg.*libcuda\.so\.1 is not where/],
};

const refusal = (wish: BackendWish, traces: HostTraces): VramError => {
  const error = errorOf(() => chooseBackend(wish, traces));
  if (!(error instanceof VramError)) throw new Error(`not refused: ${String(error)}`);
  return error;
};

describe("the backend", () => {
  test("[VR-DEV-03] is emulated where neither library nor device node is, and says so", () => {
    expect(chooseBackend({}, NOTHING)).toEqual({
      backend: "emulated",
      because: "neither an NVIDIA driver library nor a device node is here",
    });
  });

  test.each(Object.entries(UNUSABLE))("[VR-DEV-03] is never a silent stand-in: %s", (_what, [traces, named]) => {
    const error = refusal({}, traces);
    expect(error.code).toBe("DEVICE_UNUSABLE");
    expect(error.message).toContain("an NVIDIA GPU is present");
    expect(error.message).toMatch(named);
    expect(error.fix).toContain("--backend emulated");
    expect(error.details).toEqual({ traces });
    // Asked for by name, it is emulated all the same.
    expect(chooseBackend({ backend: "emulated" }, traces).because).toContain("by name");
  });

  test("[VR-DEV-03] is cuda where the loader's library is, and names it", () => {
    for (const traces of [
      { ...NOTHING, driverLibrary: true },
      { ...NOTHING, driverLibrary: true, deviceNodes: nodes },
    ]) {
      for (const wish of [{}, { backend: "cuda" }, { requireGpu: true }, { library: "libcuda.so.1" }] as const) {
        expect(chooseBackend(wish, traces)).toMatchObject({ backend: "cuda", library: "libcuda.so.1" });
      }
    }
  });

  test("[VR-DEV-03] is cuda-substituted with any other library, whatever the machine shows", () => {
    for (const traces of [NOTHING, ...Object.values(UNUSABLE).map(([shown]) => shown)]) {
      for (const backend of ["auto", "cuda"] as const) {
        const decision = chooseBackend({ backend, library: "/opt/libcuda.so.1" }, traces);
        expect(decision).toMatchObject({ backend: "cuda-substituted", library: "/opt/libcuda.so.1" });
      }
    }
  });

  test("[VR-DEV-03] requireGpu refuses anything but cuda", () => {
    for (const wish of [{}, { backend: "cuda" }, { backend: "emulated" }, { library: "/opt/libcuda.so.1" }] as const) {
      expect(refusal({ ...wish, requireGpu: true }, NOTHING).code).toBe("DEVICE_UNUSABLE");
    }
    expect(refusal({ requireGpu: true }, NOTHING).message).toContain("no NVIDIA driver or device was found");
    expect(refusal({ backend: "cuda" }, NOTHING).message).toContain("no NVIDIA driver or device was found");
  });
});

describe("traces", () => {
  test("a library on the loader's path is found by its exact name", async () => {
    const [empty, other, found] = [await temporaryFolder(), await temporaryFolder(), await temporaryFolder()];
    await writeFile(join(other, "libcuda.so.1.bak"), "");
    await writeFile(join(found, "libcuda.so.1"), "");
    const here = readHostTraces(undefined);
    expect(readHostTraces(`${empty}::${other}:`).driverLibrary).toBe(here.driverLibrary);
    expect(readHostTraces(`${empty}:${found}`).driverLibrary).toBe(true);
    for (const node of here.deniedNodes) expect(here.deviceNodes).toContain(node);
    for (const node of here.deviceNodes) expect(node).toMatch(/^nvidia(\d+|ctl|-uvm)$/);
  });
});
