/** What NVML would say of an emulated device: the tenants its specification names, and nothing about health. */
import type { GpuMonitor } from "../monitor.ts";
import type { EmulatedDeviceSpec } from "./options.ts";

/** Specifications are read anew for every answer. */
export function emulatedMonitor(devices: readonly EmulatedDeviceSpec[]): GpuMonitor {
  return {
    read: async (uuid) => ({ processes: [...(devices.find((device) => device.uuid === uuid)?.tenants ?? [])] }),
    close: async () => undefined,
  };
}
