/**
 * The hashing kernel as the emulated device runs it: the agreement of `kernel-abi.ts`, read from device memory when
 * the launch executes. Blocks are hashed on the pool, from the granules where they lie. As on hardware, blocks beyond
 * the threads of the launch are not hashed, and a bad address fails the context.
 *
 * Different from hardware: a launch that faults has written nothing or whole batches, never single digests, and the
 * time it takes says nothing about a GPU. What hardware would not notice (parameters of the wrong shape, a job table
 * that breaks the agreement) is a lint.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { hashBlocks } from "../../hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES } from "../../hash/geometry.ts";
import type { HashPool, HashTask } from "../../hash/pool.ts";
import type { Launch } from "../driver.ts";
import { decodeJobs, JOB_BYTES } from "../kernel-abi.ts";
import { cudaError, STATUS } from "../status.ts";
import { type Accessor, holdReferences, type Reach } from "./access.ts";
import { EmulatorLint, ExecutionFault, type LintBook } from "./lint.ts";
import { GRANULE_BYTES, type Segment } from "./physical.ts";

const IMAGE_PREFIX = "emulated:";
/** The image that `module.load` of the emulated driver accepts: any text that starts like this one. */
export const EMULATED_MODULE_IMAGE: Uint8Array = new TextEncoder().encode(`${IMAGE_PREFIX}vram_hash_blocks`);

const SALT_BLOCK_BYTES = 64;
/** Work handed to the pool at once: 16 granules. */
const BATCH_BYTES = 16 * GRANULE_BYTES;
const MAX_GRID = 2 ** 31 - 1;
const MAX_THREADS_PER_BLOCK = 1024;
const SHAPE = ["u64", "u32", "u64", "u64", "u32"] as const;

export function isEmulatedImage(image: Uint8Array): boolean {
  return new TextDecoder().decode(image.subarray(0, IMAGE_PREFIX.length)) === IMAGE_PREFIX;
}

interface HashLaunch {
  readonly cuJobs: bigint;
  readonly jobCount: number;
  readonly cuSaltBlock: bigint;
  /** Blocks that have a thread. */
  readonly blockLimit: number;
}

/** Reads the parameters at the launch call, as the driver copies them there. */
export function readLaunch(launch: Launch): HashLaunch {
  const { gridX, blockX, parameters } = launch;
  const within = (value: number, max: number): boolean => Number.isInteger(value) && value >= 1 && value <= max;
  if (!within(gridX, MAX_GRID) || !within(blockX, MAX_THREADS_PER_BLOCK)) {
    throw cudaError("stream.launch", STATUS.INVALID_VALUE);
  }
  const [jobs, jobCount, totalBlocks, salt] = parameters.map(({ value }) => BigInt(value));
  const shaped = parameters.length === SHAPE.length && parameters.every(({ kind }, index) => kind === SHAPE[index]);
  if (!shaped || jobs === undefined || jobCount === undefined || totalBlocks === undefined || salt === undefined) {
    throw new EmulatorLint("stream.launch: parameters are not (u64, u32, u64, u64, u32)");
  }
  const blockLimit = Math.min(Number(totalBlocks), gridX * blockX);
  return { cuJobs: jobs, jobCount: Number(jobCount), cuSaltBlock: salt, blockLimit };
}

/** Enqueue time: the mappings that the launch itself names. Those in the job table are known when it executes. */
export function holdLaunch(launch: HashLaunch, access: Accessor): () => void {
  return holdReferences([
    access.expect(launch.cuJobs, launch.jobCount * JOB_BYTES, "stream.launch"),
    access.expect(launch.cuSaltBlock, SALT_BLOCK_BYTES, "stream.launch"),
  ]);
}

interface Job {
  readonly source: Reach;
  readonly target: Reach;
  /** Bytes of source that have threads. */
  readonly byteLength: number;
}

/** The job table with every range resolved and allowed; a lint, and no jobs, where it breaks the agreement. */
function readJobs(launch: HashLaunch, access: Accessor, ordinal: number, lints: LintBook): Job[] {
  const tableBytes = launch.jobCount * JOB_BYTES;
  const table = tableBytes === 0 ? new Uint8Array(0) : access.fetch(launch.cuJobs, tableBytes, ordinal);
  const view = new DataView(table.buffer);
  const jobs: Job[] = [];
  let expected = 0;
  for (const [index, { cuSource, cuTarget, byteLength }] of decodeJobs(table).entries()) {
    const firstBlock = Number(view.getBigUint64(index * JOB_BYTES + 24, true));
    if (firstBlock !== expected) {
      lints.remember(new EmulatorLint(`launch: job ${index} starts at block ${firstBlock}, not ${expected}`));
      return [];
    }
    expected += blockCount(byteLength);
    const blocks = Math.min(expected, launch.blockLimit) - firstBlock;
    if (blocks <= 0) continue;
    const bytes = Math.min(byteLength, blocks * BLOCK_BYTES);
    const source = access.reach(cuSource, bytes, ordinal, "read");
    const target = access.reach(cuTarget, blocks * HASH_BYTES, ordinal, "readWrite");
    jobs.push({ source, target, byteLength: bytes });
  }
  if (launch.blockLimit > expected) {
    lints.remember(new EmulatorLint(`launch: ${launch.blockLimit} threads for the ${expected} blocks of its jobs`));
    return [];
  }
  return jobs;
}

/** A range of a job's source in pieces of whole blocks; copied where blocks would straddle granules. */
function piecesOf({ source }: Job, at: number, byteLength: number): Iterable<Segment> {
  if (source.offset % BLOCK_BYTES === 0) return source.physical.segments(source.offset + at, byteLength);
  const bytes = new Uint8Array(new SharedArrayBuffer(byteLength));
  source.physical.read(source.offset + at, bytes);
  return [{ byteLength, bytes }];
}

/** The digests of one granule of zeros; computed when first asked for. */
function zeroDigests(salt: Uint8Array | undefined): () => Uint8Array {
  let digests: Uint8Array | undefined;
  return () => {
    if (digests === undefined) {
      const one = new Uint8Array(HASH_BYTES);
      hashBlocks(new Uint8Array(BLOCK_BYTES), one, salt);
      digests = Buffer.alloc(blockCount(GRANULE_BYTES) * HASH_BYTES, one);
    }
    return digests;
  };
}

interface Batch {
  readonly salt: Uint8Array | undefined;
  readonly zeros: () => Uint8Array;
  readonly tasks: HashTask[];
  readonly writes: { readonly target: Reach; readonly offset: number; readonly out: Uint8Array }[];
}

/** What hashes [at, at + byteLength) of `job`; `at` is a multiple of the block. */
function addToBatch(batch: Batch, job: Job, at: number, byteLength: number): void {
  const { salt } = batch;
  const out = new Uint8Array(new SharedArrayBuffer(blockCount(byteLength) * HASH_BYTES));
  let offset = 0;
  for (const { byteLength: length, bytes } of piecesOf(job, at, byteLength)) {
    const part = out.subarray(offset, offset + blockCount(length) * HASH_BYTES);
    offset += part.byteLength;
    if (bytes === undefined) part.set(batch.zeros().subarray(0, part.byteLength));
    else batch.tasks.push({ data: bytes, out: part, ...(salt === undefined ? {} : { padded: salt }) });
  }
  batch.writes.push({ target: job.target, offset: (at / BLOCK_BYTES) * HASH_BYTES, out });
}

export interface KernelEnvironment {
  readonly access: Accessor;
  readonly lints: LintBook;
  readonly pool: HashPool;
  /** The device it runs on. */
  readonly ordinal: number;
  /** Whether the context may still have effects. */
  isLive(): boolean;
}

/** Hashes and writes one batch. A pool that fails is a launch that failed. */
async function runBatch(batch: Batch, environment: KernelEnvironment): Promise<void> {
  if (!environment.isLive()) return;
  try {
    await environment.pool.hash(batch.tasks);
  } catch {
    throw new ExecutionFault(STATUS.LAUNCH_FAILED);
  }
  if (!environment.isLive()) return;
  for (const { target, offset, out } of batch.writes) target.physical.write(target.offset + offset, out);
  batch.tasks.length = 0;
  batch.writes.length = 0;
  await nextTurn();
}

/** Runs the launch. Throws `ExecutionFault`. */
export async function runHashKernel(launch: HashLaunch, environment: KernelEnvironment): Promise<void> {
  const { access, ordinal, lints } = environment;
  const salt = launch.cuSaltBlock === 0n ? undefined : access.fetch(launch.cuSaltBlock, SALT_BLOCK_BYTES, ordinal);
  const jobs = readJobs(launch, access, ordinal, lints);
  const settle = holdReferences(jobs.flatMap(({ source, target }) => [source.mapping, target.mapping]));
  try {
    const batch: Batch = { salt, zeros: zeroDigests(salt), tasks: [], writes: [] };
    let queued = 0;
    for (const job of jobs) {
      for (let at = 0; at < job.byteLength; at += BATCH_BYTES) {
        if (!environment.isLive()) return;
        const byteLength = Math.min(BATCH_BYTES, job.byteLength - at);
        addToBatch(batch, job, at, byteLength);
        queued += byteLength;
        if (queued < BATCH_BYTES) continue;
        await runBatch(batch, environment);
        queued = 0;
      }
    }
    await runBatch(batch, environment);
  } finally {
    settle();
  }
}
