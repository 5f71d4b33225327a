/** Hashing threads: the logic without threads, the inline pool, and real threads of the built thread file. */
import { execFile } from "node:child_process";
import { createCipheriv } from "node:crypto";
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { liveHandles } from "../../src/dispose.ts";
import { hashBlocks, saltBlock } from "../../src/hash/blocks.ts";
import { blockCount } from "../../src/hash/geometry.ts";
import { type HashTask, openHashPool, serveRequest, type ThreadAnswer } from "../../src/hash/pool.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const run = promisify(execFile);

/** A task over shared memory whose bytes `key` decides. */
function taskOf(byteLength: number, key: number, salted = false): HashTask {
  const data = new Uint8Array(new SharedArrayBuffer(byteLength));
  const noise = createCipheriv("aes-128-ctr", Buffer.alloc(16, key), Buffer.alloc(16));
  data.set(noise.update(Buffer.alloc(byteLength)));
  const out = new Uint8Array(new SharedArrayBuffer(blockCount(byteLength) * 32 + 32)).fill(0xee);
  return { data, out, ...(salted ? { padded: saltBlock(Uint8Array.of(key)) } : {}) };
}

/** What `out` has to hold: the digests, then what was there before. */
function expected(task: HashTask): string {
  const out = new Uint8Array(task.out.byteLength).fill(0xee);
  hashBlocks(task.data, out, task.padded);
  return toHex(out);
}

/** What a thread would answer to `task` under ticket 7. */
function served(task: HashTask): ThreadAnswer[] {
  const answers: ThreadAnswer[] = [];
  serveRequest({ ...task, ticket: 7 }, (answer) => answers.push(answer));
  return answers;
}

/** A thread of a test's own. */
const threadOf = (body: string): URL =>
  new URL(
    `data:text/javascript,${encodeURIComponent(`import { parentPort, threadId } from "node:worker_threads";
parentPort.on("message", (request) => { ${body} });`)}`,
  );

/** Borders of the pieces (1 MiB) that tasks are cut into, and of blocks. */
const SIZES = [1, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB + 4097];

describe("without threads", () => {
  test("a request is hashed and answered with its ticket", () => {
    const task = taskOf(5000, 1, true);
    expect(served(task)).toEqual([{ ticket: 7 }]);
    expect(toHex(task.out)).toBe(expected(task));
  });

  test("a request may say where its data are read from, and says why if they cannot be", async () => {
    const { bytes, path } = await randomFile(10_000);
    const file = await open(path);
    const { data, out } = taskOf(5000, 1);
    expect(served({ data, out, from: { fd: file.fd, offset: 4096 } })).toEqual([{ ticket: 7 }]);
    expect(toHex(data)).toBe(toHex(bytes.subarray(4096, 9096)));
    expect(toHex(out)).toBe(expected({ data, out }));
    expect(served({ data, out, from: { fd: file.fd, offset: 5001 } })).toEqual([{ ticket: 7, unread: "short" }]);
    await file.close();
    const folder = await open(dirname(path));
    expect(served({ data, out, from: { fd: folder.fd, offset: 0 } })).toEqual([{ ticket: 7, unread: "EISDIR" }]);
    await folder.close();
    expect(served({ data, out, from: { fd: 0.5, offset: 0 } })).toEqual([{ ticket: 7, unread: "ERR_OUT_OF_RANGE" }]);
  });

  test("the inline pool hashes every task, whatever its size", async () => {
    const pool = openHashPool(0);
    expect(pool.threads).toBe(0);
    const tasks = [...SIZES.map((size, key) => taskOf(size, key)), taskOf(0, 9), taskOf(MIB + 1, 3, true)];
    await pool.hash(tasks);
    for (const task of tasks) expect(toHex(task.out)).toBe(expected(task));
    await pool.close();
  });

  test("the inline pool lets others run between pieces", async () => {
    let turns = 0;
    const hashing = openHashPool(0).hash([taskOf(3 * MIB, 1)]);
    const immediate = setImmediate(() => {
      turns += 1;
    });
    await hashing;
    clearImmediate(immediate);
    expect(turns).toBe(1);
  });
});

const THREAD = new URL("../../dist/hash/pool-thread.js", import.meta.url);
const withoutBuild = !existsSync(THREAD);
if (withoutBuild) console.log("skipped: hashing threads, dist is not built (npm run build)");

describe("threads", () => {
  test.skipIf(withoutBuild)("hash every task, also when calls overlap (needs dist)", async () => {
    const pool = openHashPool(3, THREAD, 0);
    expect(pool.threads).toBe(3);
    expect(liveHandles()).toEqual({ "hash-pool": 1 });
    const calls = Array.from({ length: 8 }, (_, call) =>
      SIZES.map((size, index) => taskOf(size, call * SIZES.length + index, call % 2 === 1)),
    );
    await Promise.all(calls.map((tasks) => pool.hash(tasks)));
    for (const task of calls.flat()) expect(toHex(task.out)).toBe(expected(task));
    await pool.close();
    await pool.close();
    expect(liveHandles()).toEqual({});
  });

  test.skipIf(withoutBuild)("read what they hash from a file, piece by piece (needs dist)", async () => {
    const pool = openHashPool(2, THREAD, 0);
    const { bytes, path } = await randomFile(3 * MIB + 5000);
    const file = await open(path);
    const { data, out } = taskOf(2 * MIB + 5000, 1);
    await pool.hash([{ data, out, from: { fd: file.fd, offset: MIB } }]);
    expect(toHex(data)).toBe(toHex(bytes.subarray(MIB)));
    expect(toHex(out)).toBe(expected({ data, out }));
    expect(await codeOf(pool.hash([{ data, out, from: { fd: file.fd, offset: 2 * MIB } }]))).toBe("SOURCE_CHANGED");
    await file.close();
    const folder = await open(dirname(path));
    expect(await codeOf(pool.hash([{ data, out, from: { fd: folder.fd, offset: 0 } }]))).toBe("SOURCE_READ_FAILED");
    await folder.close();
    await pool.close();
  });

  test("share the pieces of one task", async () => {
    const pool = openHashPool(
      2,
      threadOf("request.out[0] = threadId; parentPort.postMessage({ ticket: request.ticket });"),
      0,
    );
    const task = taskOf(4 * MIB, 1);
    await pool.hash([task]);
    const workers = [0, 1, 2, 3].map((piece) => task.out[piece * 256 * 32]);
    expect(new Set(workers).size).toBe(2);
    await pool.close();
  });

  test("closing rejects what is in flight, and what comes later, with CLOSED", async () => {
    const pool = openHashPool(2, threadOf(""), 0);
    const codes = [codeOf(pool.hash([taskOf(3 * MIB, 1)])), codeOf(pool.hash([taskOf(1, 2)]))];
    await pool.close();
    expect(await Promise.all(codes)).toEqual(["CLOSED", "CLOSED"]);
    expect(await codeOf(pool.hash([taskOf(1, 3)]))).toBe("CLOSED");
  });

  test("a thread that fails rejects its tasks, then and later, and leaves nothing", async () => {
    for (const entry of [threadOf('throw new Error("broken");'), new URL("./no-such-thread.js", import.meta.url)]) {
      const pool = openHashPool(1, entry, 0);
      expect(await codeOf(pool.hash([taskOf(MIB + 1, 1)]))).toBe("INTERNAL");
      expect(await codeOf(pool.hash([taskOf(1, 2)]))).toBe("INTERNAL");
      await pool.close();
    }
  });

  test("nothing is settled while another thread still writes", async () => {
    // A task that begins with 1 breaks its thread; one that begins with 2 waits in its thread until told to go on.
    const pool = openHashPool(
      2,
      threadOf(`if (request.data[0] === 1) throw new Error("broken");
        Atomics.wait(new Int32Array(request.data.buffer), 1, 0);
        request.out[0] = 0x77;
        parentPort.postMessage({ ticket: request.ticket });`),
      0,
    );
    const shared = (first: number): HashTask => {
      const data = new Uint8Array(new SharedArrayBuffer(64));
      data[0] = first;
      return { data, out: new Uint8Array(new SharedArrayBuffer(64)) };
    };
    const slow = shared(2);
    let settled = false;
    const outcome = codeOf(pool.hash([shared(1), slow])).finally(() => {
      settled = true;
    });
    // The broken thread is the idlest: its answer comes after its failure is known.
    expect(await codeOf(pool.hash([shared(1)]))).toBe("INTERNAL");
    expect(settled).toBe(false);
    Atomics.store(new Int32Array(slow.data.buffer), 1, 1);
    Atomics.notify(new Int32Array(slow.data.buffer), 1);
    expect(await outcome).toBe("INTERNAL");
    expect(slow.out[0]).toBe(0x77);
    await pool.close();
  });

  test("memory that is not shared is refused: it would be copied, and its digests lost", async () => {
    const pool = openHashPool(1, threadOf("parentPort.postMessage({ ticket: request.ticket });"), 0);
    const { data, out } = taskOf(100, 1);
    expect(await codeOf(pool.hash([{ data: Uint8Array.from(data), out }]))).toBe("INTERNAL");
    expect(await codeOf(pool.hash([{ data, out: Uint8Array.from(out) }]))).toBe("INTERNAL");
    await pool.close();
  });

  test.skipIf(withoutBuild)("do not keep a process alive, but finish what they were given (needs dist)", async () => {
    const program = `
      import { openHashPool } from ${JSON.stringify(new URL("./pool.js", THREAD).href)};
      const pool = openHashPool(2);
      const shared = (size) => new Uint8Array(new SharedArrayBuffer(size));
      await pool.hash([{ data: shared(2 ** 22), out: shared(2 ** 15) }]);
      console.log("hashed");`;
    // Ends with 13 if the process ended before the answer, and is killed if the idle threads hold it.
    const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", program], { timeout: 30_000 });
    expect(stdout).toBe("hashed\n");
  });
});
