/**
 * What real CUDA would let pass without a word and what is nevertheless a bug of ours: use after free, a copy from
 * memory that is not pinned, a step beyond the bytes in use. It has an error class of its own, so that no test can take
 * it for a refusal of the driver, and no code that handles driver errors swallows it.
 *
 * A lint found while a call is made throws from that call. One found while enqueued work executes has no caller: it is
 * remembered and thrown, once, by the next call of any kind.
 */

/** A bug in the program that uses the driver, which hardware would not have reported. */
export class EmulatorLint extends Error {
  /** Tells it from errors of the driver, which are `VramError`. */
  override readonly name = "EmulatorLint";
}

/** Ends an operation at execution with a sticky status of its context. Never leaves this folder. */
export class ExecutionFault extends Error {
  override readonly name = "ExecutionFault";
  readonly status: number;

  constructor(status: number) {
    super(`status ${status}`);
    this.status = status;
  }
}

/** Lints (and failures of the emulator itself) that wait for the next call. */
export interface LintBook {
  /** Keeps the first until it is thrown; those that follow from it are dropped. */
  remember(error: unknown): void;
  /** Throws what is remembered, once. */
  throwPending(): void;
  pending(): unknown;
}

export function openLintBook(): LintBook {
  let held: { readonly error: unknown } | undefined;
  return {
    remember: (error) => {
      held ??= { error };
    },
    throwPending: () => {
      if (held === undefined) return;
      const { error } = held;
      held = undefined;
      throw error;
    },
    pending: () => held?.error,
  };
}
