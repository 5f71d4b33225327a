/** Which backend a start gets: the emulated one only where there is nothing of NVIDIA, and never in place of a GPU. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type BackendChoice, chooseBackend, type HostTraces, readHostTraces } from "../../src/device/detect.ts";
import { VramError } from "../../src/errors.ts";
import { errorOf } from "../helpers/header-parses.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const NOTHING: HostTraces = { driverLibrary: false, deviceNodes: [], wddm: false };
const TRACES: Record<string, HostTraces> = {
  library: { ...NOTHING, driverLibrary: true },
  nodes: { ...NOTHING, deviceNodes: ["nvidia0", "nvidiactl"] },
  WSL: { ...NOTHING, wddm: true },
  everything: { driverLibrary: true, deviceNodes: ["nvidia0"], wddm: true },
};

const refusal = (choice: BackendChoice, requireGpu: boolean, traces: HostTraces): VramError => {
  const error = errorOf(() => chooseBackend(choice, requireGpu, traces));
  if (!(error instanceof VramError)) throw new Error(`not refused: ${String(error)}`);
  return error;
};

describe("the backend", () => {
  test("[VR-DEV-03] is emulated where neither library nor device node is, and says so", () => {
    expect(chooseBackend("auto", false, NOTHING)).toEqual({
      backend: "emulated",
      because: "neither an NVIDIA driver library nor a device node is here",
    });
  });

  test.each(Object.entries(TRACES))("[VR-DEV-03] is never a silent stand-in: %s", (_what, traces) => {
    const error = refusal("auto", false, traces);
    expect(error.code).toBe("DEVICE_UNUSABLE");
    expect(error.message).toContain("an NVIDIA GPU is present");
    expect(error.message).toContain("--backend emulated");
    expect(error.details).toEqual({ traces });
    // Asked for by name, it is emulated all the same.
    expect(chooseBackend("emulated", false, traces).because).toContain("by name");
  });

  test.each(["auto", "cuda", "emulated"] as const)(
    "[VR-DEV-03] requireGpu refuses anything but a GPU: %s",
    (choice) => {
      for (const traces of [NOTHING, ...Object.values(TRACES)]) {
        expect(refusal(choice, true, traces).code).toBe("DEVICE_UNUSABLE");
      }
      expect(refusal(choice, true, NOTHING).message).toContain("no NVIDIA driver or device was found");
    },
  );

  test("[VR-DEV-03] cuda that is asked for by name and not there is refused, with what was found", () => {
    expect(refusal("cuda", false, NOTHING).message).toContain("no NVIDIA driver or device was found");
    const { message } = refusal("cuda", false, TRACES["everything"] ?? NOTHING);
    for (const trace of ["libcuda.so.1", "/dev/nvidia0", "/dev/dxg"]) expect(message).toContain(trace);
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
    for (const node of here.deviceNodes) expect(node).toMatch(/^nvidia(\d+|ctl|-uvm)$/);
  });
});
