/**
 * Kernels: the very source that nvcc makes the PTX of, compiled for the host and called once per thread. What a launch
 * will touch is checked first, so that a bad address is a dead context and not a dead process.
 *
 * Not modelled: shared memory, `extra` in place of parameters, any kernel not named here.
 */
#include "kernels/ceiling.cu"
#include "kernels/fsverity.cu"
#include "kernels/probes.cu"

#include "fake.hpp"

using namespace fake;

thread_local vram_dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

struct Shape {
  vram_dim3 grid;
  vram_dim3 block;
  uint64_t threads() const {
    return uint64_t{1} * grid.x * grid.y * grid.z * block.x * block.y * block.z;
  }
};

/** Calls `thread` with the index variables of each thread of the launch, one after the other. */
template <typename Thread>
void runThreads(const Shape& shape, Thread thread) {
  gridDim = shape.grid;
  blockDim = shape.block;
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
          for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) thread();
}

template <typename T>
T parameter(void** parameters, int index) {
  T value;
  memcpy(&value, parameters[index], sizeof value);
  return value;
}

/** What an access would do to the context: nothing, misaligned, or illegal. */
CUresult accessError(uint64_t address, uint64_t byteLength, unsigned need, uint64_t alignment) {
  if (address % alignment != 0) return CUDA_ERROR_MISALIGNED_ADDRESS;
  return permits(*currentDevice(), address, byteLength, need) ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

struct HashParameters {
  uint64_t jobs;
  uint32_t jobCount;
  uint64_t totalBlocks;
  uint64_t saltBlock;
  uint32_t one;
  explicit HashParameters(void** from)
      : jobs(parameter<uint64_t>(from, 0)),
        jobCount(parameter<uint32_t>(from, 1)),
        totalBlocks(parameter<uint64_t>(from, 2)),
        saltBlock(parameter<uint64_t>(from, 3)),
        one(parameter<uint32_t>(from, 4)) {}
};

/** Every row that some thread works on: its source is read to the end, its target written for every block. */
CUresult hashError(const HashParameters& with, uint64_t threads) {
  const uint64_t blocks = std::min(with.totalBlocks, threads);
  if (blocks == 0 || with.jobCount == 0) return CUDA_SUCCESS;
  if (const CUresult bad = accessError(with.jobs, with.jobCount * sizeof(HashJob), READ, 8)) return bad;
  if (with.saltBlock != 0) {
    if (const CUresult bad = accessError(with.saltBlock, CHUNK_BYTES, READ, 1)) return bad;
  }
  const auto* const jobs = reinterpret_cast<const HashJob*>(with.jobs);
  for (uint32_t i = 0; i < with.jobCount; i++) {
    const HashJob& job = jobs[i];
    if (job.firstBlock >= blocks || job.byteLength == 0) continue;
    const uint64_t jobBlocks = (job.byteLength - 1) / BLOCK_BYTES + 1;
    if (const CUresult bad = accessError(job.source, job.byteLength, READ, 1)) return bad;
    if (const CUresult bad = accessError(job.target, jobBlocks * HASH_BYTES, WRITE, 16)) return bad;
  }
  return CUDA_SUCCESS;
}

/** Runs it, or says what it did to the context. */
CUresult runHash(void** parameters, const Shape& shape) {
  const HashParameters with(parameters);
  if (const CUresult bad = hashError(with, shape.threads())) return bad;
  const auto* const jobs = reinterpret_cast<const HashJob*>(with.jobs);
  const auto* const salt = reinterpret_cast<const uint8_t*>(with.saltBlock);
  runThreads(shape, [&] { vram_hash_blocks(jobs, with.jobCount, with.totalBlocks, salt, with.one); });
  return CUDA_SUCCESS;
}

CUresult runStore(void** parameters, const Shape& shape) {
  const auto address = parameter<uint64_t>(parameters, 0);
  const auto value = parameter<uint32_t>(parameters, 1);
  if (const CUresult bad = accessError(address, sizeof value, WRITE, sizeof value)) return bad;
  runThreads(shape, [&] { vram_probe_store(address, value); });
  return CUDA_SUCCESS;
}

CUresult runLoad(void** parameters, const Shape& shape) {
  const auto address = parameter<uint64_t>(parameters, 0);
  const auto target = parameter<uint64_t>(parameters, 1);
  if (const CUresult bad = accessError(address, sizeof(uint32_t), READ, sizeof(uint32_t))) return bad;
  if (const CUresult bad = accessError(target, sizeof(uint32_t), WRITE, sizeof(uint32_t))) return bad;
  runThreads(shape, [&] { vram_probe_load(address, target); });
  return CUDA_SUCCESS;
}

/** Waits as many readings of the clock as a GPU would wait cycles: it ends, and takes no time that means anything. */
CUresult runSpin(void** parameters, const Shape& shape) {
  const auto cycles = parameter<uint64_t>(parameters, 0);
  runThreads(shape, [&] { vram_probe_spin(cycles); });
  return CUDA_SUCCESS;
}

CUresult runRead(void** parameters, const Shape& shape) {
  const auto source = parameter<uint64_t>(parameters, 0);
  const auto words = parameter<uint64_t>(parameters, 1);
  const auto target = parameter<uint64_t>(parameters, 2);
  if (const CUresult bad = accessError(source, words * sizeof(Words4), READ, sizeof(Words4))) return bad;
  if (const CUresult bad = accessError(target, sizeof(uint32_t), WRITE, sizeof(uint32_t))) return bad;
  runThreads(shape, [&] { vram_probe_read(source, words, target); });
  return CUDA_SUCCESS;
}

CUresult runCeiling(void** parameters, const Shape& shape) {
  const auto out = parameter<uint64_t>(parameters, 0);
  const auto rounds = parameter<uint32_t>(parameters, 1);
  const auto one = parameter<uint32_t>(parameters, 2);
  if (const CUresult bad = accessError(out, shape.threads() * sizeof(uint64_t), WRITE, sizeof(uint64_t))) return bad;
  runThreads(shape, [&] { vram_sha256_ceiling(reinterpret_cast<uint64_t*>(out), rounds, one); });
  return CUDA_SUCCESS;
}

using Runner = CUresult (*)(void**, const Shape&);
const std::map<std::string, Runner> KERNELS = {
    {"vram_hash_blocks", runHash},
    {"vram_probe_store", runStore},
    {"vram_probe_load", runLoad},
    {"vram_probe_spin", runSpin},
    {"vram_probe_read", runRead},
    {"vram_sha256_ceiling", runCeiling},
};

/** What the log says of a launch. */
std::optional<uint64_t> blocksToHash(CUfunction function, void** parameters) {
  const auto found = state().functions.find(function);
  const bool hashes = found != state().functions.end() && found->second.name == "vram_hash_blocks";
  if (!hashes || parameters == nullptr) return std::nullopt;
  return HashParameters(parameters).totalBlocks;
}

}  // namespace

FAKE cuLaunchKernel(CUfunction f, unsigned int gridX, unsigned int gridY, unsigned int gridZ, unsigned int blockX,
                    unsigned int blockY, unsigned int blockZ, unsigned int, CUstream stream, void** kernelParams,
                    void** extra) {
  FAKE_CALL(context, blocksToHash(f, kernelParams));
  const auto found = state().functions.find(f);
  if (found == state().functions.end()) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refusalOfStream(stream)) return refused;
  const Shape shape{{gridX, gridY, gridZ}, {blockX, blockY, blockZ}};
  const uint64_t perBlock = uint64_t{blockX} * blockY * blockZ;
  const auto kernel = KERNELS.find(found->second.name);
  if (kernel == KERNELS.end() || kernelParams == nullptr || extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (shape.threads() == 0 || perBlock > 1024) return CUDA_ERROR_INVALID_VALUE;
  if (state().config.dropLaunches) return CUDA_SUCCESS;
  const CUresult bad = kernel->second(kernelParams, shape);
  if (bad != CUDA_SUCCESS) breakContext(*currentDevice(), bad);
  return CUDA_SUCCESS;
}
