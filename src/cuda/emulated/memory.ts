/**
 * Allocations: what `cuMemCreate` makes. An allocation holds VRAM for as long as anything refers to it: a handle, a
 * mapping, an exported fd. Capacity is what the device has, less what other tenants hold, less our allocations.
 *
 * Not modelled: fragmentation, the memory a context takes for itself, import of an fd. Where memory is not shareable the
 * numbers of fds are made up, and only `closeExportedFd` closes one.
 */
import type { AllocationProperties } from "../driver.ts";
import { cudaError, STATUS } from "../status.ts";
import { heapStore } from "./backing.ts";
import { othersOn } from "./holders.ts";
import { EmulatorLint } from "./lint.ts";
import type { EmulatedDeviceSpec } from "./options.ts";
import { GRANULE_BYTES, openPhysicalMemory, type PhysicalMemory } from "./physical.ts";

/** The device an allocation lies on. */
export interface DeviceMemory {
  readonly ordinal: number;
  /** Tenants are read anew for every answer: they come and go. */
  readonly spec: EmulatedDeviceSpec;
}

export interface Allocation {
  /** 1 for the driver's first successful `create`, and so on. Fault plans name memory by it. */
  readonly serial: number;
  readonly cuHandle: bigint;
  readonly ordinal: number;
  readonly physical: PhysicalMemory;
  /** Bytes in use, as announced by `DriverLint.setExtent`. */
  extent: number;
  handles: number;
  mappings: number;
  fds: number;
}

export interface Allocations {
  create(byteLength: number, device: DeviceMemory): bigint;
  /** The allocation behind a live handle. */
  get(cuHandle: bigint, call: string): Allocation;
  release(cuHandle: bigint): void;
  /** One more handle on an allocation that is kept by something else: the same value, as the real driver promises. */
  retain(allocation: Allocation): bigint;
  exportFd(cuHandle: bigint): number;
  closeFd(fd: number): void;
  /** A mapping of it came or went. */
  countMappings(allocation: Allocation, change: 1 | -1): void;
  bytesFree(device: DeviceMemory): number;
  readonly liveFds: number;
  values(): IterableIterator<Allocation>;
}

const HANDLE_BASE = 0x00a1_0c00_0000_0000n;
const HANDLE_STEP = 0x100n;
const FIRST_FD = 1_000_000;

export function propertiesOf(allocation: Allocation): AllocationProperties {
  return { allocationType: 1, locationType: 1, locationId: allocation.ordinal };
}

/** A handle that was issued is gone; any other value never was one. */
function refuseHandle(cuHandle: bigint, issued: number, call: string): never {
  const index = (cuHandle - HANDLE_BASE) / HANDLE_STEP;
  if (cuHandle === HANDLE_BASE + index * HANDLE_STEP && index >= 1n && index <= BigInt(issued)) {
    throw new EmulatorLint(`${call}: the allocation handle was released`);
  }
  throw cudaError(call, STATUS.INVALID_VALUE);
}

/** An allocation with one handle. */
function newAllocation(serial: number, byteLength: number, { ordinal, spec }: DeviceMemory): Allocation {
  const cuHandle = HANDLE_BASE + HANDLE_STEP * BigInt(serial);
  const store = spec.shareable?.(spec.uuid, byteLength) ?? heapStore;
  const physical = openPhysicalMemory(byteLength, serial, store);
  return { serial, cuHandle, ordinal, physical, extent: byteLength, handles: 1, mappings: 0, fds: 0 };
}

export function openAllocations(): Allocations {
  const live = new Map<bigint, Allocation>();
  const fds = new Map<number, Allocation>();
  const used = new Map<number, number>();
  let serial = 0;
  let nextFd = FIRST_FD;

  const usedOn = (ordinal: number): number => used.get(ordinal) ?? 0;
  const bytesFree = (device: DeviceMemory): number => {
    const others = othersOn(device.spec).reduce((sum, tenant) => sum + tenant.byteLength, 0);
    return Math.max(0, device.spec.byteLength - others - usedOn(device.ordinal));
  };
  const dropIfUnused = (allocation: Allocation): void => {
    if (allocation.handles + allocation.mappings + allocation.fds > 0) return;
    live.delete(allocation.cuHandle);
    allocation.physical.drop();
    used.set(allocation.ordinal, usedOn(allocation.ordinal) - allocation.physical.byteLength);
  };
  const get = (cuHandle: bigint, call: string): Allocation => {
    const allocation = live.get(cuHandle);
    return allocation !== undefined && allocation.handles > 0 ? allocation : refuseHandle(cuHandle, serial, call);
  };

  return {
    create: (byteLength, device) => {
      const valid = Number.isSafeInteger(byteLength) && byteLength > 0 && byteLength % GRANULE_BYTES === 0;
      if (!valid) throw cudaError("memory.create", STATUS.INVALID_VALUE);
      if (byteLength > bytesFree(device)) throw cudaError("memory.create", STATUS.OUT_OF_MEMORY);
      const allocation = newAllocation(serial + 1, byteLength, device);
      serial += 1;
      live.set(allocation.cuHandle, allocation);
      used.set(device.ordinal, usedOn(device.ordinal) + byteLength);
      return allocation.cuHandle;
    },
    get,
    release: (cuHandle) => {
      const allocation = get(cuHandle, "memory.release");
      allocation.handles -= 1;
      dropIfUnused(allocation);
    },
    retain: (allocation) => {
      allocation.handles += 1;
      return allocation.cuHandle;
    },
    exportFd: (cuHandle) => {
      const allocation = get(cuHandle, "memory.exportFd");
      const shared = allocation.physical.exportFd();
      // Not counted: it is closed here or in another process, and nobody says so. Where it outlives the allocation, those
      // who hold it are found (`holders.ts`).
      if (shared !== undefined) return shared;
      allocation.fds += 1;
      fds.set(nextFd, allocation);
      nextFd += 1;
      return nextFd - 1;
    },
    closeFd: (fd) => {
      const allocation = fds.get(fd);
      if (allocation === undefined) throw new EmulatorLint(`closeExportedFd: ${fd} is not an exported fd that is open`);
      fds.delete(fd);
      allocation.fds -= 1;
      dropIfUnused(allocation);
    },
    countMappings: (allocation, change) => {
      allocation.mappings += change;
      dropIfUnused(allocation);
    },
    bytesFree,
    get liveFds() {
      return fds.size;
    },
    values: () => live.values(),
  };
}
