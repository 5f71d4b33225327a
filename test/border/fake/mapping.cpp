/**
 * Addresses: reservations, mappings of physical memory into them, and what a device may do there. The pages are mapped
 * for the host with the widest access any device has; what counts are our own tables, asked before every access.
 */
#include <sys/mman.h>

#include "fake.hpp"

using namespace fake;

namespace fake {

Mapping* mappingAt(CUdeviceptr at, CUdeviceptr* start) {
  auto next = state().mappings.upper_bound(at);
  if (next == state().mappings.begin()) return nullptr;
  auto& [from, mapping] = *--next;
  if (at - from >= mapping.size) return nullptr;
  if (start != nullptr) *start = from;
  return &mapping;
}

bool permits(const Device& device, CUdeviceptr at, size_t byteLength, unsigned need) {
  while (byteLength > 0) {
    CUdeviceptr start = 0;
    const Mapping* const mapping = mappingAt(at, &start);
    if (mapping == nullptr || (mapping->accessOf(device.ordinal) & need) != need) return false;
    const size_t step = std::min(byteLength, static_cast<size_t>(start + mapping->size - at));
    at += step;
    byteLength -= step;
  }
  return true;
}

}  // namespace fake

#ifndef VRAM_FAKE_OLD

namespace {

bool isGranular(uint64_t value) { return value % GRANULE == 0; }

void* hostAddress(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

/** Nothing there, and nobody else gets the addresses. */
void* mapNothing(void* at, size_t size) {
  const int fixed = at == nullptr ? 0 : MAP_FIXED;
  return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
}

bool isReserved(CUdeviceptr at, size_t size) {
  auto next = state().reservations.upper_bound(at);
  if (next == state().reservations.begin()) return false;
  const auto [from, reserved] = *--next;
  return at - from < reserved && size <= reserved - (at - from);
}

bool isFree(CUdeviceptr at, size_t size) {
  const auto next = state().mappings.lower_bound(at);
  const bool freeAbove = next == state().mappings.end() || next->first - at >= size;
  return freeAbove && mappingAt(at) == nullptr;
}

/** The mappings that make up the range exactly, from end to end; none if they do not. */
std::vector<CUdeviceptr> mappingsOf(CUdeviceptr at, size_t size) {
  std::vector<CUdeviceptr> found;
  while (size > 0) {
    const auto mapping = state().mappings.find(at);
    if (mapping == state().mappings.end() || mapping->second.size > size) return {};
    found.push_back(at);
    at += mapping->second.size;
    size -= mapping->second.size;
  }
  return found;
}

}  // namespace

FAKE cuMemAddressReserve(CUdeviceptr* ptr, size_t size, size_t alignment, CUdeviceptr, unsigned long long flags) {
  FAKE_CALL(init, size);
  if (ptr == nullptr || flags != 0 || size == 0 || !isGranular(size)) return CUDA_ERROR_INVALID_VALUE;
  if ((alignment & (alignment - 1)) != 0) return CUDA_ERROR_INVALID_VALUE;
  const size_t aligned = std::max(alignment, GRANULE);
  void* const raw = mapNothing(nullptr, size + aligned);
  if (raw == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto from = reinterpret_cast<CUdeviceptr>(raw);
  const CUdeviceptr start = (from + aligned - 1) / aligned * aligned;
  if (start > from) munmap(raw, start - from);
  if (start < from + aligned) munmap(hostAddress(start + size), from + aligned - start);
  state().reservations[start] = size;
  *ptr = start;
  return CUDA_SUCCESS;
}

/** The whole reservation, with nothing mapped in it. */
FAKE cuMemAddressFree(CUdeviceptr ptr, size_t size) {
  FAKE_CALL(init);
  const auto found = state().reservations.find(ptr);
  if (found == state().reservations.end() || found->second != size) return CUDA_ERROR_INVALID_VALUE;
  if (!isFree(ptr, size)) return CUDA_ERROR_INVALID_VALUE;
  state().reservations.erase(found);
  munmap(hostAddress(ptr), size);
  return CUDA_SUCCESS;
}

FAKE cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
              unsigned long long flags) {
  FAKE_CALL(init);
  const auto found = state().handles.find(handle);
  if (found == state().handles.end() || offset != 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const std::shared_ptr<Memory>& memory = found->second.memory;
  if (size == 0 || !isGranular(size) || !isGranular(ptr) || size > memory->size) return CUDA_ERROR_INVALID_VALUE;
  if (!isReserved(ptr, size) || !isFree(ptr, size)) return CUDA_ERROR_INVALID_VALUE;
  if (mmap(hostAddress(ptr), size, PROT_NONE, MAP_SHARED | MAP_FIXED, memory->fd, 0) == MAP_FAILED) {
    return CUDA_ERROR_MAP_FAILED;
  }
  state().mappings[ptr] = {size, handle, memory, {}};
  return CUDA_SUCCESS;
}

/** Whole mappings only. */
FAKE cuMemUnmap(CUdeviceptr ptr, size_t size) {
  FAKE_CALL(init);
  const std::vector<CUdeviceptr> found = mappingsOf(ptr, size);
  if (found.empty()) return CUDA_ERROR_INVALID_VALUE;
  if (mapNothing(hostAddress(ptr), size) == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  for (const CUdeviceptr at : found) state().mappings.erase(at);
  return CUDA_SUCCESS;
}

FAKE cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc* desc, size_t count) {
  FAKE_CALL(init);
  const std::vector<CUdeviceptr> found = mappingsOf(ptr, size);
  if (found.empty() || desc == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    if (deviceAt(desc[i].location.id) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
    const unsigned flags = desc[i].flags;
    if (flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && flags != READ && flags != WRITE) return CUDA_ERROR_INVALID_VALUE;
  }
  for (const CUdeviceptr at : found) {
    Mapping& mapping = state().mappings.at(at);
    for (size_t i = 0; i < count; i++) mapping.access[desc[i].location.id] = desc[i].flags;
    unsigned widest = 0;
    for (const auto& [_, flags] : mapping.access) widest |= flags;
    const int prot = widest == WRITE ? PROT_READ | PROT_WRITE : widest == READ ? PROT_READ : PROT_NONE;
    if (mprotect(hostAddress(at), mapping.size, prot) != 0) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

FAKE cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr ptr) {
  FAKE_CALL(init);
  const Mapping* const mapping = mappingAt(ptr);
  if (flags == nullptr || location == nullptr || mapping == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(location->id) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *flags = mapping->accessOf(location->id);
  return CUDA_SUCCESS;
}

#endif
