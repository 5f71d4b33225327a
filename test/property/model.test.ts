/**
 * Random sequences of what callers, faults and cosmic rays do, against a small model (`helpers/twin.ts`) of what must be
 * true afterwards: what is listed, under which digest and in which state, how much capacity is used, whether the worker
 * may seal, and with which codes a call may end. `VRAM_TEST_SEED=n` replays.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, it } from "vitest";
import type { OperationKind } from "../../src/cuda/emulated/faults.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { forbidUnhandledRejections } from "../helpers/sweep.ts";
import { CONTENTS, type Command, type Fault, NAMES, Twin } from "../helpers/twin.ts";
import { temporaryFolder } from "../helpers/vram.ts";

forbidUnhandledRejections();

const RUNS = 2000;
const { VRAM_TEST_SEED } = process.env;
const SEED = Number(VRAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

const status = fc.constantFrom(
  ...[STATUS.INVALID_VALUE, STATUS.OUT_OF_MEMORY, STATUS.ILLEGAL_ADDRESS, STATUS.ECC_UNCORRECTABLE, STATUS.UNKNOWN],
);
const operation = fc.constantFrom<OperationKind[]>("copyToDevice", "copyToHost", "fill", "launch");
const nth = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 90 }));
const fault: fc.Arbitrary<Fault | undefined> = fc.option(
  fc.oneof(
    fc.record({ kind: fc.constant("call" as const), nth, status, forGood: fc.boolean() }),
    fc.record({ kind: fc.constant("drop" as const), operation, nth: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ kind: fc.constant("break" as const), operation, nth: fc.integer({ min: 1, max: 6 }), status }),
  ),
  { nil: undefined, freq: 2 },
);

const name = fc.constantFrom(...NAMES);
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("seal" as const),
      name,
      content: fc.oneof({ weight: 8, arbitrary: fc.nat(6) }, { weight: 3, arbitrary: fc.integer({ min: 7, max: 9 }) }),
      kind: fc.constantFrom<("bytes" | "path" | "chunks")[]>("bytes", "path", "chunks"),
      expected: fc.constantFrom<("none" | "fsverity" | "sha256" | "wrong")[]>(
        "none",
        "none",
        "fsverity",
        "sha256",
        "wrong",
      ),
      sha256: fc.boolean(),
      abortAt: fc.option(fc.integer({ min: 1, max: 9 }), { nil: 0, freq: 2 }),
      fault,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("verify" as const),
      name,
      how: fc.constantFrom("plain", "plain", "salt", "fresh", "stale", "presented", "forged", "old"),
      fault,
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("flip" as const), name, at: fc.nat(), bit: fc.nat(7) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("evict" as const), name, fault }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("resume" as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("reopen" as const) }) },
);

it(`[VR-MEM-04] [VR-VER-06] random sequences agree with the model (seed ${SEED})`, async () => {
  const folder = await temporaryFolder();
  for (const [index, { bytes }] of CONTENTS.entries()) await writeFile(join(folder, String(index)), bytes);
  let sequences = 0;
  let commands = 0;
  const ends = new Map<string, number>();
  const sequence = fc.array(command, { minLength: 1, maxLength: 14, size: "max" });
  const property = fc.asyncProperty(sequence, fc.boolean(), async (calls, durable) => {
    const isDurable = durable && calls.some(({ op }) => op === "reopen");
    const twin = new Twin(isDurable ? join(folder, "state") : undefined, folder, ends);
    await twin.open();
    await twin.resume();
    for (const call of calls) {
      await twin.run(call);
      await twin.check();
      commands += 1;
    }
    await twin.close();
    sequences += 1;
  });
  await fc.assert(property, { seed: SEED, numRuns: RUNS });
  console.log(`model: ${sequences} sequences of ${commands} commands, VRAM_TEST_SEED=${SEED}`);
  console.log(`model: ${[...ends].map(([end, count]) => `${count} × ${end}`).join(", ")}`);
  expect(sequences).toBeGreaterThanOrEqual(RUNS);
});
