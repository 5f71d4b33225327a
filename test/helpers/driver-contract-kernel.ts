/** The contract of the border, on modules and the hashing kernel, whose digests are compared with node:crypto's. */
import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { HASH_KERNEL, hashLaunch, THREADS_PER_BLOCK } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import type { Bench } from "./driver-bench.ts";
import type { Scope } from "./driver-contract.ts";
import { bytesOf } from "./driver-contract-work.ts";
import { statusOf, thrownBy } from "./emulated.ts";

const BLOCK = 4096;
const DIGEST = 32;
const GUARD = 0xa5;

/** One digest for each 4 KiB block, the last one zero-padded, behind the salt block where there is one. */
function digestsOf(data: Uint8Array, salt: Uint8Array = new Uint8Array(0)): Buffer {
  const blocks = Array.from({ length: Math.ceil(data.byteLength / BLOCK) }, (_, index) => {
    const padded = Buffer.alloc(BLOCK);
    padded.set(data.subarray(index * BLOCK, (index + 1) * BLOCK));
    return createHash("sha256").update(salt).update(padded).digest();
  });
  return Buffer.concat(blocks);
}

interface Placed {
  readonly data: Buffer;
  readonly cuSource: bigint;
  readonly cuTarget: bigint;
}

/**
 * Puts data of these lengths into one allocation, whose other bytes are not zero, with room for the digests in another.
 * The mapping that the kernel reads is read-only, as a shard's is.
 */
async function place(bench: Bench, lengths: readonly number[]): Promise<Placed[]> {
  const strides = lengths.map((byteLength) => Math.ceil(byteLength / BLOCK + 1) * BLOCK);
  const granules = Math.ceil(strides.reduce((sum, stride) => sum + stride, 0) / bench.granule);
  const sources = bench.allocate("read", granules);
  const writable = bench.alias(sources, "readWrite");
  const targets = bench.allocate();
  bench.driver.stream.fill(bench.cuStream, writable, 0xff, sources.byteLength);
  bench.driver.stream.fill(bench.cuStream, targets.cuPointer, GUARD, targets.byteLength);
  const placed: Placed[] = [];
  let at = 0n;
  for (const [index, byteLength] of lengths.entries()) {
    const data = bytesOf(byteLength, index);
    if (byteLength > 0) await bench.upload(writable + at, data);
    const room = BigInt(index * Math.floor(targets.byteLength / lengths.length / 16) * 16);
    placed.push({ data, cuSource: sources.cuPointer + at, cuTarget: targets.cuPointer + room });
    at += BigInt(strides[index] ?? 0);
  }
  return placed;
}

/** One job alone. */
async function placeOne(bench: Bench, byteLength: number): Promise<Placed> {
  const [placed] = await place(bench, [byteLength]);
  if (placed === undefined) throw new Error("nothing was placed");
  return placed;
}

const jobsOf = (placed: readonly Placed[]) =>
  placed.map(({ data, cuSource, cuTarget }) => ({ cuSource, cuTarget, byteLength: data.byteLength }));

function moduleContract({ bench, observer }: Scope): void {
  test("a bad image is refused, and the context goes on", () => {
    const { module } = bench().driver;
    const error = thrownBy(() => module.load(Buffer.from("this is no kernel for any device\n")));
    expect(error).toBeInstanceOf(VramError);
    expect(error).toMatchObject({ code: "CUDA_FAILED", fatal: false });
    observer.see("badImageStatus", Number((error as VramError).details["status"]));
    const cuModule = module.load(bench().image);
    expect(module.getFunction(cuModule, HASH_KERNEL)).not.toBe(0n);
    module.unload(cuModule);
  });

  test("a kernel that the module has not is NOT_FOUND, and the context goes on", () => {
    const { module } = bench().driver;
    const cuModule = module.load(bench().image);
    for (const name of ["vram_hash_block", `${HASH_KERNEL}s`, "VRAM_HASH_BLOCKS", "x"]) {
      const error = thrownBy(() => module.getFunction(cuModule, name));
      expect(error, name).toMatchObject({ code: "CUDA_FAILED", details: { status: STATUS.NOT_FOUND } });
    }
    expect(module.getFunction(cuModule, HASH_KERNEL)).not.toBe(0n);
    module.unload(cuModule);
  });

  test("a module that is loaded a second time is another; unloading it leaves the first one in use", async () => {
    const { module } = bench().driver;
    const second = module.load(bench().image);
    expect(module.getFunction(second, HASH_KERNEL)).not.toBe(0n);
    module.unload(second);
    const job = await placeOne(bench(), BLOCK);
    await bench().hash(jobsOf([job]));
    expect(await bench().download(job.cuTarget, DIGEST)).toEqual(digestsOf(job.data));
  });

  test("a launch of an impossible shape is refused when it is made, and the context goes on", async () => {
    const job = await placeOne(bench(), BLOCK);
    const launch = hashLaunch(job.cuTarget + 1024n, jobsOf([job]), 0n);
    const { stream } = bench().driver;
    for (const shape of [{ gridX: 0 }, { blockX: 0 }, { blockX: 1025 }]) {
      const act = (): void => stream.launch(bench().cuStream, bench().cuFunction, { ...launch, ...shape });
      expect(statusOf(act), JSON.stringify(shape)).toBe(STATUS.INVALID_VALUE);
    }
    await bench().hash(jobsOf([job]));
    expect(await bench().download(job.cuTarget, DIGEST)).toEqual(digestsOf(job.data));
  });
}

/** Lengths around blocks and launches: tails of every kind, an empty job, more blocks than a block has threads. */
const LENGTHS = [1, 63, 64, 4095, 4096, 0, 4097, 10_000, 65_536, (THREADS_PER_BLOCK + 3) * BLOCK + 100];

function hashContract({ bench }: Scope): void {
  test.each([
    ["without a salt", undefined],
    ["with a salt", bytesOf(64, 99).fill(0, 20)],
  ])("digests of several jobs in one launch equal node:crypto's, %s", async (_, salt) => {
    const placed = await place(bench(), LENGTHS);
    await bench().hash(jobsOf(placed), salt === undefined ? {} : { salt });
    for (const { data, cuTarget } of placed) {
      const expected = digestsOf(data, salt);
      const found = await bench().download(cuTarget, expected.byteLength + DIGEST);
      expect(found.subarray(0, expected.byteLength).equals(expected), `${data.byteLength} bytes`).toBe(true);
      expect(found.subarray(expected.byteLength), "beside it").toEqual(Buffer.alloc(DIGEST, GUARD));
    }
  });

  test("threads beyond the last block do nothing", async () => {
    const job = await placeOne(bench(), 5 * BLOCK);
    await bench().hash(jobsOf([job]), { gridX: 4 });
    const expected = Buffer.concat([digestsOf(job.data), Buffer.alloc(4 * THREADS_PER_BLOCK * DIGEST, GUARD)]);
    expect((await bench().download(job.cuTarget, expected.byteLength)).equals(expected)).toBe(true);
  });

  test("blocks beyond the last thread are not hashed: a launch that is too small is not complete", async () => {
    const blocks = THREADS_PER_BLOCK + 44;
    const job = await placeOne(bench(), blocks * BLOCK);
    await bench().hash(jobsOf([job]), { gridX: 1 });
    const expected = digestsOf(job.data).fill(GUARD, THREADS_PER_BLOCK * DIGEST);
    expect((await bench().download(job.cuTarget, blocks * DIGEST)).equals(expected)).toBe(true);
  });

  test("the kernel sees what was written through another mapping before it", async () => {
    const main = bench().allocate("read");
    const alias = bench().alias(main, "readWrite");
    const { cuPointer: cuTarget } = bench().allocate();
    const job = { cuSource: main.cuPointer, byteLength: 2 * BLOCK, cuTarget };
    for (const key of [1, 2]) {
      const data = bytesOf(2 * BLOCK, key);
      await bench().upload(alias, data);
      await bench().hash([job]);
      expect(await bench().download(cuTarget, 2 * DIGEST)).toEqual(digestsOf(data));
    }
    await bench().upload(alias + 5000n, Uint8Array.of(0));
    const changed = bytesOf(2 * BLOCK, 2);
    changed[5000] = 0;
    await bench().hash([job]);
    expect(await bench().download(cuTarget, 2 * DIGEST)).toEqual(digestsOf(changed));
  });
}

export function kernelContract(scope: Scope): void {
  moduleContract(scope);
  hashContract(scope);
}
