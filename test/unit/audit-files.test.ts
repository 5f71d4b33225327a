/** The files of an audit log: segments in order, lines over the borders of what is read at a time, stored notes. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { noteKeyOf } from "../../src/audit/note.ts";
import { listSegments, readLeaves, readLines, readWhole, segmentFile } from "../../src/audit/segments.ts";
import { readFoundKey, readStoredCheckpoints, splitNotes } from "../../src/audit/stored-checkpoints.ts";
import { LIMITS } from "../../src/limits.ts";
import { headOf, makeLog, testSigner, vkeyOf, writeFiles } from "../helpers/audit-log.ts";

const folder = mkdtempSync(join(tmpdir(), "audit-files-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The lines of a segment with these bytes, and what is behind them. */
async function linesOf(bytes: Uint8Array): Promise<{ lines: string[]; lengths: number[]; tail: string }> {
  writeFiles(folder, new Map([[segmentFile(1, "jsonl"), bytes]]));
  const found: Uint8Array[] = [];
  let tail = "";
  for await (const batch of readLines(folder, 1)) {
    found.push(...batch.lines);
    if (batch.tail !== undefined) tail = Buffer.from(batch.tail).toString();
  }
  return {
    lines: found.map((line) => Buffer.from(line).toString()),
    lengths: found.map((line) => line.byteLength),
    tail,
  };
}

describe("segments", () => {
  it("are listed by number, with the files they have", async () => {
    const names = ["000010.jsonl", "000002.leaves", "000002.jsonl", "000001.leaves", "notes.txt", "000003.torn"];
    const strays = ["000000.jsonl", "1.jsonl", "0000001.jsonl", "x.leaves"];
    writeFiles(folder, new Map([...names, ...strays].map((name) => [name, new Uint8Array(0)])));
    expect(await listSegments(folder)).toEqual({
      segments: [
        { number: 1, hasLines: false, hasLeaves: true },
        { number: 2, hasLines: true, hasLeaves: true },
        { number: 10, hasLines: true, hasLeaves: false },
      ],
      strays: strays.toSorted(),
    });
    expect(segmentFile(10, "jsonl")).toBe("000010.jsonl");
  });

  it("that cannot be read are STATE_INVALID", async () => {
    await expect(listSegments(join(folder, "none"))).rejects.toMatchObject({ code: "STATE_INVALID" });
    writeFiles(folder, new Map([["target", Buffer.from("x\n")]]));
    symlinkSync(join(folder, "target"), join(folder, "000001.jsonl"));
    mkdirSync(join(folder, "000002.jsonl"));
    for (const number of [1, 2, 3]) {
      const read = readLines(folder, number).next();
      await expect(read, `segment ${number}`).rejects.toMatchObject({ code: "STATE_INVALID" });
    }
  });
});

describe("lines", () => {
  it.each([
    ["nothing", "", [], ""],
    ["one line", "a\n", ["a"], ""],
    ["empty lines", "\n\na\n", ["", "", "a"], ""],
    ["a last line without its end", "a\nb", ["a"], "b"],
    ["no line that ends", "a", [], "a"],
  ])("of %s", async (_what, text, lines, tail) => {
    expect(await linesOf(Buffer.from(text))).toMatchObject({ lines, tail });
  });

  it("are whole where the pieces that are read end within them", async () => {
    const lengths = [65_534, 1, 65_534, 1000];
    const all = Array.from({ length: 100 }, (_, index) => `${index}`.padEnd(lengths[index % 4] ?? 1, "x"));
    const read = await linesOf(Buffer.from(`${all.join("\n")}\ntail`));
    expect(read.lines).toEqual(all);
    expect(read.tail).toBe("tail");
    const exact = Buffer.alloc(LIMITS.auditReadBytes * 2, "x".repeat(1023).concat("\n"));
    expect((await linesOf(exact)).lengths).toEqual(Array.from({ length: 2048 }, () => 1023));
  });

  it("that are too long are cut to what no line has, and the next one is whole", async () => {
    const long = (bytes: number): string => "y".repeat(bytes);
    const text = `a\n${long(65_535)}\nb\n${long(3 * LIMITS.auditReadBytes)}\nc\n${long(65_534)}\n`;
    expect((await linesOf(Buffer.from(text))).lengths).toEqual([1, 65_535, 1, 65_535, 1, 65_534]);
    const open = await linesOf(Buffer.from(`a\n${long(2 * LIMITS.auditReadBytes)}`));
    expect(open).toMatchObject({ lengths: [1, 65_535], tail: "" });
  });
});

describe("kept leaf hashes and whole files", () => {
  it("are read as far as they go, and nothing where there is none", async () => {
    writeFiles(folder, new Map([["000001.leaves", new Uint8Array(70)]]));
    expect((await readLeaves(folder, 1)).byteLength).toBe(70);
    expect((await readLeaves(folder, 2)).byteLength).toBe(0);
    expect(await readWhole(join(folder, "none"), 10)).toBeUndefined();
  });

  it("are refused beyond their limit", async () => {
    writeFiles(folder, new Map([["000001.leaves", new Uint8Array(LIMITS.auditLeavesBytes + 1)]]));
    await expect(readLeaves(folder, 1)).rejects.toMatchObject({ code: "STATE_INVALID" });
  });
});

describe("stored log checkpoints", () => {
  const log = makeLog({ count: 30, epochLines: 10 });
  const key = noteKeyOf(log.signer);
  const notes = (...sizes: readonly number[]): Uint8Array =>
    Buffer.concat(sizes.flatMap((size) => [headOf(log, size), Buffer.from("\n")]));
  const read = async (files: readonly (readonly [string, Uint8Array])[]) => {
    const { checkpoints, bad } = await readStoredCheckpoints(writeFiles(folder, new Map(files)), key);
    return { sizes: checkpoints.map(({ size }) => size), bad };
  };

  it("are split at their empty lines; an unfinished one is left out", () => {
    const [first, second] = [headOf(log, 10), headOf(log, 20)].map((note) => Buffer.from(note));
    const all = Buffer.from(notes(10, 20));
    expect(splitNotes(all)).toEqual([first, second]);
    for (let length = 0; length < all.byteLength; length += 1) {
      const complete = length <= (first?.byteLength ?? 0) ? [] : [first];
      expect(splitNotes(all.subarray(0, length)), `${length} bytes`).toEqual(complete);
    }
  });

  it("[VR-AUD-02] ascend, and the newest is the last or larger", async () => {
    expect(await read([])).toEqual({ sizes: [], bad: [] });
    expect(await read([["checkpoint", headOf(log, 7)]])).toEqual({ sizes: [7], bad: [] });
    const kept = ["checkpoints", notes(10, 20)] as const;
    expect(await read([kept, ["checkpoint", headOf(log, 25)]])).toEqual({ sizes: [10, 20, 25], bad: [] });
    expect(await read([kept, ["checkpoint", headOf(log, 20)]])).toEqual({ sizes: [10, 20, 20], bad: [] });
    expect(await read([kept, ["checkpoint", headOf(log, 19)]])).toEqual({
      sizes: [10, 20],
      bad: [{ file: "checkpoint", index: 0, fault: "order" }],
    });
    expect(await read([["checkpoints", notes(10, 10, 20, 15)]])).toEqual({
      sizes: [10, 20],
      bad: [1, 3].map((index) => ({ file: "checkpoints", index, fault: "order" })),
    });
  });

  it("are named by their place if they are not of this log", async () => {
    const foreign = headOf({ ...log, signer: testSigner("vram-residency/fedcba9876543210") }, 12);
    const mixed = Buffer.concat([notes(10), foreign, Buffer.from("\njunk\n\njunk\n\n"), notes(20)]);
    expect(await read([["checkpoints", mixed]])).toEqual({
      sizes: [10, 20],
      bad: [
        { file: "checkpoints", index: 1, fault: "origin" },
        { file: "checkpoints", index: 2, fault: "malformed" },
      ],
    });
  });

  it("have a key beside them, or none, or one that cannot be read", async () => {
    writeFiles(folder, new Map());
    expect(await readFoundKey(folder)).toBeUndefined();
    writeFileSync(join(folder, "log.vkey"), `${vkeyOf(log)}\n`);
    expect((await readFoundKey(folder))?.name).toBe(log.signer.name);
    for (const text of [vkeyOf(log), `${vkeyOf(log)}\n\n`, "junk\n", ""]) {
      writeFileSync(join(folder, "log.vkey"), text);
      await expect(readFoundKey(folder), text).rejects.toMatchObject({ code: "STATE_INVALID" });
    }
  });
});
