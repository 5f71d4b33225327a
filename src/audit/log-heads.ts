/**
 * Log checkpoints against the log: the tree grows leaf by leaf, and at each size that somebody signed or remembered its
 * root is held against theirs. A root that differs says that something before it is not what was signed, not where; the
 * last one that agreed says from where on.
 */
import { constantTimeEqual } from "../bytes.ts";
import type { LogCheckpoint } from "./checkpoint.ts";
import type { LogReport, ProblemList } from "./log-report.ts";
import { createLogTree } from "./tree.ts";

export interface LogHeads {
  /** Stored log checkpoints whose root is the log's. */
  readonly matched: number;
  /** Entries that the largest of them covers. */
  readonly covered: number;
  /** How the remembered one compares so far. */
  readonly remembered: LogReport["remembered"];
  /** Takes the next leaf. */
  append(leaf: Uint8Array): void;
  /** The log ended at `entries`: reports what is said to be longer. */
  end(entries: number): void;
}

/** `stored` has ascending sizes. */
export function createLogHeads(
  stored: readonly LogCheckpoint[],
  rememberedHead: LogCheckpoint | undefined,
  problems: ProblemList,
): LogHeads {
  const tree = createLogTree();
  let position = 0;
  let matched = 0;
  let covered = 0;
  let hasDiffered = false;
  let remembered: LogReport["remembered"] = rememberedHead === undefined ? "none" : "not-compared";

  const compareStored = (head: LogCheckpoint): void => {
    if (constantTimeEqual(tree.root(), head.root)) {
      matched += 1;
      covered = head.size;
      return;
    }
    // Every later one differs as well, and says no more.
    if (hasDiffered) return;
    hasDiffered = true;
    const message = `the root over ${head.size} entries is not the one that was signed`;
    problems.add({ reason: "root", seq: covered, lastSeq: Math.max(head.size - 1, 0), message });
  };

  const compare = (): void => {
    for (let head = stored[position]; head?.size === tree.size; head = stored[position]) {
      position += 1;
      compareStored(head);
    }
    if (rememberedHead?.size !== tree.size) return;
    remembered = constantTimeEqual(tree.root(), rememberedHead.root) ? "matches" : "differs";
    if (remembered === "matches") return;
    // Stored log checkpoints that agree do not narrow it down: with our keys they can be made anew.
    const message = `the root over ${rememberedHead.size} entries is not the remembered one: another history`;
    problems.add({ reason: "forked", seq: 0, lastSeq: Math.max(rememberedHead.size - 1, 0), message });
  };

  const requireEntries = (entries: number, head: LogCheckpoint, whose: string): void => {
    const message = `${whose} log checkpoint covers ${head.size} entries, and the log has ${entries}`;
    problems.add({ reason: "truncated", seq: entries, lastSeq: head.size - 1, message });
  };

  compare();
  return {
    get matched() {
      return matched;
    },
    get covered() {
      return covered;
    },
    get remembered() {
      return remembered;
    },
    append: (leaf) => {
      tree.append(leaf);
      compare();
    },
    end: (entries) => {
      const newest = stored.at(-1);
      if (newest !== undefined && newest.size > entries) requireEntries(entries, newest, "the newest stored");
      if (rememberedHead === undefined || rememberedHead.size <= entries) return;
      remembered = "beyond";
      requireEntries(entries, rememberedHead, "the remembered");
    },
  };
}
