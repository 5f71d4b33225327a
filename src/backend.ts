/**
 * From a decision to a driver with its monitor and kernel: the only place that knows what stands behind `CudaDriver`.
 * The native half is loaded only where it is used, so that the emulated device needs no native code.
 */
import { randomUUID } from "node:crypto";
import { isMainThread } from "node:worker_threads";
import type { CudaDriver } from "./cuda/driver.ts";
import { openEmulatedDriver } from "./cuda/emulated/driver.ts";
import type { EmulatedFaults } from "./cuda/emulated/faults.ts";
import { EMULATED_MODULE_IMAGE } from "./cuda/emulated/kernels.ts";
import { emulatedMonitor } from "./cuda/emulated/monitor.ts";
import type { EmulatedDeviceSpec } from "./cuda/emulated/options.ts";
import { type GpuMonitor, NO_MONITOR, NVML_LIBRARY } from "./cuda/monitor.ts";
import type { BackendDecision } from "./device/detect.ts";
import type { UndoStack } from "./dispose.ts";
import { VramError } from "./errors.ts";
import type { HashPool } from "./hash/pool.ts";
import { LIMITS } from "./limits.ts";

/** What a device needs from its backend. Devices are the ordinals 0 … `uuids.length` − 1. */
export interface OpenBackend {
  readonly driver: CudaDriver;
  readonly monitor: GpuMonitor;
  /** What the driver loads as the hashing kernel. */
  readonly kernelImage: Uint8Array;
  readonly uuids: readonly string[];
}

/** What the emulated machine consists of. */
export interface EmulatedMachine {
  readonly devices?: number;
  readonly byteLength?: number;
  /** UUIDs of an earlier start, in order. */
  readonly remembered: readonly string[];
  readonly overrides?: Partial<EmulatedDeviceSpec>;
  readonly faults?: EmulatedFaults;
}

/** How NVML is found. `libraryPath`: `LD_LIBRARY_PATH` of its process. */
export interface NvmlSource {
  readonly nvmlLibrary?: string;
  readonly libraryPath?: string;
}

function openEmulated(machine: EmulatedMachine, pool: HashPool, undo: UndoStack): OpenBackend {
  const { devices: count = 1, byteLength = LIMITS.emulatedBytes, remembered, overrides, faults } = machine;
  const devices = Array.from({ length: count }, (_, index) => ({
    byteLength: Math.floor(byteLength / LIMITS.granuleBytes) * LIMITS.granuleBytes,
    ...overrides,
    uuid: remembered[index] ?? `EMU-${randomUUID()}`,
  }));
  const driver = openEmulatedDriver({ devices, pool, ...(faults === undefined ? {} : { faults }) });
  undo.defer("driver", () => driver.close());
  const uuids = devices.map(({ uuid }) => uuid);
  return { driver, monitor: emulatedMonitor(devices), kernelImage: EMULATED_MODULE_IMAGE, uuids };
}

/** Opens the driver in `library` and reads which devices it shows, one at least. Throws `DEVICE_UNUSABLE`. */
export async function openNativeDevices(
  library: string,
  undo: UndoStack,
): Promise<Pick<OpenBackend, "driver" | "uuids">> {
  if (!isMainThread) {
    // The environment of a worker thread does not reach C: the driver would keep its cache of compiled kernels.
    throw new VramError("DEVICE_UNUSABLE", "a GPU is opened on the main thread only", {
      fix: "call openVram on the main thread, or in a process of its own",
    });
  }
  const { openNativeDriver } = await import("./cuda/native/driver.ts");
  const driver = openNativeDriver(library);
  undo.defer("driver", () => driver.close());
  const uuids = Array.from({ length: driver.device.count() }, (_, ordinal) =>
    driver.device.uuid(driver.device.get(ordinal)),
  );
  if (uuids.length === 0) {
    throw new VramError("DEVICE_UNUSABLE", "the driver is here but shows no GPU", {
      fix: "check CUDA_VISIBLE_DEVICES, and in a container that GPUs are passed in (`--gpus all`)",
    });
  }
  return { driver, uuids };
}

async function openNative(library: string, nvml: NvmlSource | undefined, undo: UndoStack): Promise<OpenBackend> {
  const { driver, uuids } = await openNativeDevices(library, undo);
  const [{ readKernelImage }, { openNvmlMonitor }] = await Promise.all([
    import("./cuda/native/kernel-image.ts"),
    import("./cuda/nvml-monitor.ts"),
  ]);
  const env = nvml?.libraryPath === undefined ? {} : { LD_LIBRARY_PATH: nvml.libraryPath };
  const monitor = nvml === undefined ? NO_MONITOR : openNvmlMonitor({ library: nvml.nvmlLibrary ?? NVML_LIBRARY, env });
  undo.defer("monitor", () => monitor.close());
  return { driver, monitor, kernelImage: readKernelImage(), uuids };
}

/** Opens what was decided; `undo` takes it down again. Without `nvml` the process of NVML is not used. */
export async function openBackend(
  decision: BackendDecision,
  machine: EmulatedMachine,
  nvml: NvmlSource | undefined,
  pool: HashPool,
  undo: UndoStack,
): Promise<OpenBackend> {
  if (decision.library === undefined) return openEmulated(machine, pool, undo);
  return openNative(decision.library, nvml, undo);
}
