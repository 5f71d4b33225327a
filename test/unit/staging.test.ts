/** The ring and the one pass through it: order, backpressure, and that no failure anywhere keeps a slot. */
import { describe, expect, test } from "vitest";
import { VramError } from "../../src/errors.ts";
import { openHashPool } from "../../src/hash/pool.ts";
import type { OpenedSource } from "../../src/source/source.ts";
import { digestOpened } from "../../src/staging/digest.ts";
import { type PipelineStages, passThrough } from "../../src/staging/pipeline.ts";
import { createSlotRing, leavesFor, type Slot, type SlotRing } from "../../src/staging/slots.ts";
import { codeOf } from "../helpers/vram.ts";

const SLOT_BYTES = 4096;

interface Numbered extends Slot {
  readonly number: number;
}

/** A ring that knows what is out. */
interface WatchedRing extends SlotRing<Numbered> {
  /** Slots that are out now, and the most that ever were. */
  out(): number;
  most(): number;
  readonly slots: readonly Numbered[];
}

function ringOf(count: number): WatchedRing {
  const slots: readonly Numbered[] = Array.from({ length: count }, (_, number) => ({
    number,
    bytes: new Uint8Array(SLOT_BYTES),
    leaves: leavesFor(SLOT_BYTES),
  }));
  const ring = createSlotRing(slots);
  let out = 0;
  let most = 0;
  return {
    slots,
    out: () => out,
    most: () => most,
    acquire: async () => {
      const slot = await ring.acquire();
      out += 1;
      most = Math.max(most, out);
      return slot;
    },
    release: (slot) => {
      out -= 1;
      ring.release(slot);
    },
  };
}

interface SourcePlan {
  readonly byteLength: number;
  /** Bytes that are really there. */
  readonly actual?: number;
  readonly failReadAt?: number;
  readonly failFinish?: boolean;
}

/** A source whose every byte is the number of its slot's worth; counts how it is used. */
function sourceOf(plan: SourcePlan) {
  const seen = { reads: 0, finishes: 0 };
  let position = 0;
  const source: OpenedSource = {
    info: { name: "test", format: "raw", byteLength: plan.byteLength, tensors: [] },
    read: async (into) => {
      seen.reads += 1;
      if (seen.reads === plan.failReadAt) throw new VramError("SOURCE_READ_FAILED", "told by the test");
      const count = Math.min(into.byteLength, (plan.actual ?? plan.byteLength) - position);
      into.fill(seen.reads, 0, count);
      position += count;
      return count;
    },
    finish: async () => {
      seen.finishes += 1;
      if (plan.failFinish === true) throw new VramError("SOURCE_CHANGED", "told by the test");
    },
    close: async () => undefined,
  };
  return { source, seen };
}

/** A promise and its outcome, to be given by hand. */
function gate() {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

const nothing: PipelineStages<Numbered> = { start: async () => undefined, finish: () => undefined };

/** Lets every promise that can settle do so. */
const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

describe("the ring", () => {
  test("gives slots in the order they were asked for", async () => {
    const ring = createSlotRing(ringOf(2).slots);
    const [first, second] = [await ring.acquire(), await ring.acquire()];
    const order: string[] = [];
    const waiting = ["a", "b", "c"].map(async (name) => {
      const slot = await ring.acquire();
      order.push(`${name}${slot.number}`);
      ring.release(slot);
    });
    await turns();
    expect(order).toEqual([]);
    ring.release(second);
    await Promise.all(waiting);
    expect(order).toEqual(["a1", "b1", "c1"]);
    ring.release(first);
    expect([(await ring.acquire()).number, (await ring.acquire()).number]).toEqual([1, 0]);
  });

  test("takes a slot back once", async () => {
    const ring = createSlotRing(ringOf(1).slots);
    const slot = await ring.acquire();
    ring.release(slot);
    expect(() => ring.release(slot)).toThrow("a slot is released once");
  });
});

describe("a pass", () => {
  test("hands every byte on once, and finishes in order although starts end in any", async () => {
    const ring = ringOf(4);
    const { source, seen } = sourceOf({ byteLength: 4 * SLOT_BYTES - 100 });
    const gates = [gate(), gate(), gate(), gate()];
    const started: number[] = [];
    const finished: (readonly [number, number, number | undefined])[] = [];
    const pass = passThrough(
      source,
      ring,
      {
        start: async (_slot, offset) => {
          started.push(offset);
          await gates[offset / SLOT_BYTES]?.opened;
        },
        finish: (slot, offset, count) => void finished.push([offset, count, slot.bytes[0]]),
      },
      undefined,
    );
    await turns();
    expect(started).toEqual([0, 4096, 8192, 12_288]);
    for (const last of [3, 2, 1]) gates[last]?.open();
    await turns();
    expect(finished).toEqual([]);
    gates[0]?.open();
    await pass;
    expect(finished).toEqual([
      [0, 4096, 1],
      [4096, 4096, 2],
      [8192, 4096, 3],
      [12_288, 3996, 4],
    ]);
    expect([ring.out(), seen.finishes]).toEqual([0, 1]);
  });

  test.each([1, 2, 3])("with %i slots reads no further than they reach", async (count) => {
    const ring = ringOf(count);
    const { source, seen } = sourceOf({ byteLength: 20 * SLOT_BYTES });
    const hold = gate();
    let done = 0;
    const finish = (): void => {
      done += 1;
    };
    const pass = passThrough(source, ring, { start: () => hold.opened, finish }, undefined);
    await turns();
    expect([seen.reads, ring.out(), done]).toEqual([count, count, 0]);
    hold.open();
    await pass;
    expect([ring.most(), ring.out(), done]).toEqual([count, 0, 20]);
  });

  test("over nothing asks for no slot, but whether the source changed", async () => {
    const ring = ringOf(1);
    const { source, seen } = sourceOf({ byteLength: 0 });
    await passThrough(source, ring, nothing, undefined);
    expect([ring.most(), seen.reads, seen.finishes]).toEqual([0, 0, 1]);
  });

  const FAILURES: Record<string, { plan?: Partial<SourcePlan>; stages?: Partial<typeof nothing>; code: string }> = {
    "the first read": { plan: { failReadAt: 1 }, code: "SOURCE_READ_FAILED" },
    "a later read": { plan: { failReadAt: 4 }, code: "SOURCE_READ_FAILED" },
    "a source that ends early": { plan: { actual: 2 * SLOT_BYTES }, code: "SOURCE_CHANGED" },
    "a source that changed": { plan: { failFinish: true }, code: "SOURCE_CHANGED" },
    "starting a slot": {
      stages: { start: async (_slot, offset) => failAt(offset) },
      code: "DEVICE_LOST",
    },
    "starting a slot at once": { stages: { start: failAtOnce }, code: "DEVICE_LOST" },
    "finishing a slot": { stages: { finish: (_slot, offset) => failAt(offset) }, code: "DEVICE_LOST" },
    "finishing a slot later": {
      stages: { finish: (_slot, offset) => turns().then(() => failAt(offset)) },
      code: "DEVICE_LOST",
    },
  };

  function failAt(offset: number): void {
    if (offset === 2 * SLOT_BYTES) throw new VramError("DEVICE_LOST", "told by the test");
  }
  function failAtOnce(_slot: Numbered, offset: number): Promise<void> {
    failAt(offset);
    return Promise.resolve();
  }

  test.each(Object.keys(FAILURES))("that fails in %s ends with that error and every slot free", async (where) => {
    const { plan, stages, code } = FAILURES[where] ?? { code: "" };
    const ring = ringOf(3);
    const { source, seen } = sourceOf({ byteLength: 50 * SLOT_BYTES, ...plan });
    expect(await codeOf(passThrough(source, ring, { ...nothing, ...stages }, undefined))).toBe(code);
    expect(ring.out()).toBe(0);
    expect(await Promise.all(ring.slots.map(() => ring.acquire()))).toHaveLength(3);
    if (plan?.failFinish !== true) expect(seen.reads).toBeLessThan(50);
    expect(seen.finishes).toBe(plan?.failFinish === true ? 1 : 0);
  });

  test("does not end before every slot that is still in use was let go", async () => {
    const ring = ringOf(3);
    const { source } = sourceOf({ byteLength: 3 * SLOT_BYTES });
    const [fail, hold] = [gate(), gate()];
    let ended = false;
    const start = async (_slot: Numbered, offset: number): Promise<void> => {
      await (offset === 0 ? fail : hold).opened;
      if (offset === 0) throw new VramError("DEVICE_LOST", "told by the test");
    };
    const pass = codeOf(passThrough(source, ring, { ...nothing, start }, undefined)).finally(() => {
      ended = true;
    });
    await turns();
    fail.open();
    await turns();
    expect([ended, ring.out()]).toEqual([false, 2]);
    hold.open();
    expect([await pass, ring.out()]).toEqual(["DEVICE_LOST", 0]);
  });

  test("of which one slot failed finishes none behind it, and keeps the first error", async () => {
    const { source } = sourceOf({ byteLength: 3 * SLOT_BYTES });
    const finished: number[] = [];
    const stages: PipelineStages<Numbered> = {
      start: async (_slot, offset) => {
        if (offset === 2 * SLOT_BYTES) throw new VramError("CUDA_FAILED", "the second to fail");
      },
      finish: (_slot, offset) => {
        finished.push(offset);
        if (offset === 0) throw new VramError("OUT_OF_VRAM", "the first to be finished");
      },
    };
    expect(["CUDA_FAILED", "OUT_OF_VRAM"]).toContain(await codeOf(passThrough(source, ringOf(3), stages, undefined)));
    expect(finished.filter((offset) => offset > 0)).toEqual([]);
  });

  test.each([0, 1, 3])("is left after %i slots when the caller aborts", async (after) => {
    const ring = ringOf(2);
    const { source, seen } = sourceOf({ byteLength: 50 * SLOT_BYTES });
    const aborter = new AbortController();
    if (after === 0) aborter.abort();
    const finish = (_slot: Numbered, offset: number): void => {
      if (offset === (after - 1) * SLOT_BYTES) aborter.abort();
    };
    expect(await codeOf(passThrough(source, ring, { ...nothing, finish }, aborter.signal))).toBe("ABORTED");
    expect(seen.reads).toBeLessThanOrEqual(after + 2);
    expect([ring.out(), seen.finishes]).toEqual([0, 0]);
  });

  test("that is aborted behind its last byte is not complete", async () => {
    const { source, seen } = sourceOf({ byteLength: SLOT_BYTES });
    const aborter = new AbortController();
    const start = async (): Promise<void> => aborter.abort();
    const stages = { ...nothing, start };
    expect(await codeOf(passThrough(source, ringOf(1), stages, aborter.signal))).toBe("ABORTED");
    expect(seen.finishes).toBe(0);
  });
});

describe("a digest without a device", () => {
  test("tells its progress in order, and computes only what it is asked for", async () => {
    const byteLength = 20 * 1024 * 1024 + 1;
    const progress: number[] = [];
    const { source } = sourceOf({ byteLength });
    const watch = { onProgress: (bytesDone: number) => progress.push(bytesDone) };
    const result = await digestOpened(source, openHashPool(0), { tree: false, sha256: true }, watch);
    expect(Object.keys(result)).toEqual(["sha256"]);
    expect(progress).toEqual([8 * 1024 * 1024, 16 * 1024 * 1024, byteLength]);
  });
});
