/** The emulated hashing kernel, against an independent SHA-256 (`@noble/hashes`) and the agreement of kernel-abi.ts. */
import { randomBytes } from "node:crypto";
import { sha256 } from "@noble/hashes/sha2.js";
import { describe, expect, test } from "vitest";
import { encodeJobs, hashLaunch, JOB_BYTES } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { saltBlock } from "../../src/hash/blocks.ts";
import type { HashPool } from "../../src/hash/pool.ts";
import {
  device,
  GRANULE,
  letItRun,
  type Machine,
  MIB,
  openMachine,
  statusOf,
  statusWhen,
} from "../helpers/emulated.ts";

const BLOCK = 4096;

/** What the kernel must write: one digest per 4 KiB block, the last zero-padded, each behind the salt block. */
function expectedDigests(data: Uint8Array, salt: Uint8Array = new Uint8Array(0)): Uint8Array {
  const digests: Uint8Array[] = [];
  for (let at = 0; at < data.byteLength; at += BLOCK) {
    const block = new Uint8Array(BLOCK);
    block.set(data.subarray(at, at + BLOCK));
    digests.push(sha256(Buffer.concat([salt, block])));
  }
  return Buffer.concat(digests);
}

/** Uploads `data` at `offset`, hashes it there and returns the digests. */
async function hashed(machine: Machine, data: Uint8Array, offset: number, salt?: Uint8Array): Promise<Uint8Array> {
  const source = machine.allocate(Math.ceil((data.byteLength + offset) / GRANULE) * GRANULE);
  const target = machine.allocate(GRANULE);
  const cuSource = source.cuPointer + BigInt(offset);
  await machine.upload(cuSource, data);
  await machine.hash([{ cuSource, byteLength: data.byteLength, cuTarget: target.cuPointer }], salt);
  return machine.download(target.cuPointer, Math.ceil(data.byteLength / BLOCK) * 32);
}

describe("digests equal an independent SHA-256", () => {
  const sizes = [1, 31, 4095, 4096, 4097, 65_536, GRANULE - 1, GRANULE, GRANULE + 1, 2 * GRANULE + 4097];
  test.each(sizes)("%d bytes, unsalted", async (byteLength) => {
    const data = randomBytes(byteLength);
    expect(Buffer.from(await hashed(openMachine(), data, 0)).equals(expectedDigests(data))).toBe(true);
  });

  test.each([1, 4096, 4097, GRANULE + 5])("%d bytes, salted", async (byteLength) => {
    const data = randomBytes(byteLength);
    const salt = saltBlock(randomBytes(32));
    expect(Buffer.from(await hashed(openMachine(), data, 0, salt)).equals(expectedDigests(data, salt))).toBe(true);
  });

  test.each([4096, GRANULE - 4096, 1, 4095, GRANULE - 100])("a source at offset %d of its memory", async (offset) => {
    const data = randomBytes(50_000);
    expect(Buffer.from(await hashed(openMachine(), data, offset)).equals(expectedDigests(data))).toBe(true);
  });

  test("zero granules, dirty granules and stored ones in one job, salted and not", async () => {
    const machine = openMachine();
    const source = machine.allocate(4 * GRANULE);
    const target = machine.allocate(GRANULE);
    machine.driver.stream.fill(machine.cuStream, source.cuPointer, 0, 2 * GRANULE);
    await machine.upload(source.cuPointer + BigInt(2 * GRANULE), randomBytes(GRANULE));
    const byteLength = 3 * GRANULE + 5000;
    for (const salt of [undefined, saltBlock(Uint8Array.of(1, 2, 3))]) {
      await machine.hash([{ cuSource: source.cuPointer, byteLength, cuTarget: target.cuPointer }], salt);
      const data = await machine.download(source.cuPointer, byteLength);
      const digests = await machine.download(target.cuPointer, Math.ceil(byteLength / BLOCK) * 32);
      expect(Buffer.from(digests).equals(expectedDigests(data, salt))).toBe(true);
    }
    expect(machine.driver.emulation.storedBytes()).toBe(2 * GRANULE);
  });

  test("a partial block of a zero granule", async () => {
    const machine = openMachine();
    const { cuPointer } = machine.allocate(2 * GRANULE);
    const cuTarget = cuPointer + BigInt(GRANULE);
    machine.driver.stream.fill(machine.cuStream, cuPointer, 0, GRANULE);
    await machine.hash([{ cuSource: cuPointer, byteLength: 5000, cuTarget }]);
    const digests = await machine.download(cuTarget, 64);
    expect(Buffer.from(digests).equals(expectedDigests(new Uint8Array(5000)))).toBe(true);
  });

  test("several jobs of one launch, empty ones among them", async () => {
    const machine = openMachine();
    const source = machine.allocate(2 * GRANULE);
    const target = machine.allocate(GRANULE);
    const data = randomBytes(300_000);
    await machine.upload(source.cuPointer, data);
    const parts = [
      [0, 100_000],
      [100_000, 0],
      [114_688, 4096],
      [200_000, 1],
      [131_072, 100_001],
    ] as const;
    const cuTarget = (index: number): bigint => target.cuPointer + BigInt(index * 4096);
    const jobs = parts.map(([offset, byteLength], index) => ({
      cuSource: source.cuPointer + BigInt(offset),
      byteLength,
      cuTarget: cuTarget(index),
    }));
    await machine.hash(jobs);
    for (const [index, [offset, byteLength]] of parts.entries()) {
      const expected = expectedDigests(data.subarray(offset, offset + byteLength));
      if (expected.byteLength === 0) continue;
      const digests = await machine.download(cuTarget(index), expected.byteLength);
      expect(Buffer.from(digests).equals(expected)).toBe(true);
    }
  });

  test("a sparse allocation of 4 GiB is hashed quickly and stored nowhere", async () => {
    const machine = openMachine({ devices: [device(0, 8192 * MIB)] });
    const byteLength = 4096 * MIB;
    const source = machine.allocate(byteLength);
    const target = machine.allocate(32 * MIB);
    const started = performance.now();
    machine.driver.stream.fill(machine.cuStream, source.cuPointer, 0, byteLength);
    await machine.finish();
    expect(machine.driver.emulation.storedBytes()).toBe(0);
    await machine.hash([{ cuSource: source.cuPointer, byteLength, cuTarget: target.cuPointer }]);
    // Hashing 4 GiB would take 3 s on one core of the machine this was written on; elided, 0.1 s.
    expect(performance.now() - started).toBeLessThan(20_000);
    const last = await machine.download(target.cuPointer + BigInt(32 * MIB - 32), 32);
    expect(last).toEqual(Uint8Array.from(sha256(new Uint8Array(BLOCK))));
  });
});

describe("the launch", () => {
  /** A job of 4 blocks whose digests land on `target`, a table at the start of `room`. */
  async function fourBlocks() {
    const machine = openMachine();
    const source = machine.allocate(GRANULE);
    const target = machine.allocate(GRANULE);
    const room = machine.allocate(GRANULE);
    await machine.upload(source.cuPointer, randomBytes(4 * BLOCK));
    machine.driver.stream.fill(machine.cuStream, target.cuPointer, 0xee, 256);
    const job = { cuSource: source.cuPointer, byteLength: 4 * BLOCK, cuTarget: target.cuPointer };
    const jobs = [job];
    const launch = hashLaunch(room.cuPointer, jobs, 0n);
    const run = async (changes: object): Promise<number> => {
      machine.driver.stream.launch(machine.cuStream, machine.cuFunction, { ...launch, ...changes });
      await machine.finish();
      const digests = await machine.download(target.cuPointer, 128);
      return [0, 1, 2, 3].filter((index) => digests[index * 32] !== 0xee || digests[index * 32 + 1] !== 0xee).length;
    };
    return { machine, target, room, job, jobs, launch, run };
  }

  test("blocks beyond the threads of the launch, or beyond totalBlocks, are not hashed", async () => {
    const { machine, room, jobs, launch, run } = await fourBlocks();
    await machine.upload(room.cuPointer, encodeJobs(jobs));
    expect(await run({ gridX: 1, blockX: 1 })).toBe(1);
    expect(await run({ gridX: 2, blockX: 1 })).toBe(2);
    const [table, jobCount, , ...rest] = launch.parameters;
    const short = { parameters: [table, jobCount, { kind: "u64", value: 3n }, ...rest] };
    expect(await run(short)).toBe(3);
    expect(await run({})).toBe(4);
  });

  test("threads without a block are a lint: they would read past the table", async () => {
    const { machine, room, jobs, launch, run } = await fourBlocks();
    await machine.upload(room.cuPointer, encodeJobs(jobs));
    const [table, jobCount, , salt] = launch.parameters;
    expect(await statusWhen(run({ parameters: [table, jobCount, { kind: "u64", value: 5n }, salt] }))).toBe(
      "EmulatorLint",
    );
    const none = { parameters: [table, { kind: "u32", value: 0 }, { kind: "u64", value: 4n }, salt] };
    expect(await statusWhen(run(none))).toBe("EmulatorLint");
    // The grid may be larger than the blocks, as it is rounded up.
    expect(await run({ gridX: 3, blockX: 7 })).toBe(4);
  });

  test("the job table is read when the launch executes", async () => {
    const { machine, room, jobs, run } = await fourBlocks();
    const slot = machine.pinned(encodeJobs(jobs));
    machine.driver.stream.copyToDevice(machine.cuStream, room.cuPointer, slot.cuPointer, JOB_BYTES);
    expect(await run({})).toBe(4);
  });

  test("a table that breaks the agreement does nothing and is a lint", async () => {
    const { machine, room, jobs, target, launch } = await fourBlocks();
    const table = encodeJobs(jobs);
    table[24] = 1;
    await machine.upload(room.cuPointer, table);
    machine.driver.stream.launch(machine.cuStream, machine.cuFunction, launch);
    await letItRun();
    expect(machine.driver.emulation.pendingLint()).toBeInstanceOf(Error);
    expect(statusOf(() => machine.driver.device.count())).toBe("EmulatorLint");
    expect(machine.driver.emulation.pendingLint()).toBeUndefined();
    expect((await machine.download(target.cuPointer, 1))[0]).toBe(0xee);
  });

  test("parameters of another shape are a lint: hardware would read past them", async () => {
    const { machine, launch } = await fourBlocks();
    const [table, jobCount, total, salt, one] = launch.parameters;
    const act = (parameters: unknown[]): unknown =>
      statusOf(() =>
        machine.driver.stream.launch(machine.cuStream, machine.cuFunction, {
          ...launch,
          parameters: parameters as typeof launch.parameters,
        }),
      );
    expect(act([])).toBe("EmulatorLint");
    expect(act([table, jobCount, total])).toBe("EmulatorLint");
    expect(act([table, jobCount, total, salt, one, one])).toBe("EmulatorLint");
    expect(act([jobCount, table, total, salt, one])).toBe("EmulatorLint");
  });

  test.each(["table", "source", "target", "salt"])("a %s that is not mapped is a late 700", async (what) => {
    const { machine, room, job, jobs, launch, run } = await fourBlocks();
    const wild = 0x1234_5000n;
    if (what === "source") await machine.upload(room.cuPointer, encodeJobs([{ ...job, cuSource: wild }]));
    else if (what === "target") await machine.upload(room.cuPointer, encodeJobs([{ ...job, cuTarget: wild }]));
    else await machine.upload(room.cuPointer, encodeJobs(jobs));
    const [table, jobCount, total, salt, one] = launch.parameters;
    const wrong = { kind: "u64", value: wild };
    const parameters = [what === "table" ? wrong : table, jobCount, total, what === "salt" ? wrong : salt, one];
    expect(await statusWhen(run({ parameters }))).toBe(STATUS.ILLEGAL_ADDRESS);
  });

  test("digests are not written through a read-only mapping", async () => {
    const { machine, room, job, run } = await fourBlocks();
    const readOnly = machine.allocate(GRANULE, "read");
    await machine.upload(room.cuPointer, encodeJobs([{ ...job, cuTarget: readOnly.cuPointer }]));
    expect(await statusWhen(run({}))).toBe(STATUS.ILLEGAL_ADDRESS);
  });

  test("a mapping the kernel is working on cannot be unmapped", async () => {
    let letGo = (): void => undefined;
    const pool: HashPool = {
      threads: 0,
      hash: () => new Promise((resolve) => (letGo = resolve)),
      close: async () => {},
    };
    const machine = openMachine({ pool });
    const source = machine.allocate(GRANULE);
    const target = machine.allocate(GRANULE);
    await machine.upload(source.cuPointer, randomBytes(BLOCK));
    const done = machine.hash([{ cuSource: source.cuPointer, byteLength: BLOCK, cuTarget: target.cuPointer }]);
    await letItRun();
    expect(statusOf(() => machine.free(target))).toBe("EmulatorLint");
    expect(statusOf(() => machine.free(source))).toBe("EmulatorLint");
    letGo();
    await done;
    machine.free(target);
    machine.free(source);
  });

  test("a pool that fails is a launch that failed; what it would have written is not", async () => {
    const pool: HashPool = {
      threads: 0,
      hash: async () => {
        throw new VramError("CLOSED", "the pool is closed");
      },
      close: async () => {},
    };
    const machine = openMachine({ pool });
    const { cuPointer } = machine.allocate(GRANULE);
    const done = machine.hash([{ cuSource: cuPointer, byteLength: BLOCK, cuTarget: cuPointer + 8192n }]);
    expect(await statusWhen(done)).toBe(STATUS.LAUNCH_FAILED);
  });

  test("a context that goes while the kernel runs keeps it from writing", async () => {
    const waiting: (() => void)[] = [];
    const pool: HashPool = {
      threads: 0,
      hash: async ([task]) => {
        await new Promise<void>((resolve) => waiting.push(resolve));
        task?.out.fill(0x77);
      },
      close: async () => {},
    };
    const machine = openMachine({ pool, devices: [device(0, 256 * MIB)] });
    const source = machine.allocate(128 * MIB);
    const target = machine.allocate(GRANULE);
    await machine.upload(source.cuPointer, randomBytes(100));
    const byteLength = 128 * MIB;
    const done = machine.hash([{ cuSource: source.cuPointer, byteLength, cuTarget: target.cuPointer }]);
    await letItRun();
    machine.driver.context.releasePrimary(0);
    for (const resume of waiting) resume();
    expect(await statusWhen(done)).toBe("EmulatorLint");
    await letItRun();
    expect(waiting.length).toBe(1);
    const cuContext = machine.driver.context.retainPrimary(0);
    machine.driver.context.setCurrent(cuContext);
    const stream = machine.driver.stream.create();
    const slot = machine.pinned(32);
    machine.driver.stream.copyToHost(stream, slot.cuPointer, target.cuPointer, 32);
    await machine.finish(stream);
    expect(slot.bytes.every((byte) => byte === 0x77)).toBe(false);
  });
});
