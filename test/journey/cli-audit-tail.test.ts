/** `vram audit tail`: the last lines for people and for programs, and following a log that grows. */
import { appendFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Host } from "../../src/cli/host.ts";
import { main } from "../../src/cli/main.ts";
import { type Draft, filesOf, lineFiles, makeLog, sealDrafts, withLines } from "../helpers/audit-log.ts";
import { stateWith } from "../helpers/audit-state.ts";
import { vram } from "../helpers/cli.ts";

const LOG = makeLog({ count: 250, segmentLines: 100, epochLines: 40 });
const TEXTS = LOG.lines.map((line) => `${Buffer.from(line).toString()}\n`);

const tail = (stateDir: string, ...args: string[]) => vram(["audit", "tail", "--state-dir", stateDir, ...args]);
const shown = (stateDir: string, ...args: string[]) =>
  vram(["audit", "tail", "--state-dir", stateDir, ...args], { terminal: true, env: { NO_COLOR: "1" } });

describe("vram audit tail", () => {
  it("prints the very lines where there is no terminal, ten of them or as many as asked for", async () => {
    const stateDir = await stateWith(LOG);
    expect(await tail(stateDir)).toEqual({ code: 0, out: TEXTS.slice(-10).join(""), err: "" });
    expect((await tail(stateDir, "-n", "60")).out).toBe(TEXTS.slice(-60).join(""));
    expect((await tail(stateDir, "--lines", "999", "--json")).out).toBe(TEXTS.join(""));
    expect((await tail(stateDir, "-n", "0")).out).toBe("");
    expect((await vram(["audit", "tail", "--log", join(stateDir, "audit"), "-n", "1"])).out).toBe(TEXTS.at(-1));
    // What is not whole yet is not shown.
    appendFileSync(join(stateDir, "audit/000003.jsonl"), '{"v":1,');
    expect((await tail(stateDir, "-n", "1")).out).toBe(TEXTS.at(-1));
    expect((await shown(stateDir, "-n", "1", "--json")).out).toBe(TEXTS.at(-1));
  });

  it("tells people seq, time, type and a sentence", async () => {
    const device = { ordinal: 0, uuid: "EMU-0" };
    const drafts: Draft[] = [
      { type: "epoch_started", data: { because: "start" }, epoch: 1 },
      { type: "seal_verified", data: { bytesCovered: 4096, device, durationMs: 1.5, name: "m.bin" }, epoch: 1 },
      { type: "worker_stopped", data: { device, reason: "mismatch" }, epoch: 1 },
      { type: "of_another_version", data: { deep: { er: 1 }, list: [1, 2], text: "x".repeat(100) }, epoch: 1 },
    ];
    const log = { ...LOG, drafts, lines: sealDrafts(drafts), heads: [4] };
    const { code, out } = await shown(await stateWith(log));
    expect(code).toBe(0);
    const lines = out.split("\n");
    expect(lines[0]).toBe("     0  2026-01-01T00:00:00.000Z  epoch_started  audit log: a new epoch has begun (start)");
    expect(lines[1]).toContain("seal_verified  m.bin: mac, facts and 4.0 KiB in VRAM are unchanged");
    expect(lines[2]).toContain("worker_stopped  ");
    expect(lines[3]).toContain(`of_another_version  deep.er=1 list=[2] text=${"x".repeat(80)}…`);
    const coloured = await vram(["audit", "tail", "--state-dir", await stateWith(log)], { terminal: true });
    expect(coloured.out).toContain("\u001b[31mworker_stopped");
  });

  it("[VR-AUD-02] is not turned round by a hostile log", async () => {
    const evil = "\u001b[2J\u202e\u009b";
    const drafts: Draft[] = [
      { type: "epoch_started", data: { because: evil }, epoch: 1 },
      { type: "seal_verified", data: {}, epoch: 1 },
      { type: "constructor", data: { human: evil, target: evil, tone: "loud" }, epoch: 1 },
      { type: "vram_deallocated", data: { name: { toString: 1 }, byteLength: "x" }, epoch: 1 },
      { type: "service_started", data: { devices: 7, deep: { x: evil } }, epoch: 1 },
    ];
    const log = { ...LOG, drafts, lines: sealDrafts(drafts), heads: [5] };
    const [first = ""] = Buffer.from(log.lines[0] ?? [])
      .toString()
      .split("\n");
    const late = first.replace('"time":1767225600000', '"time":9007199254740991');
    const text = Buffer.concat([
      ...log.lines.flatMap((line) => [line, Buffer.from("\n")]),
      Buffer.from(`${late}\n${evil}\n`),
      Buffer.from([0xff, 0xfe, 0x0a]),
      Buffer.from(`${"x".repeat(70_000)}\n`),
    ]);
    const files = new Map([...filesOf(log), ["000001.jsonl", text]]);
    const stateDir = await stateWith(files);
    const people = await shown(stateDir, "-n", "100");
    expect(people.code).toBe(0);
    expect(people.out.split("\n")).toHaveLength(10);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    expect(people.out).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
    expect(people.out).toContain("  9007199254740991  epoch_started  ");
    expect(people.out.match(/not a line of a log: \S+ at byte \d+; see `vram audit verify`/g)).toHaveLength(3);
    // Programs get lines of a log and nothing else.
    const programs = await tail(stateDir, "-n", "100");
    const lines = programs.out.trimEnd().split("\n");
    expect(lines).toHaveLength(6);
    expect(lines.map((line) => (JSON.parse(line) as { v: number }).v)).toEqual([1, 1, 1, 1, 1, 1]);
    expect(programs.err.match(/left out what is not a line of a log: /g)).toHaveLength(3);
    const raw = await shown(stateDir, "-n", "100", "--json");
    expect(raw.out).not.toContain("\u202e");
    expect(raw.out).not.toContain("\u009b");
  });

  it("refuses a count that is none, in words also with --json", async () => {
    const stateDir = await stateWith(LOG);
    for (const count of ["-1", "1.5", "", "ten", "9999999999999"]) {
      expect(await tail(stateDir, "--json", `--lines=${count}`), count).toMatchObject({ code: 2, out: "" });
    }
    expect((await tail(stateDir, "--json", "-n", "x")).err).toContain("error INVALID_ARGUMENT: --lines must be");
  });
});

/** A command that runs until it is stopped, and what it has printed so far. */
function follow(stateDir: string, ...args: string[]) {
  const stop = new AbortController();
  const ended = new AbortController();
  let printed = "";
  let onPrint = (): void => undefined;
  const host: Host = {
    out: (text) => {
      printed += text;
      onPrint();
    },
    err: () => undefined,
    env: {},
    outIsTerminal: false,
    errIsTerminal: false,
    columns: 80,
    signal: stop.signal,
    outEnded: ended.signal,
  };
  const code = main(["audit", "tail", "-f", "--state-dir", stateDir, ...args], host);
  return {
    code,
    stop: () => stop.abort(),
    readerLeaves: () => ended.abort(),
    /** Resolves once exactly this was printed since the start. */
    printed: (text: string) =>
      new Promise<void>((resolve, reject) => {
        onPrint = () => {
          if (printed === text) resolve();
          else if (!text.startsWith(printed)) reject(new Error(`printed ${printed}`));
        };
        onPrint();
      }),
  };
}

describe("vram audit tail -f", () => {
  it("prints what is added, whole lines only, over new segments, until it is interrupted", async () => {
    const stateDir = await stateWith(withLines(LOG, LOG.lines.slice(0, 95)));
    const segment = (number: number): string => join(stateDir, `audit/00000${number}.jsonl`);
    const text = (from: number, to: number): string => TEXTS.slice(from, to).join("");
    const following = follow(stateDir, "-n", "5");
    await following.printed(text(90, 95));
    appendFileSync(segment(1), text(95, 97));
    await following.printed(text(90, 97));
    const next = text(97, 98);
    appendFileSync(segment(1), next.slice(0, 50));
    appendFileSync(segment(1), next.slice(50) + text(98, 100));
    await following.printed(text(90, 100));
    writeFileSync(segment(2), "");
    appendFileSync(segment(2), text(100, 103));
    await following.printed(text(90, 103));
    appendFileSync(segment(2), text(103, 200));
    writeFileSync(segment(3), text(200, 210));
    await following.printed(text(90, 210));
    following.stop();
    expect(await following.code).toBe(130);
  });

  it("ends with 0 when nobody reads the lines any more, and with 1 when the log is gone", async () => {
    const left = follow(await stateWith(LOG), "-n", "1");
    await left.printed(TEXTS.at(-1) ?? "");
    left.readerLeaves();
    expect(await left.code).toBe(0);
    const stateDir = await stateWith(LOG);
    const robbed = follow(stateDir, "-n", "1");
    await robbed.printed(TEXTS.at(-1) ?? "");
    rmSync(join(stateDir, "audit"), { recursive: true });
    expect(await robbed.code).toBe(1);
    const other = await stateWith(LOG);
    const shortened = follow(other, "-n", "1");
    await shortened.printed(TEXTS.at(-1) ?? "");
    truncateSync(join(other, "audit/000003.jsonl"), 0);
    expect(await shortened.code).toBe(1);
  });

  it("ends at once where it was interrupted before", async () => {
    const following = follow(await stateWith(new Map([...lineFiles(LOG)])), "-n", "0");
    following.stop();
    expect(await following.code).toBe(130);
  });
});
