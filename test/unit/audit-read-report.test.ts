/** What the verifier says: which problem is named first, how epochs are listed, every doubt, and heads against the log. */
import { describe, expect, it } from "vitest";
import type { LogCheckpoint } from "../../src/audit/checkpoint.ts";
import { createLogHeads } from "../../src/audit/log-heads.ts";
import {
  addEpoch,
  createProblemList,
  type EpochRange,
  type Problem,
  type ProblemReason,
  reportOf,
} from "../../src/audit/log-report.ts";
import { createLogTree } from "../../src/audit/tree.ts";
import { LIMITS } from "../../src/limits.ts";
import { allLeaves } from "../helpers/audit-tree.ts";

const problem = (seq: number, lastSeq: number, reason: ProblemReason = "mac"): Problem => ({
  ...{ reason, seq, lastSeq, message: `${reason} ${seq}-${lastSeq}` },
});

describe("problems", () => {
  it.each([
    ["the one that ends first", [problem(5, 9), problem(6, 8), problem(7, 10)], 1],
    ["of those that end together the narrowest", [problem(5, 9), problem(7, 9), problem(6, 9)], 1],
    ["the first of two that are alike", [problem(5, 9), problem(5, 9)], 0],
    ["one about entries before one about a file", [problem(0, 0, "file"), problem(9, 9)], 1],
    ["one about entries before one about a note", [problem(9, 9), problem(0, 0, "checkpoint")], 0],
    ["a file where there is nothing else", [problem(0, 0, "file"), problem(0, 0, "checkpoint")], 0],
  ])("are named by %s", (_what, all, first) => {
    const list = createProblemList();
    expect([list.total, list.first, list.kept]).toEqual([0, undefined, []]);
    for (const one of all) list.add(one);
    expect(list.first).toBe(all[first]);
    expect(list.total).toBe(all.length);
    expect(list.kept).toEqual(all);
  });

  it("are listed up to a limit, and counted and compared beyond it", () => {
    const list = createProblemList();
    for (let seq = 100; seq > 30; seq -= 1) list.add(problem(seq, seq));
    expect([list.kept.length, list.total]).toEqual([LIMITS.auditProblems, 70]);
    expect(list.first).toEqual(problem(31, 31));
  });
});

describe("epochs", () => {
  const listed = (...epochs: readonly number[]): string => {
    const ranges: EpochRange[] = [];
    for (const epoch of epochs) addEpoch(ranges, epoch);
    return ranges.map(({ first, last }) => `${first}-${last}`).join(" ");
  };

  it("are listed as ranges, in the order of the log", () => {
    expect(listed(1)).toBe("1-1");
    expect(listed(1, 1, 2, 3, 3)).toBe("1-3");
    expect(listed(1, 2, 4, 5)).toBe("1-2 4-5");
    expect(listed(3, 5, 4)).toBe("3-3 5-5 4-4");
    expect(listed(3, 4, 5, 4, 3, 6)).toBe("3-6");
    expect(listed(3, 2)).toBe("3-3 2-2");
  });

  it("are at most 64 ranges; the last of them still grows", () => {
    const odd = Array.from({ length: 70 }, (_, index) => index * 2);
    const ranges: EpochRange[] = [];
    for (const epoch of odd) addEpoch(ranges, epoch);
    expect(ranges).toHaveLength(LIMITS.auditProblems);
    expect(ranges.at(-1)).toEqual({ first: 126, last: 126 });
    addEpoch(ranges, 127);
    expect(ranges.at(-1)).toEqual({ first: 126, last: 127 });
  });
});

describe("a report", () => {
  type Findings = Parameters<typeof reportOf>[0];
  const SOUND: Findings = {
    ...{ entries: 10, prunedEntries: 0, linesRead: 10, firstBad: undefined, problems: [], problemsTotal: 0 },
    macs: { linesChecked: 10, checked: [{ first: 1, last: 2 }], unchecked: [] },
    checkpoints: { key: "given", stored: 1, matched: 1, covered: 10 },
    ...{ remembered: "none", inProgressBytes: 0, rememberedSize: 0, skippedEntries: 0, endedEarly: false },
  };
  const NO_KEYS = { ...SOUND.macs, unchecked: [{ first: 1, last: 1 }] };
  const TRUNCATION = (size: number) =>
    `truncation ${size}: entries after ${size} of them may have been cut off, with the log checkpoints on them`;
  const FORK = (size: number) =>
    `rollback-or-fork ${size}: after ${size} entries others may have been shown another log`;
  const doubts = (found: Partial<Findings>): string[] =>
    reportOf({ ...SOUND, ...found }).notExcluded.map(({ what, fromSeq, message }) => `${what} ${fromSeq}: ${message}`);

  it("is intact or damaged, and says what was found without what it was made of", () => {
    const { rememberedSize: _r, skippedEntries: _s, endedEarly: _e, ...shown } = SOUND;
    expect(reportOf(SOUND)).toEqual({ verdict: "intact", ...shown, notExcluded: expect.any(Array) as unknown });
    const damaged = { problems: [problem(1, 1)], problemsTotal: 1, firstBad: problem(1, 1) };
    expect(reportOf({ ...SOUND, ...damaged })).toMatchObject({ verdict: "damaged", ...damaged });
  });

  it.each<readonly [what: string, found: Partial<Findings>, more: readonly string[]]>([
    ["nothing more than anybody's", {}, []],
    [
      "entries that nothing signed covers",
      { checkpoints: { ...SOUND.checkpoints, covered: 9 } },
      ["unsigned 9: no stored log checkpoint that matches covers these entries"],
    ],
    [
      "a key that lay beside the log",
      { checkpoints: { ...SOUND.checkpoints, key: "found" } },
      ["log-key 0: the log key was taken from the log's own folder"],
    ],
    [
      "no key",
      { checkpoints: { ...SOUND.checkpoints, key: "none" } },
      ["log-key 0: there is no log key: no signature was checked"],
    ],
    ["macs", { macs: NO_KEYS }, ["macs 0: the macs of some epochs could not be checked without their keys"]],
    ["what was pruned", { prunedEntries: 3 }, ["pruned 0: pruned entries are known by their hashes only"]],
    [
      "what was not read at the beginning",
      { prunedEntries: 3, skippedEntries: 1 },
      [
        "pruned 0: pruned entries are known by their hashes only",
        "not-read 3: lines were taken by their kept hashes, as asked for",
      ],
    ],
    ["what was not read at the end", { endedEarly: true }, ["not-read 10: lines were not read, as asked for"]],
    [
      "what was not compared",
      { remembered: "not-compared" },
      ["not-compared 0: the log was not read as far as the remembered log checkpoint, or not all of it is known"],
    ],
  ])("does not exclude %s", (_what, found, more) => {
    expect(doubts(found)).toEqual([TRUNCATION(0), FORK(0), ...more]);
  });

  it.each([
    ["matches", 7],
    ["differs", 0],
    ["beyond", 0],
  ] as const)("with a remembered log checkpoint over 7 entries that %s is vouched for up to %i", (remembered, size) => {
    expect(doubts({ remembered, rememberedSize: 7 })).toEqual([TRUNCATION(size), FORK(size)]);
  });
});

describe("log checkpoints against the log", () => {
  const COUNT = 8;
  const joined = allLeaves(COUNT);
  const leafAt = (index: number): Uint8Array => joined.slice(index * 32, (index + 1) * 32);
  const tree = createLogTree();
  const roots = [tree.root()];
  for (let index = 0; index < COUNT; index += 1) {
    tree.append(leafAt(index));
    roots.push(tree.root());
  }
  const headOf = (size: number, rootSize = size): LogCheckpoint => ({
    ...{ origin: "log", size, root: roots[rootSize] ?? new Uint8Array(32) },
  });

  function compare(stored: readonly LogCheckpoint[], remembered?: LogCheckpoint, count = COUNT) {
    const list = createProblemList();
    const heads = createLogHeads(stored, remembered, list);
    for (let index = 0; index < count; index += 1) heads.append(leafAt(index));
    const before = heads.remembered;
    heads.end(count);
    const problems = list.kept.map(({ reason, seq, lastSeq, message }) => `${reason} ${seq}-${lastSeq}: ${message}`);
    return { problems, matched: heads.matched, covered: heads.covered, remembered: heads.remembered, before };
  }

  it("match where their roots are the log's, at any size, twice at one size", () => {
    expect(compare([])).toMatchObject({ problems: [], matched: 0, covered: 0, remembered: "none" });
    const stored = [headOf(0), headOf(3), headOf(3), headOf(8)];
    expect(compare(stored)).toMatchObject({ problems: [], matched: 4, covered: 8, remembered: "none" });
    expect(compare([headOf(3)])).toMatchObject({ problems: [], matched: 1, covered: 3 });
  });

  it("that differ are reported once, with the entries behind the last one that agreed", () => {
    const differs = (size: number) => `the root over ${size} entries is not the one that was signed`;
    expect(compare([headOf(2), headOf(5, 4), headOf(6, 4), headOf(7)])).toMatchObject({
      ...{ problems: [`root 2-4: ${differs(5)}`], matched: 2, covered: 7 },
    });
    expect(compare([headOf(0, 1)])).toMatchObject({ problems: [`root 0-0: ${differs(0)}`], matched: 0 });
  });

  it("that cover more than there is tell how much is missing", () => {
    const said = (whose: string) => `${whose} log checkpoint covers 8 entries, and the log has 6`;
    expect(compare([headOf(5), headOf(8)], undefined, 6)).toMatchObject({
      ...{ problems: [`truncated 6-7: ${said("the newest stored")}`], matched: 1, covered: 5 },
    });
    expect(compare([], headOf(8), 6)).toMatchObject({
      ...{ problems: [`truncated 6-7: ${said("the remembered")}`], remembered: "beyond", before: "not-compared" },
    });
    expect(compare([headOf(8)], headOf(8)).problems).toEqual([]);
  });

  it("that are remembered match, or are of another history, wherever the stored ones agree", () => {
    expect(compare([], headOf(5))).toMatchObject({ problems: [], remembered: "matches", before: "matches" });
    expect(compare([], headOf(0))).toMatchObject({ problems: [], remembered: "matches" });
    const history = (size: number) => `the root over ${size} entries is not the remembered one: another history`;
    expect(compare([headOf(4)], headOf(5, 4))).toMatchObject({
      ...{ problems: [`forked 0-4: ${history(5)}`], remembered: "differs", matched: 1 },
    });
    expect(compare([], headOf(0, 1)).problems).toEqual([`forked 0-0: ${history(0)}`]);
  });
});
