/** Devices and their primary contexts. What a device is like follows an H200 where it is not configured. */
#include <cstdio>
#include <cstring>

#include "fake.hpp"

using namespace fake;

namespace {

thread_local Device* current = nullptr;
/** What cuCtxPopCurrent brings back. */
thread_local std::vector<Device*> below;

const std::map<int, int> ATTRIBUTES = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7FFFFFFF},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
    {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
    {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 60 << 20},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
    {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1},
};

/** A context's handle is made of its device's ordinal; there is one per device. */
CUcontext contextOf(const Device& device) {
  return reinterpret_cast<CUcontext>(0xC047E000ULL + 0x100ULL * static_cast<unsigned>(device.ordinal));
}

template <typename Table, typename Belongs>
void eraseWhere(Table& table, Belongs belongs) {
  for (auto at = table.begin(); at != table.end();) at = belongs(at->second) ? table.erase(at) : std::next(at);
}

/** What a context takes along. */
void endContext(const Device& device) {
  const auto here = [&](const auto& thing) { return thing.device == device.ordinal; };
  eraseWhere(state().streams, [&](int ordinal) { return ordinal == device.ordinal; });
  eraseWhere(state().events, here);
  eraseWhere(state().pinned, here);
  eraseWhere(state().functions, [&](const Function& function) { return here(state().modules.at(function.module)); });
  eraseWhere(state().modules, here);
}

}  // namespace

namespace fake {

Device* currentDevice() { return current; }

Device* deviceAt(int ordinal) {
  return ordinal >= 0 && ordinal < state().config.devices ? &state().devices[ordinal] : nullptr;
}

}  // namespace fake

FAKE cuInit(unsigned int flags) {
  FAKE_CALL(start);
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (state().config.devices == 0) return CUDA_ERROR_NO_DEVICE;
  state().initialised = true;
  return CUDA_SUCCESS;
}

FAKE cuDriverGetVersion(int* version) {
  FAKE_CALL(configuration);
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = state().config.driverVersion;
  return CUDA_SUCCESS;
}

FAKE cuDeviceGetCount(int* count) {
  FAKE_CALL(init);
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = state().config.devices;
  return CUDA_SUCCESS;
}

FAKE cuDeviceGet(CUdevice* device, int ordinal) {
  FAKE_CALL(init);
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(ordinal) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

FAKE cuDeviceGetName(char* name, int len, CUdevice dev) {
  FAKE_CALL(init);
  if (name == nullptr || len <= 0) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(dev) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<size_t>(len), "Fake GPU %d", dev);
  return CUDA_SUCCESS;
}

/** fa4e0000-0000-4000-8000-0000000000NN, NN the ordinal. */
FAKE cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) {
  FAKE_CALL(init);
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(dev) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const unsigned char bytes[16] = {0xFA, 0x4E, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0,
                                   static_cast<unsigned char>(dev)};
  std::memcpy(uuid->bytes, bytes, sizeof bytes);
  return CUDA_SUCCESS;
}

FAKE cuDeviceTotalMem(size_t* bytes, CUdevice dev) {
  FAKE_CALL(init);
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(dev) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = state().config.bytes;
  return CUDA_SUCCESS;
}

FAKE cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice dev) {
  FAKE_CALL(init);
  if (value == nullptr || attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(dev) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const auto configured = state().config.attributes.find(attribute);
  const auto usual = ATTRIBUTES.find(attribute);
  *value = configured != state().config.attributes.end() ? configured->second
           : usual != ATTRIBUTES.end()                   ? usual->second
                                                         : 0;
  return CUDA_SUCCESS;
}

FAKE cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice dev) {
  FAKE_CALL(init);
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Device* const device = deviceAt(dev);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  device->contextRefs += 1;
  *context = contextOf(*device);
  return CUDA_SUCCESS;
}

/** The last release ends the context, and with it everything made in it; VMM memory belongs to no context. */
FAKE cuDevicePrimaryCtxRelease(CUdevice dev) {
  FAKE_CALL(init);
  Device* const device = deviceAt(dev);
  if (device == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (device->contextRefs == 0) return CUDA_ERROR_INVALID_CONTEXT;
  device->contextRefs -= 1;
  if (device->contextRefs == 0) endContext(*device);
  return CUDA_SUCCESS;
}

FAKE cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags) {
  FAKE_CALL(init);
  if (deviceAt(dev) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const unsigned scheduling = flags & CU_CTX_SCHED_MASK;
  const bool valid = (flags & ~CU_CTX_FLAGS_MASK) == 0 && (scheduling & (scheduling - 1)) == 0;
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/** For the calling thread; null leaves it without one. */
FAKE cuCtxSetCurrent(CUcontext context) {
  FAKE_CALL(init);
  if (context == nullptr) {
    current = nullptr;
    return CUDA_SUCCESS;
  }
  for (Device& device : state().devices) {
    if (contextOf(device) != context || device.contextRefs == 0) continue;
    current = &device;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_CONTEXT;
}

FAKE cuCtxPushCurrent(CUcontext context) {
  FAKE_CALL(init);
  for (Device& device : state().devices) {
    if (contextOf(device) != context || device.contextRefs == 0) continue;
    below.push_back(current);
    current = &device;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_CONTEXT;
}

FAKE cuCtxPopCurrent(CUcontext* context) {
  FAKE_CALL(init);
  if (current == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (context != nullptr) *context = contextOf(*current);
  current = below.empty() ? nullptr : below.back();
  if (!below.empty()) below.pop_back();
  return CUDA_SUCCESS;
}

/** Work is done when its call returns. */
FAKE cuCtxSynchronize() {
  FAKE_CALL(context);
  return CUDA_SUCCESS;
}

FAKE cuMemGetInfo(size_t* free, size_t* total) {
  FAKE_CALL(context);
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *total = state().config.bytes;
  *free = *total - std::min(*total, current->bytesUsed);
  return CUDA_SUCCESS;
}
