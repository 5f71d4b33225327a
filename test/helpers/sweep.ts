/** What fault sweeps share: the journey, what must hold after a fault wherever it struck, and the loop over n. */
import { afterEach, expect } from "vitest";
import { ERROR_TABLE, VramError } from "../../src/errors.ts";
import { type FaultPlan, liveHandles } from "../../src/testing.ts";
import type { Recorded } from "./vram.ts";

const unhandled: unknown[] = [];

/** From now on a promise that nobody waited for fails the test it happened in. Called once, at the top of a file. */
export function forbidUnhandledRejections(): void {
  process.on("unhandledRejection", (reason) => unhandled.push(reason));
  afterEach(() => expect(unhandled.splice(0), "rejections that nobody handled").toEqual([]));
}

/** Seals, verifies with salt, evicts; the first error, if any. */
export async function journey({ vram }: Recorded, path: string): Promise<VramError | undefined> {
  return errorOf(async () => {
    const { record, seal } = await vram.seal(path, { name: "swept" });
    await vram.verify(record.shardId, { seal, salt: "ab" });
    await vram.evict(record.shardId);
  });
}

/** The `VramError` that `run` ends with; nothing else may be thrown. */
export async function errorOf(run: () => Promise<unknown>): Promise<VramError | undefined> {
  try {
    await run();
    return undefined;
  } catch (error) {
    if (error instanceof VramError) return error;
    throw error;
  }
}

/** What must hold after a fault, whatever it was. Evicts what is listed; resolves to the worker's state. */
export async function requireClean(
  system: Recorded,
  error: VramError | undefined,
  what: string,
  allowed: readonly string[] = [],
): Promise<string | undefined> {
  if (error !== undefined) {
    expect(ERROR_TABLE, what).toHaveProperty(error.code);
    if (!allowed.includes("INTERNAL")) expect(error.code, `${what}: ${error.message}`).not.toBe("INTERNAL");
  }
  for (const { shardId } of system.vram.list()) await system.vram.evict(shardId);
  expect(system.vram.list(), what).toEqual([]);
  const state = system.vram.devices()[0]?.state;
  expect(system.open.driver.emulation.pendingLint(), what).toBeUndefined();
  // Memory the driver refused to take back is owned up to; after a stall none is given back, on purpose.
  const leaked = system.entries.some((entry) => entry.type === "release_failed");
  const stalled = system.entries.some((entry) => entry.type === "device_lost" && entry.code === "DEVICE_STALLED");
  // What is left is the scratch of each device.
  const { emulation } = system.open.driver;
  if (!leaked && !stalled) expect(emulation.allocations(), what).toHaveLength(system.open.workers.length);
  if (state !== "lost") {
    const { bytesUsed, bytesReserved, bytesUnreclaimed } = await system.vram.capacity();
    expect({ bytesUsed, bytesReserved }, what).toEqual({ bytesUsed: 0, bytesReserved: 0 });
    if (!leaked) expect(bytesUnreclaimed, what).toBe(0);
  }
  return state;
}

/** A system with a fault in it that waits to be armed. */
export interface Trap {
  readonly system: Recorded;
  /** Runs what the fault is to strike. */
  readonly run: () => Promise<VramError | undefined>;
  readonly fired: () => number;
  /** No fault from now on. */
  readonly disarm: () => void;
  /** Checks of its own, after the common ones. */
  readonly check?: (error: VramError | undefined) => void;
  /** Codes that are right here and nowhere else. */
  readonly allowed?: readonly string[];
}

/** Springs the traps for n = 1, 2, … until one does not fire; after each everything is as if nothing had happened. */
export async function sweep(
  path: string,
  set: (nth: number) => Promise<Trap>,
): Promise<{ runs: number; codes: Set<string> }> {
  const codes = new Set<string>();
  for (let nth = 1; ; nth += 1) {
    const { system, run, fired, disarm, check, allowed } = await set(nth);
    const what = `fault ${nth}`;
    const error = await run();
    const count = fired();
    disarm();
    codes.add(error?.code ?? "success");
    check?.(error);
    const state = await requireClean(system, error, what, allowed);
    if (state === "stopped") await system.vram.resume("swept");
    if (state !== "lost") expect(await journey(system, path), `after ${what}`).toBeUndefined();
    await system.vram.close();
    expect(liveHandles(), what).toEqual({});
    if (count === 0) return { runs: nth - 1, codes };
  }
}

/** A trap for the plain journey, set in a driver. */
export function driverTrap(system: Recorded, faults: FaultPlan, path: string): Trap {
  return {
    system,
    run: () => journey(system, path),
    fired: () => faults.fired(),
    disarm: () => faults.reset(),
  };
}
