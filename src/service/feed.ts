/**
 * The live view of the journal: the newest entries are kept, and whoever reads continues where he stopped. A reader has
 * no queue of his own: one who is slower than the journal is told how far he fell behind, and nobody waits for him.
 */
import type { Entry } from "../journal/entry.ts";
import type { JournalReader } from "../journal/journal.ts";
import { LIMITS } from "../limits.ts";
import type { Feed, FeedItem } from "./service.ts";

/** Figures that nobody follows: there is one for each request or write. */
const SILENT: ReadonlySet<Entry["type"]> = new Set<Entry["type"]>(["request_served", "audit_committed"]);

export interface KeptFeed extends Feed {
  readonly reader: JournalReader;
}

/** A feed that keeps the last `keep` entries. */
export function createFeed(keep: number = LIMITS.feedEntries): KeptFeed {
  let kept: Entry[] = [];
  /** Of the newest entry that is not kept any more. */
  let lostSeq = 0;
  const waiting = new Set<() => void>();

  const accept = (entry: Entry): void => {
    if (SILENT.has(entry.type)) return;
    kept.push(entry);
    if (kept.length >= 2 * keep) {
      lostSeq = kept[keep - 1]?.seq ?? lostSeq;
      kept = kept.slice(keep);
    }
    for (const wake of [...waiting]) wake();
  };

  const next = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => {
      const wake = (): void => {
        waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });

  /** The first kept entry behind `seq`; entries are in the order of their numbers. */
  const firstAfter = (seq: number): Entry | undefined => {
    let [low, high] = [0, kept.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((kept[middle]?.seq ?? 0) > seq) high = middle;
      else low = middle + 1;
    }
    return kept[low];
  };

  async function* read(after: number, signal: AbortSignal): AsyncGenerator<FeedItem> {
    let seq = after;
    while (!signal.aborted) {
      if (seq < lostSeq) {
        yield { kind: "gap", entries: lostSeq - seq };
        seq = lostSeq;
      }
      const entry = firstAfter(seq);
      if (entry === undefined) {
        await next(signal);
        continue;
      }
      seq = entry.seq;
      yield { kind: "entry", entry };
    }
  }

  return { reader: { required: false, accept }, newest: () => kept.at(-1)?.seq ?? lostSeq, read };
}
