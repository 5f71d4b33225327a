/** The driver's answers as facts with names: what the policy judges, what `doctor` shows. Nothing is decided here. */
import type { CudaDriver, DeviceAttribute } from "../cuda/driver.ts";
import { type Allocation, accessName, type RawFacts } from "../handles/allocation.ts";
import type { AllocationFacts, DeviceFacts, DeviceInfo } from "./device.ts";

/** Facts of a device. `wddm`: whether `/dev/dxg` exists, which no driver attribute tells. */
export function readDeviceFacts(driver: CudaDriver, cuDevice: number, wddm: boolean): DeviceFacts {
  const is = (attribute: DeviceAttribute): boolean => driver.device.attribute(cuDevice, attribute) !== 0;
  return {
    integrated: is("integrated"),
    wddm,
    virtualMemoryManagement: is("virtualMemoryManagement"),
    mps: is("mpsEnabled"),
    pageableMemoryAccess: is("pageableMemoryAccess"),
    unifiedAddressing: is("unifiedAddressing"),
    managedMemory: is("managedMemory"),
    posixFileDescriptorHandles: is("posixFileDescriptorHandles"),
    eccEnabled: is("eccEnabled"),
  };
}

/** Everything about a device that does not change while it is open. */
export function readDeviceInfo(driver: CudaDriver, ordinal: number, wddm: boolean): DeviceInfo {
  const cuDevice = driver.device.get(ordinal);
  const attribute = (name: DeviceAttribute): number => driver.device.attribute(cuDevice, name);
  return Object.freeze({
    ordinal,
    uuid: driver.device.uuid(cuDevice),
    name: driver.device.name(cuDevice),
    backend: driver.backend,
    driverVersion: driver.version,
    computeCapability: `${attribute("computeCapabilityMajor")}.${attribute("computeCapabilityMinor")}`,
    bytesTotal: driver.device.totalMemory(cuDevice),
    granuleBytes: driver.memory.granularity(cuDevice),
    l2CacheBytes: attribute("l2CacheBytes"),
    facts: Object.freeze(readDeviceFacts(driver, cuDevice, wddm)),
  });
}

const MEMORY_TYPES: Record<number, AllocationFacts["memoryType"]> = { 1: "host", 2: "device", 4: "unified" };
const ALLOCATION_TYPES: Record<number, AllocationFacts["allocationType"]> = { 1: "pinned", 2: "managed" };
const LOCATION_TYPES: Record<number, AllocationFacts["locationType"]> = { 1: "device", 2: "host", 3: "host" };

/**
 * The access of the main mapping. `cuMemGetAccess` is the documented question and decides; the pointer's attribute,
 * which cuda.h names but does not explain, may contradict it, and then the access is `unknown`.
 */
function accessOf(raw: RawFacts): Pick<AllocationFacts, "mainAccess" | "accessConfirmed"> {
  const mainAccess = accessName(raw.mappingAccess);
  if (raw.pointerAccess === undefined) return { mainAccess, accessConfirmed: false };
  const accessConfirmed = mainAccess === accessName(raw.pointerAccess);
  return { mainAccess: accessConfirmed ? mainAccess : "unknown", accessConfirmed };
}

/** Facts of one allocation, asked of the driver now. */
export function readAllocationFacts(allocation: Allocation, cuDevice: number): AllocationFacts {
  const raw = allocation.facts();
  return {
    allocationType: ALLOCATION_TYPES[raw.allocationType] ?? "unknown",
    locationType: LOCATION_TYPES[raw.locationType] ?? "unknown",
    memoryType: raw.memoryType === undefined ? "unknown" : (MEMORY_TYPES[Number(raw.memoryType)] ?? "unknown"),
    managed: raw.isManaged === undefined ? "unknown" : raw.isManaged !== 0n,
    ordinalMatches: raw.locationId === cuDevice && raw.deviceOrdinal === BigInt(cuDevice),
    ...accessOf(raw),
    sizeMatches: raw.rangeBytes === BigInt(allocation.mappedBytes),
    hostPointerKnown: raw.hostPointerKnown,
    properties: {
      allocationType: raw.allocationType,
      locationType: raw.locationType,
      locationId: raw.locationId,
    },
  };
}
