/** The audit log's writer in this process: on a disk and with clocks of the test's own. */
import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers";
import { afterEach } from "vitest";
import { type AuditLog, openAuditLog } from "../../src/audit/audit-log.ts";
import type { AuditLogOptions } from "../../src/audit/open-writer.ts";
import type { Clock } from "../../src/clock.ts";
import type { Entry, EntryBody } from "../../src/journal/entry.ts";
import { createJournal, type Journal } from "../../src/journal/journal.ts";
import { type CrashState, createState, expectSound, readEntries } from "./audit-writer.ts";
import { createDisk, type Disk } from "./audit-writer-disk.ts";

/** A clock that a test moves. */
export interface TestClock extends Clock {
  wall: number;
  monotonic: number;
}

export const YEAR_2026 = 1_767_225_600_000;

export function createClock(): TestClock {
  const clock: TestClock = {
    wall: YEAR_2026,
    monotonic: 1000,
    wallMs: () => clock.wall,
    monotonicMs: () => clock.monotonic,
    sleep: () => Promise.resolve(),
  };
  return clock;
}

export interface UnitLog {
  readonly state: CrashState;
  readonly log: AuditLog;
  readonly journal: Journal;
  readonly disk: Disk;
  readonly clock: TestClock;
  /** What the log told the journal. */
  readonly notes: EntryBody[];
  /** Entries of the log on disk. */
  readonly entries: () => ReturnType<typeof readEntries>;
  readonly types: () => Promise<string[]>;
  /** Closes it, and judges every line with every key. */
  readonly closeSound: () => Promise<void>;
}

const opened: AuditLog[] = [];

afterEach(async () => {
  for (const log of opened.splice(0)) await log.close();
});

/** Opens the log of `state`, or of a new one. */
export async function openUnit(options: Partial<AuditLogOptions> = {}, state?: CrashState): Promise<UnitLog> {
  const place = state ?? (await createState());
  const clock = createClock();
  const disk = createDisk();
  const notes: EntryBody[] = [];
  const given = { clock: options.clock ?? clock };
  const journal = createJournal(given.clock);
  const log = await openAuditLog({
    stateDir: place.stateDir,
    boot: randomBytes(16),
    mode: "required",
    note: (body) => void notes.push(body),
    retentionDays: 365,
    maxBytes: 2 ** 30,
    openFile: disk.openFile,
    ...given,
    ...options,
  });
  opened.push(log);
  journal.attach(log.reader);
  const entries = (): ReturnType<typeof readEntries> => readEntries(place.folder);
  return {
    state: place,
    log,
    journal,
    disk,
    clock,
    notes,
    entries,
    types: async () => (await entries()).map(({ type }) => type),
    closeSound: async () => {
      await log.close();
      await expectSound(place);
    },
  };
}

/** A state directory of its own, without escrow. */
export async function bareState(folder: string): Promise<string> {
  const stateDir = join(folder, "bare");
  await mkdir(stateDir, { mode: 0o700 });
  return stateDir;
}

/** Turns of the event loop until `holds`: for what the disk does. The test's timeout is the watchdog. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}

/** Some turns: for what must not happen. */
export async function turns(count = 50): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

const DEVICE = { ordinal: 0, uuid: "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6" };

/** A durable entry as the reader of a journal gets it. */
export const durable = (reason: string, gates = true): Entry => ({
  type: "worker_stopped",
  device: DEVICE,
  reason,
  seq: 1,
  timeMs: YEAR_2026,
  durability: "durable",
  gates,
});

/** A refused request, by device. */
export const refusal = (n: number, device = DEVICE): Entry => ({
  type: "seal_refused",
  device,
  shardId: `shard-${n}`,
  reason: "unknown",
  seq: 1,
  timeMs: YEAR_2026,
  durability: "durable",
  gates: false,
});

/** "ok", or the code and whether it is final. */
export async function outcomeOf(accept: () => void | Promise<void>): Promise<string> {
  try {
    await accept();
    return "ok";
  } catch (error) {
    const { code, details } = error as { code?: string; details?: { final?: boolean } };
    return `${code}${details?.final === true ? " final" : ""}`;
  }
}

/** A promise and how to settle it. */
export function gate(): { readonly opened: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const waiting = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened: waiting, open };
}
