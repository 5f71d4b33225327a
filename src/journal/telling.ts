/**
 * How best-effort readers are told: in the order of the entries, and of a durable one only when it is decided. What was
 * refused for want of a record did not happen, and nobody narrates or counts it; what goes ahead anyway is decided at once.
 * Entries behind one that is not decided wait with it, for as long as required readers have at most.
 */
import type { Entry } from "./entry.ts";
import type { JournalReader } from "./journal.ts";

/** What became of an entry: `dropped` if its operation was refused. */
export type Verdict = "told" | "dropped";

interface Held {
  readonly entry: Entry;
  /** Those that were there when it was appended. */
  readonly readers: readonly JournalReader[];
  verdict: Verdict | undefined;
}

export interface Telling {
  /** Takes the next entry. What comes back is called once, when it is decided. */
  hold(entry: Entry): (verdict: Verdict) => void;
}

/** A queue to the best-effort ones among `readers`; what they throw is theirs. */
export function createTelling(readers: ReadonlySet<JournalReader>): Telling {
  const held: Held[] = [];

  const tell = (): void => {
    for (let head = held[0]; head?.verdict !== undefined; head = held[0]) {
      held.shift();
      const { entry, verdict, readers: those } = head;
      for (const reader of verdict === "told" ? those : []) {
        if (readers.has(reader)) (async () => reader.accept(entry))().catch(() => undefined);
      }
    }
  };

  return {
    hold: (entry) => {
      const mine: Held = { entry, readers: [...readers].filter(({ required }) => !required), verdict: undefined };
      held.push(mine);
      return (verdict) => {
        mine.verdict = verdict;
        tell();
      };
    },
  };
}
