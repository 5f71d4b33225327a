/**
 * Every driver call of the journey fails once, or from then on; every enqueued operation breaks, is dropped. After each:
 * a typed error or a true success, the account back, nothing listed that is not sealed, no handle left, no lint.
 */
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { createFaultPlan, type FaultPlan } from "../../src/testing.ts";
import { reportCount } from "../helpers/counts.ts";
import { digestOf } from "../helpers/reference.ts";
import { driverTrap, forbidUnhandledRejections, sweep as springAll } from "../helpers/sweep.ts";
import { MIB, openSmall, randomFile } from "../helpers/vram.ts";

forbidUnhandledRejections();

const BYTES = MIB + 300_000;

async function sweep(arm: (faults: FaultPlan, nth: number) => void): Promise<{ runs: number; codes: Set<string> }> {
  const { path } = await randomFile(BYTES);
  return springAll(path, async (nth) => {
    const faults = createFaultPlan();
    const system = await openSmall({}, { faults });
    faults.reset();
    arm(faults, nth);
    return driverTrap(system, faults, path);
  });
}

describe("fault sweeps", () => {
  const statuses = { ...pick("INVALID_VALUE", "OUT_OF_MEMORY", "ILLEGAL_ADDRESS", "ECC_UNCORRECTABLE") };

  for (const [name, status] of Object.entries(statuses)) {
    for (const forGood of [false, true]) {
      it(`every driver call fails with ${name} ${forGood ? "for good" : "once"}`, async () => {
        const { runs, codes } = await sweep((faults, nth) => faults.failCall("*", nth, status, { forGood }));
        reportCount(`fault sweep: ${runs} calls, ${name} ${forGood ? "for good" : "once"}: ${[...codes].join(", ")}`);
        expect(runs).toBeGreaterThan(50);
      });
    }
  }

  it("every poll of an event fails", async () => {
    const { runs } = await sweep((faults, nth) => faults.failCall("event.query", nth, STATUS.ILLEGAL_ADDRESS));
    expect(runs).toBeGreaterThan(5);
  });

  for (const kind of ["copyToDevice", "copyToHost", "fill", "launch"] as const) {
    it(`every ${kind} breaks when it executes`, async () => {
      const { runs, codes } = await sweep((faults, nth) => faults.breakExecution(kind, nth, STATUS.LAUNCH_FAILED));
      expect(runs).toBeGreaterThan(1);
      expect([...codes].sort()).toEqual(expect.arrayContaining(["DEVICE_LOST", "success"]));
    });
  }

  it("every dropped operation is found out or harmless: a seal that succeeds is of the right bytes", async () => {
    const { path, bytes } = await randomFile(BYTES);
    const digest = toHex(digestOf(bytes));
    let found = 0;
    for (const drop of ["dropLaunch", "dropCopyToDevice", "dropCopyToHost", "dropFill"] as const) {
      for (let nth = 1, fired = 1; fired > 0; nth += 1) {
        const faults = createFaultPlan();
        const { vram } = await openSmall({}, { faults });
        faults.reset();
        faults[drop](nth);
        const outcome = await vram.seal(path).catch((error: unknown) => error as VramError);
        fired = faults.fired();
        if (outcome instanceof VramError) {
          expect(["DIGEST_MISMATCH", "MEASUREMENT_INVALID"]).toContain(outcome.code);
          found += 1;
        } else {
          faults.reset();
          expect(outcome.record.digest).toBe(digest);
          expect(await vram.verify(outcome.record.shardId)).toMatchObject({ digest });
        }
        await vram.close();
      }
    }
    expect(found).toBeGreaterThan(5);
  });
});

function pick(...names: (keyof typeof STATUS)[]): Record<string, number> {
  return Object.fromEntries(names.map((name) => [name, STATUS[name]]));
}
