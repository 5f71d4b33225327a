/**
 * Small kernels that tests on hardware put questions with: does a mapping that is read-only refuse a kernel's store,
 * what does a kernel see at an address, how does hashing share the device with other work. None of them is part of the
 * product. Addresses are device pointers, passed as numbers.
 */
#include "portable.cuh"

/** The first thread writes the 4 bytes of `value` to `address`, a multiple of 4. */
VRAM_KERNEL vram_probe_store(uint64_t address, uint32_t value) {
  if (globalThread() == 0) *reinterpret_cast<volatile uint32_t*>(address) = value;
}

/** The first thread copies 4 bytes from `address` to `target`, both multiples of 4. */
VRAM_KERNEL vram_probe_load(uint64_t address, uint64_t target) {
  if (globalThread() != 0) return;
  *reinterpret_cast<volatile uint32_t*>(target) = *reinterpret_cast<const volatile uint32_t*>(address);
}

/** Every thread keeps its place on the device for at least `cycles` clock cycles. */
VRAM_KERNEL vram_probe_spin(uint64_t cycles) {
  const uint64_t start = clockCycles();
  // The difference is right even when the counter wraps.
  while (clockCycles() - start < cycles) {
  }
}

/**
 * Reads `words` words of 16 bytes from `source`, a multiple of 16, neighbouring threads next to each other: bound by
 * memory, as a decode loop is that reads all weights for each token. The exclusive or of all 32-bit words read goes
 * into the 4 bytes at `target` by exclusive or, so that the result can be checked and the loads cannot be left out.
 */
VRAM_KERNEL vram_probe_read(uint64_t source, uint64_t words, uint64_t target) {
  uint32_t sum = 0;
  for (uint64_t at = globalThread(); at < words; at += threadCount()) {
    const Words4 word = load16(source + 16 * at);
    sum ^= word.x ^ word.y ^ word.z ^ word.w;
  }
  exclusiveOr(target, sum);
}
