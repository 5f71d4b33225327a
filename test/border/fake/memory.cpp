/**
 * Physical memory: what cuMemCreate makes, and the handles and fds that share it. Contexts have no part in it. A fd
 * carries its device in the memfd's name, so that another process can import it and nothing else passes for VRAM.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fake.hpp"

using namespace fake;

namespace fake {

Memory::Memory(Device& on, int ownFd, size_t byteLength, unsigned types)
    : device(on), fd(ownFd), size(byteLength), handleTypes(types) {
  device.bytesUsed += size;
}

Memory::~Memory() {
  device.bytesUsed -= size;
  close(fd);
}

}  // namespace fake

#ifndef VRAM_FAKE_OLD

namespace {

constexpr const char* NAME = "fake-vram-";

/** The only properties there are: pinned, on a device, shareable by fd or not at all. */
CUresult refusalOfProperties(const CUmemAllocationProp* prop) {
  if (prop == nullptr || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (deviceAt(prop->location.id) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if ((prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  const decltype(prop->allocFlags) none = {};
  const bool plain = prop->win32HandleMetaData == nullptr && std::memcmp(&prop->allocFlags, &none, sizeof none) == 0;
  return plain ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/** Of fixed size: whoever imports it cannot take pages away from under a mapping. */
int openVram(int ordinal, size_t byteLength) {
  const std::string name = NAME + std::to_string(ordinal);
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  const bool done = ftruncate(fd, static_cast<off_t>(byteLength)) == 0 &&
                    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  if (done) return fd;
  close(fd);
  return -1;
}

/** The device a fd's memory lies on; nothing if it is not VRAM. */
Device* deviceOfFd(int fd) {
  char target[256] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  if (readlink(link.c_str(), target, sizeof target - 1) < 0) return nullptr;
  const std::string prefix = std::string("/memfd:") + NAME;
  if (std::strncmp(target, prefix.c_str(), prefix.size()) != 0) return nullptr;
  return deviceAt(std::atoi(target + prefix.size()));
}

bool isSameFile(int fd, const struct stat& wanted) {
  struct stat found;
  return fstat(fd, &found) == 0 && found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino;
}

/** Memory this process has already, by a handle or a mapping: it must not count twice. */
std::shared_ptr<Memory> knownMemory(const struct stat& wanted) {
  for (const auto& [_, handle] : state().handles) {
    if (isSameFile(handle.memory->fd, wanted)) return handle.memory;
  }
  for (const auto& [_, mapping] : state().mappings) {
    if (isSameFile(mapping.memory->fd, wanted)) return mapping.memory;
  }
  return nullptr;
}

Handle* handleAt(CUmemGenericAllocationHandle handle) {
  const auto found = state().handles.find(handle);
  return found == state().handles.end() ? nullptr : &found->second;
}

CUmemGenericAllocationHandle addHandle(std::shared_ptr<Memory> memory) {
  const auto handle = newHandle<CUmemGenericAllocationHandle>();
  state().handles[handle] = {std::move(memory), 1};
  return handle;
}

}  // namespace

FAKE cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* prop,
                                   CUmemAllocationGranularity_flags option) {
  FAKE_CALL(init);
  if (granularity == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult refused = refusalOfProperties(prop)) return refused;
  *granularity = GRANULE;
  return CUDA_SUCCESS;
}

FAKE cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size, const CUmemAllocationProp* prop,
                 unsigned long long flags) {
  FAKE_CALL(init, size);
  if (handle == nullptr || flags != 0 || size == 0 || size % GRANULE != 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = refusalOfProperties(prop)) return refused;
  Device& device = *deviceAt(prop->location.id);
  const size_t capacity = state().config.bytes;
  if (device.bytesUsed > capacity || size > capacity - device.bytesUsed) return CUDA_ERROR_OUT_OF_MEMORY;
  const int fd = openVram(device.ordinal, size);
  if (fd < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = addHandle(std::make_shared<Memory>(device, fd, size, prop->requestedHandleTypes));
  return CUDA_SUCCESS;
}

FAKE cuMemRelease(CUmemGenericAllocationHandle handle) {
  FAKE_CALL(init);
  Handle* const found = handleAt(handle);
  if (found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  found->refs -= 1;
  if (found->refs == 0) state().handles.erase(handle);
  return CUDA_SUCCESS;
}

/** The value the address was mapped with, also after that handle was released. */
FAKE cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* addr) {
  FAKE_CALL(init);
  const Mapping* const mapping = mappingAt(reinterpret_cast<CUdeviceptr>(addr));
  if (handle == nullptr || mapping == nullptr) return CUDA_ERROR_INVALID_VALUE;
  state().handles.try_emplace(mapping->handle, Handle{mapping->memory, 0}).first->second.refs += 1;
  *handle = mapping->handle;
  return CUDA_SUCCESS;
}

FAKE cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop, CUmemGenericAllocationHandle handle) {
  FAKE_CALL(init);
  const Handle* const found = handleAt(handle);
  if (prop == nullptr || found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *prop = {};
  prop->type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop->requestedHandleTypes = static_cast<CUmemAllocationHandleType>(found->memory->handleTypes);
  prop->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  prop->location.id = found->memory->device.ordinal;
  return CUDA_SUCCESS;
}

/** No FD_CLOEXEC: nothing documents that the driver sets it, so the caller has to. */
FAKE cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type,
                                  unsigned long long flags) {
  FAKE_CALL(init);
  const Handle* const found = handleAt(handle);
  if (shareable == nullptr || found == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  if ((found->memory->handleTypes & type) == 0) return CUDA_ERROR_INVALID_VALUE;
  const int fd = dup(found->memory->fd);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  std::memcpy(shareable, &fd, sizeof fd);
  return CUDA_SUCCESS;
}

/** The fd comes by value, and stays the caller's. */
FAKE cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shareable,
                                    CUmemAllocationHandleType type) {
  FAKE_CALL(init);
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const auto fd = static_cast<int>(reinterpret_cast<intptr_t>(shareable));
  struct stat file;
  Device* const device = deviceOfFd(fd);
  if (device == nullptr || fstat(fd, &file) != 0) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Memory> memory = knownMemory(file);
  if (memory == nullptr) {
    const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    memory = std::make_shared<Memory>(*device, own, static_cast<size_t>(file.st_size), type);
  }
  *handle = addHandle(std::move(memory));
  return CUDA_SUCCESS;
}

#endif
