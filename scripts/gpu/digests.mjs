/** Step 1: does every kernel variant compute what node:crypto computes? */
import { saltBlock } from "../../dist/hash/blocks.js";
import { MIB, openGpu, randomSource } from "./driver.mjs";
import { BLOCK_SIZES, blocksOf, HASH_BYTES, hostDigests, openHasher, VARIANTS } from "./hashing.mjs";

const GUARD_BYTES = 64;
const TARGET_BYTES = 4 * MIB;

/** Lengths at which a tail is handled in another way, among lengths of any kind. */
const TAILS = [1, 15, 16, 63, 64, 65, 127, 128, 4032, 4033, 4095, 4096, 4097, 8191, 8192];
const ALIGNMENTS = [4096, 4096, 4096, 16, 1];

/** A few jobs side by side: their data at addresses of every alignment, their targets with guards between them. */
function makeCase(random, maxBytes) {
  const jobs = [];
  let sourceAt = 0;
  let targetAt = GUARD_BYTES;
  for (let left = 1 + random.below(7); left > 0; left -= 1) {
    const byteLength = random.below(2) === 0 ? TAILS[random.below(TAILS.length)] : 1 + random.below(maxBytes);
    const alignment = ALIGNMENTS[random.below(ALIGNMENTS.length)];
    sourceAt = Math.ceil(sourceAt / alignment) * alignment;
    jobs.push({ byteLength, sourceAt, targetAt });
    sourceAt += byteLength;
    targetAt += blocksOf(byteLength) * HASH_BYTES + GUARD_BYTES;
  }
  const salt = random.below(2) === 0 ? random.bytes(1 + random.below(32)) : undefined;
  const blockX = BLOCK_SIZES[random.below(BLOCK_SIZES.length)];
  return { jobs, salt, blockX, data: random.bytes(sourceAt), targetBytes: targetAt };
}

/** Runs one case; the numbers of its jobs whose digests are wrong, `guard` among them if something else was written. */
function runCase(gpu, hasher, room, { jobs, salt, blockX, data, targetBytes }) {
  gpu.upload(room.source.address, data);
  gpu.fill(room.target.address, 0xa5, targetBytes);
  if (salt !== undefined) gpu.upload(room.salt.address, Buffer.from(saltBlock(salt)));
  const rows = jobs.map(({ byteLength, sourceAt, targetAt }) => ({
    source: room.source.address + BigInt(sourceAt),
    byteLength,
    target: room.target.address + BigInt(targetAt),
  }));
  hasher.prepare(rows, blockX, salt === undefined ? 0n : room.salt.address)();
  gpu.settle();
  const found = gpu.download(room.target.address, targetBytes);
  const expected = Buffer.alloc(targetBytes, 0xa5);
  const wrong = [];
  jobs.forEach(({ byteLength, sourceAt, targetAt }, index) => {
    const digests = hostDigests(data.subarray(sourceAt, sourceAt + byteLength), salt);
    expected.set(digests, targetAt);
    if (!digests.equals(found.subarray(targetAt, targetAt + digests.byteLength))) wrong.push(`job ${index}`);
  });
  return found.equals(expected) || wrong.length > 0 ? wrong : ["guard"];
}

/** Random cases for one variant, then one large launch, every block of it compared. */
function checkVariant(variant) {
  return ({ quick, report }) => {
    const seed = `${variant} ${Date.now()}`;
    report("seed", seed);
    const random = randomSource(seed);
    const gpu = openGpu();
    const room = { source: gpu.allocate(64 * MIB), target: gpu.allocate(TARGET_BYTES), salt: gpu.allocate(64) };
    const hasher = openHasher(gpu, variant);
    report("jitMs", Math.round(hasher.jitMs));
    const sums = { cases: 0, jobs: 0, blocks: 0, wrong: 0 };
    for (let left = quick ? 12 : 300; left > 0; left -= 1) {
      const one = makeCase(random, quick ? 100_000 : 2_000_000);
      const wrong = runCase(gpu, hasher, room, one);
      if (wrong.length > 0) {
        const { jobs, blockX } = one;
        report(`wrong ${sums.wrong}`, { wrong, jobs, blockX, salt: one.salt?.toString("hex") ?? null });
      }
      sums.cases += 1;
      sums.jobs += one.jobs.length;
      sums.blocks += one.jobs.reduce((sum, { byteLength }) => sum + blocksOf(byteLength), 0);
      sums.wrong += wrong.length;
    }
    const large = random.bytes((quick ? 1 : 64) * MIB - 1);
    const all = { byteLength: large.byteLength, sourceAt: 0, targetAt: GUARD_BYTES };
    const targetBytes = blocksOf(large.byteLength) * HASH_BYTES + 2 * GUARD_BYTES;
    sums.wrong += runCase(gpu, hasher, room, { jobs: [all], blockX: 256, data: large, targetBytes }).length;
    sums.blocks += blocksOf(large.byteLength);
    for (const [name, value] of Object.entries(sums)) report(name, value);
    if (sums.wrong > 0) throw new Error(`${sums.wrong} digests or guards are wrong`);
  };
}

export const title = "digests of every kernel variant against node:crypto";
export const questions = Object.fromEntries(
  VARIANTS.map((variant) => [variant, { limitS: 40, ask: checkVariant(variant) }]),
);
