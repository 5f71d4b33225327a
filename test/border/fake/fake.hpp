/**
 * A fake `libcuda.so.1` for tests on machines without a GPU. It is compiled against the real cuda.h, so that the
 * compiler checks every prototype, and suffixed names come from its macros: here `cuMemGetInfo` is written and
 * `cuMemGetInfo_v2` is exported.
 *
 * VRAM is memfds mapped into this process at the device addresses; what a mapping may do is in our own tables, and
 * every range is checked against them before it is touched. Streams work eagerly and in order. Kernels are the very
 * source the GPU runs (`kernels/`), compiled for the host.
 *
 * Not modelled: time (work is done when the call returns; only `VRAM_FAKE_NOT_READY` makes events late), what memory
 * held before (new memory is zero), the memory a context takes for itself, legacy allocations, copies between devices,
 * a CPU that cannot reach VRAM. An exported fd keeps its memory alive, as it should, but does not count as used: where
 * it went is unknowable. Memory imported from another process counts as used by this one, too.
 *
 * One `cuInit` begins anew: configuration, call counts and sticky errors; handles and memory stay what they are. The
 * real driver keeps a dead context dead until the process ends.
 *
 * Configured by the environment, read at every cuInit and cuDriverGetVersion:
 *
 *   VRAM_FAKE_DEVICES=1                 0: cuInit answers NO_DEVICE
 *   VRAM_FAKE_DRIVER_VERSION=13000
 *   VRAM_FAKE_BYTES=1073741824          capacity of each device
 *   VRAM_FAKE_ATTRIBUTES=18=1,102=0     device attributes by their numbers in cuda.h, for all devices
 *   VRAM_FAKE_POINTER_ATTRIBUTES=8=1    what is said of device memory
 *   VRAM_FAKE_FAULTS=cuMemCreate:2:2,cuEventQuery:5+:700
 *                                       symbol:n:status, the nth call since cuInit; with `+` all from then on.
 *                                       A status that is not on src/cuda/status.ts's list of harmless ones is sticky.
 *   VRAM_FAKE_NOT_READY=0               how often each recorded event answers NOT_READY first
 *   VRAM_FAKE_DROP_LAUNCHES=0           1: launches succeed and do nothing
 *   VRAM_FAKE_LOG=path                  one line a call is appended: symbol, then bytes (or 4 KiB blocks to hash)
 */
#pragma once

#include <cuda.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace fake {

constexpr size_t GRANULE = 2u << 20;
constexpr int MAX_DEVICES = 8;
constexpr unsigned READ = CU_MEM_ACCESS_FLAGS_PROT_READ;
constexpr unsigned WRITE = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

/** The `nth` call of `symbol` since cuInit, or every one from it on, returns `status` and does nothing. */
struct Fault {
  std::string symbol;
  unsigned long nth;
  bool onwards;
  CUresult status;
};

/** What the environment says (config.cpp). */
struct Config {
  int devices = 1;
  int driverVersion = 13000;
  size_t bytes = size_t{1} << 30;
  std::map<int, int> attributes;
  std::map<int, uint64_t> pointerAttributes;
  std::vector<Fault> faults;
  unsigned notReady = 0;
  bool dropLaunches = false;
  int log = -1;
};

struct Device {
  int ordinal = 0;
  int contextRefs = 0;
  size_t bytesUsed = 0;
  CUresult sticky = CUDA_SUCCESS;
};

/** Physical memory: goes, and stops counting, with the last handle and the last mapping that share it. */
struct Memory {
  Memory(Device& on, int ownFd, size_t byteLength, unsigned handleTypes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Device& device;
  const int fd;
  const size_t size;
  const unsigned handleTypes;
};

struct Handle {
  std::shared_ptr<Memory> memory;
  unsigned refs;
};

struct Mapping {
  size_t size;
  CUmemGenericAllocationHandle handle;
  std::shared_ptr<Memory> memory;
  /** Flags by device; a new mapping has none. */
  std::map<int, unsigned> access;
  unsigned accessOf(int ordinal) const {
    const auto found = access.find(ordinal);
    return found == access.end() ? 0 : found->second;
  }
};

/** Host memory that is registered; it stays its owner's. */
struct Pinned {
  size_t size;
  int device;
};

struct Event {
  int device;
  unsigned notReady;
};

struct Module {
  int device;
  std::vector<std::string> entries;
};

struct Function {
  std::string name;
  CUmodule module;
};

/** Everything there is. Touched only inside a `Call`, which holds the lock. */
struct State {
  State();
  bool initialised = false;
  Config config;
  std::map<std::string, unsigned long> calls;
  std::array<Device, MAX_DEVICES> devices;
  std::map<CUmemGenericAllocationHandle, Handle> handles;
  std::map<CUdeviceptr, size_t> reservations;
  std::map<CUdeviceptr, Mapping> mappings;
  std::map<void*, Pinned> pinned;
  std::map<CUstream, int> streams;
  std::map<CUevent, Event> events;
  std::map<CUmodule, Module> modules;
  std::map<CUfunction, Function> functions;
  uint64_t lastHandle = 0xFA4E00000000;
};

State& state();

/** Reads the environment. On nonsense: says so on stderr and returns nothing. */
std::optional<Config> readConfig();

/** The device of the calling thread's context; inside a call that needs a context it is there. */
Device* currentDevice();
/** The device with this ordinal, or nothing. */
Device* deviceAt(int ordinal);

/** The context works no more; the first reason stays. */
void breakContext(Device& device, CUresult status);
/** Whether the context is dead after `status`: everything that is not on the allow-list of src/cuda/status.ts. */
bool isFatal(CUresult status);

/** A value never handed out before: a handle of one kind is unknown to every other kind's table. */
template <typename T>
T newHandle() {
  if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(state().lastHandle += 0x10);
  else return state().lastHandle += 0x10;
}

/** The mapping that holds this address, or nothing. */
Mapping* mappingAt(CUdeviceptr at, CUdeviceptr* start = nullptr);
/** Whether `device` may do `need` (READ or WRITE) to every byte of the range. */
bool permits(const Device& device, CUdeviceptr at, size_t byteLength, unsigned need);

/** A stream's work goes to the current context's device; anything else is a reason to refuse. */
CUresult refusalOfStream(CUstream stream);

/** Whether this process has something mapped there: MS_ASYNC does nothing else but look. */
bool isHostMemory(const void* at, size_t byteLength);

/**
 * What a call needs before it is let in. cuInit starts, and cuDriverGetVersion, which may come before it, reads the
 * environment too; others need nothing, an earlier cuInit, or a context as well.
 */
enum class Needs { start, configuration, nothing, init, context };

/** The number in the call's line of the log: bytes, or blocks to hash. Asked under the lock. */
using Amount = std::function<std::optional<uint64_t>()>;

/** How every exported function begins: lock, log, injected fault, initialised, context, sticky error. */
class Call {
 public:
  Call(const char* symbol, Needs needs, const Amount& amountOf);
  CUresult refusal;

 private:
  CUresult admit(const char* symbol, Needs needs, const Amount& amountOf);
  std::lock_guard<std::mutex> lock_;
};

}  // namespace fake

#define FAKE extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI
/** `FAKE_CALL(context)` or `FAKE_CALL(context, byteLength)`. `__func__` is the exported name, suffix and all. */
#define FAKE_CALL(needs, ...)                                                                         \
  const fake::Call call(__func__, fake::Needs::needs,                                                 \
                        [&]() -> std::optional<uint64_t> { return std::optional<uint64_t>{__VA_ARGS__}; }); \
  if (call.refusal != CUDA_SUCCESS) return call.refusal
