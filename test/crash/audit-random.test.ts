/** kill -9 under load, at a random number of acknowledged entries; several times each log. */
import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import {
  type CrashState,
  crash,
  createState,
  createTally,
  isLong,
  type Load,
  reportTally,
} from "../helpers/audit-writer.ts";
import { chaosOf } from "../helpers/chaos.ts";

const KILLS = isLong ? 240 : 20;
/** Kills of one log before the next one. */
const KILLS_EACH = 5;
const SEED = Number(process.env["VRAM_AUDIT_SEED"] ?? randomInt(2 ** 31));

/** Writes until it is killed. */
const ENDLESS: Load = { writers: 32, entries: 1_000_000, segmentBytes: 140_000, speed: 20_000 };

test("[VR-AUD-04] kill -9 under load, at random", { timeout: 900_000 }, async () => {
  const { pick } = chaosOf(SEED);
  const tally = createTally();
  let state: CrashState | undefined;
  for (let kill = 0; kill < KILLS; kill += 1) {
    if (state === undefined || kill % KILLS_EACH === 0) state = await createState();
    const told = await crash(tally, state, ENDLESS, { killAfter: 1 + pick(800) });
    expect(told, `kill ${kill}, seed ${SEED}`).toMatchObject({ closed: false, refused: [], code: null });
  }
  reportTally(`${KILLS} random SIGKILLs under load`, tally, SEED);
});
