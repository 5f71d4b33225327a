/**
 * The contract of the border, on what ends a context. On a GPU each case needs a process of its own: `runFatalCase`
 * needs nothing of a test runner, and returns plain data.
 */
import { expect, test } from "vitest";
import { encodeJobs, type HashJob, hashLaunch } from "../../src/cuda/kernel-abi.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { type Bench, type Mapped, openBench, type Subject } from "./driver-bench.ts";
import type { Observer, Question } from "./hardware-answers.ts";

interface FatalCase {
  readonly words: string;
  /** What hardware is asked by it; without one, every backend refuses. */
  readonly question?: Question;
  readonly access: "read" | "none";
  /** Enqueues, or is refused, what must not be done to `main`. */
  readonly act: (bench: Bench, main: Mapped) => void | Promise<void>;
}

/** Launches one job whose table lies in memory of its own. */
async function launch(bench: Bench, job: HashJob): Promise<void> {
  const room = bench.allocate();
  await bench.upload(room.cuPointer, encodeJobs([job]));
  bench.driver.stream.launch(bench.cuStream, bench.cuFunction, hashLaunch(room.cuPointer, [job], 0n));
}

export const FATAL_CASES = {
  "fill-read-only": {
    words: "a fill through a read-only mapping",
    question: "readOnlyRefusesFill",
    access: "read",
    act: ({ driver, cuStream }, main) => driver.stream.fill(cuStream, main.cuPointer, 1, 4096),
  },
  "copy-read-only": {
    words: "a copy through a read-only mapping",
    question: "readOnlyRefusesCopy",
    access: "read",
    act: (bench, main) => {
      const pinned = bench.pinned(4096);
      bench.driver.stream.copyToDevice(bench.cuStream, main.cuPointer, pinned.cuPointer, 4096);
    },
  },
  "kernel-read-only": {
    words: "a kernel's store through a read-only mapping",
    question: "readOnlyRefusesKernel",
    access: "read",
    act: (bench, { cuPointer }) =>
      launch(bench, { cuSource: cuPointer, byteLength: 4096, cuTarget: cuPointer + 65_536n }),
  },
  "copy-without-access": {
    words: "a copy from a mapping without access",
    question: "noAccessRefusesCopy",
    access: "none",
    act: (bench, main) => {
      const pinned = bench.pinned(4096);
      bench.driver.stream.copyToHost(bench.cuStream, pinned.cuPointer, main.cuPointer, 4096);
    },
  },
  "kernel-unmapped": {
    words: "a kernel's read where nothing is mapped",
    access: "read",
    act: (bench, main) => {
      const target = bench.allocate();
      bench.driver.memory.unmap(main.cuPointer, main.byteLength);
      return launch(bench, { cuSource: main.cuPointer, byteLength: 4096, cuTarget: target.cuPointer });
    },
  },
} as const satisfies Readonly<Record<string, FatalCase>>;
export type FatalCaseName = keyof typeof FATAL_CASES;

/** What became of it. */
export interface FatalOutcome {
  /** The status it failed with, at once or when it was waited for; null: it was done. */
  readonly status: number | null;
  readonly code: string | null;
  /** Statuses of innocent calls after it: create a stream, create an event, ask for memory. */
  readonly after: readonly (number | null)[];
  /** Whether memory could be unmapped and released all the same. */
  readonly releases: boolean;
}

/** The driver's status that `task` ends with. */
async function statusBy(task: () => unknown): Promise<{ status: number | null; code: string | null }> {
  try {
    await task();
    return { status: null, code: null };
  } catch (error) {
    if (!(error instanceof VramError)) throw error;
    return { status: Number(error.details["status"]), code: error.code };
  }
}

/** Does it, looks at what is left, and gives back what can be given back. */
export async function runFatalCase(name: FatalCaseName, subject: Subject): Promise<FatalOutcome> {
  const bench = openBench(subject);
  const { driver } = bench;
  const { act, access }: FatalCase = FATAL_CASES[name];
  const main = bench.allocate(access);
  const spare = bench.allocate();
  const outcome = await statusBy(async () => {
    await act(bench, main);
    await bench.finish();
  });
  const innocent = [() => driver.stream.create(), () => driver.event.create(), () => driver.context.memoryInfo()];
  const after: (number | null)[] = [];
  for (const call of innocent) after.push((await statusBy(call)).status);
  const released = await statusBy(() => {
    driver.memory.unmap(spare.cuPointer, spare.byteLength);
    driver.memory.map(spare.cuPointer, spare.byteLength, spare.cuHandle);
    bench.free(spare);
  });
  await bench.close({ lost: outcome.status !== null });
  return { ...outcome, after, releases: released.status === null };
}

/** Registers every case; `open` gives each a driver of its own. */
export function fatalContract(open: () => Subject, observer: Observer): void {
  for (const [name, { words, ...rest }] of Object.entries(FATAL_CASES)) {
    const question: Question | undefined = "question" in rest ? rest.question : undefined;
    test(`[VR-DEV-05] ${words}: ILLEGAL_ADDRESS late or at once, and from then on for every call`, async () => {
      const { status, code, after, releases } = await runFatalCase(name as FatalCaseName, open());
      const refused = status === STATUS.ILLEGAL_ADDRESS;
      if (question === undefined) expect(refused).toBe(true);
      else observer.see(question, refused);
      observer.see("releaseWorksAfterFault", releases);
      if (!refused) return;
      expect(code).toBe("DEVICE_LOST");
      expect(after).toEqual([STATUS.ILLEGAL_ADDRESS, STATUS.ILLEGAL_ADDRESS, STATUS.ILLEGAL_ADDRESS]);
    });
  }
}
