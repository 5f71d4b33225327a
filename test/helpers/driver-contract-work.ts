/** The contract of the border, on work: streams, events, copies and fills. */
import { createCipheriv } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import type { Bench } from "./driver-bench.ts";
import type { Scope } from "./driver-contract.ts";

/** Bytes without a pattern, the same in every run; others for each `key`. */
export const bytesOf = (byteLength: number, key: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, key), Buffer.alloc(16)).update(Buffer.alloc(byteLength));

/** Polls until the event is complete: how often it was not ready. */
async function pollsUntilComplete({ driver }: Bench, cuEvent: bigint): Promise<number> {
  // A watchdog: 10 s of turns of the event loop.
  const end = performance.now() + 10_000;
  let polls = 0;
  while (driver.event.query(cuEvent) === "not-ready") {
    if (performance.now() > end) throw new Error("the event never came");
    polls += 1;
    await nextTurn();
  }
  return polls;
}

function eventContract({ bench, terms }: Scope): void {
  test("an event that was never recorded is complete", () => {
    const { event } = bench().driver;
    const cuEvent = event.create();
    expect(event.query(cuEvent)).toBe("complete");
    event.destroy(cuEvent);
  });

  test("a recorded event comes when the work before it is done, stays, and can be recorded again", async () => {
    const { event, stream } = bench().driver;
    const { cuStream } = bench();
    const { cuPointer, byteLength } = bench().allocate();
    const cuEvent = event.create();
    for (const value of [1, 2]) {
      stream.fill(cuStream, cuPointer, value, byteLength);
      event.record(cuEvent, cuStream);
      const polls = await pollsUntilComplete(bench(), cuEvent);
      if (terms.eventsAreLate) expect(polls).toBeGreaterThan(0);
      expect(event.query(cuEvent)).toBe("complete");
      expect([...(await bench().download(cuPointer, 2))]).toEqual([value, value]);
      expect(event.query(cuEvent)).toBe("complete");
    }
    event.destroy(cuEvent);
  });

  test("an event in an empty stream comes, too", async () => {
    const { event, stream } = bench().driver;
    const [cuEvent, cuEmpty] = [event.create(), stream.create()];
    event.record(cuEvent, cuEmpty);
    await pollsUntilComplete(bench(), cuEvent);
    event.destroy(cuEvent);
    stream.destroy(cuEmpty);
  });
}

function streamContract({ bench }: Scope): void {
  test("work in a stream is done in the order in which it was given", async () => {
    const { stream } = bench().driver;
    const { cuStream } = bench();
    const { cuPointer } = bench().allocate();
    const pinned = bench().pinned(3000);
    stream.fill(cuStream, cuPointer, 1, 1000);
    stream.copyToHost(cuStream, pinned.cuPointer, cuPointer, 1000);
    stream.fill(cuStream, cuPointer, 2, 1000);
    stream.copyToHost(cuStream, pinned.cuPointer + 1000n, cuPointer, 1000);
    stream.copyToDevice(cuStream, cuPointer, pinned.cuPointer, 1000);
    stream.copyToHost(cuStream, pinned.cuPointer + 2000n, cuPointer, 1000);
    await bench().finish();
    expect([0, 999, 1000, 1999, 2000, 2999].map((at) => pinned.bytes[at])).toEqual([1, 1, 2, 2, 1, 1]);
  });

  test("what one stream has finished, another reads", async () => {
    const { stream } = bench().driver;
    const cuOther = stream.create();
    const { cuPointer } = bench().allocate();
    const pinned = bench().pinned(64);
    for (const value of [7, 8, 9]) {
      stream.fill(cuOther, cuPointer, value, 64);
      await bench().finish(cuOther);
      stream.copyToHost(bench().cuStream, pinned.cuPointer, cuPointer, 64);
      await bench().finish();
      expect(pinned.bytes.every((byte) => byte === value)).toBe(true);
    }
    stream.destroy(cuOther);
  });

  test("a stream that is destroyed finishes what it was given", async () => {
    const { stream, event } = bench().driver;
    const cuOther = stream.create();
    const cuEvent = event.create();
    const { cuPointer, byteLength } = bench().allocate();
    stream.fill(cuOther, cuPointer, 0x42, byteLength);
    event.record(cuEvent, cuOther);
    stream.destroy(cuOther);
    await pollsUntilComplete(bench(), cuEvent);
    event.destroy(cuEvent);
    expect(await bench().download(cuPointer + BigInt(byteLength - 3), 3)).toEqual(Buffer.alloc(3, 0x42));
  });
}

function copyContract({ bench }: Scope): void {
  test("copies both ways at odd offsets and lengths: every byte, and none beside them", async () => {
    const { granule } = bench();
    const { cuPointer } = bench().allocate("readWrite", 2);
    const expected = Buffer.alloc(2 * granule, 0xa5);
    bench().driver.stream.fill(bench().cuStream, cuPointer, 0xa5, 2 * granule);
    const places = [
      [0, 1],
      [1, 3],
      [4095, 4097],
      [granule - 1, 2],
      [granule + 4097, 70_001],
      [2 * granule - 13, 13],
    ] as const;
    for (const [index, [offset, byteLength]] of places.entries()) {
      const bytes = bytesOf(byteLength, index);
      bytes.copy(expected, offset);
      await bench().upload(cuPointer + BigInt(offset), bytes);
      expect(await bench().download(cuPointer + BigInt(offset), byteLength)).toEqual(bytes);
    }
    const whole = await bench().download(cuPointer, 2 * granule);
    expect(whole.equals(expected)).toBe(true);
  });

  test("a copy takes its part of the pinned memory, from odd offsets there as well", async () => {
    const { stream } = bench().driver;
    const { cuStream } = bench();
    const { cuPointer } = bench().allocate();
    const source = bytesOf(10_000, 7);
    const from = bench().pinned(source);
    const to = bench().pinned(Buffer.alloc(10_000, 0x11));
    stream.copyToDevice(cuStream, cuPointer + 3n, from.cuPointer + 4097n, 4099);
    stream.copyToHost(cuStream, to.cuPointer + 129n, cuPointer + 3n, 4099);
    await bench().finish();
    const expected = Buffer.alloc(10_000, 0x11);
    source.copy(expected, 129, 4097, 4097 + 4099);
    expect(Buffer.from(to.bytes).equals(expected)).toBe(true);
  });

  test.each([0, 1, 0x80, 0xff])("a fill with %d touches its range and nothing else", async (value) => {
    const { stream } = bench().driver;
    const { cuPointer } = bench().allocate();
    const guard = value ^ 0x5a;
    stream.fill(bench().cuStream, cuPointer, guard, 9000);
    stream.fill(bench().cuStream, cuPointer + 1001n, value, 5003);
    const expected = Buffer.alloc(9000, guard).fill(value, 1001, 6004);
    expect((await bench().download(cuPointer, 9000)).equals(expected)).toBe(true);
  });
}

export function workContract(scope: Scope): void {
  eventContract(scope);
  streamContract(scope);
  copyContract(scope);
}
