/**
 * What an emulated machine consists of. Devices have UUIDs beginning `EMU-` and a name that says "emulated", so that
 * nothing measured here can pass for evidence from a GPU.
 */
import { assert } from "../../assert.ts";
import type { HashPool } from "../../hash/pool.ts";
import type { CudaDriver, DeviceAttribute } from "../driver.ts";
import type { Tenant } from "../monitor.ts";
import type { OpenStore } from "./backing.ts";
import type { EmulatedFaults } from "./faults.ts";

/** One emulated device. */
export interface EmulatedDeviceSpec {
  /** `EMU-…`, kept in the state directory by the caller. */
  readonly uuid: string;
  /** All of its memory, in bytes. */
  readonly byteLength: number;
  /** Read anew for every answer, so that a test may change what others hold. */
  readonly tenants?: readonly Tenant[];
  /**
   * Makes the room of each allocation, so that other processes may be handed it: `openShareable`, which brings native
   * code and needs Linux. Without it memory is this process's alone, and descriptors of it are made up.
   */
  readonly shareable?: OpenStore;
  /** What the driver says of it, where that is not the usual. */
  readonly attributes?: Partial<Record<DeviceAttribute, number>>;
  /** Must contain "emulated", in any case. */
  readonly name?: string;
}

export interface EmulatedOptions {
  readonly devices: readonly EmulatedDeviceSpec[];
  /** Level hashing runs on it. It stays the caller's: `close()` does not close it. */
  readonly pool: HashPool;
  readonly faults?: EmulatedFaults;
}

/** What only an emulated driver can be asked. For tests. */
export interface Emulation {
  /** Closes an exported fd, as its last holder would; not one of shareable memory, which is the system's. */
  closeExportedFd(fd: number): void;
  /** Allocations that hold VRAM, oldest first. `allocation` is what fault plans name them by. */
  allocations(): readonly { readonly allocation: number; readonly ordinal: number; readonly byteLength: number }[];
  /** Host memory behind all granules; dirty and zero ones take none. */
  storedBytes(): number;
  /** Live objects by kind, without the kinds that have none. */
  live(): Readonly<Record<string, number>>;
  /** What the next call would throw. A test that ends should find nothing here. */
  pendingLint(): unknown;
}

export interface EmulatedDriver extends CudaDriver {
  readonly backend: "emulated";
  readonly emulation: Emulation;
}

export const DRIVER_VERSION = 13000;
const DEFAULT_NAME = "Emulated GPU";

const DEFAULT_ATTRIBUTES: Readonly<Record<DeviceAttribute, number>> = {
  multiprocessorCount: 0,
  integrated: 0,
  computeMode: 0,
  eccEnabled: 0,
  l2CacheBytes: 0,
  unifiedAddressing: 1,
  computeCapabilityMajor: 0,
  computeCapabilityMinor: 0,
  managedMemory: 1,
  pageableMemoryAccess: 0,
  virtualMemoryManagement: 1,
  posixFileDescriptorHandles: 1,
  mpsEnabled: 0,
};

export function attributeOf(device: EmulatedDeviceSpec, attribute: DeviceAttribute): number {
  return device.attributes?.[attribute] ?? DEFAULT_ATTRIBUTES[attribute];
}

export function nameOf(device: EmulatedDeviceSpec): string {
  const name = device.name ?? DEFAULT_NAME;
  assert(/emulated/i.test(name), "the name of an emulated device says so");
  return name;
}
