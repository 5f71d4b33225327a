/**
 * Step 5: how fast a GPU hashes. First what it could do if memory took no part (`kernels/ceiling.cu`), and how fast
 * memory is read when nothing is computed (`vram_probe_read`); then the hashing kernel itself, by variant, block size
 * and amount. GB are 10^9 bytes; times are of the device where the library can tell (see `driver.mjs`), the median of
 * five after one that is not counted.
 */
import { GIB, MIB, openGpu, parameters, randomSource } from "./driver.mjs";
import {
  BLOCK_SIZES,
  blocksOf,
  fillRandom,
  gigabytesPerSecond,
  HASH_BYTES,
  median,
  openHasher,
  VARIANTS,
} from "./hashing.mjs";
import { clocksNow } from "./machine.mjs";

const { u32, u64 } = parameters;
/** `CUfunction_attribute`: registers per thread, bytes of local memory per thread (spills). */
const NUM_REGS = 4;
const LOCAL_BYTES = 3;

/** Median milliseconds of `enqueue`, after one run to warm up. */
function medianMs(gpu, runs, enqueue) {
  gpu.timed(enqueue);
  return median(Array.from({ length: runs }, () => gpu.timed(enqueue)));
}

function timesBy(gpu) {
  return gpu.bare.has("eventElapsedTime") ? "device events" : "host clock";
}

function jit({ report }) {
  const gpu = openGpu();
  const entries = { fsverity: "vram_hash_blocks", ceiling: "vram_sha256_ceiling", probes: "vram_probe_read" };
  const files = [...VARIANTS.map((v) => `fsverity.${v}`), ...VARIANTS.map((v) => `ceiling.${v}`), "probes"];
  for (const file of files) {
    const runs = [1, 2, 3].map(() => {
      const loaded = gpu.load(file);
      const cuFunction = loaded.entry(entries[file.split(".")[0]]);
      const attribute = (number) =>
        gpu.bare.has("funcGetAttribute")
          ? Number(BigInt.asIntN(32, gpu.bare.ask("funcGetAttribute", number, cuFunction)))
          : null;
      const figures = { registers: attribute(NUM_REGS), localBytes: attribute(LOCAL_BYTES) };
      gpu.driver.module.unload(loaded.cuModule);
      return { jitMs: Number(loaded.jitMs.toFixed(1)), ...figures };
    });
    const { registers, localBytes } = runs[0];
    report(file, { jitMs: runs.map(({ jitMs }) => jitMs), registers, localBytes });
  }
}

/** All variants must come to the same results: that they do the work is what makes their times comparable. */
function ceiling({ quick, report }) {
  const gpu = openGpu();
  const multiprocessors = gpu.driver.device.attribute(gpu.cuDevice, "multiprocessorCount");
  const threads = quick ? 1024 : multiprocessors * 2048;
  const rounds = quick ? 2 : 2000;
  const out = gpu.allocate(threads * 8);
  report("shape", { threads, rounds, times: timesBy(gpu) });
  let expected;
  for (const variant of VARIANTS) {
    const cuFunction = gpu.load(`ceiling.${variant}`).entry("vram_sha256_ceiling");
    for (const blockX of BLOCK_SIZES) {
      const values = [u64(out.address), u32(rounds), u32(1)];
      const ms = medianMs(gpu, quick ? 1 : 5, () => gpu.launch(cuFunction, threads / blockX, blockX, values));
      report(`${variant} × ${blockX}`, { ms, gigabytesPerSecond: gigabytesPerSecond(64 * threads * rounds, ms) });
    }
    const found = gpu.download(out.address, threads * 8);
    expected ??= found;
    if (!found.equals(expected)) throw new Error(`${variant} comes to other results`);
  }
  report("clocks", clocksNow(gpu));
}

function readBandwidth({ quick, report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(quick ? 4 * MIB : 4 * GIB);
  const target = gpu.allocate(4);
  fillRandom(gpu, memory, randomSource("read"));
  const read = gpu.load("probes").entry("vram_probe_read");
  const blocks = gpu.driver.device.attribute(gpu.cuDevice, "multiprocessorCount") * 8;
  const values = [u64(memory.address), u64(memory.byteLength / 16), u64(target.address)];
  const ms = medianMs(gpu, quick ? 1 : 5, () => gpu.launch(read, blocks, 256, values));
  report("read", { byteLength: memory.byteLength, ms, gigabytesPerSecond: gigabytesPerSecond(memory.byteLength, ms) });
}

/** The hashing kernel over `gib` GiB; in a quick run, over MiB. */
function hash(gib, variants, blockSizes, runs) {
  return ({ quick, report }) => {
    const gpu = openGpu();
    const byteLength = quick ? gib * 64 * 1024 : gib * GIB;
    const { bytesFree } = gpu.driver.context.memoryInfo();
    report("byteLength", byteLength);
    if (byteLength * (1 + HASH_BYTES / 4096) + 512 * MIB > bytesFree) {
      report("skipped", "does not fit");
      return;
    }
    const memory = gpu.allocate(byteLength);
    const target = gpu.allocate(blocksOf(byteLength) * HASH_BYTES);
    fillRandom(gpu, memory, randomSource(`hash ${gib}`));
    report("times", timesBy(gpu));
    for (const variant of variants) {
      const hasher = openHasher(gpu, variant);
      for (const blockX of blockSizes) {
        const enqueue = hasher.prepare([{ source: memory.address, byteLength, target: target.address }], blockX);
        const ms = medianMs(gpu, quick ? 1 : runs, enqueue);
        report(`${variant} × ${blockX}`, { ms, gigabytesPerSecond: gigabytesPerSecond(byteLength, ms) });
      }
    }
    report("clocks", clocksNow(gpu));
  };
}

/** Small amounts, where the time of one thread is what counts: 65 compressions one after the other. */
function small({ quick, report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(64 * MIB);
  const target = gpu.allocate(MIB);
  fillRandom(gpu, memory, randomSource("small"));
  const hasher = openHasher(gpu);
  for (const byteLength of quick ? [4096, MIB] : [4096, 64 * 1024, 512 * 1024, MIB, 8 * MIB, 64 * MIB]) {
    const enqueue = hasher.prepare([{ source: memory.address, byteLength, target: target.address }]);
    const ms = medianMs(gpu, quick ? 1 : 21, enqueue);
    report(`${byteLength} bytes`, { ms, gigabytesPerSecond: gigabytesPerSecond(byteLength, ms) });
  }
}

const [SHIPPED] = VARIANTS;

export const title = "throughput of hashing in VRAM";
export const questions = {
  jit: { limitS: 40, ask: jit },
  ceiling: { limitS: 40, ask: ceiling },
  read: { limitS: 20, ask: readBandwidth },
  small: { limitS: 20, ask: small },
  "hash-1": { limitS: 40, ask: hash(1, VARIANTS, BLOCK_SIZES, 5) },
  "hash-8": { limitS: 40, ask: hash(8, VARIANTS, BLOCK_SIZES, 5) },
  "hash-64": { limitS: 40, ask: hash(64, [SHIPPED], [128, 256], 3) },
  "hash-128": { limitS: 40, ask: hash(128, [SHIPPED], [256], 3) },
};
