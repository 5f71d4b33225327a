/**
 * Hashing threads by what they are asked and what they answer: threads of the test's own take the place of the built
 * one, so that every refusal, its words, and what keeps a process alive can be seen.
 */
import { open } from "node:fs/promises";
import { Worker } from "node:worker_threads";
import { afterEach, describe, expect, test, vi } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { liveHandles } from "../../src/dispose.ts";
import { VramError } from "../../src/errors.ts";
import { hashBlocks, saltBlock } from "../../src/hash/blocks.ts";
import { type HashPool, type HashTask, openHashPool, serveRequest } from "../../src/hash/pool.ts";
import { randomFile } from "../helpers/vram.ts";

const PIECE = 2 ** 20;

const threadOf = (body: string): URL =>
  new URL(
    `data:text/javascript,${encodeURIComponent(`import { parentPort, threadId } from "node:worker_threads";
parentPort.on("message", (request) => { ${body} });`)}`,
  );
const ANSWER = "parentPort.postMessage({ ticket: request.ticket });";
/** Writes what it was asked into the first hash of `out`: ticket, where to read from, and whether there is a salt. */
const NOTE = `const note = new Float64Array(4);
  note.set([request.ticket, request.from?.fd ?? -1, request.from?.offset ?? -1, request.padded?.byteLength ?? -1]);
  request.out.set(new Uint8Array(note.buffer)); ${ANSWER}`;

const shared = (byteLength: number): Uint8Array => new Uint8Array(new SharedArrayBuffer(byteLength));
const taskOf = (byteLength: number, more: Partial<HashTask> = {}): HashTask => ({
  data: shared(byteLength),
  out: shared(Math.ceil(byteLength / 4096) * 32),
  ...more,
});
/** What `NOTE` wrote for each piece of a task. */
const notesOf = ({ out }: HashTask): number[][] =>
  Array.from({ length: Math.ceil(out.byteLength / 8192) }, (_, piece) => [
    ...new Float64Array(out.slice(piece * 8192, piece * 8192 + 32).buffer),
  ]);

const opened: HashPool[] = [];
const openPool = (...args: Parameters<typeof openHashPool>): HashPool => {
  const pool = openHashPool(...args);
  opened.push(pool);
  return pool;
};
afterEach(async () => {
  vi.restoreAllMocks();
  for (const pool of opened.splice(0)) await pool.close();
  expect(liveHandles()).toEqual({});
});

const refusal = async (task: Promise<unknown>): Promise<readonly unknown[]> => {
  const error = await task.then(
    () => "nothing was refused",
    (thrown: unknown) => thrown,
  );
  return error instanceof VramError ? [error.code, error.message, error.cause] : [error];
};

describe("what a thread is asked", () => {
  test("is each piece once, with where in the file it lies", async () => {
    const task = taskOf(2 * PIECE + 5, { from: { fd: 77, offset: 4096 } });
    await openPool(1, threadOf(NOTE), 0).hash([task]);
    expect(notesOf(task)).toEqual([
      [1, 77, 4096, -1],
      [2, 77, 4096 + PIECE, -1],
      [3, 77, 4096 + 2 * PIECE, -1],
    ]);
  });

  test("has a salt or a file only where the task has one", async () => {
    const keys = `request.out[0] = Object.keys(request).sort().join() === "data,out,ticket" ? 1 : 2; ${ANSWER}`;
    const plain = taskOf(10);
    await openPool(1, threadOf(keys), 0).hash([plain]);
    expect(plain.out[0]).toBe(1);
    const salted = taskOf(10, { padded: saltBlock(Uint8Array.of(1)) });
    await openPool(1, threadOf(NOTE), 0).hash([salted]);
    expect(notesOf(salted)).toEqual([[1, -1, -1, 64]]);
  });

  test("goes to the thread that has the least to do, the first of them", async () => {
    const pool = openPool(3, threadOf(`request.out[0] = threadId % 251; ${ANSWER}`), 0);
    const task = taskOf(6 * PIECE);
    await pool.hash([task]);
    const threads = [0, 1, 2, 3, 4, 5].map((piece) => task.out[piece * 8192]);
    expect(threads.slice(3)).toEqual(threads.slice(0, 3));
    expect(new Set(threads).size).toBe(3);
    const next = taskOf(10);
    await pool.hash([next]);
    expect(next.out[0]).toBe(threads[0]);
  });

  test("comes from a process of its own: no flags, no environment, and a name", async () => {
    vi.stubEnv("VRAM_TEST_LEAK", "1");
    const seen = threadOf(
      `request.out[0] = 1 + Object.keys(process.env).length; request.out[1] = process.execArgv.length; ${ANSWER}`,
    );
    const task = taskOf(10);
    await openPool(1, seen, 0).hash([task]);
    expect([...task.out.subarray(0, 2)]).toEqual([1, 0]);
    vi.unstubAllEnvs();
  });
});

describe("what a thread answers", () => {
  test.each([
    ["short", "SOURCE_CHANGED", "the file became shorter while it was being read", undefined],
    ["EIO", "SOURCE_READ_FAILED", "reading the file failed: EIO", { errno: "EIO" }],
  ])("that it could not read (%s) refuses the task and no other", async (unread, ...refused) => {
    const pool = openPool(
      1,
      threadOf(`parentPort.postMessage(request.from ? { ticket: request.ticket, unread: "${unread}" } : request);`),
      0,
    );
    const asked = pool.hash([taskOf(10, { from: { fd: 1, offset: 0 } })]);
    const fine = pool.hash([taskOf(10)]);
    expect(await refusal(asked)).toEqual(refused);
    await fine;
  });

  test("to what nobody asked, or twice, is nothing", async () => {
    const twice = `${ANSWER} ${ANSWER}
      parentPort.postMessage({ ticket: 99 }); parentPort.postMessage({ ticket: 99, unread: "EIO" });`;
    const pool = openPool(1, threadOf(twice), 0);
    await pool.hash([taskOf(10)]);
    await pool.hash([taskOf(10), taskOf(10)]);
  });

  test("nothing any more: it failed, and why is the cause; or it was closed", async () => {
    const failing = openPool(1, threadOf('throw new Error("broken");'), 0);
    const expected = ["INTERNAL", "a hashing thread failed", expect.objectContaining({ message: "broken" })];
    expect(await refusal(failing.hash([taskOf(10)]))).toEqual(expected);
    expect(await refusal(failing.hash([taskOf(10)]))).toEqual(expected);
    const silent = openPool(1, threadOf(""), 0);
    const asked = refusal(silent.hash([taskOf(10)]));
    await silent.close();
    expect(await asked).toEqual(["CLOSED", "the hashing threads are closed", undefined]);
    const [code, message] = await refusal(silent.hash([taskOf(10)]));
    expect([code, message]).toEqual(["CLOSED", expect.stringContaining("the hash pool")]);
  });

  test("keeps the process alive until it came, and not after", async () => {
    const calls: string[] = [];
    for (const name of ["ref", "unref"] as const) {
      const spy = vi.spyOn(Worker.prototype, name);
      const original = spy.getMockImplementation();
      spy.mockImplementation(function (this: Worker) {
        calls.push(name);
        original?.call(this);
      });
    }
    const pool = openPool(1, threadOf(ANSWER), 0);
    await pool.hash([taskOf(10)]);
    expect(calls).toEqual(["unref", "ref", "unref"]);
    await pool.hash([taskOf(10), taskOf(10)]);
    // Both are asked before either is answered: only the last answer lets the process go.
    expect(calls.slice(3)).toEqual(["ref", "ref", "unref"]);
  });
});

describe("what needs no thread", () => {
  /** A thread that would answer wrongly. */
  const wrong = threadOf(`request.out[0] = 0xee; ${ANSWER}`);
  const hashOf = ({ data }: HashTask): string => {
    const out = new Uint8Array(Math.ceil(data.byteLength / 4096) * 32);
    hashBlocks(data, out);
    return toHex(out);
  };

  test("is all tasks of one call of at most so many bytes together, none of them to be read", async () => {
    const pool = openPool(1, wrong, 8192);
    const inline = [taskOf(4096), taskOf(4096)];
    await pool.hash(inline);
    for (const task of inline) expect(toHex(task.out)).toBe(hashOf(task));
    const tooMany = [taskOf(4096), taskOf(4097)];
    await pool.hash(tooMany);
    for (const task of tooMany) expect(task.out[0]).toBe(0xee);
    const toRead = [taskOf(1), taskOf(1, { from: { fd: 1, offset: 0 } })];
    await pool.hash(toRead);
    for (const task of toRead) expect(task.out[0]).toBe(0xee);
  });

  test("may lie in memory that is not shared; a thread may not be given such memory", async () => {
    const own = { data: new Uint8Array(10), out: new Uint8Array(32) };
    await openPool(1, wrong, 10).hash([own]);
    expect(toHex(own.out)).toBe(hashOf(own));
    const pool = openPool(1, wrong, 0);
    const refused = (what: string) => ["INTERNAL", `assertion failed: ${what}`, undefined];
    expect(await refusal(pool.hash([{ ...own, out: shared(32) }]))).toEqual(
      refused("hashing threads are given shared memory"),
    );
    expect(await refusal(pool.hash([{ ...own, data: shared(10) }]))).toEqual(
      refused("hashing threads write to shared memory"),
    );
  });

  test("is never read from a file", async () => {
    const asked = openHashPool(0).hash([taskOf(10, { from: { fd: 1, offset: 0 } })]);
    expect(await refusal(asked)).toEqual(["INTERNAL", "assertion failed: files are read by threads only", undefined]);
  });

  test("lets the others run after a whole piece only", async () => {
    const turns = vi.spyOn(globalThis, "setImmediate");
    await openHashPool(0).hash([taskOf(PIECE), taskOf(PIECE - 1), taskOf(2 * PIECE + 1)]);
    expect(turns).toHaveBeenCalledTimes(3);
  });
});

describe("a pool", () => {
  test("counts as one handle until it is closed, also when no thread was started; none without threads", async () => {
    const inline = openHashPool(0);
    expect([inline.threads, liveHandles()]).toEqual([0, {}]);
    await inline.close();
    const pool = openHashPool(2);
    expect([pool.threads, liveHandles()]).toEqual([2, { "hash-pool": 1 }]);
    await pool.close();
    expect(liveHandles()).toEqual({});
  });

  test("runs the built thread where none is named", async () => {
    const pool = openPool(1, undefined, 0);
    // From source there is none beside it: the error names the file that was looked for.
    const [code, , cause] = await refusal(pool.hash([taskOf(10)]));
    expect([code, String(cause)]).toEqual(["INTERNAL", expect.stringContaining("hash/pool-thread.js")]);
  });

  test("hashes what a thread read, and nothing if it could not", async () => {
    const { path, bytes } = await randomFile(5000);
    const file = await open(path);
    const [read, unread] = [taskOf(4096), taskOf(4096)];
    const answers: unknown[] = [];
    serveRequest({ ...read, from: { fd: file.fd, offset: 100 }, ticket: 1 }, (answer) => answers.push(answer));
    serveRequest({ ...unread, from: { fd: file.fd, offset: 1000 }, ticket: 2 }, (answer) => answers.push(answer));
    await file.close();
    expect(answers).toEqual([{ ticket: 1 }, { ticket: 2, unread: "short" }]);
    expect(answers.map((answer) => Object.keys(answer as object).length)).toEqual([1, 2]);
    const out = new Uint8Array(32);
    hashBlocks(bytes.subarray(100, 4196), out);
    expect(toHex(read.out)).toBe(toHex(out));
    expect(toHex(unread.out)).toBe("00".repeat(32));
  });
});
