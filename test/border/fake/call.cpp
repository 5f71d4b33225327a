/**
 * How every call begins, the same for all of them: take the lock, write the log, answer with an injected fault, and see
 * whether the library, the thread's context and that context's health allow the call.
 */
#include <unistd.h>

#include "fake.hpp"

namespace fake {
namespace {

std::mutex lock;

/** Logged before the call does anything: a call that hangs or dies has its line. */
void writeLog(const char* symbol, const Amount& amountOf) {
  if (state().config.log < 0) return;
  std::string line(symbol);
  if (const std::optional<uint64_t> amount = amountOf()) line += " " + std::to_string(*amount);
  line += "\n";
  if (write(state().config.log, line.data(), line.size()) < 0) return;
}

/** A fatal status takes the context along; without a context it is the driver that is gone, for every device. */
CUresult injectedFault(const char* symbol) {
  const unsigned long nth = ++state().calls[symbol];
  for (const Fault& fault : state().config.faults) {
    if (fault.symbol != symbol || (fault.onwards ? nth < fault.nth : nth != fault.nth)) continue;
    if (isFatal(fault.status)) {
      Device* const current = currentDevice();
      for (Device& device : state().devices) {
        if (current == nullptr || current == &device) breakContext(device, fault.status);
      }
    }
    return fault.status;
  }
  return CUDA_SUCCESS;
}

/** Nonsense in the environment leaves the configuration as it was. */
CUresult configure() {
  std::optional<Config> config = readConfig();
  if (!config) return CUDA_ERROR_INVALID_VALUE;
  if (state().config.log >= 0) close(state().config.log);
  state().config = std::move(*config);
  return CUDA_SUCCESS;
}

/** Begins anew; memory and handles stay. */
CUresult restart() {
  state().initialised = false;
  state().calls.clear();
  for (Device& device : state().devices) device.sticky = CUDA_SUCCESS;
  return configure();
}

}  // namespace

State& state() {
  // Never destroyed: calls may come while the process ends.
  static State* const all = new State();
  return *all;
}

State::State() {
  for (int ordinal = 0; ordinal < MAX_DEVICES; ordinal++) devices[ordinal].ordinal = ordinal;
}

bool isFatal(CUresult status) {
  switch (static_cast<int>(status)) {
    case CUDA_SUCCESS:
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_OUT_OF_MEMORY:
    case CUDA_ERROR_NOT_INITIALIZED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_INVALID_CONTEXT:
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
    case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED:
    case CUDA_ERROR_MAP_FAILED:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_JIT_COMPILER_NOT_FOUND:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    case CUDA_ERROR_JIT_COMPILATION_DISABLED:
    case CUDA_ERROR_INVALID_HANDLE:
    case CUDA_ERROR_NOT_FOUND:
    case CUDA_ERROR_NOT_READY:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_SYSTEM_NOT_READY:
      return false;
    default:
      return true;
  }
}

void breakContext(Device& device, CUresult status) {
  if (device.sticky == CUDA_SUCCESS) device.sticky = status;
}

Call::Call(const char* symbol, Needs needs, const Amount& amountOf) : refusal(CUDA_SUCCESS), lock_(lock) {
  refusal = admit(symbol, needs, amountOf);
}

CUresult Call::admit(const char* symbol, Needs needs, const Amount& amountOf) {
  const CUresult nonsense = needs == Needs::start           ? restart()
                            : needs == Needs::configuration ? configure()
                                                            : CUDA_SUCCESS;
  if (nonsense != CUDA_SUCCESS) return nonsense;
  writeLog(symbol, amountOf);
  if (const CUresult fault = injectedFault(symbol)) return fault;
  if (needs != Needs::init && needs != Needs::context) return CUDA_SUCCESS;
  if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (needs == Needs::init) return CUDA_SUCCESS;
  const Device* const device = currentDevice();
  if (device == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (device->sticky != CUDA_SUCCESS) return device->sticky;
  // "…or is a primary context which has not yet been initialized" (cuda.h).
  return device->contextRefs == 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

}  // namespace fake
