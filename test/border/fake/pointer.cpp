/** Host memory that the caller has page-locked, and what the driver says about an address. */
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "fake.hpp"

using namespace fake;

namespace fake {

bool isHostMemory(const void* at, size_t byteLength) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = reinterpret_cast<uintptr_t>(at) / page * page;
  const size_t whole = reinterpret_cast<uintptr_t>(at) + byteLength - from;
  return msync(reinterpret_cast<void*>(from), whole, MS_ASYNC) == 0;
}

}  // namespace fake

namespace {

template <typename T>
CUresult answer(void* data, T value) {
  std::memcpy(data, &value, sizeof value);
  return CUDA_SUCCESS;
}

/** In the width of cuda.h's types; whoever hands over a wider slot has to zero it. */
CUresult answerAs(CUpointer_attribute attribute, void* data, uint64_t value) {
  const bool wide = attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER ||
                    attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR || attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE;
  return wide ? answer(data, value) : answer(data, static_cast<uint32_t>(value));
}

/** The CPU reaches no VRAM: HOST_POINTER has no answer there. */
std::optional<uint64_t> ofDevice(CUpointer_attribute attribute, const Mapping& mapping, CUdeviceptr start) {
  const auto overridden = state().config.pointerAttributes.find(attribute);
  if (overridden != state().config.pointerAttributes.end()) return overridden->second;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return CU_MEMORYTYPE_DEVICE;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return 0;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return static_cast<uint64_t>(mapping.memory->device.ordinal);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return start;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return mapping.size;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: return mapping.accessOf(currentDevice()->ordinal);
    default: return std::nullopt;
  }
}

std::optional<uint64_t> ofHost(CUpointer_attribute attribute, const Pinned& pinned, CUdeviceptr start, CUdeviceptr at) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: return CU_MEMORYTYPE_HOST;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER: return at;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: return 0;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return static_cast<uint64_t>(pinned.device);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: return start;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: return pinned.size;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS: return WRITE;
    default: return std::nullopt;
  }
}

}  // namespace

FAKE cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr) {
  FAKE_CALL(context);
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::optional<uint64_t> value;
  CUdeviceptr start = 0;
  if (const Mapping* mapping = mappingAt(ptr, &start)) value = ofDevice(attribute, *mapping, start);
  for (const auto& [from, pinned] : state().pinned) {
    start = reinterpret_cast<CUdeviceptr>(from);
    if (ptr >= start && ptr - start < pinned.size) value = ofHost(attribute, pinned, start, ptr);
  }
  return value ? answerAs(attribute, data, *value) : CUDA_ERROR_INVALID_VALUE;
}

/** Pages are registered once: a range that shares one with an earlier range is refused. */
FAKE cuMemHostRegister(void* p, size_t bytesize, unsigned int flags) {
  FAKE_CALL(context, bytesize);
  constexpr unsigned known = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
  if (p == nullptr || bytesize == 0 || (flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (!isHostMemory(p, bytesize)) return CUDA_ERROR_INVALID_VALUE;
  const auto page = [](const void* at) { return reinterpret_cast<uintptr_t>(at) / 4096; };
  const auto first = page(p);
  const auto last = page(static_cast<char*>(p) + bytesize - 1);
  for (const auto& [start, pinned] : state().pinned) {
    const auto end = page(static_cast<char*>(start) + pinned.size - 1);
    if (first <= end && page(start) <= last) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  state().pinned[p] = {bytesize, currentDevice()->ordinal};
  return CUDA_SUCCESS;
}

FAKE cuMemHostUnregister(void* p) {
  FAKE_CALL(context);
  const auto found = state().pinned.find(p);
  if (found == state().pinned.end()) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  state().pinned.erase(found);
  return CUDA_SUCCESS;
}
