/**
 * For tests of programs that use this library: a system on the emulated device with faults to inject, sealed bytes to
 * change, and a count of live handles. Nothing here is reachable from the library's main entry.
 */

import type { Vram } from "./api.ts";
import { assert } from "./assert.ts";
import type { EmulatedDriver } from "./cuda/emulated/options.ts";
import { type OpenSystem, openSystem, type TestOptions, type VramOptions } from "./open.ts";
import { flipShardBit } from "./tamper.ts";
import { createVram } from "./vram.ts";

export { createFaultPlan, type FaultPlan } from "./cuda/emulated/faults.ts";
export { EmulatorLint } from "./cuda/emulated/lint.ts";
export { liveHandles } from "./dispose.ts";
export type { TestOptions } from "./open.ts";

export interface TestVram {
  readonly vram: Vram;
  /** What stands behind it. */
  readonly open: OpenSystem & { readonly driver: EmulatedDriver };
  /** Flips one bit of a sealed shard in VRAM through a writable alias. Offset in bytes, bit 0–7. */
  readonly flipBit: (idOrName: string, offset: number, bit: number) => Promise<void>;
}

const onEmulation = (open: OpenSystem): open is TestVram["open"] => "emulation" in open.driver;

/** Opens a system on the emulated device. */
export async function openTestVram(options: VramOptions = {}, test: TestOptions = {}): Promise<TestVram> {
  const open = await openSystem({ backend: "emulated", ...options }, test);
  assert(onEmulation(open), "the emulated backend has the emulated driver");
  return { vram: createVram(open), open, flipBit: (...args) => flipShardBit(open, ...args) };
}
