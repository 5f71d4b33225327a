/** What NVML would say of an emulated device: who else has memory on it, and nothing about health. */
import type { GpuMonitor } from "../monitor.ts";
import { othersOn } from "./holders.ts";
import type { EmulatedDeviceSpec } from "./options.ts";

/** Specifications are read anew for every answer. */
export function emulatedMonitor(devices: readonly EmulatedDeviceSpec[]): GpuMonitor {
  return {
    read: async (uuid) => {
      const device = devices.find((one) => one.uuid === uuid);
      return { processes: device === undefined ? [] : [...othersOn(device)] };
    },
    // Nothing signs for a device that is made of host memory.
    evidence: async () => undefined,
    close: async () => undefined,
  };
}
