/** Many shards, many cycles, one large shard: what it costs does not grow with what is already there. */
import { execFile } from "node:child_process";
import { createHash, randomBytes, randomInt } from "node:crypto";
import { readdir, truncate } from "node:fs/promises";
import { promisify } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import { fsverityDigest } from "../../src/hash/descriptor.ts";
import { BLOCK_BYTES, blockCount, HASHES_PER_BLOCK, keptHashCount, treeGeometry } from "../../src/hash/geometry.ts";
import { liveHandles } from "../../src/testing.ts";
import type { Damage } from "../../src/verify/report.ts";
import { reportCount } from "../helpers/counts.ts";
import { digestOf } from "../helpers/reference.ts";
import { MIB, openSmall, randomFile } from "../helpers/vram.ts";

const GIB = 1024 * MIB;
const TINY = { ringSlots: 2, ringSlotBytes: MIB / 2, measureWindowBytes: MIB / 2 };

async function millisecondsOf(task: () => unknown): Promise<number> {
  const start = performance.now();
  await task();
  return performance.now() - start;
}

/** Resident memory once what is garbage is gone: shared memory is freed some turns after it is collected. */
async function residentBytes(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  let least = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 20; turn += 1) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
    least = Math.min(least, process.memoryUsage.rss());
  }
  return least;
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

/** The fs-verity digest of `byteLength` zeros, without hashing them: all blocks of a level but its last are alike. */
function digestOfZeros(byteLength: number): string {
  const hash = (...parts: readonly (readonly [hash: Uint8Array, count: number])[]): Uint8Array => {
    const block = Buffer.alloc(BLOCK_BYTES);
    let at = 0;
    for (const [bytes, count] of parts) for (let n = 0; n < count; n += 1) at += Buffer.from(bytes).copy(block, at);
    return createHash("sha256").update(block).digest();
  };
  let count = Math.ceil(byteLength / BLOCK_BYTES);
  let common = hash();
  let last = common;
  while (count > 1) {
    const inLast = count % HASHES_PER_BLOCK || HASHES_PER_BLOCK;
    last = hash([common, inLast - 1], [last, 1]);
    common = hash([common, HASHES_PER_BLOCK]);
    count = Math.ceil(count / HASHES_PER_BLOCK);
  }
  return toHex(fsverityDigest(last, byteLength));
}

describe("many shards", () => {
  it("verifying and evicting one of 10,000 takes no longer than of 100, and listing is linear", async () => {
    const { vram } = await openSmall({ emulated: { byteLength: 2 ** 50 } }, TINY);
    let listed = 0;
    const sealUpTo = async (total: number): Promise<void> => {
      for (; listed < total; listed += 1) {
        const bytes = randomBytes(1 + randomInt(4096));
        await vram.seal(bytes, { name: `shard ${listed}`, expected: toHex(digestOf(bytes)) });
      }
    };
    const measure = async () => {
      const list = median(await Promise.all(Array.from({ length: 9 }, () => millisecondsOf(() => vram.list()))));
      const verify: number[] = [];
      const evict: number[] = [];
      for (let round = 0; round < 31; round += 1) {
        const name = `shard ${randomInt(listed)}`;
        verify.push(await millisecondsOf(() => vram.verify(name)));
        const bytes = randomBytes(100);
        await vram.seal(bytes, { name: "extra", expected: toHex(digestOf(bytes)) });
        evict.push(await millisecondsOf(() => vram.evict("extra")));
      }
      return { list, verify: median(verify), evict: median(evict) };
    };
    await sealUpTo(100);
    await measure();
    const few = await measure();
    const sealing = await millisecondsOf(() => sealUpTo(10_000));
    const many = await measure();
    const shown = (figures: typeof few): string =>
      Object.entries(figures)
        .map(([what, ms]) => `${what} ${ms.toFixed(2)} ms`)
        .join(", ");
    reportCount(
      `scale: at 100: ${shown(few)}; at 10,000: ${shown(many)}; sealing ${(sealing / 9900).toFixed(2)} ms each`,
    );
    expect(vram.list()).toHaveLength(10_000);
    expect((await vram.capacity()).bytesUsed).toBe(10_000 * 2 * MIB);
    expect(many.verify).toBeLessThan(5 * few.verify);
    expect(many.evict).toBeLessThan(5 * few.evict);
    expect(many.list).toBeLessThan(5 * 100 * few.list);
    const closing = await millisecondsOf(() => vram.close());
    reportCount(`scale: closing with 10,000 shards ${(closing / 1000).toFixed(1)} s`);
  });

  it("200 cycles of sealing and evicting leave handles, descriptors and memory as they were", async () => {
    const { path } = await randomFile(MIB + 5);
    const { vram, open } = await openSmall({}, TINY);
    const descriptors = async (): Promise<number> => (await readdir("/proc/self/fd")).length;
    const cycle = async (): Promise<void> => {
      const { record } = await vram.seal(path, { name: "again" });
      await vram.verify(record.shardId);
      await vram.evict(record.shardId);
    };
    for (let warm = 0; warm < 100; warm += 1) await cycle();
    const held = async () => {
      const { emulation } = open.driver;
      const [live, stored] = [emulation.live(), emulation.storedBytes()];
      return { handles: liveHandles(), live, stored, capacity: await vram.capacity() };
    };
    const before = await held();
    const fds = await descriptors();
    const rss = await residentBytes();
    for (let round = 0; round < 200; round += 1) await cycle();
    const grown = (await residentBytes()) - rss;
    reportCount(
      `scale: 200 cycles: resident memory ${(grown / MIB).toFixed(1)} MiB, descriptors ${await descriptors()}`,
    );
    expect(await held()).toEqual(before);
    expect(await descriptors()).toBeLessThanOrEqual(fds);
    expect(grown).toBeLessThan(64 * MIB);
  });
});

describe("large shards", () => {
  it("the digest of zeros by arithmetic is the reference's", () => {
    for (const byteLength of [1, 4096, 4097, 524_288, 524_289, 700_000]) {
      expect(digestOfZeros(byteLength)).toBe(toHex(digestOf(new Uint8Array(byteLength))));
    }
  });

  it("[VR-VER-03] 4 GiB + 4,097 bytes: two windows, one digest, and damage named beyond 2^32", async () => {
    const byteLength = 4 * GIB + 4097;
    const { path } = await randomFile(1);
    await truncate(path, 0);
    await truncate(path, byteLength);
    const expected = digestOfZeros(byteLength);
    const { vram, open, flipBit } = await openSmall(
      { emulated: { byteLength: 8 * GIB }, onMismatch: "quarantine" },
      { ringSlots: 2, ringSlotBytes: 32 * MIB, measureWindowBytes: 4 * GIB },
    );
    const sealing = await millisecondsOf(() => vram.seal(path, { name: "large", expected, format: "raw" }));
    const shard = open.system.registry.find("large");
    expect(await open.devices[0]?.measure(shard.allocationId)).toMatchObject({ windows: 2, bytesCovered: byteLength });
    expect(open.driver.emulation.storedBytes()).toBeLessThan(64 * MIB);
    reportCount(`scale: 4 GiB + 4,097 bytes sealed in ${(sealing / 1000).toFixed(1)} s`);
    for (const offset of [2 ** 32 - 1, 2 ** 32, byteLength - 1]) {
      await flipBit("large", offset, 7);
      const error = await vram.verify("large").then(
        () => expect.fail("the flipped bit was not found"),
        (thrown: unknown) => thrown as VramError,
      );
      expect(error.code).toBe("MEASUREMENT_MISMATCH");
      const damage = error.details["damage"] as Damage;
      expect(damage).toMatchObject({ rangeCount: 1, precision: "block", blocks: [{ byteOffsets: [offset] }] });
      expect(damage.ranges[0]?.offset).toBe(Math.floor(offset / (MIB / 2)) * (MIB / 2));
      await flipBit("large", offset, 7);
      shard.state = "sealed";
    }
    expect((await vram.verify("large")).digest).toBe(expected);
  });

  it("the tool gives the same digest to the same zeros", async ({ skip }) => {
    const { path } = await randomFile(1);
    const byteLength = 64 * MIB + 4097;
    await truncate(path, 0);
    await truncate(path, byteLength);
    const tool = await promisify(execFile)("fsverity", ["digest", "--compact", path]).catch((error: unknown) => {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return skip("no fsverity tool");
      throw error;
    });
    expect(tool.stdout.trim()).toContain(digestOfZeros(byteLength));
  });

  it.each([70_000_000_000, 2 ** 46 + 4097, 2 ** 53 - 4097, 2 ** 53 - 1])(
    "the tree over %i bytes has the shape that whole numbers without a limit give",
    (byteLength) => {
      const counts: bigint[] = [];
      for (let count = (BigInt(byteLength) + 4095n) / 4096n; counts.at(-1) !== 1n; count = (count + 127n) / 128n) {
        counts.push(count);
      }
      expect(treeGeometry(byteLength).hashCounts.map(BigInt)).toEqual(counts);
      expect(BigInt(blockCount(byteLength))).toBe(counts[0]);
      expect(BigInt(keptHashCount(byteLength))).toBe((BigInt(byteLength) + 524_287n) / 524_288n);
    },
  );
});
