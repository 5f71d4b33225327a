/**
 * What a driver status means to the journey. The list of harmless codes is an allow-list: every code not on it is
 * fatal to this process's use of the device, because a sticky error that is mistaken for a harmless one would let a
 * dead context answer (VR-DEV-05; source: cuda.h of CUDA 13.0 and `CUresult` documentation).
 */
import { VramError } from "../errors.ts";

export const STATUS = {
  SUCCESS: 0,
  INVALID_VALUE: 1,
  OUT_OF_MEMORY: 2,
  NOT_INITIALIZED: 3,
  STUB_LIBRARY: 34,
  DEVICE_UNAVAILABLE: 46,
  NO_DEVICE: 100,
  INVALID_DEVICE: 101,
  INVALID_IMAGE: 200,
  INVALID_CONTEXT: 201,
  MAP_FAILED: 205,
  NO_BINARY_FOR_GPU: 209,
  ECC_UNCORRECTABLE: 214,
  INVALID_PTX: 218,
  NVLINK_UNCORRECTABLE: 220,
  JIT_COMPILER_NOT_FOUND: 221,
  UNSUPPORTED_PTX_VERSION: 222,
  JIT_COMPILATION_DISABLED: 223,
  CONTAINED: 226,
  OPERATING_SYSTEM: 304,
  INVALID_HANDLE: 400,
  NOT_FOUND: 500,
  NOT_READY: 600,
  ILLEGAL_ADDRESS: 700,
  LAUNCH_TIMEOUT: 702,
  HOST_MEMORY_ALREADY_REGISTERED: 712,
  HOST_MEMORY_NOT_REGISTERED: 713,
  LAUNCH_FAILED: 719,
  NOT_PERMITTED: 800,
  NOT_SUPPORTED: 801,
  SYSTEM_NOT_READY: 802,
  SYSTEM_DRIVER_MISMATCH: 803,
  COMPAT_NOT_SUPPORTED_ON_DEVICE: 804,
  UNKNOWN: 999,
} as const;
export type StatusName = keyof typeof STATUS;

const NAMES = new Map<number, string>(Object.entries(STATUS).map(([name, code]) => [code, name]));

/** After these the context works as before. */
const HARMLESS: ReadonlySet<number> = new Set([
  STATUS.INVALID_VALUE,
  STATUS.OUT_OF_MEMORY,
  STATUS.NOT_INITIALIZED,
  STATUS.DEVICE_UNAVAILABLE,
  STATUS.NO_DEVICE,
  STATUS.INVALID_DEVICE,
  STATUS.INVALID_IMAGE,
  STATUS.INVALID_CONTEXT,
  STATUS.MAP_FAILED,
  STATUS.NO_BINARY_FOR_GPU,
  STATUS.INVALID_PTX,
  STATUS.JIT_COMPILER_NOT_FOUND,
  STATUS.UNSUPPORTED_PTX_VERSION,
  STATUS.JIT_COMPILATION_DISABLED,
  STATUS.INVALID_HANDLE,
  STATUS.NOT_FOUND,
  STATUS.NOT_READY,
  STATUS.HOST_MEMORY_ALREADY_REGISTERED,
  STATUS.HOST_MEMORY_NOT_REGISTERED,
  STATUS.NOT_PERMITTED,
  STATUS.NOT_SUPPORTED,
  STATUS.SYSTEM_NOT_READY,
]);

/** Memory was there but could not be read: fatal, and a different outcome from a mismatch. */
const UNREADABLE: ReadonlySet<number> = new Set([
  STATUS.ECC_UNCORRECTABLE,
  STATUS.NVLINK_UNCORRECTABLE,
  STATUS.CONTAINED,
]);

/** Whether the context is unusable after `status`. */
export function isFatalStatus(status: number): boolean {
  return status !== STATUS.SUCCESS && !HARMLESS.has(status);
}

/** `ILLEGAL_ADDRESS (700)`; unknown codes keep their number. */
export function statusName(status: number): string {
  return `${NAMES.get(status) ?? "CUDA status"} (${status})`;
}

/** The error for a call that returned `status`. Errors of enqueued work surface on later, innocent calls. */
export function cudaError(call: string, status: number): VramError {
  const details = { call, status };
  const text = `${call}: ${statusName(status)}`;
  if (status === STATUS.OUT_OF_MEMORY && call.includes("HostRegister")) {
    return new VramError("CUDA_FAILED", `${text}: host memory could not be page-locked`, { details });
  }
  if (status === STATUS.OUT_OF_MEMORY) return new VramError("OUT_OF_VRAM", text, { details });
  if (UNREADABLE.has(status)) return new VramError("VRAM_UNREADABLE", text, { details });
  if (isFatalStatus(status)) return new VramError("DEVICE_LOST", text, { details });
  return new VramError("CUDA_FAILED", text, { details });
}
