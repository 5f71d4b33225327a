/**
 * Faults that are not the driver's: every file-system call fails, every reading of a clock throws, readers refuse. Then
 * two at once: the seal fails, and so does the nth driver call of the unwinding. Last, work that never ends.
 */
import { describe, expect, it } from "vitest";
import { type Clock, systemClock } from "../../src/clock.ts";
import type { EmulatedFaults, OperationKind } from "../../src/cuda/emulated/faults.ts";
import { STATUS } from "../../src/cuda/status.ts";
import type { VramError } from "../../src/errors.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { createFaultPlan, type FaultPlan, liveHandles } from "../../src/testing.ts";
import { reportCount } from "../helpers/counts.ts";
import { errorOf, forbidUnhandledRejections, sweep } from "../helpers/sweep.ts";
import { MIB, openSmall, type Recorded, randomFile } from "../helpers/vram.ts";

forbidUnhandledRejections();

const BYTES = MIB + 300_000;
const SMALL = { emulated: { byteLength: 64 * MIB } };
const TEST = { ringSlots: 2, measureWindowBytes: MIB / 2 };

/** Seals, verifies, damages, verifies again, evicts. Whatever strikes: damage found is never reported as less. */
async function longJourney(system: Recorded, path: string): Promise<VramError | undefined> {
  const { vram, flipBit } = system;
  return errorOf(async () => {
    const { record, seal } = await vram.seal(path, { name: "swept" });
    await vram.verify(record.shardId, { maxAgeMs: 60_000 });
    await vram.verify(record.shardId, { seal, salt: "ab" });
    await flipBit(record.shardId, 700_000, 3);
    const found = await errorOf(() => vram.verify(record.shardId));
    if (found === undefined) expect.fail("damage passed");
    if (vram.inspect(record.shardId).state === "mismatched") {
      expect(found.code, found.message).toBe("MEASUREMENT_MISMATCH");
      expect(system.open.workers[0]?.stopped).toBeDefined();
    } else throw found;
    await vram.evict(record.shardId);
    await vram.resume("swept");
  });
}

/** Counts calls; the nth throws what `make` makes, and if it is for good, so does each one after it. */
function trigger(nth: number, forGood: boolean, make: (call: string) => Error) {
  let armed = false;
  let seen = 0;
  let fired = 0;
  return {
    arm: () => {
      armed = true;
    },
    disarm: () => {
      armed = false;
    },
    fired: () => fired,
    pass: (call: string): void => {
      if (!armed) return;
      seen += 1;
      if (forGood ? seen < nth : seen !== nth) return;
      fired += 1;
      throw make(call);
    },
  };
}

function failingFiles(pass: (call: string) => void): FileSystem {
  const through = async <T>(call: string, run: () => Promise<T>): Promise<T> => {
    pass(call);
    return run();
  };
  return {
    realpath: (path) => through("realpath", () => nodeFileSystem.realpath(path)),
    readlink: (path) => through("readlink", () => nodeFileSystem.readlink(path)),
    open: (path, flags) =>
      through("open", async () => {
        const handle = await nodeFileSystem.open(path, flags);
        return {
          fd: handle.fd,
          stat: (options) => through("stat", () => handle.stat(options)),
          read: (...args) => through("read", () => handle.read(...args)),
          // As the kernel has it: a close that reports an error has closed.
          close: async () => {
            await handle.close();
            pass("close");
          },
        };
      }),
  };
}

function failingClock(pass: (call: string) => void): Clock {
  const through = <T>(call: string, run: () => T): T => {
    pass(call);
    return run();
  };
  return {
    wallMs: () => through("wallMs", () => systemClock.wallMs()),
    monotonicMs: () => through("monotonicMs", () => systemClock.monotonicMs()),
    sleep: async (ms) => through("sleep", () => systemClock.sleep(ms)),
  };
}

const modes = [
  ["once", false],
  ["for good", true],
] as const;

describe("the file system and the clock", () => {
  for (const errno of ["EIO", "ENOENT", "EACCES"]) {
    for (const [mode, forGood] of modes) {
      it(`every file-system call fails with ${errno} ${mode}`, async () => {
        const { path } = await randomFile(BYTES);
        const { runs, codes } = await sweep(path, async (nth) => {
          const message = (call: string): string => `${errno}: refused, ${call} '/secret/resolved/path'`;
          const fault = trigger(nth, forGood, (call) => Object.assign(new Error(message(call)), { code: errno }));
          const system = await openSmall(SMALL, { ...TEST, fs: failingFiles(fault.pass) });
          fault.arm();
          const check = (error?: VramError): void => {
            const shown = JSON.stringify([error, error?.cause, system.entries]);
            expect(shown, "a path that the caller did not give").not.toContain("/secret");
          };
          return { system, run: () => longJourney(system, path), fired: fault.fired, disarm: fault.disarm, check };
        });
        reportCount(`file-system sweep: ${runs} calls, ${errno} ${mode}: ${[...codes].join(", ")}`);
        expect(runs).toBeGreaterThan(8);
      });
    }
  }

  for (const [mode, forGood] of modes) {
    it(`every reading of a clock fails ${mode}`, async () => {
      const { path } = await randomFile(BYTES);
      const { runs, codes } = await sweep(path, async (nth) => {
        const fault = trigger(nth, forGood, (call) => new Error(`${call} failed`));
        const system = await openSmall(SMALL, { ...TEST, clock: failingClock(fault.pass) });
        fault.arm();
        const allowed = ["INTERNAL"];
        return { system, run: () => longJourney(system, path), fired: fault.fired, disarm: fault.disarm, allowed };
      });
      reportCount(`clock sweep: ${runs} calls, ${mode}: ${[...codes].join(", ")}`);
      expect(runs).toBeGreaterThan(50);
    });
  }
});

/** Why something fails; `at` is called where the unwinding begins. */
interface Cause {
  readonly name: string;
  /** The first error is the one that is reported. */
  readonly code?: string;
  readonly begins: Entry["type"];
  readonly prepare?: (faults: FaultPlan) => void;
  /** What the reader of the journal does where the unwinding begins. */
  readonly act?: (controller: AbortController) => void;
  readonly run: (system: Recorded, path: string, signal: AbortSignal) => Promise<unknown>;
}

const CAUSES: readonly Cause[] = [
  {
    name: "another digest was expected",
    code: "DIGEST_MISMATCH",
    begins: "seal_refused",
    run: ({ vram }, path) => vram.seal(path, { expected: "0".repeat(64) }),
  },
  {
    name: "the upload is aborted",
    begins: "upload_progressed",
    act: (controller) => controller.abort(),
    run: ({ vram }, path, signal) => vram.seal(path, { signal }),
  },
  {
    name: "the entry is refused",
    code: "AUDIT_UNAVAILABLE",
    begins: "vram_sealed",
    act: () => {
      throw new Error("disk full");
    },
    run: ({ vram }, path) => vram.seal(path),
  },
  {
    name: "the policy is broken",
    code: "POLICY_VIOLATION",
    begins: "policy_violation",
    prepare: (faults) => faults.overrideAttribute("isManaged", 1),
    run: ({ vram }, path) => vram.seal(path),
  },
  {
    name: "a verification finds damage",
    code: "MEASUREMENT_MISMATCH",
    begins: "seal_verification_failed",
    run: async ({ vram, flipBit }, path) => {
      await vram.seal(path, { name: "damaged" });
      await flipBit("damaged", 5, 5);
      await vram.verify("damaged");
    },
  },
];

describe("[VR-MEM-03] a failure, and another one while it is undone", () => {
  const strikes = [STATUS.INVALID_VALUE, STATUS.OUT_OF_MEMORY, STATUS.ILLEGAL_ADDRESS];

  it.each(CAUSES)("$name", async (cause) => {
    const { path } = await randomFile(BYTES);
    let total = 0;
    const all = new Set<string>();
    for (const status of strikes) {
      for (const [, forGood] of modes) {
        const { runs, codes } = await sweep(path, async (nth) => {
          const faults = createFaultPlan();
          const controller = new AbortController();
          let begun = false;
          const accept = ({ type }: Entry): void => {
            if (type !== cause.begins || begun) return;
            begun = true;
            faults.failCall("*", faults.calls().length + nth, status, { forGood });
            cause.act?.(controller);
          };
          const system = await openSmall({ ...SMALL, readers: [{ required: true, accept }] }, { ...TEST, faults });
          cause.prepare?.(faults);
          const check = (error?: VramError): void => {
            expect(begun, "the unwinding began").toBe(true);
            if (cause.code !== undefined) expect(error?.code).toBe(cause.code);
            else expect(error).toBeDefined();
          };
          const run = () => errorOf(() => cause.run(system, path, controller.signal));
          return { system, run, fired: () => faults.fired(), disarm: () => faults.reset(), check };
        });
        total += runs;
        for (const code of codes) all.add(code);
      }
    }
    reportCount(`unwinding sweep: ${total} calls, ${cause.name}: ${[...all].join(", ")}`);
    expect(total).toBeGreaterThan(50);
  });
});

/** Real time, but once something stalls every sleep takes a second. */
function impatient(plan: FaultPlan): { faults: EmulatedFaults; clock: Clock; stalledAt: () => number | undefined } {
  /** How many driver calls there had been. */
  let stalledAt: number | undefined;
  let ahead = 0;
  const onStall = (resume: () => void): void => {
    stalledAt ??= plan.calls().length;
    plan.onStall?.(resume);
  };
  const sleep = async (): Promise<void> => {
    if (stalledAt !== undefined) ahead += 1000;
    await new Promise((resolve) => setImmediate(resolve));
  };
  const clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + ahead, sleep };
  return { faults: { ...plan, onStall }, clock, stalledAt: () => stalledAt };
}

describe("work that does not end", () => {
  const TAKES_AWAY = ["memory.unmap", "memory.release", "memory.freeAddress", "memory.freePinned", "stream.destroy"];

  for (const kind of ["copyToDevice", "copyToHost", "fill", "launch"] as const satisfies OperationKind[]) {
    it(`[VR-DEV-05] a ${kind} that stalls loses the device, and nothing it may still write to is given back`, async () => {
      const { path } = await randomFile(BYTES);
      let runs = 0;
      for (let nth = 1; ; nth += 1) {
        const plan = createFaultPlan();
        const { faults, clock, stalledAt } = impatient(plan);
        const stalled = (): boolean => stalledAt() !== undefined;
        const system = await openSmall(SMALL, { ...TEST, faults, clock });
        plan.reset();
        plan.stall(kind, nth);
        const error = await errorOf(async () => {
          const { record, seal } = await system.vram.seal(path, { name: "stalled" });
          await system.vram.verify(record.shardId, { seal, salt: "ab" });
          const { zeroed } = await system.vram.evict(record.shardId);
          expect(zeroed).toBe(!stalled());
        });
        if (stalled()) {
          runs += 1;
          if (error !== undefined) expect(error.code, `${kind} ${nth}`).toBe("DEVICE_STALLED");
          expect(system.vram.devices()[0]?.state, `${kind} ${nth}`).toBe("lost");
          for (const { state } of system.vram.list()) expect(state).toBe("lost");
          for (const { shardId } of system.vram.list()) await system.vram.evict(shardId);
          plan.release();
          await system.vram.close();
          const since = plan.calls().slice(stalledAt());
          expect(since.filter((call) => TAKES_AWAY.includes(call))).toEqual([]);
        } else expect(error, `${kind} ${nth}`).toBeUndefined();
        await system.vram.close();
        expect(system.open.driver.emulation.pendingLint()).toBeUndefined();
        expect(liveHandles(), `${kind} ${nth}`).toEqual({});
        if (!stalled()) break;
      }
      reportCount(`stall sweep: ${runs} × ${kind}`);
      expect(runs).toBeGreaterThan(1);
    });
  }
});
