/**
 * Which backend a start gets. The emulated device is the answer only where there is neither a driver library nor a
 * device node; a GPU that is there but cannot be used is refused with the fix, never silently replaced (VR-DEV-03).
 * Looks at files only: no library is opened.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";

/** What the caller asked for. */
export type BackendChoice = "auto" | "cuda" | "emulated";

/** What this machine shows of NVIDIA, without asking a driver. */
export interface HostTraces {
  /** `libcuda.so.1` is where the loader would find it. */
  readonly driverLibrary: boolean;
  /** `/dev/nvidia*` device nodes, base names. */
  readonly deviceNodes: readonly string[];
  /** `/dev/dxg`: WSL2, where VRAM is paged by Windows. */
  readonly wddm: boolean;
}

const LIBRARY = "libcuda.so.1";
const LOADER_CACHE = "/etc/ld.so.cache";
const LOADER_DEFAULTS = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];

function loaderFinds(libraryPath: string | undefined): boolean {
  const folders = [...(libraryPath ?? "").split(":").filter((folder) => folder !== ""), ...LOADER_DEFAULTS];
  if (folders.some((folder) => existsSync(join(folder, LIBRARY)))) return true;
  try {
    return readFileSync(LOADER_CACHE).includes(`${LIBRARY}\0`);
  } catch {
    return false;
  }
}

/** Looks for traces. `libraryPath` is `LD_LIBRARY_PATH`. */
export function readHostTraces(libraryPath: string | undefined): HostTraces {
  let deviceNodes: string[] = [];
  try {
    deviceNodes = readdirSync("/dev").filter((name) => /^nvidia(?:\d+|ctl|-uvm)$/.test(name));
  } catch {
    // A machine whose /dev cannot be listed shows none.
  }
  return { driverLibrary: loaderFinds(libraryPath), deviceNodes, wddm: existsSync("/dev/dxg") };
}

const describe = (traces: HostTraces): string =>
  [
    ...(traces.driverLibrary ? [LIBRARY] : []),
    ...traces.deviceNodes.map((node) => `/dev/${node}`),
    ...(traces.wddm ? ["/dev/dxg"] : []),
  ].join(", ");

/** A decision, and why, in words for `doctor` and the banner. */
export interface BackendDecision {
  readonly backend: Backend;
  readonly because: string;
}

const NO_NATIVE_DRIVER =
  "this version has no driver for NVIDIA hardware yet; use --backend emulated to try it without the GPU";

/** Decides, or throws `DEVICE_UNUSABLE` with what is there and what to do. */
export function chooseBackend(choice: BackendChoice, requireGpu: boolean, traces: HostTraces): BackendDecision {
  const found = describe(traces);
  if (requireGpu || choice === "cuda") {
    const what = found === "" ? "no NVIDIA driver or device was found" : `an NVIDIA GPU is present (${found})`;
    throw new VramError("DEVICE_UNUSABLE", `a GPU is required: ${what}, and ${NO_NATIVE_DRIVER.split(";")[0] ?? ""}`, {
      details: { traces },
    });
  }
  if (choice === "emulated") return { backend: "emulated", because: "emulation was asked for by name" };
  if (found === "")
    return { backend: "emulated", because: "neither an NVIDIA driver library nor a device node is here" };
  throw new VramError("DEVICE_UNUSABLE", `an NVIDIA GPU is present (${found}), but ${NO_NATIVE_DRIVER}`, {
    details: { traces },
  });
}
