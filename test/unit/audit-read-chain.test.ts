/**
 * One line after the other, in memory: what a chain says of a log of 12 lines in which something was changed, with all
 * keys, with none, and with kept leaf hashes. The whole list of problems each time: one change is one problem.
 */
import { describe, expect, it } from "vitest";
import { macKeysFrom } from "../../src/audit/epochs.ts";
import { type ChainReader, createLineChain, type KeptLeaves } from "../../src/audit/line-chain.ts";
import type { Problem } from "../../src/audit/log-report.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { K0, keyAt, makeLog, resealed, sealDrafts } from "../helpers/audit-log.ts";

const LOG = makeLog({ count: 12, segmentLines: 6, epochLines: 3 });
const at = (seq: number): Uint8Array => LOG.lines[seq] ?? new Uint8Array(0);
const LEAVES = Buffer.concat(LOG.lines.map(leafHash));

type Lines = readonly Uint8Array[];
type Keep = (index: number) => KeptLeaves | undefined;

/** What a chain says of these lines: problems as `reason seq-lastSeq message`, leaves and lines that held. */
function read(lines: Lines, keys = true, keep: Keep = () => undefined, first = 0) {
  const problems: string[] = [];
  const leaves: string[] = [];
  const held: string[] = [];
  const reader: ChainReader = {
    macKeys: keys ? macKeysFrom(K0) : undefined,
    onProblem: ({ reason, seq, lastSeq, message }: Problem) =>
      problems.push(`${reason} ${seq}-${lastSeq} ${message.replace(/^segment 7 line /, "line ")}`),
    onLeaf: (leaf) => leaves.push(toHex(leaf)),
    onLine: ({ seq }, mac) => held.push(`${seq} ${mac}`),
  };
  const chain = createLineChain(reader);
  if (first > 0) chain.skip(LEAVES.subarray(0, first * 32));
  for (const [index, line] of lines.entries()) chain.push(line, 7, index + 1, keep(index));
  chain.flush();
  return { problems, leaves: leaves.length, held, next: chain.next, chain };
}
const problemsOf = (lines: Lines, keys = true, keep?: Keep): string[] => read(lines, keys, keep).problems;

const edited = (seq: number, change: (text: string) => string): Uint8Array[] =>
  LOG.lines.with(seq, Buffer.from(change(Buffer.from(at(seq)).toString())));
/** Another value, still a line; its mac does not fit any more. */
const changed = (seq: number): Uint8Array[] => edited(seq, (text) => text.replace(/"time":\d/, '"time":9'));
const seqs = (from: number, to: number): string[] =>
  Array.from({ length: to - from + 1 }, (_, index) => `${from + index} valid`);

describe("[VR-AUD-02] a sound log", () => {
  it("has no problems, and every line and leaf is handed on", () => {
    expect(read(LOG.lines)).toMatchObject({ problems: [], leaves: 12, held: seqs(0, 11), next: 12 });
    const without = read(LOG.lines, false);
    expect(without).toMatchObject({ problems: [], leaves: 12, next: 12 });
    expect(without.held).toEqual(seqs(0, 11).map((line) => line.replace("valid", "unchecked")));
    expect(read([])).toMatchObject({ problems: [], leaves: 0, next: 0 });
  });

  it("counts the line that waits for its successor apart", () => {
    const nobody = { macKeys: undefined, onProblem: () => expect.fail("no problem"), onLeaf: () => undefined };
    const chain = createLineChain({ ...nobody, onLine: () => undefined });
    expect([chain.next, chain.pushed]).toEqual([0, 0]);
    chain.push(at(0), 1, 1, undefined);
    expect([chain.next, chain.pushed]).toEqual([0, 1]);
    chain.push(at(1), 1, 2, undefined);
    expect([chain.next, chain.pushed]).toEqual([1, 2]);
    chain.flush();
    expect([chain.next, chain.pushed]).toEqual([2, 2]);
    chain.flush();
    expect([chain.next, chain.pushed]).toEqual([2, 2]);
  });

  it("of keys that begin later has lines that could not be checked", () => {
    const held: string[] = [];
    const macKeys = macKeysFrom(keyAt(3));
    const chain = createLineChain({
      ...{ macKeys, onProblem: () => expect.fail("no problem"), onLeaf: () => undefined },
      onLine: ({ seq }, mac) => held.push(`${seq} ${mac}`),
    });
    for (const line of LOG.lines) chain.push(line, 1, 1, undefined);
    chain.flush();
    expect(held.slice(4, 8)).toEqual(["4 unchecked", "5 unchecked", "6 valid", "7 valid"]);
  });
});

describe("[VR-AUD-02] with all keys", () => {
  it.each([
    ["changed", changed(4), ["mac 4-4 line 5: the mac of epoch 2 does not hold"]],
    ["changed, the first", changed(0), ["mac 0-0 line 1: the mac of epoch 1 does not hold"]],
    ["changed, the last", changed(11), ["mac 11-11 line 12: the mac of epoch 4 does not hold"]],
    ["that is no line", edited(4, (text) => text.slice(0, -1)), ["form 4-4 line 5: not a line: form at byte LAST"]],
    ["taken out", LOG.lines.toSpliced(4, 1), ["missing 4-4 line 5: says seq 5 where 4 is next"]],
    ["taken out, three of them", LOG.lines.toSpliced(4, 3), ["missing 4-6 line 5: says seq 7 where 4 is next"]],
    ["taken out, the first", LOG.lines.slice(1), ["missing 0-0 line 1: says seq 1 where 0 is next"]],
    ["doubled", LOG.lines.toSpliced(4, 0, at(4)), ["order 5-5 line 6: says seq 4 where 5 is next"]],
    ["put in, an earlier one", LOG.lines.toSpliced(6, 0, at(1)), ["order 6-6 line 7: says seq 1 where 6 is next"]],
    [
      "put in, no line",
      LOG.lines.toSpliced(6, 0, Buffer.from("junk")),
      ["form 6-6 line 7: not a line: form at byte 0"],
    ],
    ["replaced by an earlier one", LOG.lines.with(6, at(1)), ["seq 6-6 line 7: says seq 1 in the place of 6"]],
    ["replaced by a later one", LOG.lines.with(6, at(9)), ["seq 6-6 line 7: says seq 9 in the place of 6"]],
  ])("a line %s is named", (_what, lines, expected) => {
    const told = expected.map((problem) => problem.replace("LAST", String(at(4).byteLength - 1)));
    expect(problemsOf(lines)).toEqual(told);
  });

  it("the tree ends where a leaf is not known, and not where a line was put in between", () => {
    expect(read(changed(4)).leaves).toBe(4);
    expect(read(changed(4)).held).toEqual([...seqs(0, 3), ...seqs(5, 11)]);
    expect(read(LOG.lines.toSpliced(6, 0, Buffer.from("junk")))).toMatchObject({ leaves: 12, held: seqs(0, 11) });
    expect(read(LOG.lines.toSpliced(4, 0, at(4)))).toMatchObject({ leaves: 12, held: seqs(0, 11), next: 12 });
    expect(read(LOG.lines.toSpliced(4, 2))).toMatchObject({
      leaves: 4,
      next: 12,
      held: [...seqs(0, 3), ...seqs(6, 11)],
    });
  });

  it("a line sealed anew by somebody with the keys is found by the one behind it", () => {
    const anew = resealed(LOG, 4, { other: true }).lines;
    // Everything behind is sealed anew as well: nothing in the lines themselves tells.
    expect(problemsOf(anew)).toEqual([]);
    const one = LOG.lines.with(4, anew[4] ?? at(4));
    expect(problemsOf(one)).toEqual(["prev 5-5 line 6: does not follow the line before it"]);
    expect(read(one).leaves).toBe(6 - 1);
  });

  it.each([
    ["left out", [1, 1, 1, 3], ["epoch_started in epoch 3 after epoch 1"]],
    ["that goes back", [1, 2, 1, 3], ["epoch_started in epoch 1 after epoch 2"]],
    ["that does not change though it begins", [1, 1, 1, 1], ["epoch_started in epoch 1 after epoch 1"]],
  ])("an epoch %s", (_what, epochs, expected) => {
    const drafts = epochs.map((epoch, seq) => ({
      ...{ epoch, data: {} },
      type: seq === 0 || epoch !== epochs[seq - 1] || seq === 3 ? "epoch_started" : "other",
    }));
    const found = problemsOf(sealDrafts(drafts)).map((problem) => problem.replace(/^.*?: /, ""));
    expect(found[0]).toBe(expected[0]);
  });

  it("an epoch that begins without saying so", () => {
    const drafts = [1, 2, 2].map((epoch, seq) => ({ epoch, data: {}, type: seq === 0 ? "epoch_started" : "other" }));
    expect(problemsOf(sealDrafts(drafts))).toEqual(["epoch 1-1 line 2: other in epoch 2 after epoch 1"]);
    const first = [{ epoch: 2, data: {}, type: "epoch_started" }];
    expect(problemsOf(sealDrafts(first))).toEqual(["epoch 0-0 line 1: epoch_started in epoch 2 after epoch 0"]);
  });
});

describe("[VR-AUD-02] without keys", () => {
  const kept = (mayLag: boolean, leaves: Uint8Array = LEAVES): Keep => {
    const all = { firstSeq: 0, leaves, mayLag };
    return () => all;
  };
  const spoilt = (seq: number, byte: number): Buffer => {
    const leaves = Buffer.from(LEAVES);
    leaves.fill(byte, seq * 32, seq * 32 + 32);
    return leaves;
  };

  it("a changed line is named by the one behind it, or by its kept hash if it is the last", () => {
    const follows = "follows another line than the one before it, which was changed";
    expect(problemsOf(changed(4), false)).toEqual([`prev 4-4 line 6: ${follows}`]);
    expect(problemsOf(changed(10), false)).toEqual(["prev 10-11 line 12: this line or the one before it was changed"]);
    expect(problemsOf(changed(10), false, kept(false))).toEqual([
      "leaves 10-10 line 11: this line and its kept leaf hash differ",
      `prev 10-10 line 12: ${follows}`,
    ]);
    expect(problemsOf(changed(11), false)).toEqual([]);
    expect(problemsOf(changed(11), false, kept(false))).toEqual([
      "leaves 11-11 line 12: this line and its kept leaf hash differ",
    ]);
  });

  it("a kept hash that is not there, cut, or not yet written says nothing", () => {
    for (const length of [0, 11 * 32, 11 * 32 + 31]) {
      expect(problemsOf(changed(11), false, kept(true, LEAVES.subarray(0, length)))).toEqual([]);
    }
    expect(problemsOf(LOG.lines, false, kept(true, spoilt(11, 0)))).toEqual([]);
    const differs = ["leaves 11-11 line 12: this line and its kept leaf hash differ"];
    expect(problemsOf(LOG.lines, false, kept(false, spoilt(11, 0)))).toEqual(differs);
    expect(problemsOf(LOG.lines, false, kept(true, spoilt(11, 1)))).toEqual(differs);
    const later = { firstSeq: 12, leaves: LEAVES, mayLag: false };
    expect(problemsOf(LOG.lines, false, () => later)).toEqual([]);
  });

  it("a changed `prev` is the fault of the line that has it", () => {
    const lines = edited(4, (text) => text.replace(/"prev":"\w+"/, `"prev":"${"ab".repeat(32)}"`));
    const [first, ...others] = problemsOf(lines, false);
    expect(first).toBe("prev 4-4 line 5: does not follow the line before it");
    expect(others).toEqual(["prev 4-4 line 6: follows another line than the one before it, which was changed"]);
    const last = edited(11, (text) => text.replace(/"prev":"\w+"/, `"prev":"${"ab".repeat(32)}"`));
    expect(problemsOf(last, false)).toEqual(["prev 10-11 line 12: this line or the one before it was changed"]);
    expect(problemsOf(last, false, kept(false))).toEqual(["prev 11-11 line 12: does not follow the line before it"]);
    const begin = edited(0, (text) => text.replace(/"prev":"\w+"/, `"prev":"${"ab".repeat(32)}"`));
    expect(problemsOf(begin, false)[0]).toBe("prev 0-0 line 1: does not follow the line before it");
  });
});

describe("kept leaf hashes in the place of lines", () => {
  it("are followed by the lines behind them; the epoch of those is not known", () => {
    const rest = read(LOG.lines.slice(4), true, undefined, 4);
    expect(rest).toMatchObject({ problems: [], leaves: 12, next: 12, held: seqs(4, 11) });
    const wrong = read(LOG.lines.slice(5), true, undefined, 4);
    expect(wrong.problems).toEqual(["missing 4-4 line 1: says seq 5 where 4 is next"]);
  });

  it("name the line behind them if it does not follow, and hold whole hashes only", () => {
    const leaves = Buffer.from(LEAVES.subarray(0, 4 * 32 + 31));
    leaves[3 * 32] = (leaves[3 * 32] ?? 0) ^ 1;
    const problems: string[] = [];
    let count = 0;
    const chain = createLineChain({
      macKeys: macKeysFrom(K0),
      onProblem: ({ reason, seq, lastSeq }) => problems.push(`${reason} ${seq}-${lastSeq}`),
      onLeaf: () => {
        count += 1;
      },
      onLine: () => undefined,
    });
    chain.skip(leaves);
    expect([chain.next, chain.pushed, count]).toEqual([4, 4, 4]);
    for (const line of LOG.lines.slice(4)) chain.push(line, 1, 1, undefined);
    chain.flush();
    // The line itself is genuine, so what it follows was changed.
    expect(problems).toEqual(["prev 3-3"]);
    expect(count).toBe(4);
  });

  it("judge the line that waits before they are taken, and give no leaf once the tree has ended", () => {
    let count = 0;
    const chain = createLineChain({
      ...{ macKeys: undefined, onProblem: () => undefined, onLine: () => undefined },
      onLeaf: () => {
        count += 1;
      },
    });
    chain.push(at(0), 1, 1, undefined);
    chain.skip(LEAVES.subarray(32, 96));
    expect([chain.next, count]).toEqual([3, 3]);
    chain.breakOff();
    chain.skip(LEAVES.subarray(96, 128));
    chain.push(at(4), 1, 1, undefined);
    chain.flush();
    expect([chain.next, count]).toEqual([5, 3]);
  });
});
