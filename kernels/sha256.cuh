/**
 * The SHA-256 compression function in registers. Sections are those of FIPS 180-4 (August 2015).
 *
 * Hashing is bound by the pipe for shifts, logic and additions, while the multiplier is nearly idle. Hence three
 * variants of the same arithmetic, chosen when compiling:
 *
 *   (nothing)                  plain
 *   VRAM_IMAD                  additions as a * one + b
 *   VRAM_IMAD, VRAM_UMULHI     and the shifts of the schedule as the high half of a product
 *
 * `one` is a kernel parameter that equals 1, so that the compiler cannot fold the product away.
 */
#pragma once

#include "portable.cuh"

#if defined(VRAM_UMULHI) && !defined(VRAM_IMAD)
#error "VRAM_UMULHI goes with VRAM_IMAD"
#endif

// Unnamed, because object files of different variants may be linked into one program.
namespace {

/** Additions and shifts as they are written. */
struct Plain {
  VRAM_DEVICE uint32_t add(uint32_t a, uint32_t b) const { return a + b; }
  VRAM_DEVICE uint32_t shiftRight(uint32_t x, uint32_t n) const { return x >> n; }
};

/** The same on the multiplier. */
struct Multiplied {
  uint32_t one;
  VRAM_DEVICE uint32_t add(uint32_t a, uint32_t b) const { return a * one + b; }
#if defined(VRAM_UMULHI)
  /** x · 2^(32 − n) ÷ 2^32. The shifted `one` is the same in every round: the compiler keeps it in a register. */
  VRAM_DEVICE uint32_t shiftRight(uint32_t x, uint32_t n) const { return multiplyHigh(x, one << (32 - n)); }
#else
  VRAM_DEVICE uint32_t shiftRight(uint32_t x, uint32_t n) const { return x >> n; }
#endif
};

#if defined(VRAM_IMAD)
using Arithmetic = Multiplied;
VRAM_DEVICE Arithmetic arithmeticOf(uint32_t one) { return {one}; }
#else
using Arithmetic = Plain;
VRAM_DEVICE Arithmetic arithmeticOf(uint32_t) { return {}; }
#endif

/** A block of the message: sixteen words, already read as big-endian. Compressing overwrites it. */
struct Block {
  uint32_t word[16];
};

/** The hash value H (§6.2). */
struct Sha256State {
  uint32_t h[8];
};

/** §5.3.3 */
VRAM_DEVICE Sha256State initialState() {
  return {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

/** §3.2, ROTR. Not __funnelshift_r: nvcc makes the same instruction of this, and can compute it on constants. */
VRAM_DEVICE uint32_t rotateRight(uint32_t x, uint32_t n) { return (x >> n) | (x << (32 - n)); }

/** §4.1.2, equations 4.2 to 4.7 */
VRAM_DEVICE uint32_t choose(uint32_t x, uint32_t y, uint32_t z) { return (x & y) ^ (~x & z); }
VRAM_DEVICE uint32_t majority(uint32_t x, uint32_t y, uint32_t z) { return (x & y) ^ (x & z) ^ (y & z); }
VRAM_DEVICE uint32_t upperSigma0(uint32_t x) { return rotateRight(x, 2) ^ rotateRight(x, 13) ^ rotateRight(x, 22); }
VRAM_DEVICE uint32_t upperSigma1(uint32_t x) { return rotateRight(x, 6) ^ rotateRight(x, 11) ^ rotateRight(x, 25); }
template <class A>
VRAM_DEVICE uint32_t lowerSigma0(uint32_t x, A use) {
  return rotateRight(x, 7) ^ rotateRight(x, 18) ^ use.shiftRight(x, 3);
}
template <class A>
VRAM_DEVICE uint32_t lowerSigma1(uint32_t x, A use) {
  return rotateRight(x, 17) ^ rotateRight(x, 19) ^ use.shiftRight(x, 10);
}

/** §6.2.2 step 1, for t ≥ 16: W(t) takes the place of W(t − 16), so the block itself is the schedule's memory. */
template <class A>
VRAM_DEVICE uint32_t nextWord(const Block& block, int t, A use) {
  const uint32_t(&w)[16] = block.word;
  return use.add(use.add(w[t & 15], lowerSigma0(w[(t + 1) & 15], use)),
                 use.add(w[(t + 9) & 15], lowerSigma1(w[(t + 14) & 15], use)));
}

/** §6.2.2 step 3. `v` holds a to h; `input` is K(t) + W(t). */
VRAM_DEVICE void advance(uint32_t (&v)[8], uint32_t input, Arithmetic use) {
  const uint32_t a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5], g = v[6], h = v[7];
  const uint32_t t1 = use.add(use.add(use.add(h, upperSigma1(e)), choose(e, f, g)), input);
  const uint32_t t2 = use.add(upperSigma0(a), majority(a, b, c));
  v[0] = use.add(t1, t2);
  v[1] = a;
  v[2] = b;
  v[3] = c;
  v[4] = use.add(d, t1);
  v[5] = e;
  v[6] = f;
  v[7] = g;
}

/**
 * §6.2.2: takes one block into the state. Unrolled, so that the words stay in registers and K (§4.2.2) in the
 * instructions. `scheduleWith` computes K(t) + W(t), `use` the rounds.
 */
template <class A>
VRAM_DEVICE void compress(Sha256State& state, Block& block, A scheduleWith, Arithmetic use) {
  constexpr uint32_t K[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t v[8];
  VRAM_UNROLL for (int i = 0; i < 8; i += 1) v[i] = state.h[i];
  VRAM_UNROLL for (int t = 0; t < 64; t += 1) {
    if (t >= 16) block.word[t & 15] = nextWord(block, t, scheduleWith);
    advance(v, scheduleWith.add(block.word[t & 15], K[t]), use);
  }
  VRAM_UNROLL for (int i = 0; i < 8; i += 1) state.h[i] += v[i];
}

/** The same for a block of data. */
VRAM_DEVICE void compress(Sha256State& state, Block& block, Arithmetic use) { compress(state, block, use, use); }

/**
 * The last block of a message of whole blocks (§5.1.1): a one bit, zeros, the length in bits. All of it is known when
 * compiling, and the plain schedule does not involve `one`: the compiler folds it into 64 constants.
 */
template <uint32_t MessageBits>
VRAM_DEVICE void compressPadding(Sha256State& state, Arithmetic use) {
  static_assert(MessageBits % 512 == 0, "the padding is a block of its own");
  Block block = {{0x80000000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, MessageBits}};
  compress(state, block, Plain{}, use);
}

}  // namespace
