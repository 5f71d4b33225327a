/**
 * Step 7: what measuring costs whoever else uses the GPU. Another process reads 1 GiB over and over, as decoding reads
 * all weights for each token; its latencies are taken alone, beside an idle context, and while we measure in chunks, at
 * several shares of our time.
 */
import { GIB, MIB, openGpu, randomSource } from "./driver.mjs";
import { blocksOf, fillRandom, gigabytesPerSecond, HASH_BYTES, openHasher } from "./hashing.mjs";
import { startPart } from "./parts.mjs";

const SHARES = [0, 0.05, 0.1, 0.25, 0.5, 1];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The tenant's latencies since it was last asked, microseconds. */
async function latencies(tenant) {
  tenant.say("now");
  return tenant.line();
}

/**
 * Measures in chunks for `ms` milliseconds and pauses in between, so that chunks take `share` of the time. Timers are
 * coarse: what a pause was too long is taken off the next ones.
 */
async function measureFor(gpu, enqueueChunk, chunkBytes, ms, share) {
  const begin = performance.now();
  let chunks = 0;
  let busyMs = 0;
  while (performance.now() - begin < ms) {
    const start = performance.now();
    enqueueChunk();
    gpu.settle();
    chunks += 1;
    busyMs += performance.now() - start;
    const wanted = busyMs / share - (performance.now() - begin);
    if (wanted >= 1) await pause(wanted);
  }
  const elapsedMs = performance.now() - begin;
  return {
    chunks,
    msPerChunk: Number((busyMs / chunks).toPrecision(4)),
    share: Number((busyMs / elapsedMs).toPrecision(3)),
    gigabytesPerSecond: gigabytesPerSecond(chunks * chunkBytes, elapsedMs),
  };
}

async function coTenant({ quick, report }) {
  const windowMs = quick ? 100 : 1500;
  const tenant = startPart("tenant", { byteLength: quick ? MIB : GIB });
  await tenant.line();
  await pause(windowMs / 3);
  await latencies(tenant);
  await pause(windowMs);
  report("alone", await latencies(tenant));

  const gpu = openGpu();
  const memory = gpu.allocate(quick ? 2 * MIB : GIB);
  const target = gpu.allocate(blocksOf(memory.byteLength) * HASH_BYTES);
  fillRandom(gpu, memory, randomSource("tenant"));
  const hasher = openHasher(gpu);
  for (const chunkBytes of quick ? [MIB] : [64 * MIB, 256 * MIB, GIB]) {
    const enqueue = hasher.prepare([{ source: memory.address, byteLength: chunkBytes, target: target.address }]);
    enqueue();
    gpu.settle();
    for (const share of SHARES) {
      await latencies(tenant);
      const ours = share === 0 ? await pause(windowMs) : await measureFor(gpu, enqueue, chunkBytes, windowMs, share);
      const theirs = await latencies(tenant);
      report(`chunks of ${chunkBytes / MIB} MiB, share ${share}`, { tenant: theirs, ...(ours ?? {}) });
    }
  }
  tenant.kill();
  await tenant.ended;
}

export const title = "another process on the same GPU, while we measure";
export const questions = { "co-tenant": { limitS: 60, ask: coTenant } };
