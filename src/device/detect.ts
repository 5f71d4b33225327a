/**
 * Which backend a start gets. The emulated device is the answer only where there is neither a driver library nor a
 * device node; a GPU that is there but cannot be used is refused with the fix, never silently replaced (VR-DEV-03).
 * Looks at files only: no library is opened.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Backend, CUDA_LIBRARY } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";

/** What the caller asked for. */
export type BackendChoice = "auto" | "cuda" | "emulated";

/** What this machine shows of NVIDIA, without asking a driver. */
export interface HostTraces {
  /** `libcuda.so.1` is where the loader would find it. */
  readonly driverLibrary: boolean;
  /** `/dev/nvidia*` device nodes, base names. */
  readonly deviceNodes: readonly string[];
  /** Those of them that this user may not read and write. */
  readonly deniedNodes: readonly string[];
  /** `/dev/dxg`: WSL2, where VRAM is paged by Windows. */
  readonly wddm: boolean;
}

const LOADER_CACHE = "/etc/ld.so.cache";
/** Debian's folders for an architecture among them: a container's cache may be older than the driver put into it. */
const LOADER_DEFAULTS = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"].concat(
  ["x86_64-linux-gnu", "aarch64-linux-gnu"].flatMap((triplet) => [`/lib/${triplet}`, `/usr/lib/${triplet}`]),
);

function loaderFinds(libraryPath: string | undefined): boolean {
  const folders = [...(libraryPath ?? "").split(":").filter((folder) => folder !== ""), ...LOADER_DEFAULTS];
  if (folders.some((folder) => existsSync(join(folder, CUDA_LIBRARY)))) return true;
  try {
    return readFileSync(LOADER_CACHE).includes(`${CUDA_LIBRARY}\0`);
  } catch {
    return false;
  }
}

const canUse = (path: string): boolean => {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
};

/** Looks for traces. `libraryPath` is `LD_LIBRARY_PATH`. */
export function readHostTraces(libraryPath: string | undefined): HostTraces {
  let deviceNodes: string[] = [];
  try {
    deviceNodes = readdirSync("/dev").filter((name) => /^nvidia(?:\d+|ctl|-uvm)$/.test(name));
  } catch {
    // A machine whose /dev cannot be listed shows none.
  }
  const deniedNodes = deviceNodes.filter((node) => !canUse(`/dev/${node}`));
  return { driverLibrary: loaderFinds(libraryPath), deviceNodes, deniedNodes, wddm: existsSync("/dev/dxg") };
}

const describe = (traces: HostTraces): string =>
  [
    ...(traces.driverLibrary ? [CUDA_LIBRARY] : []),
    ...traces.deviceNodes.map((node) => `/dev/${node}`),
    ...(traces.wddm ? ["/dev/dxg"] : []),
  ].join(", ");

/** A decision, and why, in words for `doctor` and the banner. */
export interface BackendDecision {
  /** Which implementation answers. */
  readonly backend: Backend;
  /** In words, for people. */
  readonly because: string;
  /** The driver library to open; absent for the emulated device. */
  readonly library?: string;
}

/** What the caller wants. `library`: another driver library than the loader's (`VRAM_LIBCUDA`). */
export interface BackendWish {
  readonly backend?: BackendChoice;
  readonly requireGpu?: boolean;
  readonly library?: string;
}

/** What is measured on a backend is worth, in words: on every screen and in every answer. */
export function evidenceOf(backend: Backend): string {
  if (backend === "cuda") return "measured on cuda";
  if (backend === "emulated") {
    return "EMULATED device: host memory plays the GPU; nothing measured here is evidence about one";
  }
  return "SUBSTITUTED driver library: nothing measured here is evidence about a GPU";
}

const refused = (what: string, fix: string, traces: HostTraces): VramError =>
  new VramError("DEVICE_UNUSABLE", what, { fix, details: { traces } });

const EMULATE = "`--backend emulated` emulates a device on purpose";

/**
 * After the loader's own library has shown a GPU: the kernel must know of one, too. A library that shows GPUs without
 * is somebody's substitute that got into the loader's way, and must not be taken for hardware. (It is asked afterwards,
 * because starting the driver may make the device nodes.)
 */
export function requireRealDriver(libraryPath: string | undefined): void {
  const traces = readHostTraces(libraryPath);
  if (traces.wddm || traces.deviceNodes.length > 0) return;
  throw refused(
    `${CUDA_LIBRARY} shows a GPU, and this machine has no NVIDIA device node: it is not the driver of one`,
    `take it out of LD_LIBRARY_PATH and LD_PRELOAD; named with VRAM_LIBCUDA it is used as cuda-substituted`,
    traces,
  );
}

/** Nodes without which no GPU can be used, of those that are here: the common ones, and the GPUs' if it is all of them. */
function fatallyDenied({ deviceNodes, deniedNodes }: HostTraces): readonly string[] {
  const gpus = deviceNodes.filter((node) => /^nvidia\d+$/.test(node));
  const common = deniedNodes.filter((node) => !gpus.includes(node));
  return common.length === 0 && gpus.some((node) => !deniedNodes.includes(node)) ? [] : deniedNodes;
}

/** A GPU is here: what already the files tell against using it. */
function requireUsable(traces: HostTraces): void {
  const present = `an NVIDIA GPU is present (${describe(traces)})`;
  const denied = fatallyDenied(traces)
    .map((node) => `/dev/${node}`)
    .join(", ");
  if (denied !== "") {
    const fix = "add the user to the group that owns them (often video or render), or allow them in the container";
    throw refused(`${present}, but this user may not use ${denied}`, `${fix}; ${EMULATE}`, traces);
  }
  if (traces.driverLibrary) return;
  const fix = "install the NVIDIA driver; in a container, pass it in (`--gpus all`, driver capability compute)";
  throw refused(`${present}, but ${CUDA_LIBRARY} is not where the loader looks`, `${fix}; ${EMULATE}`, traces);
}

/** Decides, or throws `DEVICE_UNUSABLE` with what is there and what to do. */
export function chooseBackend(wish: BackendWish, traces: HostTraces): BackendDecision {
  const { backend = "auto", requireGpu = false, library = CUDA_LIBRARY } = wish;
  if (backend === "emulated") {
    if (!requireGpu) return { backend, because: "emulation was asked for by name" };
    throw refused("a GPU is required, and emulation was asked for", "ask for one of the two", traces);
  }
  if (library !== CUDA_LIBRARY) {
    if (!requireGpu) return { backend: "cuda-substituted", because: "another driver library was named", library };
    const fix = "unset VRAM_LIBCUDA";
    throw refused("a GPU is required, and a substituted driver library is none", fix, traces);
  }
  if (describe(traces) !== "") {
    requireUsable(traces);
    return { backend: "cuda", because: "an NVIDIA driver library is here", library };
  }
  if (backend === "auto" && !requireGpu) {
    return { backend: "emulated", because: "neither an NVIDIA driver library nor a device node is here" };
  }
  throw refused(
    "a GPU is required: no NVIDIA driver or device was found",
    `install an NVIDIA GPU and its driver; in a container, pass them in (\`--gpus all\`); ${EMULATE}`,
    traces,
  );
}
