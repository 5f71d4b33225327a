/**
 * The functions of NVML that are called, and what it takes to call them. Structures are read and written by offset;
 * handles are 8 bytes and travel as `uint64_t`; out-parameters are `void *` into room of our own. Source of symbols,
 * layouts and values: nvml.h of CUDA 13.3, as published in NVIDIA/go-nvml.
 */
import type { Bound, NativeArgument, StatusFunction } from "../ffi/library.ts";

/** All of them may be missing: drivers differ. */
export const NVML_PROTOTYPES = {
  init: "int nvmlInitWithFlags(uint32_t flags)",
  driverVersion: "int nvmlSystemGetDriverVersion(void *text, uint32_t length)",
  processName: "int nvmlSystemGetProcessName(uint32_t pid, void *name, uint32_t length)",
  deviceByUuid: "int nvmlDeviceGetHandleByUUID(const char *uuid, void *device)",
  memoryInfo: "int nvmlDeviceGetMemoryInfo_v2(uint64_t device, void *memory)",
  computeProcesses: "int nvmlDeviceGetComputeRunningProcesses_v3(uint64_t device, void *count, void *entries)",
  graphicsProcesses: "int nvmlDeviceGetGraphicsRunningProcesses_v3(uint64_t device, void *count, void *entries)",
  eccErrors: "int nvmlDeviceGetTotalEccErrors(uint64_t device, int type, int counter, void *count)",
  remappedRows:
    "int nvmlDeviceGetRemappedRows(uint64_t device, void *corrected, void *uncorrected, void *pending, void *failed)",
  fieldValues: "int nvmlDeviceGetFieldValues(uint64_t device, int count, void *values)",
  eventSetCreate: "int nvmlEventSetCreate(void *set)",
  eventSetFree: "int nvmlEventSetFree(uint64_t set)",
  registerEvents: "int nvmlDeviceRegisterEvents(uint64_t device, uint64_t types, uint64_t set)",
  eventSetWait: "int nvmlEventSetWait_v2(uint64_t set, void *event, uint32_t timeout_ms)",
  confComputeState: "int nvmlSystemGetConfComputeState(void *state)",
  confComputeCertificate: "int nvmlDeviceGetConfComputeGpuCertificate(uint64_t device, void *certificate)",
  confComputeReport: "int nvmlDeviceGetConfComputeGpuAttestationReport(uint64_t device, void *report)",
} as const;
export type NvmlCalls = Partial<Bound<typeof NVML_PROTOTYPES>>;

/** `nvmlReturn_t`. */
export const NVML_STATUS = { SUCCESS: 0, INSUFFICIENT_SIZE: 7, TIMEOUT: 10 } as const;

/** The number, unless it is too large for one. */
export function countOf(value: bigint): number | undefined {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}

/** The text before the first NUL, or all of it. */
export function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString("utf8");
}

/** Whether the function is there and answered success. */
export function succeeds(call: StatusFunction | undefined, ...args: readonly NativeArgument[]): boolean {
  return call?.(...args) === NVML_STATUS.SUCCESS;
}

/** Room for C to write to, and a view to read it with. */
export function room(byteLength: number): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(byteLength);
  return { bytes, view: new DataView(bytes.buffer) };
}
