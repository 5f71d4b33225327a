/**
 * Random sequences of allocate, alias, write, fill, copy, read and free, against flat arrays of bytes. Alias and
 * original, granule borders, zero and dirty granules must be invisible to whoever only reads and writes.
 */
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { GRANULE, type Machine, type Mapped, openMachine } from "../helpers/emulated.ts";

const SPAN = 3 * GRANULE;
/** New every time, and in the test's title: put it here to repeat a failure. */
const SEED = Date.now() % 2 ** 31;

/** An allocation with its aliases, and the bytes it must hold. */
interface Subject {
  readonly mapped: Mapped;
  readonly pointers: bigint[];
  readonly bytes: Buffer;
}

type Step =
  | { readonly act: "allocate" }
  | { readonly act: "alias"; readonly which: number }
  | { readonly act: "free"; readonly which: number }
  | {
      readonly act: "write" | "read";
      readonly which: number;
      readonly offset: number;
      readonly length: number;
      readonly value: number;
    }
  | {
      readonly act: "fill";
      readonly which: number;
      readonly offset: number;
      readonly length: number;
      readonly value: number;
    }
  | {
      readonly act: "copy";
      readonly which: number;
      readonly offset: number;
      readonly length: number;
      readonly value: number;
    };

/** Offsets and lengths crowd around granule borders, where mistakes would be. */
const position = fc.oneof(
  fc.integer({ min: 0, max: SPAN - 1 }),
  fc
    .tuple(fc.integer({ min: 0, max: 2 }), fc.integer({ min: -2, max: 2 }))
    .map(([granule, off]) => Math.max(0, granule * GRANULE + off)),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 100 }),
  fc.constantFrom(GRANULE - 1, GRANULE, GRANULE + 1, 2 * GRANULE, SPAN),
);
const which = fc.nat(1000);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 1, arbitrary: fc.constant({ act: "allocate" } as const) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("alias" as const), which }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("free" as const), which }) },
  {
    weight: 12,
    arbitrary: fc.record({
      act: fc.constantFrom("write" as const, "fill" as const, "copy" as const, "read" as const),
      which,
      offset: position,
      length,
      value: fc.constantFrom(0, 0, 1, 0xff),
    }),
  },
);

async function allocate(machine: Machine): Promise<Subject> {
  const mapped = machine.allocate(SPAN);
  // Fresh memory may hold anything, but must go on holding it.
  return { mapped, pointers: [mapped.cuPointer], bytes: Buffer.from(await machine.download(mapped.cuPointer, SPAN)) };
}

function free(machine: Machine, { mapped, pointers }: Subject): void {
  for (const alias of pointers.slice(1)) {
    machine.driver.memory.unmap(alias, SPAN);
    machine.driver.memory.freeAddress(alias, SPAN);
  }
  machine.free(mapped);
}

const expectSame = (actual: Uint8Array, expected: Uint8Array): void => {
  if (!Buffer.from(actual).equals(expected)) throw new Error("device memory differs from the model");
};

/** Bytes of zeros or of one value, with a mark at each end, so that whole-granule zeros occur and shifts show. */
function pattern(byteLength: number, value: number): Buffer {
  const bytes = Buffer.alloc(byteLength, value);
  if (value !== 0) bytes[0] = 0x5a;
  return bytes;
}

async function transfer(machine: Machine, subjects: Subject[], move: Extract<Step, { offset: number }>): Promise<void> {
  const subject = subjects[move.which % subjects.length];
  const other = subjects[(move.which + 1) % subjects.length];
  if (subject === undefined || other === undefined) return;
  const byteLength = Math.min(move.length, SPAN - move.offset);
  const pointer = ({ pointers }: Subject): bigint =>
    (pointers[move.which % pointers.length] ?? 0n) + BigInt(move.offset);
  const end = move.offset + byteLength;
  if (move.act === "write") {
    const data = pattern(byteLength, move.value);
    await machine.upload(pointer(subject), data);
    data.copy(subject.bytes, move.offset);
  } else if (move.act === "fill") {
    machine.driver.stream.fill(machine.cuStream, pointer(subject), move.value, byteLength);
    subject.bytes.fill(move.value, move.offset, end);
  } else if (move.act === "copy") {
    await machine.upload(pointer(other), await machine.download(pointer(subject), byteLength));
    subject.bytes.subarray(move.offset, end).copy(other.bytes, move.offset);
  } else {
    expectSame(await machine.download(pointer(subject), byteLength), subject.bytes.subarray(move.offset, end));
  }
}

async function play(steps: readonly Step[]): Promise<void> {
  const machine = openMachine();
  const subjects = [await allocate(machine)];
  for (const next of steps) {
    if ("offset" in next) await transfer(machine, subjects, next);
    else if (next.act === "allocate") subjects.push(...(subjects.length < 5 ? [await allocate(machine)] : []));
    else {
      const index = next.which % Math.max(1, subjects.length);
      const subject = subjects[index];
      if (subject === undefined) continue;
      await machine.finish();
      if (next.act === "alias") subject.pointers.push(machine.alias(subject.mapped, "readWrite"));
      else for (const gone of subjects.splice(index, 1)) free(machine, gone);
    }
  }
  await machine.finish();
  for (const subject of subjects) {
    for (const cuPointer of subject.pointers) expectSame(await machine.download(cuPointer, SPAN), subject.bytes);
    free(machine, subject);
  }
  expect(machine.driver.emulation.live()).toEqual({ contexts: 1, streams: 1, modules: 1 });
  expect(machine.driver.context.memoryInfo().bytesFree).toBe(machine.driver.device.totalMemory(0));
  expect(machine.driver.emulation.pendingLint()).toBeUndefined();
}

test(`random sequences agree with flat arrays of bytes (seed ${SEED})`, async () => {
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 30 }), play), { seed: SEED, numRuns: 60 });
});
