/**
 * A small system on the native driver over the fake libcuda: tiny ring and windows, everything counted, closed after
 * the test. And the built command line over the same fake, as a process of its own.
 */
import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach } from "vitest";
import { present } from "../../src/assert.ts";
import { openLibrary } from "../../src/ffi/library.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { openSystem, type TestOptions, type VramOptions } from "../../src/open.ts";
import { flipShardBit } from "../../src/tamper.ts";
import type { TestVram } from "../../src/testing.ts";
import { createVram } from "../../src/vram.ts";
import { configureFakeCuda, fakeCuda } from "./fake-cuda.ts";
import { MIB, temporaryFolder } from "./vram.ts";

/** `VRAM_FAKE_…` without that prefix (test/border/fake/fake.hpp). */
export type FakeSettings = Readonly<Record<string, string | number>>;

/** No library has this name: health is then unknown, and the tests hear of no other GPU on this machine. */
export const NO_NVML = "/nonexistent/libnvidia-ml.so.1";
const NO_TRACES = { driverLibrary: false, deviceNodes: [], deniedNodes: [], wddm: false };
/** 128 MiB unless the test says otherwise. */
const SMALL = { BYTES: 128 * MIB };

export interface Native extends Pick<TestVram, "vram" | "flipBit"> {
  readonly open: Awaited<ReturnType<typeof openSystem>>;
  readonly entries: Entry[];
  readonly types: () => string[];
}

const opened: Native[] = [];

/** The path of the fake. Only where `fakeCuda()` has one. */
export const fakeLibrary = (): string => present(fakeCuda(), "the fake libcuda").library;

/** Opens a system; the fake is told `settings` for as long as opening takes, and keeps to them. */
export async function openNative(
  settings: FakeSettings = {},
  options: VramOptions = {},
  test: TestOptions = {},
): Promise<Native> {
  const entries: Entry[] = [];
  const reader = { required: true, accept: (entry: Entry) => void entries.push(entry) };
  configureFakeCuda({ ...SMALL, ...settings });
  try {
    const open = await openSystem(
      {
        cudaLibrary: fakeLibrary(),
        nvmlLibrary: NO_NVML,
        hashThreads: 0,
        headroomBytes: 0,
        ...options,
        readers: [reader, ...(options.readers ?? [])],
      },
      { ringSlots: 3, ringSlotBytes: MIB / 2, measureWindowBytes: 4 * MIB, traces: NO_TRACES, ...test },
    );
    const vram = createVram(open);
    const flipBit: Native["flipBit"] = (...args) => flipShardBit(open, ...args);
    const native = { vram, open, flipBit, entries, types: () => entries.map((entry) => entry.type) };
    opened.push(native);
    return native;
  } finally {
    configureFakeCuda();
  }
}

/** Tells the running fake something else: it reads its environment at every cuDriverGetVersion. Counts go on. */
export function reconfigureFake(settings: FakeSettings): void {
  configureFakeCuda({ ...SMALL, ...settings });
  const version = new Uint8Array(4);
  const status = openLibrary(fakeLibrary())
    .bind({ driverGetVersion: "int cuDriverGetVersion(void *version)" })
    .driverGetVersion(version);
  configureFakeCuda();
  if (status !== 0) throw new Error(`the fake refused its configuration: ${status}`);
}

/** One line of the fake's log. `amount`: bytes, or blocks to hash. */
export interface FakeCall {
  readonly symbol: string;
  readonly amount: number;
}

/** What the fake was called with since the last `take`; `LOG` is its setting. */
export interface FakeLog {
  readonly LOG: string;
  take(): FakeCall[];
  /** How often a symbol was called in all. */
  count(symbol: string): number;
}

/** A log for one test. */
export async function fakeLog(): Promise<FakeLog> {
  const LOG = join(await temporaryFolder(), "calls.txt");
  let taken = 0;
  const all = (): FakeCall[] => {
    const lines = existsSync(LOG) ? readFileSync(LOG, "utf8").trimEnd().split("\n") : [];
    return lines.map((line) => {
      const [symbol = "", amount = "0"] = line.split(" ");
      return { symbol, amount: Number(amount) };
    });
  };
  return {
    LOG,
    take: () => {
      const calls = all();
      const fresh = calls.slice(taken);
      taken = calls.length;
      return fresh;
    },
    count: (symbol) => all().filter((call) => call.symbol === symbol).length,
  };
}

/** The sum of the amounts of a symbol's calls. */
export const amountOf = (calls: readonly FakeCall[], symbol: string): number =>
  calls.filter((call) => call.symbol === symbol).reduce((sum, { amount }) => sum + amount, 0);

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The environment of a process over the fake: nothing of ours but what is said here. */
export const fakeEnvironment = (settings: FakeSettings = {}): Record<string, string> => ({
  // No tools: what `doctor` says of them is tested elsewhere.
  PATH: "/nonexistent",
  VRAM_HASH_THREADS: "0",
  VRAM_LIBNVML: NO_NVML,
  ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [`VRAM_FAKE_${name}`, String(value)])),
});

/** Runs the built `vram` over the fake, or over the library that `env` names; `VRAM_LIBCUDA: ""` names none. */
export function runNative(
  args: readonly string[],
  settings: FakeSettings = {},
  env: Readonly<Record<string, string>> = {},
): Promise<Ran> {
  const all = { ...fakeEnvironment(settings), VRAM_LIBCUDA: fakeLibrary(), ...env };
  return new Promise((resolve) => {
    execFile(process.execPath, [BIN, ...args], { env: all }, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : -1, out, err });
    });
  });
}

/** Everything that stands under `key`, however deep. */
export function everyValueOf(key: string, within: unknown): unknown[] {
  if (typeof within !== "object" || within === null) return [];
  return Object.entries(within).flatMap(([name, value]: [string, unknown]) => [
    ...(name === key ? [value] : []),
    ...everyValueOf(key, value),
  ]);
}

afterEach(async () => {
  for (const one of opened.splice(0)) await one.vram.close();
  configureFakeCuda();
});
