/**
 * Calls on memory: cuda.h's "Virtual Memory Management", and page-locking of host memory. Device memory is always
 * `cuMemCreate`: PINNED, at the device, exportable as a POSIX fd (VR-MEM-01).
 *
 * Host memory for transfers is made here, as shared memory that hashing threads can read, and registered with the
 * driver: memory that the driver allocates could not be shared with threads.
 */
import { requireInteger } from "../../assert.ts";
import { setCloseOnExec } from "../../ffi/descriptors.ts";
import { addressOf } from "../../ffi/library.ts";
import { ACCESS, type CudaDriver, type PinnedMemory, POINTER_ATTRIBUTE } from "../driver.ts";
import { STATUS } from "../status.ts";
import { byteCount, type DriverLibrary, int, size, u64 } from "./library.ts";

export const ALLOCATION_PINNED = 1;
export const LOCATION_DEVICE = 1;
export const HANDLE_POSIX_FD = 1;
const GRANULARITY_MINIMUM = 0;
const REGISTER_PORTABLE = 1;
/** What is registered begins and ends at a page, so that no two registrations share one. */
const PAGE_BYTES = 4096;
const PINNED_BYTES_MAX = 2 ** 30;

/** `CUmemAllocationProp`, 32 bytes: type @0, requestedHandleTypes @4, location.type @8, location.id @12, rest 0. */
function allocationProperties(cuDevice: number): Uint8Array {
  const properties = new DataView(new ArrayBuffer(32));
  properties.setInt32(0, ALLOCATION_PINNED, true);
  properties.setInt32(4, HANDLE_POSIX_FD, true);
  properties.setInt32(8, LOCATION_DEVICE, true);
  properties.setInt32(12, int(cuDevice), true);
  return new Uint8Array(properties.buffer);
}

/** `CUmemLocation` (8 bytes), and with access flags behind it `CUmemAccessDesc` (12 bytes). */
function location(cuDevice: number, flags?: number): Uint8Array {
  const words = flags === undefined ? [LOCATION_DEVICE, int(cuDevice)] : [LOCATION_DEVICE, int(cuDevice), flags];
  return new Uint8Array(Int32Array.from(words).buffer);
}

/**
 * Host memory by the address it is registered at: it must not go while it is, because the device may write to it and
 * the driver knows only its address. Of the process, not of a driver: what a stalled device leaves registered outlives
 * the driver that was closed, or whoever is given that memory next finds the device's bytes in it.
 */
const registered = new Map<bigint, Uint8Array>();

type PinnedCalls = Pick<CudaDriver["memory"], "allocatePinned" | "freePinned">;

function pinnedCalls(cu: DriverLibrary): PinnedCalls {
  return {
    allocatePinned: (byteLength): PinnedMemory => {
      requireInteger(byteLength, "byteLength of pinned memory", 1, PINNED_BYTES_MAX);
      const whole = Math.ceil(byteLength / PAGE_BYTES) * PAGE_BYTES;
      const room = new Uint8Array(new SharedArrayBuffer(whole + PAGE_BYTES));
      const skip = (PAGE_BYTES - Number(addressOf(room) % BigInt(PAGE_BYTES))) % PAGE_BYTES;
      const cuPointer = addressOf(room) + BigInt(skip);
      cu.call("memHostRegister", u64(cuPointer), size(whole), REGISTER_PORTABLE);
      registered.set(cuPointer, room);
      return { cuPointer, bytes: room.subarray(skip, skip + byteLength) };
    },
    freePinned: (cuPointer) => {
      cu.call("memHostUnregister", u64(cuPointer));
      registered.delete(cuPointer);
    },
  };
}

/** The `memory` calls. Sizes in bytes. */
export function memoryCalls(cu: DriverLibrary): CudaDriver["memory"] {
  return {
    granularity: (cuDevice) => {
      cu.call("memGetAllocationGranularity", cu.room(), allocationProperties(cuDevice), GRANULARITY_MINIMUM);
      return byteCount(cu.out.getBigUint64(0, true));
    },
    create: (byteLength, cuDevice) => {
      cu.call("memCreate", cu.room(), size(byteLength), allocationProperties(cuDevice), 0n);
      return cu.out.getBigUint64(0, true);
    },
    release: (cuHandle) => cu.call("memRelease", u64(cuHandle)),
    retainHandle: (cuPointer) => {
      cu.call("memRetainAllocationHandle", cu.room(), u64(cuPointer));
      return cu.out.getBigUint64(0, true);
    },
    properties: (cuHandle) => {
      cu.call("memGetAllocationProperties", cu.room(), u64(cuHandle));
      return {
        allocationType: cu.out.getInt32(0, true),
        locationType: cu.out.getInt32(8, true),
        locationId: cu.out.getInt32(12, true),
      };
    },
    exportFd: (cuHandle) => {
      cu.call("memExport", cu.room(), u64(cuHandle), HANDLE_POSIX_FD, 0n);
      const fd = cu.out.getInt32(0, true);
      setCloseOnExec(fd);
      return fd;
    },
    reserveAddress: (byteLength) => {
      cu.call("memAddressReserve", cu.room(), size(byteLength), 0, 0n, 0n);
      return cu.out.getBigUint64(0, true);
    },
    freeAddress: (cuPointer, byteLength) => cu.call("memAddressFree", u64(cuPointer), size(byteLength)),
    map: (cuPointer, byteLength, cuHandle) => cu.call("memMap", u64(cuPointer), size(byteLength), 0, u64(cuHandle), 0n),
    unmap: (cuPointer, byteLength) => cu.call("memUnmap", u64(cuPointer), size(byteLength)),
    setAccess: (cuPointer, byteLength, cuDevice, access) =>
      cu.call("memSetAccess", u64(cuPointer), size(byteLength), location(cuDevice, ACCESS[access]), 1),
    getAccess: (cuPointer, cuDevice) => {
      cu.call("memGetAccess", cu.room(), location(cuDevice), u64(cuPointer));
      return Number(cu.out.getBigUint64(0, true));
    },
    pointerAttribute: (cuPointer, attribute) => {
      const status = cu.status("pointerGetAttribute", cu.room(), POINTER_ATTRIBUTE[attribute], u64(cuPointer));
      // cuda.h names the access flags, but not where they are supported.
      const noAnswer = attribute === "accessFlags" && status === STATUS.NOT_SUPPORTED;
      if (noAnswer || status === STATUS.INVALID_VALUE) return undefined;
      if (status !== STATUS.SUCCESS) throw cu.error("pointerGetAttribute", status);
      return cu.out.getBigUint64(0, true);
    },
    ...pinnedCalls(cu),
  };
}
