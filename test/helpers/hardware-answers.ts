/**
 * What only hardware can say (test/device/hardware-answers.json), and what a driver under test says instead. Where
 * hardware has answered, every backend has to say the same, or give a reason. Where it has not, a stand-in has to do
 * what cuda.h says, if it says anything; what was seen is reported.
 */
import { readFileSync } from "node:fs";
import { expect } from "vitest";

export type Question =
  | "granuleBytes"
  | "freshMemoryIsZero"
  | "memoryNeedsNoContext"
  | "exportedFdIsCloseOnExec"
  | "reservedAddressIsKnown"
  | "pinnedMemoryType"
  | "pinnedHostPointerIsItself"
  | "pinnedAccessFlags"
  | "badImageStatus"
  | "readOnlyRefusesFill"
  | "readOnlyRefusesCopy"
  | "readOnlyRefusesKernel"
  | "noAccessRefusesCopy"
  | "releaseWorksAfterFault";

export type Answer = boolean | number;

export interface HardwareAnswers {
  /** The GPU, its driver, and the file with the results. */
  readonly shownOn: string | null;
  readonly answers: Readonly<
    Record<
      Question,
      {
        readonly question: string;
        /** What cuda.h says. */
        readonly documented: Answer | null;
        readonly answer: Answer | null;
        /** What answers it. */
        readonly probe: string;
      }
    >
  >;
}

/** Reads the answers as they are checked in. */
export function readHardwareAnswers(): HardwareAnswers {
  const path = new URL("../device/hardware-answers.json", import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")) as HardwareAnswers;
}

/** Where a backend is different from hardware on purpose, and why. */
export type Deviations = Readonly<Partial<Record<Question, string>>>;

/** Keeps what one backend was seen to do. */
export interface Observer {
  /** Compares with hardware's answer, where there is one. */
  see(question: Question, seen: Answer): void;
  /** One line: what was seen, and how much of it hardware has confirmed. */
  report(): string;
}

/** `standIn`: it is no hardware, and has no answers of its own. */
export function openObserver(
  name: string,
  { answers, shownOn }: HardwareAnswers,
  { deviations, standIn }: { readonly deviations: Deviations; readonly standIn: boolean },
): Observer {
  const seenSoFar = new Map<Question, Answer>();
  const isShown = (question: Question): boolean => answers[question].answer !== null;
  return {
    see: (question, seen) => {
      seenSoFar.set(question, seen);
      const { answer, documented, question: words } = answers[question];
      const expected = answer ?? (standIn ? documented : null);
      if (expected === null) return;
      const reason = deviations[question];
      const source = answer === null ? "cuda.h" : shownOn;
      if (reason === undefined) expect(seen, `${words}: ${source} says so`).toBe(expected);
      else expect(seen, `${words}: ${source} says the same, so this is no deviation (${reason})`).not.toBe(expected);
    },
    report: () => {
      const all = [...seenSoFar];
      const shown = all.filter(([question]) => isShown(question)).length;
      const list = all.map(([question, seen]) => `${question}=${seen}${isShown(question) ? "" : "?"}`);
      const head = `contract of the border, ${name}: ${shown} of ${all.length} answers shown on hardware`;
      return `${head}: ${list.join(" ")}`;
    },
  };
}
