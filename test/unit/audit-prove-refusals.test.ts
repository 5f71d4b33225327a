/** No proof, and why: every refusal of a prover in its words, and leaf hashes at the borders of files. */
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { openLogLeaves } from "../../src/audit/log-leaves.ts";
import { createProver, type ProveOptions, proveLine } from "../../src/audit/prove-line.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import {
  type Files,
  filesOf,
  headOf,
  leafFiles,
  lineFiles,
  makeLog,
  testSigner,
  vkeyOf,
  withLines,
  writeFiles,
} from "../helpers/audit-log.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const LOG = makeLog({ count: 30, segmentLines: 10, epochLines: 5 });
const OTHER = makeLog({ count: 30, segmentLines: 10, epochLines: 5, story: "another" });
const STRANGER = { ...LOG, signer: testSigner("vram-residency/ffffffffffffffff", "x") };
const lineAt = (seq: number): Uint8Array => LOG.lines[seq] ?? new Uint8Array(0);
const without = (pattern: RegExp): Files => new Map([...filesOf(LOG)].filter(([name]) => !pattern.test(name)));
const changed = (...others: readonly Files[]): Files =>
  new Map([...filesOf(LOG), ...others.flatMap((files) => [...files])]);

let folder: string;
beforeEach(async () => {
  folder = await temporaryFolder();
});

/** Message of a proof that was not made, or code, message, argument and fix of the error. */
async function refusal(files: Files, seq: number, options: ProveOptions = {}): Promise<unknown> {
  try {
    const proved = await proveLine(writeFiles(folder, files), seq, options);
    return proved.ok ? "a proof" : proved.message;
  } catch (error) {
    return error instanceof VramError ? [error.code, error.message, error.details["argument"], error.fix] : error;
  }
}
const INVALID_FIX = new VramError("INVALID_ARGUMENT", "").fix;

describe("[VR-AUD-02] no proof is made", () => {
  it.each<readonly [what: string, files: () => Files, seq: number, options: ProveOptions, message: string]>([
    [
      "of what is no line",
      () => changed(lineFiles(withLines(LOG, LOG.lines.with(3, Buffer.from("junk"))))),
      ...([3, {}, "what stands in the place of seq 3 is not its line"] as const),
    ],
    [
      "of a line of another place",
      () => changed(lineFiles(withLines(LOG, LOG.lines.with(3, lineAt(4))))),
      ...([3, {}, "what stands in the place of seq 3 is not its line"] as const),
    ],
    [
      "of a line that is not the kept one",
      () => changed(lineFiles(withLines(LOG, LOG.lines.with(3, OTHER.lines[3] ?? lineAt(3))))),
      ...([3, {}, "the line of seq 3 and its kept leaf hash differ"] as const),
    ],
    [
      "in a log that is not the signed one",
      () => changed(leafFiles(OTHER), lineFiles(OTHER)),
      ...([3, {}, "the log is not the one that was signed: its root over 30 entries is another"] as const),
    ],
    [
      "for who remembers another log",
      () => filesOf(LOG),
      3,
      { since: headOf(OTHER, 20) },
      "the log does not continue the remembered log checkpoint over 20 entries",
    ],
    [
      "for who remembers a log of another key, found beside it",
      () => filesOf(LOG),
      3,
      { since: headOf(STRANGER, 20) },
      "the remembered log checkpoint is not signed by the key in the log's folder: another log",
    ],
    [
      "for who remembers more",
      () => changed(new Map([["checkpoint", headOf(LOG, 20)]])),
      3,
      { since: headOf(LOG, 25) },
      "the remembered log checkpoint covers 25 entries, the newest 20",
    ],
    [
      "from a newest log checkpoint of another key",
      () => changed(new Map([["checkpoint", headOf(STRANGER, 30)]])),
      ...([3, {}, "the newest log checkpoint is not one under the log's key: origin"] as const),
    ],
  ])("%s", async (_what, files, seq, options, message) => {
    expect(await refusal(files(), seq, options)).toBe(message);
  });

  it("without a key, without a log checkpoint, or before one covers the line", async () => {
    expect(await refusal(without(/^log/), 3)).toEqual([
      ...["INVALID_ARGUMENT", "there is no log key in the log's folder", "logKey", "give it with --log-key"],
    ]);
    expect(await refusal(without(/^checkpoint$/), 3)).toEqual([
      ...["STATE_INVALID", "there is no log checkpoint yet, and a proof needs one", undefined],
      "one is written within a second of activity; if the writer runs, try again",
    ]);
    expect(await refusal(filesOf(LOG), 30)).toEqual([
      ...["INVALID_ARGUMENT", "the newest log checkpoint covers seq 0 to 29, and not seq 30", "seq"],
      "one is written within a second of activity; try again, or name an earlier line",
    ]);
    const [code, , argument] = (await refusal(filesOf(LOG), -1)) as readonly unknown[];
    expect([code, argument]).toEqual(["INVALID_ARGUMENT", "seq"]);
  });

  it("for a remembered log checkpoint that is none, or of no entries", async () => {
    const logKey = vkeyOf(LOG);
    const said = (fault: string) => `the remembered log checkpoint is none of the log with this key: ${fault}`;
    const cases = [
      [{ since: headOf(STRANGER, 20), logKey }, said("origin")],
      [{ since: Buffer.from("junk"), logKey }, said("malformed")],
      [{ since: Buffer.from("junk") }, said("malformed")],
      [{ since: headOf(LOG, 0) }, "the remembered log checkpoint is of an empty log, which every log continues"],
    ] as const;
    for (const [options, message] of cases) {
      expect(await refusal(filesOf(LOG), 3, options)).toEqual(["INVALID_ARGUMENT", message, "since", INVALID_FIX]);
    }
  });
});

describe("a prover", () => {
  it("says where its key came from, and continues the newest log checkpoint itself", async () => {
    writeFiles(folder, filesOf(LOG));
    expect(await proveLine(folder, 3)).toMatchObject({ ok: true, keyFrom: "found", continuation: undefined });
    const since = headOf(LOG, 30);
    const proved = await proveLine(folder, 3, { logKey: vkeyOf(LOG), since });
    expect(proved).toMatchObject({ ok: true, keyFrom: "given", continuation: { from: 30, hashes: [] } });
  });

  it("keeps nothing of a log that was put back to another state, and proves that one", async () => {
    const [long, other] = [makeLog({ count: 300 }), makeLog({ count: 300, story: "another" })];
    const prover = createProver(folder);
    writeFiles(folder, filesOf(long));
    expect(await prover.prove(7)).toMatchObject({ ok: true });
    writeFiles(folder, filesOf(other));
    const proved = await prover.prove(7);
    expect(proved.ok && toHex(proved.leaf)).toBe(toHex(leafHash(other.lines[7] ?? new Uint8Array(0))));
    writeFiles(folder, new Map([...filesOf(other), ["checkpoint", headOf(long, 300)]]));
    expect(await prover.prove(7)).toMatchObject({ ok: false });
    writeFiles(folder, filesOf(long));
    expect(await prover.prove(7)).toMatchObject({ ok: true });
  });

  it("looks once at a log that it has seen nothing of", async () => {
    writeFiles(folder, changed(leafFiles(OTHER), lineFiles(OTHER)));
    const read = vi.spyOn(Map.prototype, "clear");
    expect(await createProver(folder).prove(3)).toMatchObject({ ok: false });
    expect(read).not.toHaveBeenCalled();
    read.mockRestore();
  });
});

describe("leaf hashes of a log", () => {
  const joined = (from: number, to: number): string =>
    LOG.lines
      .slice(from, to)
      .map((line) => toHex(leafHash(line)))
      .join("");

  it("are read across segments, each as far as it is asked for", async () => {
    const leaves = await openLogLeaves(writeFiles(folder, filesOf(LOG)));
    expect(leaves.size).toBe(30);
    for (const [from, to] of [
      [0, 30],
      [0, 10],
      [9, 11],
      [10, 20],
      [5, 25],
      [29, 30],
      [3, 3],
    ] as const) {
      expect(toHex(leaves.read(from, to)), `${from} to ${to}`).toBe(joined(from, to));
    }
    expect(() => leaves.read(30, 31)).toThrow("the leaf is within the log");
    for (const seq of [0, 9, 10, 29]) expect(Buffer.from((await leaves.line(seq)) ?? "")).toEqual(lineAt(seq));
  });

  it("are hashed from the lines where the file is empty, cut or not there, and taken from it where they are gone", async () => {
    const file = leafFiles(LOG).get("000002.leaves") ?? new Uint8Array(0);
    for (const kept of [new Uint8Array(0), file.subarray(0, 9 * 32 + 5), undefined]) {
      const files = new Map(filesOf(LOG));
      if (kept === undefined) files.delete("000002.leaves");
      else files.set("000002.leaves", kept);
      const leaves = await openLogLeaves(writeFiles(folder, files));
      expect([leaves.size, toHex(leaves.read(0, 30))]).toEqual([30, joined(0, 30)]);
    }
    const files = new Map([...without(/^000002/), ["000002.leaves", file.subarray(0, 9 * 32 + 5)] as const]);
    const leaves = await openLogLeaves(writeFiles(folder, files));
    expect(leaves.size).toBe(29);
    expect(await leaves.line(12)).toBeUndefined();
  });

  it("of a line that is not where it should be are there, and the line is empty", async () => {
    const files = changed(new Map([["000001.jsonl", Buffer.from("")]]));
    const leaves = await openLogLeaves(writeFiles(folder, files));
    expect(leaves.size).toBe(30);
    expect(await leaves.line(3)).toEqual(new Uint8Array(0));
  });

  it("are read once per segment, and refused when the file became shorter", async () => {
    const leaves = await openLogLeaves(writeFiles(folder, filesOf(LOG)));
    const first = toHex(leaves.read(0, 5));
    const path = join(folder, "000001.leaves");
    const bytes = readFileSync(path);
    truncateSync(path, 100);
    expect(toHex(leaves.read(0, 5))).toBe(first);
    expect(toHex(leaves.read(10, 12))).toBe(joined(10, 12));
    expect(() => leaves.read(0, 5)).toThrow(`${path}: cannot be read as a part of an audit log`);
    writeFileSync(path, bytes);
    expect(toHex(leaves.read(0, 5))).toBe(first);
  });

  it("are refused beyond their limit, and taken at it", async () => {
    const files = (size: number): Files =>
      new Map([
        ["000001.leaves", new Uint8Array(size)],
        ["000002.jsonl", new Uint8Array(0)],
      ]);
    const most = await openLogLeaves(writeFiles(folder, files(LIMITS.auditLeavesBytes)));
    expect(most.size).toBe(LIMITS.auditLeavesBytes / 32);
    await expect(openLogLeaves(writeFiles(folder, files(LIMITS.auditLeavesBytes + 32)))).rejects.toMatchObject({
      code: "STATE_INVALID",
    });
    expect((await openLogLeaves(writeFiles(folder, files(0)))).size).toBe(0);
  });
});
