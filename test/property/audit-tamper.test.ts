/**
 * A log of 1,000 lines, and everything somebody could do to it: with no key, with the epoch key of today, with every
 * key we have. Each change is found and named by what the verifier was given, or the report says that it could not be.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { LogReport } from "../../src/audit/log-report.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { type VerifyLogOptions, verifyLog } from "../../src/audit/verify-log.ts";
import { toHex } from "../../src/bytes.ts";
import {
  type Files,
  filesOf,
  headFiles,
  headOf,
  K0,
  keyAt,
  leafFiles,
  lineFiles,
  makeLog,
  resealed,
  sealDrafts,
  type TestLog,
  testSigner,
  vkeyOf,
  withLines,
  writeFiles,
} from "../helpers/audit-log.ts";
import { randomOf } from "../helpers/mutate.ts";

const SEED = 20_260_101;
const LOG = makeLog({ count: 1000 });
const LAST_EPOCH = LOG.drafts.at(-1)?.epoch ?? 0;
const folder = mkdtempSync(join(tmpdir(), "audit-tamper-"));
afterAll(() => rmSync(folder, { recursive: true }));

const SOUND = filesOf(LOG);
const check = (files: Files, options: VerifyLogOptions = {}): Promise<LogReport> =>
  verifyLog(writeFiles(folder, files), options);
/** Only lines were changed: stored log checkpoints, key and kept leaf hashes are as they were. */
const changed = (lines: readonly Uint8Array[]): Files => new Map([...SOUND, ...lineFiles(withLines(LOG, lines))]);
const without = (files: Files, pattern: RegExp): Files => new Map([...files].filter(([name]) => !pattern.test(name)));
const doubts = (report: LogReport): string[] => report.notExcluded.map(({ what }) => what);

/** What verifiers come with: keys or none, kept leaf hashes or none. */
const VERIFIERS: readonly (readonly [name: string, options: VerifyLogOptions, hide: RegExp])[] = [
  ["all keys", { epochKeys: K0, logKey: vkeyOf(LOG) }, /^$/],
  ["no keys", {}, /^$/],
  ["no keys and no kept leaf hashes", {}, /leaves$/],
];

/** A change, the entry that has to be named first, and for which kind of verifier. */
type Change = readonly [what: string, lines: readonly Uint8Array[], seq: number];

const at = (seq: number): Uint8Array => LOG.lines[seq] ?? new Uint8Array(0);
const inserted = (seq: number, ...lines: readonly Uint8Array[]): Uint8Array[] => LOG.lines.toSpliced(seq, 0, ...lines);
/** A line that somebody without keys made up, chained to the one before. */
const forged = (seq: number): Uint8Array => {
  const drafts = LOG.drafts.map((draft, index) => (index === seq ? { ...draft, data: { forged: true } } : draft));
  const line = Buffer.from(sealDrafts(drafts.slice(0, seq + 1), LOG.lines.slice(0, seq))[seq] ?? []);
  return Buffer.from(line.toString().replace(/"mac":"\w+"/, `"mac":"${"00".repeat(32)}"`));
};

describe("without any key", () => {
  it("the log as it is holds", async () => {
    for (const [, options, hide] of VERIFIERS) {
      const report = await check(without(SOUND, hide), options);
      expect(report).toMatchObject({ verdict: "intact", entries: 1000, problems: [], remembered: "none" });
      expect(doubts(report)).toEqual(expect.arrayContaining(["truncation", "rollback-or-fork"]));
    }
  });

  const CHANGES: readonly Change[] = [3, 249, 250, 600, 700].flatMap((seq): Change[] => [
    [`line ${seq} removed`, LOG.lines.toSpliced(seq, 1), seq],
    [`lines from ${seq} removed`, LOG.lines.toSpliced(seq, 7), seq],
    [`line ${seq} moved behind the next`, LOG.lines.toSpliced(seq, 2, at(seq + 1), at(seq)), seq],
    [`line ${seq} moved far back`, LOG.lines.toSpliced(seq, 1).toSpliced(800, 0, at(seq)), seq],
    [`line ${seq} doubled`, inserted(seq, at(seq)), seq + 1],
    [`line ${seq} copied behind ${seq + 20}`, inserted(seq + 21, at(seq)), seq + 21],
    [`line ${seq} in the place of the next`, LOG.lines.with(seq + 1, at(seq)), seq + 1],
    [`text in front of line ${seq}`, inserted(seq, Buffer.from("no line")), seq],
    [`an empty line in front of line ${seq}`, inserted(seq, Buffer.alloc(0)), seq],
    [`a line made up in front of line ${seq}`, inserted(seq, forged(seq)), seq],
    [`a line made up in the place of line ${seq}`, LOG.lines.with(seq, forged(seq)), seq],
    [`line ${seq} cut in two`, LOG.lines.toSpliced(seq, 1, at(seq).subarray(0, 90), at(seq).subarray(90)), seq],
  ]);

  it.each(CHANGES)("[VR-AUD-02] %s is found and named", async (_what, lines, seq) => {
    for (const [name, options, hide] of VERIFIERS) {
      const report = await check(without(changed(lines), hide), options);
      expect(report.verdict, name).toBe("damaged");
      expect(report.firstBad?.seq, `${name}: ${report.firstBad?.message ?? ""}`).toBe(seq);
      expect(report.problemsTotal, name).toBeLessThan(20);
    }
  });

  it(`[VR-AUD-02] any one byte changed is found, and its line named (seed ${SEED})`, async () => {
    const random = randomOf(SEED, 1);
    for (let round = 0; round < 250; round += 1) {
      const seq = round < 20 ? 980 + round : random(1000);
      const line = Buffer.from(at(seq));
      // The line feed, too.
      const withEnd = Buffer.concat([line, Buffer.from("\n")]);
      const position = random(withEnd.byteLength);
      withEnd[position] = (withEnd[position] ?? 0) ^ (1 << random(8));
      const name = `${String(Math.floor(seq / 250) + 1).padStart(6, "0")}.jsonl`;
      const segment = Buffer.from(SOUND.get(name) ?? []);
      withEnd.copy(segment, segment.indexOf(line));
      const [verifier, options, hide] = VERIFIERS[round % 3] ?? VERIFIERS[0] ?? ["", {}, /^$/];
      const report = await check(without(new Map([...SOUND, [name, segment]]), hide), options);
      const context = `round ${round}: line ${seq}, byte ${position}, ${verifier}: ${JSON.stringify(report.firstBad)}`;
      expect(report.verdict, context).toBe("damaged");
      // Nothing follows the last line: without keys and kept hashes the last log checkpoint that agrees is the bound.
      const isExact = seq < 998 || verifier !== "no keys and no kept leaf hashes";
      if (isExact) expect([report.firstBad?.seq, report.firstBad?.lastSeq], context).toEqual([seq, seq]);
      expect(report.firstBad?.seq, context).toBeLessThanOrEqual(seq);
      expect(report.firstBad?.lastSeq, context).toBeGreaterThanOrEqual(seq);
    }
  });

  it("[VR-AUD-02] a line changed and all behind it chained anew is found by macs, else by the next log checkpoint", async () => {
    const rewritten = resealed(LOG, 500, { rewritten: true });
    const lines = LOG.lines.slice(0, 500);
    for (const line of rewritten.lines.slice(500)) {
      const prev = toHex(leafHash(lines.at(-1) ?? line));
      const text = Buffer.from(line)
        .toString()
        .replace(/"prev":"\w+","mac":"\w+"/, `"prev":"${prev}","mac":"${"00".repeat(32)}"`);
      lines.push(Buffer.from(text));
    }
    const log = withLines(LOG, lines);
    const files = new Map([...SOUND, ...lineFiles(log), ...leafFiles(log)]);
    expect((await check(files, { epochKeys: K0 })).firstBad).toMatchObject({ reason: "mac", seq: 500, lastSeq: 500 });
    const { problems } = await check(files);
    expect(problems).toEqual([expect.objectContaining({ reason: "root", seq: 500, lastSeq: 599 })]);
  });

  it("[VR-AUD-02] the last line's hash of the one before, with nothing that says which of the two was changed", async () => {
    const last = Buffer.from(
      Buffer.from(at(999))
        .toString()
        .replace(/"prev":"\w\w/, '"prev":"zz')
        .replace("zz", "00"),
    );
    const report = await check(without(changed(LOG.lines.with(999, last)), /leaves$/));
    expect(report.firstBad).toMatchObject({ reason: "prev", seq: 998, lastSeq: 999 });
  });

  it("[VR-AUD-02] segments that were swapped, removed or renamed are found", async () => {
    const [one, two] = ["000001.jsonl", "000002.jsonl"].map((name) => SOUND.get(name) ?? new Uint8Array(0));
    const swapped = new Map([...SOUND, ["000001.jsonl", two ?? []], ["000002.jsonl", one ?? []]]) as Files;
    expect((await check(swapped)).firstBad).toMatchObject({ seq: 0 });
    const noSecond = await check(without(SOUND, /^000002/));
    expect(noSecond.problems.map(({ reason }) => reason)).toContain("segment");
    expect(noSecond.firstBad).toMatchObject({ seq: 250 });
    const linesGone = await check(without(SOUND, /^000002\.jsonl/));
    expect(linesGone.firstBad).toMatchObject({ reason: "missing", seq: 250, lastSeq: 499 });
    const noFirst = await check(without(SOUND, /^000001/));
    expect(noFirst.firstBad).toMatchObject({ seq: 0 });
    const renamed = new Map([
      ...without(SOUND, /^000004\.jsonl/),
      ["4.jsonl", SOUND.get("000004.jsonl") ?? []],
    ]) as Files;
    expect((await check(renamed)).problems.map(({ reason }) => reason)).toContain("file");
  });

  it("[VR-AUD-02] the end cut off is found by the stored log checkpoint and by kept leaf hashes", async () => {
    const cut = withLines(LOG, LOG.lines.slice(0, 990));
    const byHead = await check(new Map([...without(SOUND, /leaves$/), ...lineFiles(cut)]));
    expect(byHead.firstBad).toMatchObject({ reason: "truncated", seq: 990, lastSeq: 999 });
    const byLeaves = await check(new Map([...without(SOUND, /^check|^log/), ...lineFiles(cut)]));
    expect(byLeaves.firstBad).toMatchObject({ reason: "leaves", seq: 990, lastSeq: 999 });
  });

  it("[VR-AUD-02] kept leaf hashes and stored log checkpoints that were changed are found", async () => {
    const leaves = Buffer.from(SOUND.get("000002.leaves") ?? []);
    leaves[32 * 10] = (leaves[32 * 10] ?? 0) ^ 1;
    expect((await check(new Map([...SOUND, ["000002.leaves", leaves]]))).firstBad).toMatchObject({
      reason: "leaves",
      seq: 260,
      lastSeq: 260,
    });
    for (const name of ["checkpoint", "checkpoints"]) {
      const note = Buffer.from(SOUND.get(name) ?? []);
      note[40] = (note[40] ?? 0) ^ 1;
      expect((await check(new Map([...SOUND, [name, note]]))).firstBad?.reason, name).toBe("checkpoint");
    }
    const older = new Map([...SOUND, ["checkpoint", headOf(LOG, 500)]]);
    expect((await check(older)).firstBad?.message).toBe("checkpoint, note 1: order");
  });
});

describe("with the epoch key of the day", () => {
  const from = LOG.drafts.findIndex(({ epoch }) => epoch === LAST_EPOCH);

  it("[VR-AUD-02] earlier epochs cannot be sealed anew", async () => {
    // What such an attacker has for lines before the last epoch is chains and hashes that fit, and no macs.
    const rewritten = resealed(LOG, 500, { rewritten: true });
    const lines = rewritten.lines.map((line, seq) => {
      if (seq < 500 || LOG.drafts[seq]?.epoch === LAST_EPOCH) return line;
      return Buffer.from(
        Buffer.from(line)
          .toString()
          .replace(/"mac":"\w+"/, `"mac":"${"00".repeat(32)}"`),
      );
    });
    const all = new Map([...SOUND, ...lineFiles(withLines(LOG, lines)), ...leafFiles(withLines(LOG, lines))]);
    const report = await check(all, { epochKeys: K0 });
    expect(report.firstBad).toMatchObject({ reason: "mac", seq: 500 });
  });

  it("[VR-AUD-02] lines of an earlier epoch do not stand behind a later one", async () => {
    const drafts = LOG.drafts.map((draft, seq) => (seq === 970 ? { ...draft, epoch: LAST_EPOCH - 1 } : draft));
    const report = await check(changed(sealDrafts(drafts, LOG.lines.slice(0, 970))));
    expect(report.firstBad).toMatchObject({ reason: "epoch", seq: 970, lastSeq: 970 });
    const skipped = LOG.drafts.map((draft, seq) => (seq >= 970 ? { ...draft, epoch: LAST_EPOCH + 1 } : draft));
    const withoutStart = await check(changed(sealDrafts(skipped, LOG.lines.slice(0, 970))));
    expect(withoutStart.firstBad).toMatchObject({ reason: "epoch", seq: 970, lastSeq: 970 });
  });

  it("[VR-AUD-02] earlier epochs cannot be taken away as a whole", async () => {
    const kept = LOG.drafts.filter(({ epoch }) => epoch <= 4 || epoch === LAST_EPOCH);
    const report = await check(filesOf(withLines(LOG, sealDrafts(kept))), { epochKeys: K0 });
    expect(report.firstBad).toMatchObject({ reason: "epoch" });
    expect(kept[report.firstBad?.seq ?? 0]).toMatchObject({ type: "epoch_started", epoch: LAST_EPOCH });
  });

  it("[VR-AUD-02] the epoch itself sealed anew is found by the log checkpoint on it", async () => {
    const rewritten = resealed(LOG, 960, { rewritten: true });
    const files = new Map([...SOUND, ...lineFiles(rewritten), ...leafFiles(rewritten)]);
    const report = await check(files, { epochKeys: keyAt(LAST_EPOCH), logKey: vkeyOf(LOG) });
    expect(report.macs).toMatchObject({ checked: [{ first: LAST_EPOCH, last: LAST_EPOCH }] });
    expect(report.problems).toEqual([expect.objectContaining({ reason: "root", seq: from, lastSeq: 999 })]);
    expect(doubts(report)).toContain("macs");
  });
});

describe("with every key", () => {
  const remembered = headOf(LOG, 900);
  const rewritten = resealed(LOG, 800, { rewritten: true });
  const other = makeLog({ count: 1000, story: "another one" });
  const older = makeLog({ count: 850 });
  /** What somebody with every key leaves behind; `seq` is an entry that is not what it was. */
  const FORGERIES: readonly (readonly [what: string, log: TestLog, reason: string, seq: number])[] = [
    ["a line changed and everything sealed and signed anew", rewritten, "forked", 800],
    ["another log told", other, "forked", 1],
    ["the log put back to an earlier state", older, "truncated", 850],
    [
      "the end cut off and the head signed anew",
      { ...withLines(LOG, LOG.lines.slice(0, 899)), heads: [...LOG.heads.filter((size) => size < 899), 899] },
      "truncated",
      899,
    ],
  ];

  it.each(FORGERIES)("[VR-AUD-02] %s is found by a remembered log checkpoint", async (_what, log, reason, seq) => {
    const report = await check(filesOf(log), { epochKeys: K0, logKey: vkeyOf(LOG), since: remembered });
    expect(report.problems.map((problem) => problem.reason)).toEqual([reason]);
    expect(report.firstBad?.seq).toBeLessThanOrEqual(seq);
    expect(report.firstBad?.lastSeq).toBeGreaterThanOrEqual(seq);
    expect(report.remembered).toBe(reason === "forked" ? "differs" : "beyond");
  });

  it.each(FORGERIES)("[VR-AUD-02] %s cannot be excluded without one, and the report says so", async (_what, log) => {
    const report = await check(filesOf(log), { epochKeys: K0, logKey: vkeyOf(LOG) });
    expect(report.verdict).toBe("intact");
    const open = report.notExcluded.filter(({ what }) => what === "truncation" || what === "rollback-or-fork");
    expect(open.map(({ fromSeq }) => fromSeq)).toEqual([0, 0]);
  });

  it("[VR-AUD-02] what a remembered log checkpoint covers is excluded, and nothing behind it", async () => {
    const report = await check(SOUND, { epochKeys: K0, logKey: vkeyOf(LOG), since: remembered });
    expect(report).toMatchObject({ verdict: "intact", remembered: "matches" });
    const open = report.notExcluded.filter(({ what }) => what === "truncation" || what === "rollback-or-fork");
    expect(open.map(({ fromSeq }) => fromSeq)).toEqual([900, 900]);
    // Cut behind it, and nobody can tell.
    const heads = [...LOG.heads.filter((size) => size < 901), 901];
    const cut = { ...withLines(LOG, LOG.lines.slice(0, 901)), heads };
    expect(await check(filesOf(cut), { since: remembered })).toMatchObject({
      verdict: "intact",
      remembered: "matches",
    });
  });

  it("[VR-AUD-02] another log with a key of its own is found, also if its key is taken from its folder", async () => {
    const foreign = makeLog({ count: 1000, signer: testSigner(LOG.signer.name, "another key") });
    const report = await check(filesOf(foreign), { since: remembered });
    expect(report).toMatchObject({ verdict: "damaged", remembered: "differs", firstBad: { reason: "forked" } });
    await expect(check(filesOf(foreign), { since: remembered, logKey: vkeyOf(foreign) })).rejects.toThrow("unsigned");
  });

  it("leaves the folder as it was", async () => {
    writeFiles(folder, headFiles(LOG));
    writeFileSync(join(folder, "000001.jsonl"), "torn");
    const before = await verifyLog(folder);
    expect(await verifyLog(folder)).toEqual(before);
  });
});
