/**
 * Random sequences of what callers, faults and cosmic rays do, against a small model (`helpers/twin.ts`) of what must be
 * true afterwards: what is listed, under which digest and in which state, how much capacity is used, whether the worker
 * may seal, and with which codes a call may end. `VRAM_TEST_SEED=n` replays.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, it } from "vitest";
import { reportCount } from "../helpers/counts.ts";
import { forbidUnhandledRejections } from "../helpers/sweep.ts";
import { Twin } from "../helpers/twin.ts";
import { CONTENTS, command, firstSeal } from "../helpers/twin-commands.ts";
import { temporaryFolder } from "../helpers/vram.ts";

forbidUnhandledRejections();

const RUNS = 2000;
const { VRAM_TEST_SEED } = process.env;
const SEED = Number(VRAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));

it(`[VR-MEM-04] [VR-VER-06] random sequences agree with the model (seed ${SEED})`, async () => {
  const folder = await temporaryFolder();
  for (const [index, { bytes }] of CONTENTS.entries()) await writeFile(join(folder, String(index)), bytes);
  let sequences = 0;
  let commands = 0;
  const ends = new Map<string, number>();
  const begin = fc.array(firstSeal, { maxLength: 3 });
  const sequence = fc.array(command, { minLength: 1, maxLength: 12, size: "max" });
  const property = fc.asyncProperty(begin, sequence, fc.boolean(), async (seals, others, durable) => {
    const calls = [...seals, ...others];
    const isDurable = durable && calls.some(({ op }) => op === "reopen");
    const twin = new Twin(isDurable ? join(folder, "state") : undefined, folder, ends);
    await twin.open();
    try {
      await twin.resume();
      for (const call of calls) {
        await twin.run(call);
        await twin.check(false);
        commands += 1;
      }
      await twin.check(true);
    } catch (error) {
      // What a failure leaves behind would fail every sequence after it, and there would be nothing to shrink to.
      await twin.abandon();
      throw error;
    }
    await twin.close();
    sequences += 1;
  });
  await fc.assert(property, { seed: SEED, numRuns: RUNS });
  reportCount(`model: ${sequences} sequences of ${commands} commands, VRAM_TEST_SEED=${SEED}`);
  reportCount(`model: ${[...ends].map(([end, count]) => `${count} × ${end}`).join(", ")}`);
  expect(sequences).toBeGreaterThanOrEqual(RUNS);
});
