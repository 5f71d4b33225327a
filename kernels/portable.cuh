/**
 * One source, two compilers. nvcc makes the PTX that a GPU runs; `g++ -x c++ -std=c++17` makes the same functions for
 * the CPU, so that the kernels are tested where there is no GPU. Everything the two spell differently stands here.
 *
 * Under g++ a kernel is an ordinary function that is called once per thread. Who calls it (a test, a substituted
 * libcuda) defines the four thread_local index variables and sets them before each call.
 */
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)

#define VRAM_DEVICE __device__ __forceinline__
#define VRAM_KERNEL extern "C" __global__ void
#define VRAM_UNROLL _Pragma("unroll")
#define VRAM_NO_UNROLL _Pragma("unroll 1")

/** 16 bytes, aligned to 16. */
using Words4 = uint4;

namespace {

VRAM_DEVICE uint32_t swapBytes(uint32_t x) { return __byte_perm(x, 0, 0x0123); }
VRAM_DEVICE uint32_t multiplyHigh(uint32_t a, uint32_t b) { return __umulhi(a, b); }

/** Loads through the read-only path (ld.global.nc): nobody may write there while the kernel runs. */
VRAM_DEVICE Words4 load16(uint64_t address) { return __ldg(reinterpret_cast<const uint4*>(address)); }
VRAM_DEVICE uint8_t load1(uint64_t address) { return __ldg(reinterpret_cast<const uint8_t*>(address)); }
VRAM_DEVICE void store16(uint64_t address, Words4 value) { __stwb(reinterpret_cast<uint4*>(address), value); }

VRAM_DEVICE void exclusiveOr(uint64_t address, uint32_t value) {
  atomicXor(reinterpret_cast<uint32_t*>(address), value);
}
VRAM_DEVICE uint64_t clockCycles() { return static_cast<uint64_t>(clock64()); }

}  // namespace

#else

#include <string.h>

#define VRAM_DEVICE inline __attribute__((always_inline))
#define VRAM_KERNEL extern "C" void
#define VRAM_UNROLL _Pragma("GCC unroll 64")
#define VRAM_NO_UNROLL _Pragma("GCC unroll 1")

struct vram_dim3 {
  unsigned x, y, z;
};
extern thread_local vram_dim3 threadIdx, blockIdx, blockDim, gridDim;

struct Words4 {
  uint32_t x, y, z, w;
};

namespace {

VRAM_DEVICE uint32_t swapBytes(uint32_t x) { return __builtin_bswap32(x); }
VRAM_DEVICE uint32_t multiplyHigh(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

/** On a GPU a misaligned access kills the context; here it ends the program, so that tests notice it. */
VRAM_DEVICE void requireAligned16(uint64_t address) {
  if (address % 16 != 0) __builtin_trap();
}

VRAM_DEVICE Words4 load16(uint64_t address) {
  requireAligned16(address);
  Words4 value;
  memcpy(&value, reinterpret_cast<const void*>(address), sizeof value);
  return value;
}
VRAM_DEVICE uint8_t load1(uint64_t address) { return *reinterpret_cast<const uint8_t*>(address); }
VRAM_DEVICE void store16(uint64_t address, Words4 value) {
  requireAligned16(address);
  memcpy(reinterpret_cast<void*>(address), &value, sizeof value);
}

VRAM_DEVICE void exclusiveOr(uint64_t address, uint32_t value) {
  __atomic_fetch_xor(reinterpret_cast<uint32_t*>(address), value, __ATOMIC_RELAXED);
}

/** A clock that advances whenever it is read, so that a loop waiting for it ends. It says nothing about time. */
VRAM_DEVICE uint64_t clockCycles() {
  static thread_local uint64_t cycles = 0;
  return cycles += 1024;
}

}  // namespace

#endif

namespace {

/** Number of this thread in the launch (one dimension). */
VRAM_DEVICE uint64_t globalThread() { return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
/** Threads of the launch. */
VRAM_DEVICE uint64_t threadCount() { return static_cast<uint64_t>(gridDim.x) * blockDim.x; }

}  // namespace
