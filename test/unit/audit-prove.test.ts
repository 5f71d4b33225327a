/** Proofs from the files of a log: what is read where, and what no proof is made of. */
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openLogLeaves } from "../../src/audit/log-leaves.ts";
import { type Proved, type ProveOptions, proveLine } from "../../src/audit/prove-line.ts";
import { encodeProofFile } from "../../src/audit/tlog-proof.ts";
import { leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import {
  type Files,
  filesOf,
  headOf,
  leafFiles,
  lineFiles,
  makeLog,
  sealDrafts,
  testSigner,
  vkeyOf,
  withLines,
  writeFiles,
} from "../helpers/audit-log.ts";
import { referenceConsistency, referenceInclusion } from "../helpers/audit-tree.ts";

const folder = mkdtempSync(join(tmpdir(), "audit-prove-"));
afterAll(() => rmSync(folder, { recursive: true }));

const LOG = makeLog({ count: 600, segmentLines: 100, epochLines: 40 });
const LEAVES = LOG.lines.map(leafHash);
const lineAt = (seq: number): Uint8Array => LOG.lines[seq] ?? new Uint8Array(0);
const prove = (files: Files, seq: number, options: ProveOptions = {}): Promise<Proved> =>
  proveLine(writeFiles(folder, files), seq, options);
const without = (files: Files, pattern: RegExp): Files => new Map([...files].filter(([name]) => !pattern.test(name)));
const changedLine = (seq: number): Files => {
  const line = Buffer.from(lineAt(seq));
  line[60] = (line[60] ?? 0) ^ 1;
  return lineFiles(withLines(LOG, LOG.lines.with(seq, line)));
};

describe("a proof", () => {
  it("[VR-AUD-02] is that of the reference, for lines of closed segments and of the last one", async () => {
    for (const seq of [0, 1, 99, 100, 355, 499, 500, 599]) {
      const proved = await prove(filesOf(LOG), seq, { since: headOf(LOG, 240) });
      if (!proved.ok) throw new Error(proved.message);
      expect(toHex(proved.leaf)).toBe(toHex(leafHash(lineAt(seq))));
      expect(Buffer.from(proved.proof.extra ?? [])).toEqual(Buffer.from(lineAt(seq)));
      expect(proved.proof.hashes.map(toHex)).toEqual(referenceInclusion(LEAVES, seq).map(toHex));
      expect(proved.continuation?.hashes.map(toHex)).toEqual(referenceConsistency(LEAVES, 240).map(toHex));
      expect(proved).toMatchObject({ keyFrom: "found", checkpoint: { size: 600 }, continuation: { from: 240 } });
    }
  });

  it("[VR-AUD-02] is the same where leaf hashes lag behind the lines, are cut, or were not kept", async () => {
    const whole = await prove(filesOf(LOG), 17);
    if (!whole.ok) throw new Error(whole.message);
    const last = leafFiles(LOG).get("000006.leaves") ?? new Uint8Array(0);
    const lagging = new Map([...filesOf(LOG), ["000006.leaves", last.subarray(0, 40 * 32 + 7)]]);
    for (const files of [lagging, without(filesOf(LOG), /leaves$/), without(filesOf(LOG), /^000003.leaves$/)]) {
      const proved = await prove(files, 17, { logKey: vkeyOf(LOG) });
      if (!proved.ok) throw new Error(proved.message);
      expect(Buffer.from(encodeProofFile(proved))).toEqual(Buffer.from(encodeProofFile(whole)));
    }
    // Lines behind the log checkpoint change nothing.
    writeFiles(folder, filesOf(LOG));
    appendFileSync(join(folder, "000006.jsonl"), "more\nand an unfinished one");
    expect(await proveLine(folder, 17)).toMatchObject({ ok: true, checkpoint: { size: 600 } });
  });

  it("[VR-AUD-05] of a pruned line is about its leaf hash, and of later ones as ever", async () => {
    const files = without(filesOf(LOG), /^00000[12].jsonl$/);
    const gone = await prove(files, 150);
    if (!gone.ok) throw new Error(gone.message);
    expect(gone.proof.extra).toBeUndefined();
    expect(toHex(gone.leaf)).toBe(toHex(leafHash(lineAt(150))));
    const later = await prove(files, 250);
    if (!later.ok) throw new Error(later.message);
    expect(Buffer.from(later.proof.extra ?? [])).toEqual(Buffer.from(lineAt(250)));
  });

  it.each([
    ["the line was changed", 17, changedLine(17)],
    ["a line of the last segment was changed", 17, changedLine(550)],
    ["the line itself is in the last segment and was changed", 550, changedLine(550)],
    ["the lines of its segment are fewer than its leaf hashes", 99, lineFiles(withLines(LOG, LOG.lines.slice(0, 90)))],
    ["another leaf hash was changed", 17, new Map([["000002.leaves", Buffer.alloc(3200, 7)]])],
    ["another line stands in its place", 17, lineFiles(withLines(LOG, LOG.lines.with(17, lineAt(18))))],
  ])("[VR-AUD-02] is not made when %s", async (_what, seq, changed) => {
    const proved = await prove(new Map([...filesOf(LOG), ...changed]), seq);
    expect(proved).toMatchObject({ ok: false });
  });

  it("[VR-AUD-02] is not made when the log is shorter than what was signed, or signed by another key", async () => {
    expect(await prove(without(filesOf(LOG), /^000006/), 17)).toMatchObject({
      ok: false,
      message: "the log has 500 entries, and 600 were signed",
    });
    const other = testSigner(LOG.signer.name, "another key");
    expect(await prove(new Map([...filesOf(LOG), ["checkpoint", headOf({ ...LOG, signer: other }, 600)]]), 17)).toEqual(
      {
        ok: false,
        message: "the newest log checkpoint is not one under the log's key: unsigned",
      },
    );
  });

  it("[VR-AUD-02] is not made when the log does not continue the remembered log checkpoint", async () => {
    const other = withLines(LOG, sealDrafts(makeLog({ count: 600, story: "another" }).drafts));
    const refused = await prove(filesOf(LOG), 17, { since: headOf(other, 300) });
    expect(refused).toMatchObject({ ok: false, message: expect.stringContaining("does not continue") as string });
    const short = { ...LOG, heads: [40, 500] };
    expect(await prove(filesOf(short), 17, { since: headOf(LOG, 560) })).toMatchObject({
      ok: false,
      message: "the remembered log checkpoint covers 560 entries, the newest 500",
    });
    const stranger = headOf({ ...LOG, signer: testSigner("vram-residency/ffffffffffffffff", "x") }, 300);
    expect(await prove(filesOf(LOG), 17, { since: stranger })).toMatchObject({ ok: false });
    const logKey = vkeyOf(LOG);
    for (const since of [stranger, Buffer.from("junk")]) {
      await expect(prove(filesOf(LOG), 17, { since, logKey })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
    const empty = headOf(LOG, 0);
    await expect(prove(filesOf(LOG), 17, { since: empty })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  it("needs a log checkpoint that covers the line, and a key", async () => {
    const short = { ...LOG, heads: [40, 500] };
    await expect(prove(filesOf(short), 500)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: "the newest log checkpoint covers seq 0 to 499, and not seq 500",
    });
    await expect(prove(filesOf({ ...LOG, heads: [0] }), 0)).rejects.toThrow("covers nothing");
    await expect(prove(without(filesOf(LOG), /^checkpoint$/), 0)).rejects.toMatchObject({ code: "STATE_INVALID" });
    await expect(prove(without(filesOf(LOG), /^log/), 0)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});

describe("leaf hashes", () => {
  it("that cannot be read are STATE_INVALID", async () => {
    writeFiles(folder, without(filesOf(LOG), /^000001.leaves$/));
    symlinkSync(join(folder, "000002.leaves"), join(folder, "000001.leaves"));
    await expect(openLogLeaves(folder)).rejects.toMatchObject({ code: "STATE_INVALID" });
    rmSync(join(folder, "000001.leaves"));
    mkdirSync(join(folder, "000001.leaves"));
    await expect(openLogLeaves(folder)).rejects.toMatchObject({ code: "STATE_INVALID" });
    writeFiles(
      folder,
      new Map([
        ["000001.leaves", new Uint8Array(3200)],
        ["000002.jsonl", new Uint8Array(0)],
      ]),
    );
    const leaves = await openLogLeaves(folder);
    expect(leaves.size).toBe(100);
    rmSync(join(folder, "000001.leaves"));
    expect(() => leaves.read(0, 1)).toThrow("cannot be read");
    writeFiles(
      folder,
      new Map([
        ["000001.leaves", new Uint8Array(3200)],
        ["000002.jsonl", new Uint8Array(0)],
      ]),
    );
    const cut = await openLogLeaves(folder);
    writeFiles(folder, new Map([["000001.leaves", new Uint8Array(3100)]]));
    expect(() => cut.read(0, 1)).toThrow("cannot be read");
  });
});
