/** The end of a log and what is added to it: from behind in pieces, and forward over segment changes. */
import { appendFileSync, mkdtempSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { findTail, followLog, type LogFollower } from "../../src/audit/log-tail.ts";
import { segmentFile } from "../../src/audit/segments.ts";
import { LIMITS } from "../../src/limits.ts";
import { writeFiles } from "../helpers/audit-log.ts";

const folder = mkdtempSync(join(tmpdir(), "audit-tail-"));
afterAll(() => rmSync(folder, { recursive: true }));

const path = (number: number): string => join(folder, segmentFile(number, "jsonl"));

/** Makes a log of these segments, which are bytes here and no lines. */
function write(...segments: readonly string[]): void {
  const files = segments.map((text, index) => [segmentFile(index + 1, "jsonl"), Buffer.from(text)] as const);
  writeFiles(folder, new Map(files));
}

async function allOf(follower: LogFollower): Promise<string[]> {
  const found: string[] = [];
  for (let lines = await follower.read(); lines.length > 0; lines = await follower.read()) {
    found.push(...lines.map((line) => Buffer.from(line).toString()));
  }
  return found;
}

const tail = async (count: number): Promise<string[]> => allOf(followLog(folder, await findTail(folder, count)));

describe("the last lines", () => {
  it.each([
    [0, []],
    [1, ["f"]],
    [2, ["e", "f"]],
    [3, ["d", "e", "f"]],
    [4, ["c", "d", "e", "f"]],
    [6, ["a", "b", "c", "d", "e", "f"]],
    [99, ["a", "b", "c", "d", "e", "f"]],
  ])("%i of six are found over three segments", async (count, lines) => {
    write("a\nb\n", "c\nd\n", "e\nf\n");
    expect(await tail(count)).toEqual(lines);
    // A last line that is being written is none.
    appendFileSync(path(3), "unfinished");
    expect(await tail(count)).toEqual(lines);
  });

  it("are found over the borders of what is read at a time", async () => {
    const lines = Array.from({ length: 400 }, (_, index) => `${index} `.padEnd(1000, "x"));
    write(`${lines.join("\n")}\n`);
    for (const count of [1, 65, 66, 131, 132, 399, 400]) expect(await tail(count)).toEqual(lines.slice(-count));
  });

  it("are none in a log without lines, or with one that was never finished", async () => {
    write("");
    expect(await tail(10)).toEqual([]);
    write("half");
    expect(await tail(10)).toEqual([]);
    writeFiles(folder, new Map([["000001.leaves", new Uint8Array(64)]]));
    expect(await tail(10)).toEqual([]);
    rmSync(folder, { recursive: true });
    await expect(tail(10)).rejects.toMatchObject({ code: "STATE_INVALID" });
  });

  it("are not those of pruned segments", async () => {
    write("", "c\nd\n");
    unlinkSync(path(1));
    writeFileSync(join(folder, "000001.leaves"), new Uint8Array(64));
    expect(await tail(10)).toEqual(["c", "d"]);
  });
});

describe("what is added", () => {
  it("comes once, whole lines only, and over a new segment", async () => {
    write("a\nb\n");
    const follower = followLog(folder, await findTail(folder, 1));
    expect(await allOf(follower)).toEqual(["b"]);
    appendFileSync(path(1), "c");
    expect(await allOf(follower)).toEqual([]);
    appendFileSync(path(1), "c\nd\n");
    expect(await allOf(follower)).toEqual(["cc", "d"]);
    appendFileSync(path(1), "e\n");
    writeFileSync(path(2), "");
    expect(await allOf(follower)).toEqual(["e"]);
    appendFileSync(path(2), "f\n");
    writeFileSync(path(3), "g\n");
    expect(await allOf(follower)).toEqual(["f", "g"]);
  });

  it("begins with the first line of a log that had none", async () => {
    writeFiles(folder, new Map());
    const follower = followLog(folder, await findTail(folder, 10));
    expect(await allOf(follower)).toEqual([]);
    write("a\n");
    expect(await allOf(follower)).toEqual(["a"]);
  });

  it("goes on behind a torn line that was set aside, and behind one in a closed segment", async () => {
    write("a\ntor");
    const follower = followLog(folder, await findTail(folder, 1));
    expect(await allOf(follower)).toEqual(["a"]);
    truncateSync(path(1), 2);
    appendFileSync(path(1), "b\ntorn again");
    writeFileSync(path(2), "c\n");
    expect(await allOf(follower)).toEqual(["b", "c"]);
  });

  it("is refused when what was shown is gone", async () => {
    write("a\nb\n");
    const follower = followLog(folder, await findTail(folder, 2));
    expect(await allOf(follower)).toEqual(["a", "b"]);
    truncateSync(path(1), 2);
    await expect(follower.read()).rejects.toMatchObject({ code: "STATE_INVALID" });
  });

  it("is cut where a line has no end, and goes on behind it", async () => {
    const endless = "x".repeat(3 * LIMITS.auditReadBytes);
    write(`a\n${endless}\nb\n${"y".repeat(LIMITS.auditLineBytes + 5)}\nc\n`);
    const found = await allOf(followLog(folder, { segment: 1, offset: 0 }));
    expect(found.map((line) => (line.length > 1 ? `${line[0] ?? ""} × ${line.length}` : line))).toEqual([
      "a",
      `x × ${LIMITS.auditLineBytes}`,
      "b",
      `y × ${LIMITS.auditLineBytes}`,
      "c",
    ]);
  });
});
