/**
 * Same bytes, same digest: whatever the bytes, however they arrive, whatever the slots they pass through. The reference
 * (`test/helpers/reference.ts`) is written from the kernel's documentation over another implementation of SHA-256.
 */
import { createCipheriv, createHash } from "node:crypto";
import fc from "fast-check";
import { expect, it } from "vitest";
import { toHex, u64le } from "../../src/bytes.ts";
import { BLOCK_BYTES, HASH_BYTES, RANGE_BYTES } from "../../src/hash/geometry.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import { foldKept } from "../../src/hash/tree.ts";
import { nodeFileSystem } from "../../src/source/file.ts";
import { type OpenedSource, openSource } from "../../src/source/source.ts";
import { digestOpened } from "../../src/staging/digest.ts";
import { passThrough } from "../../src/staging/pipeline.ts";
import { createSlotRing, leavesFor } from "../../src/staging/slots.ts";
import { createWitness, type WitnessOptions } from "../../src/staging/witness.ts";
import { reportCount } from "../helpers/counts.ts";
import { digestOf } from "../helpers/reference.ts";

const RUNS = 150;
const { VRAM_TEST_SEED } = process.env;
const seed = Number(VRAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
reportCount(`digest: ${RUNS} sources, VRAM_TEST_SEED=${seed}`);

/** The largest source: two ranges and a bit, so that the tree has three levels. */
const BYTES_MAX = 2 * RANGE_BYTES + 2 * BLOCK_BYTES;

const streamOf = (key: number, byteLength: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.concat([u64le(key), u64le(0)]), Buffer.alloc(16)).update(
    Buffer.alloc(byteLength),
  );

/** Lengths crowd around the borders of blocks and ranges. */
const byteLength = fc.oneof(
  fc.nat(3 * BLOCK_BYTES),
  fc.nat(BYTES_MAX),
  fc
    .tuple(
      fc.constantFrom(0, BLOCK_BYTES, 2 * BLOCK_BYTES, RANGE_BYTES, RANGE_BYTES + BLOCK_BYTES, 2 * RANGE_BYTES),
      fc.integer({ min: -2, max: 2 }),
    )
    .map(([border, off]) => Math.max(0, border + off)),
);

/** Bytes of every kind: noise, one value, nothing but zeros. */
const bytes = fc
  .tuple(
    byteLength,
    fc.oneof(
      fc.nat(2 ** 31).map((key) => ({ key })),
      fc.nat(255).map((value) => ({ value })),
    ),
  )
  .map(([size, kind]) => ("key" in kind ? streamOf(kind.key, size) : Buffer.alloc(size, kind.value)));

/** Sizes of chunks, taken in turn; empty chunks are allowed between others. */
const chunking = fc
  .array(fc.oneof(fc.nat(10), fc.nat(5000), fc.nat(BYTES_MAX)), { minLength: 1, maxLength: 8 })
  .filter((sizes) => sizes.reduce((sum, size) => sum + size, 0) >= 64);

async function* chunksOf(data: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  for (let at = 0, turn = 0; at < data.byteLength; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield data.subarray(at, at + size);
    at += size;
  }
}

const pool = openHashPool(0);

/** A whole pass through `count` slots of `slotBytes`, as an upload makes it. */
async function digestThrough(source: OpenedSource, count: number, slotBytes: number, options: WitnessOptions) {
  const ring = createSlotRing(
    Array.from({ length: count }, () => ({
      bytes: new Uint8Array(new SharedArrayBuffer(slotBytes)),
      leaves: leavesFor(slotBytes),
    })),
  );
  const witness = createWitness(pool, source.info.byteLength, options);
  const stages = {
    start: (slot: Parameters<typeof witness.start>[0], _offset: number, filled: number) => witness.start(slot, filled),
    finish: (slot: Parameters<typeof witness.finish>[0], _offset: number, filled: number) =>
      witness.finish(slot, filled),
  };
  await passThrough(source, ring, stages, undefined);
  return witness.result();
}

it(`[VR-SEAL-05] any bytes, chunks, slots and salt give the reference's digest (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(
      bytes,
      chunking,
      fc.integer({ min: 1, max: 4 }),
      fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 160 })),
      fc.option(fc.uint8Array({ minLength: 1, maxLength: 32 }), { nil: undefined }),
      async (data, sizes, slots, slotBlocks, salt) => {
        const chunks = chunksOf(data, sizes);
        const spec = { kind: "chunks", chunks, byteLength: data.byteLength } as const;
        const source = await openSource(spec, { format: "raw" }, nodeFileSystem);
        const options = { tree: true, sha256: true, ...(salt === undefined ? {} : { salt }) };
        const { tree, sha256 } = await digestThrough(source, slots, slotBlocks * BLOCK_BYTES, options);
        await source.close();
        expect(toHex(tree?.digest ?? Buffer.of())).toBe(toHex(digestOf(data, salt)));
        expect(toHex(sha256 ?? Buffer.of())).toBe(createHash("sha256").update(data).digest("hex"));
      },
    ),
    { seed, numRuns: RUNS },
  );
});

it(`a kept level is the leaves of its ranges, and folds to the digest (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(bytes, async (data) => {
      const source = await openSource({ kind: "bytes", bytes: data }, { format: "raw" }, nodeFileSystem);
      const { tree } = await digestOpened(source, pool, { tree: true, sha256: false });
      const kept = tree?.kept ?? Buffer.of();
      expect(kept.byteLength).toBe(Math.ceil(data.byteLength / RANGE_BYTES) * HASH_BYTES);
      expect(toHex(foldKept(kept, data.byteLength).digest)).toBe(toHex(digestOf(data)));
      // Changing one range changes its hash and no other.
      if (data.byteLength === 0) return;
      const at = data.byteLength - 1;
      data[at] = (data[at] ?? 0) ^ 1;
      const again = await openSource({ kind: "bytes", bytes: data }, { format: "raw" }, nodeFileSystem);
      const changed = (await digestOpened(again, pool, { tree: true, sha256: false })).tree?.kept ?? Buffer.of();
      expect(toHex(changed.subarray(0, -HASH_BYTES))).toBe(toHex(kept.subarray(0, -HASH_BYTES)));
      expect(toHex(changed.subarray(-HASH_BYTES))).not.toBe(toHex(kept.subarray(-HASH_BYTES)));
    }),
    { seed, numRuns: 40 },
  );
});
