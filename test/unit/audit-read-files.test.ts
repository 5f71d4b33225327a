/**
 * The files of a small log, changed one at a time: every problem about files in its words and entries, what a verifier
 * says of the keys and notes it was given, and segments that are pruned while they are read.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { LogReport } from "../../src/audit/log-report.ts";
import { type VerifyLogOptions, verifyLog } from "../../src/audit/verify-log.ts";
import { VramError } from "../../src/errors.ts";
import { type Files, filesOf, headOf, K0, makeLog, testSigner, vkeyOf, writeFiles } from "../helpers/audit-log.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 30, segmentLines: 10, epochLines: 5 });
const STRANGER = { ...LOG, signer: testSigner("vram-residency/ffffffffffffffff", "x") };
const ALL: VerifyLogOptions = { epochKeys: K0, logKey: vkeyOf(LOG) };
const SOUND = filesOf(LOG);
const fileOf = (name: string): Buffer => Buffer.from(SOUND.get(name) ?? new Uint8Array(0));
const changed = (...files: readonly (readonly [name: string, bytes: Uint8Array])[]): Files =>
  new Map([...SOUND, ...files]);
const without = (pattern: RegExp, files: Files = SOUND): Files =>
  new Map([...files].filter(([name]) => !pattern.test(name)));

let folder: string;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => {
  vi.restoreAllMocks();
});

const check = (files: Files, options: VerifyLogOptions = ALL): Promise<LogReport> =>
  verifyLog(writeFiles(folder, files), options);
const problemsOf = ({ problems }: LogReport): string[] =>
  problems.map(({ reason, seq, lastSeq, message }) => `${reason} ${seq}-${lastSeq}: ${message}`);
/** The reports of several questions about the sound log, one after the other: they share the folder. */
async function ask(questions: readonly VerifyLogOptions[]): Promise<LogReport[]> {
  const reports: LogReport[] = [];
  for (const question of questions) reports.push(await check(SOUND, { ...ALL, ...question }));
  return reports;
}
const lines = (name: string, count: number): Buffer =>
  Buffer.from(`${fileOf(name).toString().split("\n").slice(0, count).join("\n")}\n`);

describe("[VR-AUD-02] the files of a log", () => {
  it.each<readonly [what: string, files: () => Files, problems: readonly string[]]>([
    ["as they are", () => SOUND, []],
    [
      "a name that no segment has",
      () => changed(["1.jsonl", Buffer.from("x")]),
      ["file 0-0: 1.jsonl: not the name of a segment"],
    ],
    [
      "no segment in the middle",
      () => without(/^000002/),
      [
        "segment 10-10: segment 2 is missing, and segment 3 is there",
        "missing 10-19: segment 3 line 1: says seq 20 where 10 is next",
      ],
    ],
    [
      "no lines behind lines",
      () => without(/^000002\.jsonl/),
      ["missing 10-19: segment 2: its lines are gone, and lines before it are there"],
    ],
    [
      "kept hashes that end within one, of a segment that was pruned",
      () => without(/^000001\.jsonl/, changed(["000001.leaves", fileOf("000001.leaves").subarray(0, 9 * 32 + 5)])),
      [
        "leaves 9-9: segment 1: its kept leaf hashes end within a hash",
        "missing 9-9: segment 2 line 1: says seq 10 where 9 is next",
        "pruned 0-8: 9 entries are gone, and audit_pruned entries tell of 0",
      ],
    ],
    [
      "fewer kept hashes than lines of a closed segment",
      () => changed(["000002.leaves", fileOf("000002.leaves").subarray(0, 7 * 32)]),
      ["leaves 17-19: segment 2: 10 lines and 7 kept leaf hashes"],
    ],
    [
      "half a kept hash too many",
      () => changed(["000002.leaves", Buffer.concat([fileOf("000002.leaves"), Buffer.alloc(9)])]),
      ["leaves 20-20: segment 2: 10 lines and 10 kept leaf hashes"],
    ],
    [
      "more kept hashes than lines at the end",
      () => changed(["000003.leaves", Buffer.concat([fileOf("000003.leaves"), Buffer.alloc(64, 1)])]),
      ["leaves 30-31: segment 3: 10 lines and 12 kept leaf hashes"],
    ],
    [
      "fewer kept hashes than lines at the end, as a crash leaves them",
      () => changed(["000003.leaves", Buffer.alloc(0)]),
      [],
    ],
    [
      "a last line cut off in a closed segment",
      () => changed(["000002.jsonl", fileOf("000002.jsonl").subarray(0, -9)]),
      [
        "tail 19-19: segment 2: its last line is cut off",
        "missing 19-19: segment 3 line 1: says seq 20 where 19 is next",
      ],
    ],
    [
      "a last line cut off that was signed",
      () => changed(["000003.jsonl", fileOf("000003.jsonl").subarray(0, -9)]),
      [
        "tail 29-29: segment 3: its last line is cut off",
        "truncated 29-29: the newest stored log checkpoint covers 30 entries, and the log has 29",
      ],
    ],
    [
      "notes that are not the log's",
      () => changed(["checkpoint", headOf(STRANGER, 30)]),
      ["checkpoint 0-0: checkpoint, note 1: origin"],
    ],
  ])("are judged: %s", async (_what, files, problems) => {
    const found = problemsOf(await check(files()));
    expect(found.slice(0, problems.length)).toEqual(problems);
    if (problems.length === 0) expect(found).toEqual([]);
  });

  it("whose last line is not signed yet are in progress", async () => {
    const files = changed(["000003.jsonl", Buffer.concat([fileOf("000003.jsonl"), Buffer.from('{"v":1')])]);
    expect(await check(files)).toMatchObject({ verdict: "intact", entries: 30, inProgressBytes: 6, linesRead: 30 });
  });
});

describe("a part of a log", () => {
  it("ends where it is asked to, in the middle or at the end of a segment", async () => {
    const ends = [0, 8, 9, 10, 19, 27, 29, 30];
    const reports = await ask(ends.map((to) => ({ to })));
    expect(reports.map(({ entries }) => entries)).toEqual([1, 9, 10, 11, 20, 28, 30, 30]);
    const early = reports.map(({ notExcluded }) => notExcluded.some(({ what }) => what === "not-read"));
    expect(early).toEqual([true, true, true, true, true, true, false, false]);
    for (const report of reports) expect(report.problems).toEqual([]);
  });

  it("begins with the segment in which it is asked to", async () => {
    const begins = [0, 9, 10, 19, 20, 29];
    const reports = await ask(begins.map((from) => ({ from })));
    expect(reports.map(({ linesRead }) => linesRead)).toEqual([30, 30, 20, 20, 10, 10]);
    for (const report of reports) expect(report).toMatchObject({ entries: 30, prunedEntries: 0, problems: [] });
    const pruned = without(/^000001\.jsonl/);
    // With lines that were left out it is not said what was pruned without an entry.
    expect((await check(pruned, { ...ALL, from: 20 })).problems).toEqual([]);
    expect(problemsOf(await check(pruned))).toEqual([
      "pruned 0-9: 10 entries are gone, and audit_pruned entries tell of 0",
    ]);
  });

  it.each([
    [{ from: -1 }, "from"],
    [{ to: -1 }, "to"],
    [{ from: 5, to: 4 }, "to"],
    [{ from: 0.5 }, "from"],
  ])("%j is none", async (options, argument) => {
    await expect(check(SOUND, options)).rejects.toMatchObject({ code: "INVALID_ARGUMENT", details: { argument } });
  });
});

describe("keys and remembered log checkpoints", () => {
  it("are said to be given, found or absent", async () => {
    const keyOf = async (files: Files, options: VerifyLogOptions) => (await check(files, options)).checkpoints.key;
    expect(await keyOf(SOUND, { logKey: vkeyOf(LOG) })).toBe("given");
    expect(await keyOf(SOUND, {})).toBe("found");
    expect(await keyOf(without(/^log/), {})).toBe("none");
    const report = await check(SOUND, {});
    expect(report.macs).toEqual({ linesChecked: 0, checked: [], unchecked: [{ first: 1, last: 6 }] });
    expect((await check(SOUND)).macs).toEqual({ linesChecked: 30, checked: [{ first: 1, last: 6 }], unchecked: [] });
  });

  it("of another log are refused with the key that was given, and a finding with the one that was found", async () => {
    const since = headOf(STRANGER, 20);
    const refusal = async (files: Files, options: VerifyLogOptions): Promise<unknown> => {
      const error: unknown = await check(files, options).catch((thrown: unknown) => thrown);
      return error instanceof VramError ? [error.code, error.message, error.details] : error;
    };
    const refused = (fault: string) => [
      "INVALID_ARGUMENT",
      `the remembered log checkpoint is none of the log with this key: ${fault}`,
      { argument: "since" },
    ];
    expect(await refusal(SOUND, { ...ALL, since })).toEqual(refused("origin"));
    expect(await refusal(SOUND, { since: Buffer.from("junk") })).toEqual(refused("malformed"));
    expect(await refusal(without(/^log/), { since })).toEqual(refused("there is no log key"));
    const found = await check(SOUND, { since });
    expect(problemsOf(found)).toEqual([
      "forked 0-19: the remembered log checkpoint is not signed by the key in the log's folder: another log",
    ]);
    expect(found.remembered).toBe("differs");
    const empty = await check(SOUND, { since: headOf(STRANGER, 0) });
    expect(empty.firstBad).toMatchObject({ reason: "forked", seq: 0, lastSeq: 0 });
  });

  it("that match vouch for the entries that they cover", async () => {
    const report = await check(SOUND, { ...ALL, since: headOf(LOG, 20) });
    expect(report.remembered).toBe("matches");
    expect(report.notExcluded.map(({ what, fromSeq }) => [what, fromSeq])).toEqual([
      ["truncation", 20],
      ["rollback-or-fork", 20],
    ]);
    expect((await check(SOUND)).remembered).toBe("none");
  });
});

describe("[VR-AUD-05] segments that are pruned while they are read", () => {
  /** Before the lines of a segment are opened for the first time, `act` happens. */
  function onFirstOpen(name: string, act: () => Promise<void>): void {
    const real = promises.open;
    let isDone = false;
    vi.spyOn(promises, "open").mockImplementation(async (path, ...rest) => {
      if (!isDone && String(path).endsWith(name)) {
        isDone = true;
        await act();
      }
      return real(path, ...rest);
    });
  }
  const remove =
    (...names: readonly string[]) =>
    async (): Promise<void> => {
      for (const name of names) await promises.rm(join(folder, name));
    };

  it("are taken by their kept leaf hashes", async () => {
    onFirstOpen("000001.jsonl", remove("000001.jsonl"));
    const report = await check(SOUND);
    expect(report).toMatchObject({ verdict: "intact", entries: 30, linesRead: 20 });
    expect(report.checkpoints).toMatchObject({ matched: 6, covered: 30 });
  });

  it("are missing where nobody prunes: with lines before them, or without kept leaf hashes", async () => {
    onFirstOpen("000002.jsonl", remove("000002.jsonl"));
    await expect(check(SOUND)).rejects.toMatchObject({ code: "STATE_INVALID" });
    vi.restoreAllMocks();
    onFirstOpen("000001.jsonl", remove("000001.jsonl"));
    await expect(check(without(/^000001\.leaves/))).rejects.toMatchObject({ code: "STATE_INVALID" });
  });

  it("are errors where something else is wrong with them", async () => {
    onFirstOpen("000001.jsonl", async () => {
      throw Object.assign(new Error("EIO"), { code: "EIO" });
    });
    await expect(check(SOUND)).rejects.toMatchObject({ code: "STATE_INVALID" });
  });

  it("are no reason to look at lines that are there", async () => {
    expect((await check(changed(["000003.jsonl", lines("000003.jsonl", 10)]))).problems).toEqual([]);
  });
});
