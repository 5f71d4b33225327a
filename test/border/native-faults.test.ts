/**
 * Every call the native driver makes, failing once: during open, seal, verify, evict and close, with an error that is
 * harmless and with one that ends the context. Whatever fails, it is a typed error or a release that is owned up to, no
 * handle is left, and what was not owned up to is given back.
 */
import { createCipheriv } from "node:crypto";
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { openChecked, openNativeDriver } from "../../src/cuda/native/driver.ts";
import { importMemory } from "../../src/cuda/native/import.ts";
import { readKernelImage } from "../../src/cuda/native/kernel-image.ts";
import { DRIVER_PROTOTYPES } from "../../src/cuda/native/prototypes.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { liveHandles } from "../../src/dispose.ts";
import { ERROR_TABLE, VramError } from "../../src/errors.ts";
import { symbolOf } from "../../src/ffi/library.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { openSystem } from "../../src/open.ts";
import { createVram } from "../../src/vram.ts";
import { reportCount } from "../helpers/counts.ts";
import { openBench } from "../helpers/driver-bench.ts";
import { configureFakeCuda, fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { openFake } from "../helpers/fake-cuda-calls.ts";

const KIB = 1024;
/** Three slots and a tail; two levels of a tree. */
const MODEL = createCipheriv("aes-128-ctr", Buffer.alloc(16, 1), Buffer.alloc(16)).update(Buffer.alloc(1_100_000));
/** More than all that failing releases may leave behind. */
const BYTES = 2 ** 40;

/** Five hundred journeys. */
const WATCHDOG_MS = 300_000;

/**
 * Failures that may go unnoticed. A context that cannot be made current for a release: the release is tried all the
 * same. Free memory before and after a free: what is not known is not accounted for.
 */
const OPTIONAL = ["cuCtxSetCurrent", "cuMemGetInfo_v2"];

const fake = fakeCuda();
const library = fake?.library ?? "";
const folder = mkdtempSync(join(tmpdir(), "vram-faults-"));
const log = join(folder, "calls.txt");

interface Outcome {
  readonly error: VramError | undefined;
  /** What the journal owns up to besides: releases that failed, devices lost, memory that was not zeroed. */
  readonly owned: readonly string[];
  /** After a stall nothing is given back, on purpose. */
  readonly stalled: boolean;
}

function ownUp(entry: Entry): readonly string[] {
  if (entry.type === "vram_deallocated") return entry.zeroed ? [] : ["not zeroed"];
  return entry.type === "release_failed" || entry.type === "device_lost" ? [entry.type] : [];
}

/** Opens a system over the fake, seals, verifies with a salt, evicts, closes. */
async function journey(): Promise<Outcome> {
  const entries: Entry[] = [];
  const reader = { required: true, accept: (entry: Entry) => void entries.push(entry) };
  let error: VramError | undefined;
  try {
    const open = await openSystem(
      {
        cudaLibrary: library,
        nvmlLibrary: join(folder, "no-nvml"),
        hashThreads: 0,
        headroomBytes: 0,
        readers: [reader],
      },
      { ringSlots: 2, ringSlotBytes: 512 * KIB, measureWindowBytes: 4096 * KIB },
    );
    const vram = createVram(open);
    try {
      const { record, seal } = await vram.seal({ bytes: MODEL, name: "swept" });
      await vram.verify(record.shardId, { seal, salt: "ab" });
      await vram.evict(record.shardId);
    } finally {
      await vram.close();
    }
  } catch (thrown) {
    if (!(thrown instanceof VramError)) throw thrown;
    error = thrown;
  }
  const stalled = entries.some((entry) => entry.type === "device_lost" && entry.code === "DEVICE_STALLED");
  return { error, owned: entries.flatMap(ownUp), stalled: stalled || error?.code === "DEVICE_STALLED" };
}

/** Symbols in the log, and how often each was called. */
function countCalls(): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of readFileSync(log, "utf8").trim().split("\n")) {
    const symbol = line.split(" ")[0] ?? "";
    counts.set(symbol, (counts.get(symbol) ?? 0) + 1);
  }
  return counts;
}

/** Device memory in use, asked without the driver. Ends contexts that a fault has left. */
function bytesUsed(): number {
  const bare = openFake(library, { BYTES });
  bare.retain();
  const { free, total } = bare.info();
  bare.end();
  return total - free;
}

afterEach(() => configureFakeCuda());
afterAll(() => rmSync(folder, { recursive: true }));

describe.skipIf(fake === undefined)(`every call of the native driver${whyNoFakeCuda()}`, () => {
  const symbols = Object.values(DRIVER_PROTOTYPES).map((prototype) => symbolOf(prototype));
  let calls = new Map<string, number>();

  beforeAll(async () => {
    configureFakeCuda({ BYTES, LOG: log });
    writeFileSync(log, "");
    expect(await journey()).toEqual({ error: undefined, owned: [], stalled: false });
    calls = countCalls();
    configureFakeCuda();
  });

  test("every function of the table is called: by the journey, but for what hands memory on", async () => {
    expect(symbols.filter((symbol) => !calls.has(symbol))).toEqual([
      "cuMemExportToShareableHandle",
      "cuMemImportFromShareableHandle",
    ]);
    configureFakeCuda({ BYTES, LOG: log });
    const driver = openNativeDriver(library);
    const bench = openBench({ driver, image: readKernelImage(), ordinal: 0, closeFd: () => undefined });
    const { cuHandle, byteLength } = bench.allocate();
    const fd = driver.memory.exportFd(cuHandle);
    const [deviceUuid, failed] = [driver.device.uuid(driver.device.get(0)), vi.fn()];
    importMemory(openChecked(library), { fd, byteLength, deviceUuid }, failed).close(failed);
    expect(failed).not.toHaveBeenCalled();
    closeSync(fd);
    await bench.close();
    const all = countCalls();
    expect([...all.keys()].sort()).toEqual([...symbols].sort());
    const sum = [...calls.values()].reduce((total, count) => total + count, 0);
    reportCount(
      `native driver: ${all.size} of ${symbols.length} functions called, ${sum} calls in a journey of 1.1 MB over the fake`,
    );
  });

  test.each([
    ["OUT_OF_MEMORY", STATUS.OUT_OF_MEMORY],
    ["LAUNCH_FAILED", STATUS.LAUNCH_FAILED],
  ])(
    "[VR-DEV-05] each call fails once with %s: typed or owned up to, and nothing stays",
    async (name, status) => {
      const codes = new Map<string, number>();
      let runs = 0;
      for (const [symbol, count] of calls) {
        for (let nth = 1; nth <= count; nth += 1) {
          const what = `${symbol}:${nth}:${status}`;
          const before = bytesUsed();
          configureFakeCuda({ BYTES, FAULTS: what });
          const { error, owned, stalled } = await journey();
          runs += 1;
          const kind = error?.code ?? owned[0] ?? "nothing";
          codes.set(kind, (codes.get(kind) ?? 0) + 1);
          expect(liveHandles(), what).toEqual({});
          if (error !== undefined) {
            expect(ERROR_TABLE, what).toHaveProperty(error.code);
            expect(error.code, `${what}: ${error.message}`).not.toBe("INTERNAL");
          }
          if (kind === "nothing") expect(OPTIONAL, what).toContain(symbol);
          if (!stalled && !owned.includes("release_failed")) expect(bytesUsed(), what).toBe(before);
        }
      }
      const list = [...codes].map(([code, count]) => `${code} ${count}`).sort();
      reportCount(`native driver, ${name} at each of ${runs} calls of a journey: ${list.join(", ")}`);
    },
    WATCHDOG_MS,
  );
});
