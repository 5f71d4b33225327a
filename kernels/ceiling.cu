/**
 * How fast this GPU can compute SHA-256 when memory takes no part: the ceiling that `vram_hash_blocks` is compared
 * with. One compression is one 64-byte chunk, so a launch stands for 64 · threads · rounds bytes.
 */
#include "sha256.cuh"

namespace {

/** A block that no two threads share and that costs no memory access. */
VRAM_DEVICE Block firstBlock(uint64_t thread) {
  Block block;
  VRAM_UNROLL for (uint32_t i = 0; i < 16; i += 1) {
    block.word[i] = (static_cast<uint32_t>(thread) + i) * 0x9e3779b9u + static_cast<uint32_t>(thread >> 32);
  }
  return block;
}

/** All 256 bits of the state in 64, so that no word of it is computed for nothing. */
VRAM_DEVICE uint64_t fold(const Sha256State& state) {
  const uint32_t(&h)[8] = state.h;
  const uint32_t upper = h[0] ^ h[2] ^ h[4] ^ h[6];
  const uint32_t lower = h[1] ^ h[3] ^ h[5] ^ h[7];
  return (static_cast<uint64_t>(upper) << 32) | lower;
}

}  // namespace

/**
 * Compresses `rounds` blocks in each thread and writes 8 bytes per thread to `out`. The schedule leaves W(48) to W(63)
 * in the place of the block (§6.2.2): that is the next block, so none can be computed ahead or left out.
 */
VRAM_KERNEL vram_sha256_ceiling(uint64_t* out, uint32_t rounds, uint32_t one) {
  const uint64_t thread = globalThread();
  const Arithmetic use = arithmeticOf(one);
  Sha256State state = initialState();
  Block block = firstBlock(thread);
  VRAM_NO_UNROLL for (uint32_t round = 0; round < rounds; round += 1) compress(state, block, use);
  out[thread] = fold(state);
}
