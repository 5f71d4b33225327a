/**
 * Hashes 4 KiB blocks where they lie in VRAM: the levels of fs-verity Merkle trees (Linux
 * Documentation/filesystems/fsverity.rst, "Merkle tree"), and the canary blocks that show the hashing took place. The
 * host's side of the agreement is src/cuda/kernel-abi.ts.
 *
 * One thread hashes one block: 64 chunks of 64 bytes, each read by four 16-byte loads whose sectors are used up at
 * once, then a padding block. Neighbouring threads read 4 KiB apart; SHA-256 needs far longer than memory does.
 */
#include "sha256.cuh"

/** One row of the job table; rows are in ascending order of `firstBlock`. Addresses are device pointers. */
struct HashJob {
  uint64_t source;
  uint64_t byteLength;
  /** A multiple of 16. */
  uint64_t target;
  /** Number of this job's first block among all blocks of the launch. */
  uint64_t firstBlock;
};
static_assert(sizeof(HashJob) == 32, "JOB_BYTES in src/cuda/kernel-abi.ts");

namespace {

constexpr uint32_t BLOCK_BYTES = 4096;
constexpr uint32_t CHUNK_BYTES = 64;
constexpr uint32_t HASH_BYTES = 32;

/**
 * The row of `block`: the last one that begins at or before it. Rows of empty sources share their `firstBlock` with
 * the row after them, which is the later one.
 */
VRAM_DEVICE HashJob findJob(const HashJob* jobs, uint32_t jobCount, uint64_t block) {
  uint32_t low = 0;
  uint32_t high = jobCount - 1;
  VRAM_NO_UNROLL while (low < high) {
    const uint32_t middle = high - (high - low) / 2;
    if (jobs[middle].firstBlock <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return jobs[low];
}

/** Four bytes as a big-endian word, of which `available` may be read; zeros stand for the rest. */
VRAM_DEVICE uint32_t loadWordBytewise(uint64_t address, uint32_t available) {
  uint32_t word = 0;
  VRAM_NO_UNROLL for (uint32_t i = 0; i < 4; i += 1) word = (word << 8) | (i < available ? load1(address + i) : 0);
  return word;
}

/**
 * The chunk at `address`, of which `available` bytes may be read. src/device/measure.ts hands over nothing but
 * multiples of 4096 from the start of an allocation, so only tails are read bytewise; a source at any other address
 * would be hashed slowly, not wrongly (a misaligned 16-byte load kills the context).
 */
VRAM_DEVICE Block loadChunk(uint64_t address, uint32_t available) {
  Block block;
  if (available >= CHUNK_BYTES && address % 16 == 0) {
    VRAM_UNROLL for (int i = 0; i < 4; i += 1) {
      const Words4 words = load16(address + 16 * i);
      block.word[4 * i] = swapBytes(words.x);
      block.word[4 * i + 1] = swapBytes(words.y);
      block.word[4 * i + 2] = swapBytes(words.z);
      block.word[4 * i + 3] = swapBytes(words.w);
    }
  } else {
    VRAM_UNROLL for (uint32_t i = 0; i < 16; i += 1) {
      block.word[i] = loadWordBytewise(address + 4 * i, available > 4 * i ? available - 4 * i : 0);
    }
  }
  return block;
}

VRAM_DEVICE void storeDigest(uint64_t address, const Sha256State& state) {
  const uint32_t(&h)[8] = state.h;
  store16(address, {swapBytes(h[0]), swapBytes(h[1]), swapBytes(h[2]), swapBytes(h[3])});
  store16(address + 16, {swapBytes(h[4]), swapBytes(h[5]), swapBytes(h[6]), swapBytes(h[7])});
}

}  // namespace

/** `saltBlock`: 64 bytes that precede every block, or null. */
VRAM_KERNEL vram_hash_blocks(const HashJob* jobs, uint32_t jobCount, uint64_t totalBlocks, const uint8_t* saltBlock,
                             uint32_t one) {
  const uint64_t block = globalThread();
  if (block >= totalBlocks || jobCount == 0) return;
  const HashJob job = findJob(jobs, jobCount, block);
  const uint64_t offset = (block - job.firstBlock) * BLOCK_BYTES;
  // A total larger than the sum of the jobs would have us write after the last target.
  if (offset >= job.byteLength) return;

  const Arithmetic use = arithmeticOf(one);
  Sha256State state = initialState();
  if (saltBlock != nullptr) {
    Block salt = loadChunk(reinterpret_cast<uint64_t>(saltBlock), CHUNK_BYTES);
    compress(state, salt, use);
  }
  const uint64_t left = job.byteLength - offset;
  const uint32_t available = left < BLOCK_BYTES ? static_cast<uint32_t>(left) : BLOCK_BYTES;
  VRAM_NO_UNROLL for (uint32_t at = 0; at < BLOCK_BYTES; at += CHUNK_BYTES) {
    Block chunk = loadChunk(job.source + offset + at, available > at ? available - at : 0);
    compress(state, chunk, use);
  }
  if (saltBlock == nullptr) {
    compressPadding<8 * BLOCK_BYTES>(state, use);
  } else {
    compressPadding<8 * (CHUNK_BYTES + BLOCK_BYTES)>(state, use);
  }
  storeDigest(job.target + (block - job.firstBlock) * HASH_BYTES, state);
}
