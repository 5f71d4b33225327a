/** The hashing kernel in the hands of questions: any variant, any block size; and what lies in memory, told by digests. */
import { createHash } from "node:crypto";
import { encodeJobs, HASH_KERNEL, hashLaunch } from "../../dist/cuda/kernel-abi.js";
import { KERNEL_VARIANTS, SHIPPED_VARIANT } from "../../dist/cuda/native/kernel-image.js";
import { saltBlock } from "../../dist/hash/blocks.js";
import { GIB, MIB } from "./driver.mjs";

export const BLOCK_BYTES = 4096;
export const HASH_BYTES = 32;
/** The one that is shipped first. */
export const VARIANTS = [SHIPPED_VARIANT, ...KERNEL_VARIANTS.filter((variant) => variant !== SHIPPED_VARIANT)];
export const BLOCK_SIZES = [64, 128, 256, 512];

export const blocksOf = (byteLength) => Math.ceil(byteLength / BLOCK_BYTES);

/** A variant, compiled, with room for its job table. `enqueue` takes addresses; `salt` is the address of 64 bytes. */
export function openHasher(gpu, variant = VARIANTS[0]) {
  const { jitMs, entry } = gpu.load(`fsverity.${variant}`);
  const cuFunction = entry(HASH_KERNEL);
  const table = gpu.allocate(gpu.granuleBytes);
  return {
    jitMs,
    cuFunction,
    /** Puts the rows into place; the launch over them, for `gpu.launch`. */
    prepare: (jobs, blockX = 256, salt = 0n) => {
      const rows = jobs.map(({ source, byteLength, target }) => ({ cuSource: source, byteLength, cuTarget: target }));
      gpu.upload(table.address, encodeJobs(rows));
      const launch = hashLaunch(table.address, rows, salt);
      const total = jobs.reduce((sum, { byteLength }) => sum + blocksOf(byteLength), 0);
      return () => gpu.launch(cuFunction, Math.ceil(total / blockX), blockX, launch.parameters);
    },
    close: () => table.close(),
  };
}

/** SHA-256 of every 4 KiB block of `data`, zero-padded, by node:crypto; `salt` is 1–32 bytes. */
export function hostDigests(data, salt) {
  const padded = salt === undefined ? undefined : saltBlock(salt);
  const out = Buffer.alloc(blocksOf(data.byteLength) * HASH_BYTES);
  const last = Buffer.alloc(BLOCK_BYTES);
  for (let block = 0; block * BLOCK_BYTES < data.byteLength; block += 1) {
    let bytes = data.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    if (bytes.byteLength < BLOCK_BYTES) {
      last.fill(0).set(bytes);
      bytes = last;
    }
    const digest = createHash("sha256");
    if (padded !== undefined) digest.update(padded);
    out.set(digest.update(bytes).digest(), block * HASH_BYTES);
  }
  return out;
}

/** How many digests of `found` equal `wanted`. Whole runs of them are compared at once. */
function countEqual(found, wanted) {
  const run = Buffer.alloc(Math.min(found.byteLength, MIB), wanted);
  let equal = 0;
  for (let at = 0; at < found.byteLength; at += run.byteLength) {
    const part = found.subarray(at, at + run.byteLength);
    if (part.equals(run.subarray(0, part.byteLength))) {
      equal += part.byteLength / HASH_BYTES;
      continue;
    }
    for (let row = 0; row < part.byteLength; row += HASH_BYTES) {
      if (part.subarray(row, row + HASH_BYTES).equals(wanted)) equal += 1;
    }
  }
  return equal;
}

const digestOfByte = (value) => hostDigests(Buffer.alloc(BLOCK_BYTES, value));

/**
 * Blocks of memory that are all zero, and blocks that are all `pattern`, told by their digests: memory is read where it
 * lies, and only 1/128 of it comes to the host.
 */
export function scan(gpu, { address, byteLength }, pattern) {
  const windowBytes = Math.min(4 * GIB, byteLength);
  const hasher = openHasher(gpu);
  const digests = gpu.allocate(blocksOf(windowBytes) * HASH_BYTES);
  const counts = { blocks: 0, zero: 0, pattern: 0 };
  for (let at = 0; at < byteLength; at += windowBytes) {
    const count = Math.min(windowBytes, byteLength - at);
    hasher.prepare([{ source: address + BigInt(at), byteLength: count, target: digests.address }])();
    gpu.settle();
    const found = gpu.download(digests.address, blocksOf(count) * HASH_BYTES);
    counts.blocks += blocksOf(count);
    counts.zero += countEqual(found, digestOfByte(0));
    counts.pattern += countEqual(found, digestOfByte(pattern));
  }
  digests.close();
  hasher.close();
  return counts;
}

/** Fills memory with bytes that do not repeat within 64 MiB. */
export function fillRandom(gpu, { address, byteLength }, random) {
  const chunk = random.bytes(Math.min(64 * MIB, byteLength));
  gpu.upload(address, chunk);
  const copies = gpu.bare.has("memcpyDtoDAsync");
  let done = chunk.byteLength;
  while (done < byteLength) {
    const to = address + BigInt(done);
    const count = Math.min(copies ? done : chunk.byteLength, byteLength - done);
    if (!copies) gpu.upload(to, chunk.subarray(0, count));
    else if (gpu.bare.status("memcpyDtoDAsync", to, address, count, gpu.streamOf()) !== 0) throw new Error("no copy");
    gpu.settle();
    done += count;
  }
}

/** The middle of `values`, to four digits. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return Number((sorted[Math.floor(sorted.length / 2)] ?? 0).toPrecision(4));
}

/** The value below which `share` of all are, to four digits. */
export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return Number((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toPrecision(4));
}

/** GB/s (10^9 bytes), to four digits. */
export const gigabytesPerSecond = (byteLength, ms) => Number((byteLength / ms / 1e6).toPrecision(4));
