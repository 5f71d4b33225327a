/**
 * The crash suite of the audit log: a process that writes (`audit-writer-process.mjs`, on `dist`) is killed, or its disk
 * fails, by count of system calls (`strace`) or of acknowledged entries; then its log is checked, continued by this
 * process, and checked again.
 */
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { appendFileSync } from "node:fs";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { type AuditLog, openAuditLog } from "../../src/audit/audit-log.ts";
import type { EpochKey } from "../../src/audit/epochs.ts";
import { EPOCH_KEY_FILE, escrowEpochKey, readEpochFile } from "../../src/audit/key-files.ts";
import { dataOfLine } from "../../src/audit/line.ts";
import { parseLine } from "../../src/audit/parse-line.ts";
import { listSegments, readLines, readWhole } from "../../src/audit/segments.ts";
import { verifyLog } from "../../src/audit/verify-log.ts";
import { systemClock } from "../../src/clock.ts";
import type { DurableBody } from "../../src/journal/entry.ts";
import { createJournal, type Journal } from "../../src/journal/journal.ts";
import { reportCount } from "./counts.ts";
import { temporaryFolder } from "./vram.ts";

const WRITER = fileURLToPath(new URL("audit-writer-process.mjs", import.meta.url));

/** The long form (`npm run test:long`): more calls, and more kills. */
export const isLong = process.env["VRAM_AUDIT_LONG"] === "1";

/** A restart takes no longer (issue of the audit log); the watchdog is ten times that. */
const RESTART_MS = 2000;
const WATCHDOG_MS = 10 * RESTART_MS;

export interface Load {
  readonly writers: number;
  /** Each, one after the other. */
  readonly entries: number;
  readonly segmentBytes: number;
  /** How much faster than the machine's its monotonic clock runs: an epoch ends after 15 minutes of it. */
  readonly speed: number;
}

/** A segment ends after some 100 lines, an epoch after 45 ms. */
export const LOAD: Load = { writers: 16, entries: 60, segmentBytes: 140_000, speed: 20_000 };

/** A state directory whose K(0) was written down, so that every mac can be checked. */
export interface CrashState {
  readonly stateDir: string;
  readonly folder: string;
  readonly escrow: string;
}

export async function createState(): Promise<CrashState> {
  const parent = await temporaryFolder();
  const stateDir = join(parent, "state");
  const escrow = join(parent, "escrow");
  await mkdir(stateDir, { mode: 0o700 });
  await escrowEpochKey(stateDir, escrow);
  return { stateDir, folder: join(stateDir, "audit"), escrow };
}

/** What a writer told before it ended. */
export interface Told {
  readonly acknowledged: readonly string[];
  /** Codes of refusals. */
  readonly refused: readonly string[];
  /** Entries acknowledged after the first refusal. */
  readonly acknowledgedLate: number;
  readonly closed: boolean;
  /** Why it could not be opened. */
  readonly failed: string | undefined;
  /** Its exit code; null after a signal. */
  readonly code: number | null;
}

export interface Ending {
  /** Arguments of strace that kill it, or let a call fail. */
  readonly inject?: readonly string[];
  /** SIGKILL as soon as it has told of so many acknowledged entries. */
  readonly killAfter?: number;
}

export const hasStrace = ((): boolean => {
  try {
    execFileSync("strace", ["-V"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

/** Runs a writer until it ends. One thread makes all calls to the disk: strace counts per thread. */
export async function runWriter(state: CrashState, load: Load, ending: Ending): Promise<Told> {
  const command = [process.execPath, WRITER, state.stateDir, JSON.stringify(load)];
  const traced =
    ending.inject === undefined ? command : ["strace", "-f", "-qq", "-o", "/dev/null", ...ending.inject, ...command];
  const [file = "", ...args] = traced;
  const child = spawn(file, args, {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...(ending.inject === undefined ? {} : { UV_THREADPOOL_SIZE: "1" }) },
  });
  const acknowledged: string[] = [];
  const refused: string[] = [];
  let acknowledgedLate = 0;
  let failed: string | undefined;
  let closed = false;
  createInterface(child.stdout).on("line", (line) => {
    const [word = "", rest = ""] = line.split(/ (.*)/);
    if (word === "ack") {
      acknowledged.push(rest);
      if (refused.length > 0) acknowledgedLate += 1;
      if (acknowledged.length === ending.killAfter) child.kill("SIGKILL");
    } else if (word === "refused") refused.push(rest);
    else if (word === "failed") failed = rest;
    else if (word === "closed") closed = true;
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { acknowledged, refused, acknowledgedLate, closed, failed, code };
}

/** The entries of a log: what their lines say. */
export async function readEntries(folder: string): Promise<{ type: string; data: Record<string, unknown> }[]> {
  const entries: { type: string; data: Record<string, unknown> }[] = [];
  const { segments } = await listSegments(folder);
  for (const { number, hasLines } of segments) {
    if (!hasLines) continue;
    for await (const { lines } of readLines(folder, number)) {
      for (const bytes of lines) {
        const parsed = parseLine(bytes);
        if (!parsed.ok) throw new Error(`segment ${number}: ${parsed.fault}`);
        entries.push({ type: parsed.line.type, data: { ...dataOfLine(parsed.line) } });
      }
    }
  }
  return entries;
}

async function requireKey(path: string): Promise<EpochKey> {
  const key = await readEpochFile(path);
  if (key === undefined) throw new Error(`${path} is not there`);
  return key;
}

/** A log as a crash has left it: the verifier finds nothing wrong, and changes nothing. */
async function expectIntact({ folder, escrow }: CrashState): Promise<void> {
  const report = await verifyLog(folder, { epochKeys: await requireKey(escrow) });
  expect(report.problems, "before the restart").toEqual([]);
}

/** Nothing is wrong with the log, with every mac and with those of the running epoch; `since` is of its past. */
export async function expectSound(state: CrashState, since?: Uint8Array): Promise<number> {
  const { folder, escrow, stateDir } = state;
  const remembered = since === undefined ? {} : { since };
  const all = await verifyLog(folder, { epochKeys: await requireKey(escrow), ...remembered });
  expect(all.problems).toEqual([]);
  expect(all.inProgressBytes, "bytes behind the last line").toBe(0);
  expect(all.macs.unchecked).toEqual([]);
  expect(all.macs.linesChecked).toBe(all.linesRead);
  if (since !== undefined) expect(all.remembered).toBe("matches");
  const current = await verifyLog(folder, { epochKeys: await requireKey(join(stateDir, EPOCH_KEY_FILE)) });
  expect(current.problems).toEqual([]);
  return all.entries;
}

const DEVICE = { ordinal: 0, uuid: "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" };

/** An entry that is never counted instead of written. Its line keeps `id`, so that it can be told from others. */
export const entryOf = (reason: string, id?: string): DurableBody => ({
  type: "worker_resumed",
  device: DEVICE,
  reason,
  ...(id === undefined ? {} : { id }),
});

/** Opens the log of a state as a process does that goes on with it. */
export async function openLog(
  state: CrashState,
  load: Load = LOAD,
): Promise<{ readonly log: AuditLog; readonly journal: Journal; readonly milliseconds: number }> {
  const journal = createJournal(systemClock);
  const startMs = performance.now();
  const log = await openAuditLog({
    stateDir: state.stateDir,
    clock: systemClock,
    boot: randomBytes(16),
    mode: "required",
    note: (body) => journal.note(body),
    retentionDays: 365,
    maxBytes: 2 ** 30,
    segmentBytes: load.segmentBytes,
  });
  journal.attach(log.reader);
  return { log, journal, milliseconds: performance.now() - startMs };
}

/** How the log was found, and how long it took to go on. */
export interface Recovered {
  readonly milliseconds: number;
  /** Last lines that were cut off, in the life of this log. */
  readonly torn: number;
}

const countOf = (items: readonly unknown[], wanted: unknown): number => items.filter((item) => item === wanted).length;

/**
 * The log after its writer died: sound as it lies there, then continued within the time, and sound again. Every
 * acknowledged entry is there once, and each torn line is on record and kept.
 */
export async function expectRecovers(state: CrashState, acknowledged: readonly string[]): Promise<Recovered> {
  const { folder } = state;
  const since = await readWhole(join(folder, "checkpoint"), 65_536);
  if (since !== undefined) await expectIntact(state);
  const { log, journal, milliseconds } = await openLog(state);
  expect(milliseconds, "milliseconds of the restart").toBeLessThan(WATCHDOG_MS);
  await journal.append(entryOf("the next process goes on"));
  await log.close();
  await expectSound(state, since);
  const entries = await readEntries(folder);
  const ids = entries.map(({ data }) => data["id"]).filter((id) => id !== undefined);
  const known = new Set(ids);
  expect(
    acknowledged.filter((id) => !known.has(id)),
    "acknowledged, and not in the log",
  ).toEqual([]);
  expect(known.size, "no entry is there twice").toBe(ids.length);
  const names = await readdir(folder);
  const torn = names.filter((name) => /^\d{6}\.torn(\.\d+)?$/.test(name));
  expect(names.filter((name) => name.endsWith(".new") || /-.*\.tmp$/.test(name))).toEqual([]);
  const recorded = countOf(
    entries.map(({ type }) => type),
    "audit_recovered",
  );
  expect(recorded, "torn lines on record").toBeGreaterThanOrEqual(torn.length);
  return { milliseconds, torn: torn.length };
}

/** The bytes of every file of a state, by its path. */
export async function bytesOfState({ stateDir }: Pick<CrashState, "stateDir">): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(stateDir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    found.set(path, entry.isFile() ? (await readFile(path)).toString("latin1") : "a folder");
  }
  return found;
}

/** What adds up over many crashes. */
export interface Tally {
  crashes: number;
  acknowledged: number;
  longestRestartMs: number;
}

export const createTally = (): Tally => ({ crashes: 0, acknowledged: 0, longestRestartMs: 0 });

/** Runs a writer to its end, has its log continued, and adds it up. */
export async function crash(tally: Tally, state: CrashState, load: Load, ending: Ending): Promise<Told> {
  const told = await runWriter(state, load, ending);
  const { milliseconds } = await expectRecovers(state, told.acknowledged);
  tally.crashes += 1;
  tally.acknowledged += told.acknowledged.length;
  tally.longestRestartMs = Math.max(tally.longestRestartMs, Math.round(milliseconds));
  return told;
}

/** Prints what adds up; the long form keeps it. */
export function reportTally(name: string, tally: Tally, seed?: number): void {
  const seeded = seed === undefined ? "" : `; seed ${seed}`;
  reportCount(
    `audit log, ${name}: ${tally.crashes} crashes, ${tally.acknowledged} entries acknowledged and all there, ` +
      `longest restart ${tally.longestRestartMs} ms${seeded}`,
  );
  const file = process.env["VRAM_AUDIT_RESULT"];
  if (file !== undefined) appendFileSync(file, `${JSON.stringify({ name, ...tally, seed })}\n`);
}
