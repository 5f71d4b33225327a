/**
 * Every driver call of the journey fails once, or from then on; every enqueued operation breaks, is dropped. After each:
 * a typed error or a true success, the account back, nothing listed that is not sealed, no handle left, no lint.
 */
import { afterEach, describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { ERROR_TABLE, VramError } from "../../src/errors.ts";
import { createFaultPlan, type FaultPlan, liveHandles } from "../../src/testing.ts";
import { digestOf } from "../helpers/reference.ts";
import { MIB, openSmall, type Recorded, randomFile } from "../helpers/vram.ts";

const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));
afterEach(() => expect(unhandled).toEqual([]));

const BYTES = MIB + 300_000;

/** Seals, verifies with salt, evicts; the first error, if any. */
async function journey(system: Recorded, path: string): Promise<VramError | undefined> {
  try {
    const { record, seal } = await system.vram.seal(path, { name: "swept" });
    await system.vram.verify(record.shardId, { seal, salt: "ab" });
    await system.vram.evict(record.shardId);
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(VramError);
    return error as VramError;
  }
}

/** What must hold after a fault, whatever it was. */
async function requireClean(system: Recorded, error: VramError | undefined, faults: FaultPlan, what: string) {
  if (error !== undefined) {
    expect(ERROR_TABLE, what).toHaveProperty(error.code);
    expect(error.code, `${what}: ${error.message}`).not.toBe("INTERNAL");
  }
  faults.reset();
  for (const { shardId } of system.vram.list()) await system.vram.evict(shardId);
  expect(system.vram.list(), what).toEqual([]);
  const state = system.vram.devices()[0]?.state;
  const lint = system.open.driver.emulation.pendingLint();
  expect(lint, what).toBeUndefined();
  if (state !== "lost") {
    const { bytesUsed, bytesReserved, bytesUnreclaimed } = await system.vram.capacity();
    expect({ bytesUsed, bytesReserved }, what).toEqual({ bytesUsed: 0, bytesReserved: 0 });
    // Memory the driver refused to take back is owned up to, and only then is there any.
    const leaked = system.entries.some((entry) => entry.type === "release_failed");
    if (!leaked) expect(bytesUnreclaimed, what).toBe(0);
  }
  return state;
}

async function sweep(arm: (faults: FaultPlan, nth: number) => void): Promise<{ runs: number; codes: Set<string> }> {
  const { path } = await randomFile(BYTES);
  const codes = new Set<string>();
  for (let nth = 1; ; nth += 1) {
    const faults = createFaultPlan();
    const system = await openSmall({}, { faults, ringSlotBytes: MIB / 2 });
    faults.reset();
    arm(faults, nth);
    const error = await journey(system, path);
    const fired = faults.fired();
    codes.add(error?.code ?? "success");
    const state = await requireClean(system, error, faults, `fault ${nth}`);
    if (state === "running") expect(await journey(system, path), `after fault ${nth}`).toBeUndefined();
    await system.vram.close();
    expect(liveHandles(), `fault ${nth}`).toEqual({});
    if (fired === 0) return { runs: nth - 1, codes };
  }
}

describe("fault sweeps", () => {
  const statuses = { ...pick("INVALID_VALUE", "OUT_OF_MEMORY", "ILLEGAL_ADDRESS", "ECC_UNCORRECTABLE") };

  for (const [name, status] of Object.entries(statuses)) {
    for (const forGood of [false, true]) {
      it(`every driver call fails with ${name} ${forGood ? "for good" : "once"}`, async () => {
        const { runs, codes } = await sweep((faults, nth) => faults.failCall("*", nth, status, { forGood }));
        console.log(`fault sweep: ${runs} calls, ${name} ${forGood ? "for good" : "once"}: ${[...codes].join(", ")}`);
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
