/**
 * Every function of `libcuda.so.1` that is called, in koffi's syntax. Suffixed symbols are the current ABI: the plain
 * names of those functions are older ones with other argument widths. Handles and device pointers are 8 bytes and
 * travel as `uint64_t`; out-parameters are `void *` into room of our own. A test compares each row with cuda.h.
 * Source: cuda.h of CUDA 13.0; all of them are in every driver since CUDA 11.4 (R470).
 */
export const DRIVER_PROTOTYPES = {
  init: "int cuInit(uint32_t flags)",
  driverGetVersion: "int cuDriverGetVersion(void *version)",
  deviceGetCount: "int cuDeviceGetCount(void *count)",
  deviceGet: "int cuDeviceGet(void *device, int ordinal)",
  deviceGetName: "int cuDeviceGetName(void *name, int length, int device)",
  deviceGetUuid: "int cuDeviceGetUuid_v2(void *uuid, int device)",
  deviceTotalMem: "int cuDeviceTotalMem_v2(void *bytes, int device)",
  deviceGetAttribute: "int cuDeviceGetAttribute(void *value, int attribute, int device)",

  primaryCtxRetain: "int cuDevicePrimaryCtxRetain(void *context, int device)",
  primaryCtxRelease: "int cuDevicePrimaryCtxRelease_v2(int device)",
  ctxSetCurrent: "int cuCtxSetCurrent(uint64_t context)",
  memGetInfo: "int cuMemGetInfo_v2(void *free, void *total)",

  memGetAllocationGranularity: "int cuMemGetAllocationGranularity(void *granularity, void *properties, int option)",
  memCreate: "int cuMemCreate(void *handle, size_t size, void *properties, uint64_t flags)",
  memRelease: "int cuMemRelease(uint64_t handle)",
  memRetainAllocationHandle: "int cuMemRetainAllocationHandle(void *handle, uint64_t address)",
  memGetAllocationProperties: "int cuMemGetAllocationPropertiesFromHandle(void *properties, uint64_t handle)",
  memExport: "int cuMemExportToShareableHandle(void *fd, uint64_t handle, int type, uint64_t flags)",
  // The descriptor by value, as wide as a pointer.
  memImport: "int cuMemImportFromShareableHandle(void *handle, uint64_t fd, int type)",
  memAddressReserve:
    "int cuMemAddressReserve(void *address, size_t size, size_t alignment, uint64_t hint, uint64_t flags)",
  memAddressFree: "int cuMemAddressFree(uint64_t address, size_t size)",
  memMap: "int cuMemMap(uint64_t address, size_t size, size_t offset, uint64_t handle, uint64_t flags)",
  memUnmap: "int cuMemUnmap(uint64_t address, size_t size)",
  memSetAccess: "int cuMemSetAccess(uint64_t address, size_t size, void *descriptors, size_t count)",
  memGetAccess: "int cuMemGetAccess(void *flags, void *location, uint64_t address)",
  pointerGetAttribute: "int cuPointerGetAttribute(void *value, int attribute, uint64_t address)",
  memHostRegister: "int cuMemHostRegister_v2(uint64_t address, size_t size, uint32_t flags)",
  memHostUnregister: "int cuMemHostUnregister(uint64_t address)",

  streamCreate: "int cuStreamCreate(void *stream, uint32_t flags)",
  streamDestroy: "int cuStreamDestroy_v2(uint64_t stream)",
  memcpyHtoDAsync: "int cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, size_t size, uint64_t stream)",
  memcpyDtoHAsync: "int cuMemcpyDtoHAsync_v2(uint64_t to, uint64_t from, size_t size, uint64_t stream)",
  memsetD8Async: "int cuMemsetD8Async(uint64_t to, uint8_t value, size_t size, uint64_t stream)",
  launchKernel:
    "int cuLaunchKernel(uint64_t function, uint32_t gridX, uint32_t gridY, uint32_t gridZ, uint32_t blockX, uint32_t blockY, uint32_t blockZ, uint32_t sharedBytes, uint64_t stream, uint64_t parameters, uint64_t extra)",

  eventCreate: "int cuEventCreate(void *event, uint32_t flags)",
  eventDestroy: "int cuEventDestroy_v2(uint64_t event)",
  eventRecord: "int cuEventRecord(uint64_t event, uint64_t stream)",
  eventQuery: "int cuEventQuery(uint64_t event)",

  moduleLoadDataEx: "int cuModuleLoadDataEx(void *module, void *image, uint32_t count, void *options, void *values)",
  moduleUnload: "int cuModuleUnload(uint64_t module)",
  moduleGetFunction: "int cuModuleGetFunction(void *function, uint64_t module, void *name)",
} as const;

export type DriverCall = keyof typeof DRIVER_PROTOTYPES;
