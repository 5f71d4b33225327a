/**
 * What the writer leaves behind at the end of each epoch, held against what is there. It closes an epoch with a log
 * checkpoint that is kept, and begins the next one only when that is on disk; `log.vkey` is there before the first line.
 * No crash and no pruning takes any of it away, so whoever cut lines off, or wrote them anew without the signing key, and
 * removed the notes that would tell, is found by their absence.
 */
import type { ProblemList } from "./log-report.ts";
import type { NoteKey } from "./note.ts";
import type { AuditLine } from "./parse-line.ts";
import { readFoundKey, readStoredCheckpoints, type StoredCheckpoints } from "./stored-checkpoints.ts";

export interface SignedEpochs {
  /** Takes a line that was read and holds. */
  add(line: AuditLine): void;
  /** Reports the first epoch that was not closed with a log checkpoint, and files that are gone. */
  judge(folder: string, key: NoteKey | undefined, stored: StoredCheckpoints, problems: ProblemList): Promise<void>;
}

/** Entries in front of the epochs that were read: the sizes a log checkpoint is kept of. */
export function createSignedEpochs(): SignedEpochs {
  const begins: { readonly epoch: number; readonly seq: number }[] = [];
  let lines = 0;

  const firstUnsigned = ({ checkpoints }: StoredCheckpoints): (typeof begins)[number] | undefined => {
    const sizes = new Set(checkpoints.map(({ size }) => size));
    return begins.find(({ seq }) => !sizes.has(seq));
  };

  return {
    add: ({ type, epoch, seq }) => {
      lines += 1;
      if (type === "epoch_started" && seq > 0) begins.push({ epoch, seq });
    },
    judge: async (folder, key, stored, problems) => {
      if (lines === 0) return;
      if (key === undefined) {
        // It may have been made since it was looked for.
        if ((await readFoundKey(folder)) !== undefined) return;
        problems.add({
          reason: "checkpoint",
          seq: 0,
          lastSeq: 0,
          message: "log.vkey is gone: nothing signed can be checked",
        });
        return;
      }
      // A writer at work may have closed an epoch since the notes were read.
      const now = firstUnsigned(stored) === undefined ? stored : await readStoredCheckpoints(folder, key);
      const unsigned = firstUnsigned(now);
      if (unsigned !== undefined) {
        const { epoch, seq } = unsigned;
        const message = `epoch ${epoch} began at seq ${seq}, and no log checkpoint over ${seq} entries is kept`;
        problems.add({ reason: "checkpoint", seq: 0, lastSeq: seq - 1, message });
      }
      if (now.isNewestGone) {
        const message = "checkpoint is gone, which is replaced and never removed";
        problems.add({ reason: "checkpoint", seq: 0, lastSeq: 0, message });
      }
    },
  };
}
