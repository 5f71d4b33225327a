// Calls the kernels on the CPU, once per thread of a launch. Built with -I of the folder the kernels are in, so that a
// changed copy of them can be tested, too. Input on stdin and output on stdout are binary, little-endian:
//
//   hash            u32 gridX, blockX, jobCount, salted; u64 totalBlocks; 64 bytes if salted;
//                   per job u64 byteLength, alignment, and the bytes
//                   → per job 32 guard bytes, the digests, 32 guard bytes
//   ceiling N R     → the 8 bytes of each of N threads after R rounds
//   probes          16-byte words → u32 read back after storing it, u32 exclusive or of all words
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <functional>
#include <string>
#include <vector>

#include "ceiling.cu"
#include "fsverity.cu"
#include "probes.cu"

thread_local vram_dim3 threadIdx, blockIdx, blockDim, gridDim;

static const size_t PAGE = 4096, GUARD = 32;
static const uint8_t GARBAGE = 0xa5;

static void launch(unsigned gridX, unsigned blockX, const std::function<void()>& kernel) {
  gridDim = {gridX, 1, 1};
  blockDim = {blockX, 1, 1};
  for (unsigned b = 0; b < gridX; b += 1) {
    for (unsigned t = 0; t < blockX; t += 1) {
      blockIdx = {b, 0, 0};
      threadIdx = {t, 0, 0};
      kernel();
    }
  }
}

static void readInput(void* into, size_t byteLength) {
  if (fread(into, 1, byteLength, stdin) != byteLength) exit(2);
}

template <class T>
static T readNumber() {
  T value;
  readInput(&value, sizeof value);
  return value;
}

// Reads the bytes of a source to as near to an unmapped page as `alignment` allows: reading on is a crash, and what is
// left in between is garbage.
static uint64_t placeSource(size_t byteLength, size_t alignment) {
  const size_t room = (byteLength + alignment + PAGE - 1) / PAGE * PAGE;
  void* mapped = mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) exit(3);
  uint8_t* base = static_cast<uint8_t*>(mapped);
  memset(base, GARBAGE, room);
  if (mprotect(base + room, PAGE, PROT_NONE) != 0) exit(3);
  uint8_t* source = base + (room - byteLength) / alignment * alignment;
  readInput(source, byteLength);
  return reinterpret_cast<uint64_t>(source);
}

static void runHash() {
  const uint32_t gridX = readNumber<uint32_t>(), blockX = readNumber<uint32_t>();
  const uint32_t jobCount = readNumber<uint32_t>(), salted = readNumber<uint32_t>();
  const uint64_t totalBlocks = readNumber<uint64_t>();
  alignas(16) uint8_t salt[64];
  if (salted != 0) readInput(salt, sizeof salt);
  std::vector<HashJob> jobs;
  std::vector<std::vector<uint8_t>> targets;
  uint64_t firstBlock = 0;
  for (uint32_t i = 0; i < jobCount; i += 1) {
    const uint64_t byteLength = readNumber<uint64_t>(), alignment = readNumber<uint64_t>();
    const uint64_t blocks = (byteLength + 4095) / 4096;
    targets.emplace_back(GUARD + 32 * blocks + GUARD, GARBAGE);
    const uint64_t target = reinterpret_cast<uint64_t>(targets.back().data() + GUARD);
    jobs.push_back({placeSource(byteLength, alignment), byteLength, target, firstBlock});
    firstBlock += blocks;
  }
  launch(gridX, blockX, [&] { vram_hash_blocks(jobs.data(), jobCount, totalBlocks, salted ? salt : nullptr, 1); });
  for (const std::vector<uint8_t>& target : targets) fwrite(target.data(), 1, target.size(), stdout);
}

static void runCeiling(unsigned threads, uint32_t rounds) {
  std::vector<uint64_t> out(threads);
  launch(1, threads, [&] { vram_sha256_ceiling(out.data(), rounds, 1); });
  fwrite(out.data(), sizeof out[0], out.size(), stdout);
}

static void runProbes() {
  std::vector<uint8_t> input;
  for (int byte = getchar(); byte != EOF; byte = getchar()) input.push_back(static_cast<uint8_t>(byte));
  uint32_t place = 0, out[2] = {0, 0};
  const auto address = [](const void* of) { return reinterpret_cast<uint64_t>(of); };
  launch(2, 3, [&] { vram_probe_store(address(&place), 0x12345678); });
  launch(2, 3, [&] { vram_probe_load(address(&place), address(&out[0])); });
  launch(2, 3, [&] { vram_probe_read(address(input.data()), input.size() / 16, address(&out[1])); });
  launch(1, 1, [] { vram_probe_spin(1000000); });
  fwrite(out, 1, sizeof out, stdout);
}

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "hash") runHash();
  else if (mode == "ceiling" && argc == 4) runCeiling(atoi(argv[2]), atoi(argv[3]));
  else if (mode == "probes") runProbes();
  else return 2;
  return 0;
}
