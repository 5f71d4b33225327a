/** The offline verifier on logs as they come: pruned, in parts, being written, without keys, torn. */
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { LogReport } from "../../src/audit/log-report.ts";
import { segmentFile } from "../../src/audit/segments.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { type VerifyLogOptions, verifyLog } from "../../src/audit/verify-log.ts";
import {
  type Draft,
  type Files,
  filesOf,
  headFiles,
  headOf,
  K0,
  keyAt,
  lineFiles,
  makeLog,
  resealed,
  sealDrafts,
  type TestLog,
  vkeyOf,
  withLines,
  writeFiles,
} from "../helpers/audit-log.ts";

const folder = mkdtempSync(join(tmpdir(), "audit-verify-"));
afterAll(() => rmSync(folder, { recursive: true }));

const LOG = makeLog({ count: 600, segmentLines: 100, epochLines: 40 });
const ALL: VerifyLogOptions = { epochKeys: K0, logKey: vkeyOf(LOG) };
const check = (files: Files, options: VerifyLogOptions = {}): Promise<LogReport> =>
  verifyLog(writeFiles(folder, files), options);
const without = (files: Files, pattern: RegExp): Files => new Map([...files].filter(([name]) => !pattern.test(name)));
const doubts = (report: LogReport): string[] => report.notExcluded.map(({ what }) => what);

const nextTurn = (): Promise<void> =>
  new Promise((done) => {
    setImmediate(done);
  });

/** A log whose first segments were pruned; `told` is what its `audit_pruned` entry says. */
function pruned(segments: number, told: unknown): Files {
  const drafts = LOG.drafts.map((draft, seq): Draft => {
    return seq === 590 ? { ...draft, type: "audit_pruned", data: { prunedEntries: told } } : draft;
  });
  const log = withLines(LOG, sealDrafts(drafts));
  return without(filesOf(log), new RegExp(`^00000[1-${segments}]\\.jsonl$`));
}

describe("a log that was pruned", () => {
  it("[VR-AUD-05] is checked to its last line, and against every log checkpoint", async () => {
    const report = await check(pruned(2, 200), ALL);
    expect(report).toMatchObject({ verdict: "intact", entries: 600, prunedEntries: 200, linesRead: 400 });
    expect(report.macs).toMatchObject({ linesChecked: 400, checked: [{ first: 7, last: 18 }], unchecked: [] });
    expect(report.checkpoints).toMatchObject({ stored: 18, matched: 18, covered: 600 });
    expect(doubts(report)).toContain("pruned");
    // More was announced than is gone yet: the writer died in between.
    expect(await check(pruned(2, 300), ALL)).toMatchObject({ verdict: "intact" });
    expect(await check(pruned(2, 200), { ...ALL, since: headOf(LOG, 150) })).toMatchObject({ remembered: "matches" });
  });

  it.each([
    ["by nobody", 0, 0, 199],
    ["further than an entry says", 100, 100, 199],
    ["and the entry says nothing of it", "200", 0, 199],
  ])("[VR-AUD-05] %s is found", async (_what, told, seq, lastSeq) => {
    expect((await check(pruned(2, told), ALL)).firstBad).toMatchObject({ reason: "pruned", seq, lastSeq });
  });

  it("[VR-AUD-05] and whose kept leaf hashes were changed or lost is found", async () => {
    const files = pruned(2, 200);
    const leaves = Buffer.from(files.get("000001.leaves") ?? []);
    leaves[0] = (leaves[0] ?? 0) ^ 1;
    expect((await check(new Map([...files, ["000001.leaves", leaves]]), ALL)).firstBad).toMatchObject({
      reason: "root",
    });
    const cut = new Map([...files, ["000001.leaves", leaves.subarray(0, 100)]]);
    expect((await check(cut, ALL)).problems.map(({ reason }) => reason)).toContain("leaves");
    const lost = await check(without(files, /^000001/), ALL);
    expect(lost.problems.map(({ reason }) => reason)).toEqual(["segment", "missing"]);
    expect(lost.firstBad).toMatchObject({ seq: 0 });
  });
});

describe("a part of a log", () => {
  it("begins with the segment that holds the first entry asked for", async () => {
    const report = await check(filesOf(LOG), { ...ALL, from: 250 });
    expect(report).toMatchObject({ verdict: "intact", entries: 600, linesRead: 400, prunedEntries: 0 });
    expect(report.checkpoints).toMatchObject({ matched: 18 });
    expect(doubts(report)).toContain("not-read");
  });

  it("reads everything where leaf hashes were not kept", async () => {
    const report = await check(without(filesOf(LOG), /leaves$/), { ...ALL, from: 250 });
    expect(report).toMatchObject({ verdict: "intact", linesRead: 600 });
    expect(doubts(report)).not.toContain("not-read");
  });

  it("ends with the last entry asked for, and leaves open what is behind", async () => {
    const report = await check(filesOf(LOG), { ...ALL, to: 249, since: headOf(LOG, 300) });
    expect(report).toMatchObject({ verdict: "intact", entries: 250, remembered: "not-compared" });
    expect(report.checkpoints).toMatchObject({ covered: 240 });
    expect(doubts(report)).toEqual(expect.arrayContaining(["not-read", "not-compared", "unsigned"]));
    expect(await check(filesOf(LOG), { ...ALL, to: 599 })).toMatchObject({ entries: 600, linesRead: 600 });
    expect(doubts(await check(filesOf(LOG), { ...ALL, to: 599 }))).not.toContain("not-read");
    await expect(check(filesOf(LOG), { from: 5, to: 4 })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  it("does not see what was changed outside of it, and says that it did not look", async () => {
    const line = Buffer.from(LOG.lines[20] ?? []);
    line[100] = (line[100] ?? 0) ^ 1;
    const files = new Map([...filesOf(LOG), ...lineFiles(withLines(LOG, LOG.lines.with(20, line)))]);
    expect(await check(files, ALL)).toMatchObject({ verdict: "damaged", firstBad: { seq: 20 } });
    expect(await check(files, { ...ALL, from: 100 })).toMatchObject({ verdict: "intact" });
    expect(await check(files, { ...ALL, to: 19 })).toMatchObject({ verdict: "intact" });
  });
});

describe("keys", () => {
  it("[VR-AUD-02] of a later epoch check its lines and those behind", async () => {
    const report = await check(filesOf(LOG), { ...ALL, epochKeys: keyAt(10) });
    expect(report.macs.unchecked).toEqual([{ first: 1, last: 9 }]);
    expect(report.macs.checked).toEqual([{ first: 10, last: 18 }]);
    expect(doubts(report)).toContain("macs");
  });

  it("that are wrong show as bad macs", async () => {
    const report = await check(filesOf(LOG), { epochKeys: { ...K0, key: new Uint8Array(32).fill(1) } });
    expect(report).toMatchObject({ verdict: "damaged", problemsTotal: 600, firstBad: { reason: "mac", seq: 0 } });
    expect(report.problems).toHaveLength(64);
  });

  it("[VR-AUD-02] that are absent are said to be", async () => {
    const report = await check(without(filesOf(LOG), /^log/));
    expect(report).toMatchObject({ verdict: "damaged", checkpoints: { key: "none", stored: 0, covered: 0 } });
    expect(report.problems).toMatchObject([
      { reason: "checkpoint", message: expect.stringContaining("log.vkey is gone") as string },
    ]);
    expect(doubts(report)).toEqual(["truncation", "rollback-or-fork", "unsigned", "log-key", "macs"]);
    expect(doubts(await check(filesOf(LOG)))).toEqual(["truncation", "rollback-or-fork", "log-key", "macs"]);
    expect(doubts(await check(filesOf(LOG), ALL))).toEqual(["truncation", "rollback-or-fork"]);
  });

  it("that do not belong to the remembered log checkpoint are refused", async () => {
    const since = headOf(LOG, 100);
    await expect(check(without(filesOf(LOG), /^log/), { since })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(check(filesOf(LOG), { since: since.slice(0, -1) })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    await expect(check(filesOf(LOG), { logKey: "junk" })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(verifyLog(join(folder, "none"))).rejects.toMatchObject({ code: "STATE_INVALID" });
  });
});

describe("log checkpoints that were taken away", () => {
  const first = LOG.heads[0] ?? 0;

  it("[VR-AUD-02] are missed, each way, with the log key alone", async () => {
    const options = { logKey: vkeyOf(LOG) };
    const gone: [files: RegExp, says: string][] = [
      [/^checkpoint/, `no log checkpoint over ${first} entries is kept`],
      [/^checkpoints$/, `no log checkpoint over ${first} entries is kept`],
      [/^checkpoint$/, "checkpoint is gone"],
    ];
    for (const [files, says] of gone) {
      const report = await check(without(filesOf(LOG), files), options);
      expect(report.verdict, says).toBe("damaged");
      expect(report.problems, says).toMatchObject([
        { reason: "checkpoint", message: expect.stringContaining(says) as string },
      ]);
    }
  });

  it("[VR-AUD-02] do not hide that lines were written anew without the signing key", async () => {
    const rewritten = filesOf(resealed(LOG, 3, { rewritten: true }));
    const report = await check(without(rewritten, /^checkpoint/), { logKey: vkeyOf(LOG) });
    expect(report.verdict).toBe("damaged");
  });
});

describe("an empty log", () => {
  it("has no entries and no problems, unless more was signed or remembered", async () => {
    expect(await check(new Map())).toMatchObject({ verdict: "intact", entries: 0, linesRead: 0 });
    const empty: TestLog = { ...withLines(LOG, []), heads: [0] };
    expect(await check(filesOf(empty), ALL)).toMatchObject({ verdict: "intact", checkpoints: { matched: 1 } });
    const since = headOf(LOG, 100);
    const gone = await check(filesOf(empty), { ...ALL, since });
    expect(gone).toMatchObject({ remembered: "beyond", firstBad: { reason: "truncated", seq: 0, lastSeq: 99 } });
  });
});

describe("a last line without its end", () => {
  const torn = (count: number, bytes: number): Files => {
    const lines = Buffer.concat(LOG.lines.slice(500, count).flatMap((line) => [line, Buffer.from("\n")]));
    const tail = Buffer.from(LOG.lines[count] ?? []).subarray(0, bytes);
    return new Map([...filesOf(LOG), ["000006.jsonl", Buffer.concat([lines, tail])]]);
  };

  it("[VR-AUD-04] is in progress behind everything that was signed", async () => {
    const heads = [...LOG.heads.filter((size) => size < 590), 590];
    const files = new Map([
      ...without(torn(590, 77), /^checkpoint|leaves$/),
      ["checkpoint", headOf(LOG, 590)],
      ["checkpoints", headFiles({ ...LOG, heads }).get("checkpoints") ?? new Uint8Array(0)],
    ] as const);
    const report = await check(files, ALL);
    expect(report).toMatchObject({ verdict: "intact", entries: 590, inProgressBytes: 77 });
  });

  it("[VR-AUD-04] is cut where a log checkpoint covers it, and in a closed segment", async () => {
    const report = await check(without(torn(590, 77), /leaves$/), ALL);
    expect(report.firstBad).toMatchObject({ reason: "tail", seq: 590, lastSeq: 590 });
    expect(report.problems.map(({ reason }) => reason)).toEqual(["tail", "truncated"]);
    const closed = Buffer.from(filesOf(LOG).get("000002.jsonl") ?? []).subarray(0, -40);
    const middle = await check(new Map([...filesOf(LOG), ["000002.jsonl", closed]]), ALL);
    expect(middle.firstBad).toMatchObject({ reason: "tail", seq: 199 });
  });
});

describe("a log that is being written", () => {
  /** Writes as the writer does: lines in pieces, leaf hashes behind them, then the heads. */
  async function write(log: TestLog, done: { now: boolean }): Promise<void> {
    const replace = (name: string, bytes: Uint8Array): void => {
      writeFileSync(join(folder, `.${name}`), bytes);
      renameSync(join(folder, `.${name}`), join(folder, name));
    };
    replace("log.vkey", Buffer.from(`${vkeyOf(log)}\n`));
    for (const [seq, line] of log.lines.entries()) {
      const number = Math.floor(seq / log.segmentLines) + 1;
      const bytes = Buffer.concat([line, Buffer.from("\n")]);
      for (const part of [bytes.subarray(0, 50), bytes.subarray(50, 200), bytes.subarray(200)]) {
        appendFileSync(join(folder, segmentFile(number, "jsonl")), part);
        if (seq % 3 === 0) await nextTurn();
      }
      const leaf = leafHash(line);
      appendFileSync(join(folder, segmentFile(number, "leaves")), leaf.subarray(0, 10));
      if (seq % 7 === 0) await nextTurn();
      appendFileSync(join(folder, segmentFile(number, "leaves")), leaf.subarray(10));
      if (seq % 5 === 0 || log.heads.includes(seq + 1)) replace("checkpoint", headOf(log, seq + 1));
      if (log.heads.includes(seq + 1)) {
        appendFileSync(join(folder, "checkpoints"), headOf(log, seq + 1));
        await nextTurn();
        appendFileSync(join(folder, "checkpoints"), "\n");
      }
    }
    done.now = true;
  }

  it("[VR-AUD-02] is intact each time it is looked at, and is left as it is", async () => {
    const log = makeLog({ count: 400, segmentLines: 90, epochLines: 30 });
    writeFiles(folder, new Map());
    const done = { now: false };
    const written = write(log, done);
    const sizes: number[] = [];
    while (!done.now) {
      const report = await verifyLog(folder, { epochKeys: K0 });
      expect(report.problems, `at ${report.entries} entries`).toEqual([]);
      expect(report.checkpoints.matched).toBe(report.checkpoints.stored);
      sizes.push(report.entries);
    }
    await written;
    expect(new Set(sizes).size, "it was looked at while it grew").toBeGreaterThan(1);
    expect(sizes).toEqual(sizes.toSorted((a, b) => a - b));
    const before = readdirSync(folder).map((name) => [name, readFileSync(join(folder, name)).toString("base64")]);
    expect(await verifyLog(folder, { epochKeys: K0 })).toMatchObject({ verdict: "intact", entries: 400 });
    const after = readdirSync(folder).map((name) => [name, readFileSync(join(folder, name)).toString("base64")]);
    expect(after).toEqual(before);
  });
});
