/**
 * The border to CUDA: exactly the driver calls the journey needs, nouns × verbs, one TypeScript name per C symbol.
 * Two implementations: `emulated/` over host memory, `native/` over `libcuda.so.1`.
 *
 * Rules of the border (design §7): pointers and handles are `bigint` and never leave `cuda/` and `handles/`; streams
 * are always explicit; every call is synchronous and throws a `VramError` made by `status.ts` on a status other than
 * success. Work enqueued on a stream happens later, and its errors surface later, on any call.
 */

/** Which implementation answers. Stamped on every seal, entry and screen, so that none can pass for another. */
export type Backend = "cuda" | "cuda-substituted" | "emulated";

/** The driver library as the loader finds it; any other makes the backend `cuda-substituted`. */
export const CUDA_LIBRARY = "libcuda.so.1";

/** `CUdevice_attribute` values used here (cuda.h, CUDA 13.0). */
export const DEVICE_ATTRIBUTE = {
  multiprocessorCount: 16,
  integrated: 18,
  computeMode: 20,
  eccEnabled: 32,
  l2CacheBytes: 38,
  unifiedAddressing: 41,
  computeCapabilityMajor: 75,
  computeCapabilityMinor: 76,
  managedMemory: 83,
  pageableMemoryAccess: 88,
  virtualMemoryManagement: 102,
  posixFileDescriptorHandles: 103,
  mpsEnabled: 133,
} as const;
/** One of `DEVICE_ATTRIBUTE` by name. @useDeclaredType */
export type DeviceAttribute = keyof typeof DEVICE_ATTRIBUTE;

/** `CUpointer_attribute` values used here (cuda.h, CUDA 13.0). */
export const POINTER_ATTRIBUTE = {
  memoryType: 2,
  hostPointer: 4,
  isManaged: 8,
  deviceOrdinal: 9,
  rangeStart: 11,
  rangeSize: 12,
  accessFlags: 16,
} as const;
/** One of `POINTER_ATTRIBUTE` by name. @useDeclaredType */
export type PointerAttribute = keyof typeof POINTER_ATTRIBUTE;

/** `CUmemAccess_flags`. A new mapping has `none`. */
export const ACCESS = { none: 0, read: 1, readWrite: 3 } as const;
/** What may be done through a mapping. @useDeclaredType */
export type Access = keyof typeof ACCESS;

/** `CUmemAllocationProp`, as far as the driver reports it back. Numbers as in cuda.h: pinned = 1, device = 1. */
export interface AllocationProperties {
  /** `CUmemAllocationType`: 1 is pinned. */
  readonly allocationType: number;
  /** `CUmemLocationType`: 1 is a device. */
  readonly locationType: number;
  /** Ordinal of the device. */
  readonly locationId: number;
}

/** Page-locked host memory. `bytes` views it for as long as it is allocated. */
export interface PinnedMemory {
  readonly cuPointer: bigint;
  readonly bytes: Uint8Array;
}

export type KernelParameter =
  | { readonly kind: "u32"; readonly value: number }
  | { readonly kind: "u64"; readonly value: bigint };

export interface Launch {
  readonly gridX: number;
  readonly blockX: number;
  readonly parameters: readonly KernelParameter[];
}

interface DeviceCalls {
  /** cuDeviceGetCount. */
  count(): number;
  /** cuDeviceGet. */
  get(ordinal: number): number;
  /** cuDeviceGetName. */
  name(cuDevice: number): string;
  /** cuDeviceGetUuid_v2: `GPU-…`, `MIG-…`, emulated `EMU-…`. */
  uuid(cuDevice: number): string;
  /** cuDeviceTotalMem_v2, bytes. */
  totalMemory(cuDevice: number): number;
  /** cuDeviceGetAttribute. */
  attribute(cuDevice: number, attribute: DeviceAttribute): number;
}

interface ContextCalls {
  /** cuDevicePrimaryCtxRetain. */
  retainPrimary(cuDevice: number): bigint;
  /** cuDevicePrimaryCtxRelease_v2. */
  releasePrimary(cuDevice: number): void;
  /** cuCtxSetCurrent, for the calling thread. */
  setCurrent(cuContext: bigint): void;
  /** cuMemGetInfo_v2 of the current context, bytes. */
  memoryInfo(): { readonly bytesFree: number; readonly bytesTotal: number };
}

interface MemoryCalls {
  /** cuMemGetAllocationGranularity (minimum), bytes. */
  granularity(cuDevice: number): number;
  /** cuMemCreate: PINNED, DEVICE location, POSIX fd handle type. `byteLength` is a multiple of the granularity. */
  create(byteLength: number, cuDevice: number): bigint;
  /** cuMemRelease. The memory goes when the last handle, mapping and exported fd are gone. */
  release(cuHandle: bigint): void;
  /** cuMemRetainAllocationHandle: the handle behind a mapped address, with a reference of its own. */
  retainHandle(cuPointer: bigint): bigint;
  /** cuMemGetAllocationPropertiesFromHandle. */
  properties(cuHandle: bigint): AllocationProperties;
  /** cuMemExportToShareableHandle: a POSIX fd. */
  exportFd(cuHandle: bigint): number;
  /** cuMemAddressReserve. */
  reserveAddress(byteLength: number): bigint;
  /** cuMemAddressFree. */
  freeAddress(cuPointer: bigint, byteLength: number): void;
  /** cuMemMap at offset 0, with no access. */
  map(cuPointer: bigint, byteLength: number, cuHandle: bigint): void;
  /** cuMemUnmap. */
  unmap(cuPointer: bigint, byteLength: number): void;
  /** cuMemSetAccess for `cuDevice`. */
  setAccess(cuPointer: bigint, byteLength: number, cuDevice: number, access: Access): void;
  /** cuMemGetAccess: the numeric flags of the mapping. */
  getAccess(cuPointer: bigint, cuDevice: number): number;
  /** cuPointerGetAttribute; undefined when the driver has no answer. */
  pointerAttribute(cuPointer: bigint, attribute: PointerAttribute): bigint | undefined;
  /** cuMemHostAlloc (portable, never write-combined). */
  allocatePinned(byteLength: number): PinnedMemory;
  /** cuMemFreeHost. */
  freePinned(cuPointer: bigint): void;
}

interface StreamCalls {
  /** cuStreamCreate (non-blocking). */
  create(): bigint;
  /** cuStreamDestroy_v2. */
  destroy(cuStream: bigint): void;
  /** cuMemcpyHtoDAsync_v2 from pinned memory. */
  copyToDevice(cuStream: bigint, cuTo: bigint, cuFrom: bigint, byteLength: number): void;
  /** cuMemcpyDtoHAsync_v2 into pinned memory. */
  copyToHost(cuStream: bigint, cuTo: bigint, cuFrom: bigint, byteLength: number): void;
  /** cuMemsetD8Async. */
  fill(cuStream: bigint, cuTo: bigint, value: number, byteLength: number): void;
  /** cuLaunchKernel. */
  launch(cuStream: bigint, cuFunction: bigint, launch: Launch): void;
}

interface EventCalls {
  /** cuEventCreate (timing disabled). */
  create(): bigint;
  /** cuEventDestroy_v2. */
  destroy(cuEvent: bigint): void;
  /** cuEventRecord. */
  record(cuEvent: bigint, cuStream: bigint): void;
  /** cuEventQuery. An event that was never recorded is `complete`: the handle refuses to wait on one. */
  query(cuEvent: bigint): "complete" | "not-ready";
}

interface ModuleCalls {
  /** cuModuleLoadDataEx. */
  load(image: Uint8Array): bigint;
  /** cuModuleUnload. */
  unload(cuModule: bigint): void;
  /** cuModuleGetFunction. */
  getFunction(cuModule: bigint, name: string): bigint;
}

/**
 * Only the emulated driver has one: it is told how many bytes of an allocation are in use, so that it can report what
 * no real driver would (an overrun within the last granule).
 */
export interface DriverLint {
  /** `byteLength` bytes from `cuPointer` are in use; access beyond them is a bug of ours. */
  setExtent(cuPointer: bigint, byteLength: number): void;
}

/** The driver of one backend. Factories: `openEmulatedDriver`, `openNativeDriver`. */
export interface CudaDriver {
  readonly backend: Backend;
  /** cuDriverGetVersion: 13000 is CUDA 13.0. */
  readonly version: number;
  readonly device: DeviceCalls;
  readonly context: ContextCalls;
  readonly memory: MemoryCalls;
  readonly stream: StreamCalls;
  readonly event: EventCalls;
  readonly module: ModuleCalls;
  readonly lint?: DriverLint;
  /** Ends threads the driver started. Never throws. */
  close(): Promise<void>;
}
