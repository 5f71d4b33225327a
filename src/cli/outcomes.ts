/** A command over several things: one that fails does not keep the others from being done, and the worst one decides. */
import { toVramError, VramError } from "../errors.ts";
import { EXIT, exitCodeFor } from "./exit.ts";
import { type Host, printError } from "./host.ts";

export interface Failure {
  /** As the caller called it. */
  readonly name: string;
  readonly error: VramError;
}

/** From the worst on: an interruption, what was found about bytes, what keeps them from being relied on, all others. */
const WORST_FIRST: readonly number[] = [
  ...[EXIT.interrupted, EXIT.mismatch, EXIT.device, EXIT.policy, EXIT.audit],
  ...[EXIT.auth, EXIT.unreachable, EXIT.usage, EXIT.error],
];

/** Nobody who asks again is answered otherwise. */
const ENDS_ALL: readonly string[] = [
  "ABORTED",
  "SERVICE_UNREACHABLE",
  "SERVICE_STOPPING",
  "UNAUTHENTICATED",
  "FORBIDDEN",
];

/** The error with the name in front, unless its message has it as one of its words. */
const named = (name: string, error: VramError): VramError =>
  error.message.split(/[\s:,;]+/).includes(name)
    ? error
    : new VramError(error.code, `${name}: ${error.message}`, { fix: error.fix, details: error.details, cause: error });

/**
 * Does `task` for one name after the other, until one fails in a way that would fail them all. Failures are told as they
 * come.
 */
export async function forEachName<T>(
  host: Host,
  items: readonly T[],
  nameOf: (item: T) => string,
  task: (item: T) => Promise<void>,
): Promise<readonly Failure[]> {
  const failures: Failure[] = [];
  for (const item of items) {
    try {
      await task(item);
    } catch (thrown) {
      const error = toVramError(thrown);
      failures.push({ name: nameOf(item), error });
      printError(host, named(nameOf(item), error));
      if (ENDS_ALL.includes(error.code)) break;
    }
  }
  return failures;
}

/** The exit code of a command with these failures: the worst one's. */
export function worstOf(failures: readonly Failure[]): number {
  const codes = failures.map(({ error }) => exitCodeFor(error));
  return WORST_FIRST.find((code) => codes.includes(code)) ?? EXIT.ok;
}
