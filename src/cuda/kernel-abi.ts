/**
 * The agreement between the host and the hashing kernel, whichever backend runs it.
 *
 *   vram_hash_blocks(u64 jobs, u32 jobCount, u64 totalBlocks, u64 saltBlock, u32 one)
 *
 * One launch hashes the 4 KiB blocks of several jobs, one thread per block. `jobs` points to a table of 32-byte rows in
 * device memory: source u64 @0, byteLength u64 @8, target u64 @16, firstBlock u64 @24 (the number of this job's first
 * block among all blocks of the launch; rows are in ascending order of it). Block b of a job is read at
 * source + 4096 b, zero-padded after byteLength, and its SHA-256 written to target + 32 b. `saltBlock` points to 64
 * bytes that precede every block, or is 0. `one` is 1, a constant the compiler cannot see through: variants of the
 * kernel multiply by it to move additions to the multiplier. Canary blocks are ordinary jobs of the same launch.
 */
import { blockCount } from "../hash/geometry.ts";
import type { Launch } from "./driver.ts";

export const HASH_KERNEL = "vram_hash_blocks";
export const JOB_BYTES = 32;
/** Threads per block of the launch. */
export const THREADS_PER_BLOCK = 256;

/** One row of the job table. Addresses are device pointers. */
export interface HashJob {
  readonly cuSource: bigint;
  readonly byteLength: number;
  readonly cuTarget: bigint;
}

/** The table as it stands in device memory: 32 bytes a row, little-endian. */
export function encodeJobs(jobs: readonly HashJob[]): Uint8Array {
  const table = new Uint8Array(jobs.length * JOB_BYTES);
  const view = new DataView(table.buffer);
  let firstBlock = 0;
  jobs.forEach((job, index) => {
    const at = index * JOB_BYTES;
    view.setBigUint64(at, job.cuSource, true);
    view.setBigUint64(at + 8, BigInt(job.byteLength), true);
    view.setBigUint64(at + 16, job.cuTarget, true);
    view.setBigUint64(at + 24, BigInt(firstBlock), true);
    firstBlock += blockCount(job.byteLength);
  });
  return table;
}

/** Reads the table back: what the emulated kernel does. */
export function decodeJobs(table: Uint8Array): HashJob[] {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  return Array.from({ length: table.byteLength / JOB_BYTES }, (_, index) => ({
    cuSource: view.getBigUint64(index * JOB_BYTES, true),
    byteLength: Number(view.getBigUint64(index * JOB_BYTES + 8, true)),
    cuTarget: view.getBigUint64(index * JOB_BYTES + 16, true),
  }));
}

/** The launch over `jobs` whose table stands at `cuTable`. */
export function hashLaunch(cuTable: bigint, jobs: readonly HashJob[], cuSaltBlock: bigint): Launch {
  const totalBlocks = jobs.reduce((sum, job) => sum + blockCount(job.byteLength), 0);
  return {
    gridX: Math.ceil(totalBlocks / THREADS_PER_BLOCK),
    blockX: THREADS_PER_BLOCK,
    parameters: [
      { kind: "u64", value: cuTable },
      { kind: "u32", value: jobs.length },
      { kind: "u64", value: BigInt(totalBlocks) },
      { kind: "u64", value: cuSaltBlock },
      { kind: "u32", value: 1 },
    ],
  };
}
