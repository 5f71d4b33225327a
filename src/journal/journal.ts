/**
 * The one journal. A durable entry is appended with `append`, which resolves when every required reader has taken it,
 * and rejects with `AUDIT_UNAVAILABLE` when one cannot, or does not answer in time: the operation that appended it must
 * then fail. A transient entry is appended with `note`, which never fails. Best-effort readers can neither delay nor
 * fail anything; they are told in order, and of a durable entry only when it is decided: one that was refused for want of
 * a record did not happen. Correlation and worker id come from the scope an entry is appended in.
 */
import { type Clock, within } from "../clock.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { DurableBody, Entry, EntryBody, LogBody, TransientBody } from "./entry.ts";
import { currentScope } from "./scope.ts";
import { createTelling } from "./telling.ts";

/** Somebody who reads the journal as it is written. */
export interface JournalReader {
  /** Whether operations wait for this reader, and fail without it. */
  readonly required: boolean;
  /**
   * Takes an entry. `withdrawn` fires when nobody waits any more, because it took too long: the operation was refused
   * then, and an entry that is not recorded yet should not be.
   */
  accept(entry: Entry, withdrawn?: AbortSignal): void | Promise<void>;
}

export interface Journal {
  /** Appends a durable entry; resolves once it is recorded by every required reader. */
  append(body: DurableBody): Promise<void>;
  /** Appends a durable entry of an operation that must proceed anyway (evict, stop): a failure is itself noted. */
  appendAnyway(body: DurableBody): Promise<void>;
  /** Appends a transient entry; or one that the audit log has written about itself. */
  note(body: TransientBody | LogBody): void;
  /** Adds a reader of all entries from now on. The function returned removes it. */
  attach(reader: JournalReader): () => void;
}

/** A required reader could not take an entry. */
interface Refusal {
  readonly reason: unknown;
}

/** What the reader said; the error around it says only that it could not be recorded. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return "unknown";
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}

/** A new, empty journal. Times come from `clock`; required readers have `waitMs` to take an entry. */
export function createJournal(clock: Clock, waitMs: number = LIMITS.journalWaitMs): Journal {
  const readers = new Set<JournalReader>();
  const telling = createTelling(readers);
  let seq = 0;
  let timeMs = 0;

  const stamp = (body: EntryBody, durability: Entry["durability"], gates: boolean): Entry => {
    seq += 1;
    try {
      timeMs = clock.wallMs();
    } catch {
      // What happened matters more than when: without a clock an entry has the time of the one before it.
    }
    const scope = currentScope();
    const correlationId = scope?.correlationId;
    const worker = "device" in body ? body.device.uuid : scope?.workerId;
    return Object.freeze({
      ...body,
      seq,
      timeMs,
      durability,
      gates,
      ...(correlationId === undefined ? {} : { correlationId }),
      ...(worker === undefined ? {} : { workerId: worker }),
    });
  };

  const requiredOnes = (): JournalReader[] => [...readers].filter(({ required }) => required);

  const note: Journal["note"] = (body) => {
    const entry = stamp(body, "transient", false);
    const decide = telling.hold(entry);
    for (const reader of requiredOnes()) (async () => reader.accept(entry))().catch(() => undefined);
    decide("told");
  };

  /** What the first required reader said that could not take it; undefined if all have. */
  const recordedBy = async (those: readonly JournalReader[], entry: Entry): Promise<Refusal | undefined> => {
    const waits = those.map((reader) => {
      const withdrawal = new AbortController();
      const taken = (async () => reader.accept(entry, withdrawal.signal))();
      return within(waitMs, taken, () => withdrawal.abort());
    });
    const failed = (await Promise.allSettled(waits)).find((outcome) => outcome.status === "rejected");
    return failed === undefined ? undefined : { reason: failed.reason as unknown };
  };

  const record = async (body: DurableBody, gates: boolean): Promise<void> => {
    const entry = stamp(body, "durable", gates);
    const decide = telling.hold(entry);
    const those = requiredOnes();
    // What goes ahead anyway is told at once, and so is everything where nobody is waited for.
    if (!gates || those.length === 0) decide("told");
    const failed = those.length === 0 ? undefined : await recordedBy(those, entry);
    if (gates && those.length > 0) decide(failed === undefined ? "told" : "dropped");
    if (failed === undefined) return;
    throw new VramError("AUDIT_UNAVAILABLE", `the entry ${body.type} could not be recorded`, { cause: failed.reason });
  };

  return {
    append: (body) => record(body, true),
    note,
    appendAnyway: async (body) => {
      await record(body, false).catch((error: unknown) => {
        note({ type: "entry_unrecorded", lost: body.type, message: reasonOf(error) });
      });
    },
    attach: (reader) => {
      readers.add(reader);
      return () => readers.delete(reader);
    },
  };
}
