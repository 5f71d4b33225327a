/**
 * The one journal. A durable entry is appended with `append`, which resolves when every required reader has taken it,
 * and rejects with `AUDIT_UNAVAILABLE` when one cannot: the operation that appended it must then fail. A transient
 * entry is appended with `note`, which never fails. Best-effort readers can neither delay nor fail anything.
 */
import type { Clock } from "../clock.ts";
import { VramError } from "../errors.ts";
import type { DurableBody, Entry, EntryBody, TransientBody } from "./entry.ts";

/** Somebody who reads the journal as it is written. */
export interface JournalReader {
  /** Whether operations wait for this reader, and fail without it. */
  readonly required: boolean;
  accept(entry: Entry): void | Promise<void>;
}

export interface Journal {
  /** Appends a durable entry; resolves once it is recorded by every required reader. */
  append(body: DurableBody): Promise<void>;
  /** Appends a durable entry of an operation that must proceed anyway (evict, stop): a failure is itself noted. */
  appendAnyway(body: DurableBody): Promise<void>;
  /** Appends a transient entry. */
  note(body: TransientBody): void;
  /** Adds a reader of all entries from now on. The function returned removes it. */
  attach(reader: JournalReader): () => void;
}

/** A new, empty journal. Times come from `clock`. */
export function createJournal(clock: Clock): Journal {
  const readers = new Set<JournalReader>();
  let seq = 0;
  let timeMs = 0;

  const stamp = (body: EntryBody, durability: Entry["durability"]): Entry => {
    seq += 1;
    try {
      timeMs = clock.wallMs();
    } catch {
      // What happened matters more than when: without a clock an entry has the time of the one before it.
    }
    return Object.freeze({ ...body, seq, timeMs, durability });
  };

  const offer = (entry: Entry): Promise<void>[] => {
    const waits: Promise<void>[] = [];
    for (const reader of readers) {
      const taken = (async () => reader.accept(entry))();
      if (reader.required && entry.durability === "durable") waits.push(taken);
      else taken.catch(() => undefined);
    }
    return waits;
  };

  const note = (body: TransientBody): void => {
    void offer(stamp(body, "transient"));
  };

  const append = async (body: DurableBody): Promise<void> => {
    const outcomes = await Promise.allSettled(offer(stamp(body, "durable")));
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) {
      throw new VramError("AUDIT_UNAVAILABLE", `the entry ${body.type} could not be recorded`, {
        cause: failed.reason,
      });
    }
  };

  return {
    append,
    note,
    appendAnyway: async (body) => {
      await append(body).catch((error: unknown) => {
        note({
          type: "entry_unrecorded",
          lost: body.type,
          message: error instanceof Error ? error.message : "unknown",
        });
      });
    },
    attach: (reader) => {
      readers.add(reader);
      return () => readers.delete(reader);
    },
  };
}
