/**
 * Memory that another process made, mapped here for reading: the other end of an export. No context takes part: import,
 * mapping and access are of the process (cuda.h names no CUDA_ERROR_INVALID_CONTEXT for any of them). The driver is asked
 * where the memory lies, so that nobody reads another GPU's over a link in the belief that it is this one's.
 */
import type { ReleaseFailureReporter } from "../../dispose.ts";
import { VramError } from "../../errors.ts";
import { deviceCalls } from "./device.ts";
import { type DriverLibrary, int, u64 } from "./library.ts";
import { ALLOCATION_PINNED, HANDLE_POSIX_FD, LOCATION_DEVICE, memoryCalls } from "./memory.ts";

/** What is imported. */
export interface ImportSource {
  /** Stays the caller's: the driver takes a reference of its own. */
  readonly fd: number;
  /** Of the allocation: it is mapped as a whole. */
  readonly byteLength: number;
  readonly deviceUuid: string;
}

export interface ImportedMemory {
  /** Where it begins in this process. The GPU may read there, and no more. */
  readonly cuPointer: bigint;
  /** Unmaps it and lets go of it. Reports each release that fails; may be called twice. */
  close(report: ReleaseFailureReporter): void;
}

type Step = readonly [what: string, undo: () => void];

function deviceOf(cu: DriverLibrary, uuid: string): number {
  const device = deviceCalls(cu);
  const count = device.count();
  for (let ordinal = 0; ordinal < count; ordinal += 1) {
    const cuDevice = device.get(ordinal);
    if (device.uuid(cuDevice) === uuid) return cuDevice;
  }
  throw new VramError("DEVICE_NOT_FOUND", `${uuid} is not among the ${count} GPUs that this process sees`, {
    fix: "attach where that GPU is visible: look at CUDA_VISIBLE_DEVICES, and in a container at the GPUs passed in",
    details: { deviceUuid: uuid },
  });
}

/** cuMemImportFromShareableHandle. */
export function importHandle(cu: DriverLibrary, fd: number): bigint {
  cu.call("memImport", cu.room(), u64(BigInt(int(fd))), HANDLE_POSIX_FD);
  return cu.out.getBigUint64(0, true);
}

function releaseAll(steps: Step[], report: ReleaseFailureReporter): void {
  for (let step = steps.pop(); step !== undefined; step = steps.pop()) {
    try {
      step[1]();
    } catch (error) {
      report(step[0], error);
    }
  }
}

/** Throws unless it is pinned memory of this device. */
function requirePlace(memory: ReturnType<typeof memoryCalls>, cuHandle: bigint, cuDevice: number): void {
  const { allocationType, locationType, locationId } = memory.properties(cuHandle);
  if (allocationType === ALLOCATION_PINNED && locationType === LOCATION_DEVICE && locationId === cuDevice) return;
  throw new VramError("POLICY_VIOLATION", "the imported memory is not pinned memory of the GPU that was named", {
    fix: "do not use it: whoever exported it says that it lies elsewhere",
    details: { allocationType, locationType, locationId, wanted: cuDevice },
  });
}

/**
 * Imports an allocation and maps it, readable for its own device. `DEVICE_NOT_FOUND` if that is not visible here,
 * `POLICY_VIOLATION` if the memory lies elsewhere; what fails leaves nothing behind.
 */
export function importMemory(cu: DriverLibrary, source: ImportSource, report: ReleaseFailureReporter): ImportedMemory {
  const { fd, byteLength, deviceUuid } = source;
  const memory = memoryCalls(cu);
  const cuDevice = deviceOf(cu, deviceUuid);
  const steps: Step[] = [];
  try {
    const cuHandle = importHandle(cu, fd);
    steps.push(["imported memory", () => memory.release(cuHandle)]);
    requirePlace(memory, cuHandle, cuDevice);
    const cuPointer = memory.reserveAddress(byteLength);
    steps.push(["address range of imported memory", () => memory.freeAddress(cuPointer, byteLength)]);
    memory.map(cuPointer, byteLength, cuHandle);
    steps.push(["mapping of imported memory", () => memory.unmap(cuPointer, byteLength)]);
    memory.setAccess(cuPointer, byteLength, cuDevice, "read");
    return { cuPointer, close: (tell) => releaseAll(steps, tell) };
  } catch (error) {
    releaseAll(steps, report);
    throw error;
  }
}
