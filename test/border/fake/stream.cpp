/**
 * Streams, events, and the copies and fills that go into streams. Work is done before the call returns. Work that
 * touches what it may not is accepted all the same, as an asynchronous device would: the error is the context's, and
 * shows on the next call.
 */
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fake.hpp"

using namespace fake;

namespace fake {

CUresult refusalOfStream(CUstream stream) {
  // Null and the two constants of cuda.h are the current context's own default streams.
  if (stream == nullptr || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD) return CUDA_SUCCESS;
  const auto found = state().streams.find(stream);
  const bool here = found != state().streams.end() && found->second == currentDevice()->ordinal;
  return here ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace fake

namespace {

/**
 * Moves bytes between host and VRAM through the memfd: for host memory that is not there the kernel says EFAULT, where
 * memcpy would end the process. The range is mapped: `permits` was asked before.
 */
template <typename Move>
CUresult moveAll(CUdeviceptr device, char* host, size_t byteLength, Move move) {
  while (byteLength > 0) {
    CUdeviceptr start = 0;
    const Mapping& mapping = *mappingAt(device, &start);
    const size_t step = std::min(byteLength, static_cast<size_t>(start + mapping.size - device));
    const ssize_t moved = move(mapping.memory->fd, host, step, static_cast<off_t>(device - start));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return CUDA_ERROR_INVALID_VALUE;
    device += static_cast<size_t>(moved);
    host += moved;
    byteLength -= static_cast<size_t>(moved);
  }
  return CUDA_SUCCESS;
}

/** Whether the current device may do that; if not, its context is dead from now on. */
bool tryAccess(CUdeviceptr at, size_t byteLength, unsigned need) {
  if (permits(*currentDevice(), at, byteLength, need)) return true;
  breakContext(*currentDevice(), CUDA_ERROR_ILLEGAL_ADDRESS);
  return false;
}

}  // namespace

FAKE cuStreamCreate(CUstream* stream, unsigned int flags) {
  FAKE_CALL(context);
  if (stream == nullptr || (flags & ~CU_STREAM_NON_BLOCKING) != 0) return CUDA_ERROR_INVALID_VALUE;
  *stream = newHandle<CUstream>();
  state().streams[*stream] = currentDevice()->ordinal;
  return CUDA_SUCCESS;
}

FAKE cuStreamDestroy(CUstream stream) {
  FAKE_CALL(context);
  return state().streams.erase(stream) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FAKE cuMemcpyHtoDAsync(CUdeviceptr dst, const void* src, size_t byteCount, CUstream stream) {
  FAKE_CALL(context, byteCount);
  if (const CUresult refused = refusalOfStream(stream)) return refused;
  if (!tryAccess(dst, byteCount, WRITE)) return CUDA_SUCCESS;
  return moveAll(dst, const_cast<char*>(static_cast<const char*>(src)), byteCount, pwrite);
}

FAKE cuMemcpyDtoHAsync(void* dst, CUdeviceptr src, size_t byteCount, CUstream stream) {
  FAKE_CALL(context, byteCount);
  if (const CUresult refused = refusalOfStream(stream)) return refused;
  if (!tryAccess(src, byteCount, READ)) return CUDA_SUCCESS;
  return moveAll(src, static_cast<char*>(dst), byteCount, pread);
}

FAKE cuMemsetD8Async(CUdeviceptr dst, unsigned char value, size_t n, CUstream stream) {
  FAKE_CALL(context, n);
  if (const CUresult refused = refusalOfStream(stream)) return refused;
  if (tryAccess(dst, n, WRITE)) std::memset(reinterpret_cast<void*>(dst), value, n);
  return CUDA_SUCCESS;
}

FAKE cuEventCreate(CUevent* event, unsigned int flags) {
  FAKE_CALL(context);
  constexpr unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (event == nullptr || (flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
  *event = newHandle<CUevent>();
  state().events[*event] = {currentDevice()->ordinal, 0};
  return CUDA_SUCCESS;
}

FAKE cuEventDestroy(CUevent event) {
  FAKE_CALL(context);
  return state().events.erase(event) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FAKE cuEventRecord(CUevent event, CUstream stream) {
  FAKE_CALL(context);
  const auto found = state().events.find(event);
  if (found == state().events.end() || found->second.device != currentDevice()->ordinal) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  if (const CUresult refused = refusalOfStream(stream)) return refused;
  found->second.notReady = state().config.notReady;
  return CUDA_SUCCESS;
}

/** Needs no current context: the event knows its own. One that was never recorded is complete. */
FAKE cuEventQuery(CUevent event) {
  FAKE_CALL(init);
  const auto found = state().events.find(event);
  if (found == state().events.end()) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult sticky = state().devices[found->second.device].sticky;
  if (sticky != CUDA_SUCCESS) return sticky;
  if (found->second.notReady == 0) return CUDA_SUCCESS;
  found->second.notReady -= 1;
  return CUDA_ERROR_NOT_READY;
}
