/**
 * The memory calls. The VMM ones need no context, as on hardware (facts/cuda.md §1.1); pinned memory and pointer
 * attributes need one.
 */
import { ACCESS, type CudaDriver, type PointerAttribute } from "../driver.ts";
import { cudaError, STATUS } from "../status.ts";
import { flagsOf } from "./address-space.ts";
import { propertiesOf } from "./memory.ts";
import type { Parts } from "./parts.ts";
import { GRANULE_BYTES } from "./physical.ts";

const MEMORY_TYPE_HOST = 1n;
const MEMORY_TYPE_DEVICE = 2n;

type Answers = Readonly<Record<PointerAttribute, bigint | undefined>>;

/** What the driver knows of the address, or undefined: it is neither mapped nor pinned. */
function describePointer(parts: Parts, cuPointer: bigint, ordinal: number): Answers | undefined {
  const mapping = parts.space.find(cuPointer);
  if (mapping !== undefined) {
    return {
      memoryType: MEMORY_TYPE_DEVICE,
      hostPointer: undefined,
      isManaged: 0n,
      deviceOrdinal: BigInt(mapping.allocation.ordinal),
      rangeStart: mapping.start,
      rangeSize: BigInt(mapping.byteLength),
      accessFlags: BigInt(flagsOf(mapping, ordinal)),
    };
  }
  const block = parts.pinned.find(cuPointer);
  if (block === undefined) return undefined;
  return {
    memoryType: MEMORY_TYPE_HOST,
    hostPointer: cuPointer,
    isManaged: 0n,
    deviceOrdinal: BigInt(block.context.ordinal),
    rangeStart: block.start,
    rangeSize: BigInt(block.byteLength),
    accessFlags: BigInt(ACCESS.readWrite),
  };
}

function pinnedCalls(parts: Parts): Pick<CudaDriver["memory"], "pointerAttribute" | "allocatePinned" | "freePinned"> {
  const { enter, contexts, pinned, faults } = parts;
  return {
    pointerAttribute: enter("memory.pointerAttribute", (cuPointer, attribute) => {
      const { ordinal } = contexts.current("memory.pointerAttribute");
      const value = describePointer(parts, cuPointer, ordinal)?.[attribute];
      return faults.pointerAttribute === undefined ? value : faults.pointerAttribute(attribute, value);
    }),
    allocatePinned: enter("memory.allocatePinned", (byteLength) =>
      pinned.allocate(byteLength, contexts.current("memory.allocatePinned")),
    ),
    freePinned: enter("memory.freePinned", (cuPointer) => {
      contexts.current("memory.freePinned");
      pinned.free(cuPointer);
    }),
  };
}

export function memoryCalls(parts: Parts): CudaDriver["memory"] {
  const { enter, device, allocations, space, faults } = parts;
  return {
    ...pinnedCalls(parts),
    granularity: enter("memory.granularity", (cuDevice) => {
      device(cuDevice, "memory.granularity");
      return GRANULE_BYTES;
    }),
    create: enter("memory.create", (byteLength, cuDevice) =>
      allocations.create(byteLength, device(cuDevice, "memory.create")),
    ),
    release: enter("memory.release", (cuHandle) => allocations.release(cuHandle)),
    retainHandle: enter("memory.retainHandle", (cuPointer) => {
      const mapping = space.find(cuPointer);
      if (mapping === undefined) throw cudaError("memory.retainHandle", STATUS.INVALID_VALUE);
      return allocations.retain(mapping.allocation);
    }),
    properties: enter("memory.properties", (cuHandle) => {
      const properties = propertiesOf(allocations.get(cuHandle, "memory.properties"));
      return faults.properties?.(properties) ?? properties;
    }),
    exportFd: enter("memory.exportFd", (cuHandle) => allocations.exportFd(cuHandle)),
    reserveAddress: enter("memory.reserveAddress", (byteLength) => space.reserve(byteLength)),
    freeAddress: enter("memory.freeAddress", (cuPointer, byteLength) => space.free(cuPointer, byteLength)),
    map: enter("memory.map", (cuPointer, byteLength, cuHandle) => space.map(cuPointer, byteLength, cuHandle)),
    unmap: enter("memory.unmap", (cuPointer, byteLength) => space.unmap(cuPointer, byteLength)),
    setAccess: enter("memory.setAccess", (cuPointer, byteLength, cuDevice, access) =>
      space.setAccess(cuPointer, byteLength, device(cuDevice, "memory.setAccess").ordinal, access),
    ),
    getAccess: enter("memory.getAccess", (cuPointer, cuDevice) => {
      const flags = space.getAccess(cuPointer, device(cuDevice, "memory.getAccess").ordinal);
      return faults.access?.(flags) ?? flags;
    }),
  };
}
