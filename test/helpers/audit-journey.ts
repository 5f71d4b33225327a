/**
 * Journeys of which the audit log is read afterwards. A row says what is done, how it ends, and the lines that must be
 * in the log then: these, in this order, each once, with these fields and no others. The tables are beside this file.
 */
import { promises } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import type { OpenFile } from "../../src/audit/durable.ts";
import { auditFolder, EPOCH_KEY_FILE, readEpochFile } from "../../src/audit/key-files.ts";
import { dataOfLine } from "../../src/audit/line.ts";
import { parseLine } from "../../src/audit/parse-line.ts";
import { listSegments, readLines } from "../../src/audit/segments.ts";
import { verifyLog } from "../../src/audit/verify-log.ts";
import { toHex } from "../../src/bytes.ts";
import type { ErrorCode } from "../../src/errors.ts";
import { withCorrelation } from "../../src/index.ts";
import type { Entry } from "../../src/journal/entry.ts";
import type { TestOptions, VramOptions } from "../../src/open.ts";
import { createFaultPlan, type FaultPlan } from "../../src/testing.ts";
import { digestOf } from "./reference.ts";
import { codeOf, MIB, openSmall, type Recorded, randomFile, temporaryFolder } from "./vram.ts";

/** What a line of the log says. `data` is without `correlationId`, which is held against the operation. */
export interface Told {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** An open system with what a row needs to bring something about. */
export interface Stage extends Recorded {
  readonly faults: FaultPlan;
  readonly disk: Disk;
  /** A file of `MODEL`. */
  readonly path: string;
  readonly stateDir: string;
}

export interface Row {
  /** What happens. */
  readonly path: string;
  readonly options?: VramOptions;
  readonly test?: TestOptions;
  /** What was there before; its lines are not looked at. */
  readonly before?: (stage: Stage) => Promise<unknown>;
  /** What is done. Without it, opening is. */
  readonly act?: (stage: Stage) => Promise<unknown>;
  readonly ends: ErrorCode | "ok";
  /** How many calls `act` makes; 1 if absent. Lines of one call have one correlation id. */
  readonly calls?: number;
  readonly lines: readonly Told[];
}

/** The bytes of the model that most rows seal. */
export const MODEL = Buffer.alloc(MIB + 7, "sixteen letters.");
export const DIGEST = toHex(digestOf(MODEL));
/** 64 hex digits that are no digest of anything here. */
export const WRONG = "0".repeat(64);

const UUID = expect.stringMatching(/^EMU-[0-9a-f-]{36}$/) as string;
const HEX = expect.stringMatching(/^[0-9a-f]{64}$/) as string;
export const FIGURE = expect.any(Number) as number;
export const TEXT = expect.any(String) as string;
export const SHARD_ID = expect.stringMatching(/^shard-[a-z2-7]{26}$/) as string;

const on = (ordinal: number) => ({ device: { ordinal, uuid: UUID } });

/** Fields of a line that a row says otherwise. */
type Other = Readonly<Record<string, unknown>>;

const lineOf =
  (type: Entry["type"], usual: Other) =>
  (other: Other = {}): Told => {
    const given = Object.entries<unknown>({ ...on(0), ...usual, ...other });
    return { type, data: Object.fromEntries(given.filter(([, value]) => value !== undefined)) };
  };

const NAME = { name: "m" };
const SHARD = { ...NAME, shardId: "id-m" };

const freed = lineOf("vram_deallocated", {
  ...{ ...SHARD, byteLength: MODEL.byteLength, because: "evicted", zeroed: true },
});

/** The lines, as they are unless a row says otherwise: of the model sealed as `m`. */
export const told = {
  allocated: lineOf("vram_allocated", { ...NAME, byteLength: MODEL.byteLength }),
  allocationFailed: lineOf("vram_allocation_failed", {
    ...{ ...NAME, bytesNeeded: MODEL.byteLength, bytesAvailable: FIGURE, code: "OUT_OF_VRAM" },
  }),
  deallocated: ({ because = "evicted", name = "m", ...other }: Readonly<Record<string, unknown>> = {}) => {
    const shardId = because === "undone" || typeof name !== "string" ? undefined : `id-${name}`;
    return freed({ shardId, because, name, ...other });
  },
  sealed: lineOf("vram_sealed", {
    ...{ ...SHARD, byteLength: MODEL.byteLength, digest: DIGEST, comparedWith: "witnessed", sequence: 1 },
  }),
  setSealed: lineOf("set_sealed", { device: undefined, name: "s", totalShards: 2, mac: HEX }),
  verified: lineOf("seal_verified", {
    ...{ ...SHARD, digest: DIGEST, bytesCovered: MODEL.byteLength, measuredAtMs: FIGURE, durationMs: FIGURE },
  }),
  failed: lineOf("seal_verification_failed", {
    ...{ ...SHARD, failure: "mismatch", message: TEXT, ranges: [], rangesTotal: 0, tensors: [], tensorsTotal: 0 },
  }),
  refused: lineOf("seal_refused", { shardId: "id-m", reason: TEXT }),
  violated: lineOf("policy_violation", { expected: TEXT, actual: TEXT }),
  workerStopped: lineOf("worker_stopped", { reason: TEXT }),
  workerResumed: lineOf("worker_resumed", { reason: "seen" }),
  started: lineOf("service_started", {
    ...{ device: undefined, backend: "emulated", version: TEXT, policyDigest: HEX },
    ...{
      instanceId: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
      devices: [expect.objectContaining(on(0).device)],
    },
  }),
  stopped: lineOf("service_stopped", { device: undefined, because: "closed" }),
} as const;

/** Seals the model as the shard `id-NAME`. */
export const sealModel = ({ vram, path }: Stage, name = "m", options: object = {}) =>
  vram.seal(path, { name, shardId: `id-${name}`, ...options });

/** The disk of the log. */
export interface Disk {
  readonly openFile: OpenFile;
  /** Makes the next write of a line of this type fail: there is no room for it. */
  fill(type: string): void;
  /** Makes the next line of this type wait; resolves when it does. The function it gives lets it go on. */
  hold(type: string): Promise<() => void>;
}

/** A disk that is sound until it is told otherwise. */
export function createDisk(): Disk {
  // As it is now: a test may put this disk in its place.
  const { open } = promises;
  let full: string | undefined;
  let held: { readonly type: string; readonly begun: (release: () => void) => void } | undefined;
  const mentions = (bytes: Uint8Array, type: string): boolean => Buffer.from(bytes).includes(`"type":"${type}"`);
  const beforeWrite = async (bytes: Uint8Array): Promise<void> => {
    if (full !== undefined && mentions(bytes, full)) {
      full = undefined;
      throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    }
    const holding = held;
    if (holding === undefined || !mentions(bytes, holding.type)) return;
    held = undefined;
    await new Promise<void>((release) => holding.begun(release));
  };
  return {
    openFile: async (path, flags, mode) => {
      const file = await open(path, flags, mode);
      const write = file.write.bind(file) as (bytes: Uint8Array, ...rest: number[]) => Promise<unknown>;
      const guarded = async (bytes: Uint8Array, ...rest: number[]): Promise<unknown> => {
        await beforeWrite(bytes);
        return write(bytes, ...rest);
      };
      return Object.assign(file, { write: guarded });
    },
    fill: (type) => {
      full = type;
    },
    hold: (type) =>
      new Promise((begun) => {
        held = { type, begun };
      }),
  };
}

/** A line of the log, read from its file. */
export interface ReadLine extends Told {
  readonly correlationId: unknown;
}

/** Lines that the log writes about itself. */
const ITS_OWN = /^(epoch_started|heartbeat|audit_.*)$/;

/** The lines on disk now that an entry of the journal caused. */
export async function readLog(stateDir: string): Promise<ReadLine[]> {
  const folder = auditFolder(stateDir);
  const found: ReadLine[] = [];
  for (const { number } of (await listSegments(folder)).segments) {
    for await (const { lines } of readLines(folder, number)) {
      for (const bytes of lines) {
        const parsed = parseLine(bytes);
        if (!parsed.ok) throw new Error(`a line that is none: ${parsed.fault}`);
        const { correlationId, ...data } = dataOfLine(parsed.line);
        if (!ITS_OWN.test(parsed.line.type)) found.push({ type: parsed.line.type, data, correlationId });
      }
    }
  }
  return found;
}

/** Holds the log against all that can be held against it: chain, macs of this start, tree, log checkpoints. */
export async function requireSoundLog(stateDir: string): Promise<void> {
  const epochKeys = await readEpochFile(join(stateDir, EPOCH_KEY_FILE));
  const folder = auditFolder(stateDir);
  const logKey = (await readFile(join(folder, "log.vkey"), "utf8")).trim();
  const report = await verifyLog(folder, { logKey, ...(epochKeys === undefined ? {} : { epochKeys }) });
  expect(report).toMatchObject({ verdict: "intact", problems: [], checkpoints: { covered: report.entries } });
  expect(report.macs.linesChecked).toBeGreaterThan(0);
}

/** Every device that is named is the one of this state, at its place. */
async function requireOwnDevices(stateDir: string, lines: readonly ReadLine[]): Promise<void> {
  const { devices } = JSON.parse(await readFile(join(stateDir, "state.json"), "utf8")) as { devices: string[] };
  for (const { data } of lines) {
    const device = data["device"] as { ordinal: number; uuid: string } | undefined;
    if (device !== undefined) expect(devices[device.ordinal]).toBe(device.uuid);
  }
}

const START = "the-start-of-a-row";
const endOf = (task: Promise<unknown>): Promise<string> =>
  codeOf(task).then((code) => (code.startsWith("no error") ? "ok" : code));
const wordsOf = (lines: readonly ReadLine[]): Told[] => lines.map(({ type, data }) => ({ type, data }));

/** Goes the way of a row, and holds the log against it. */
export async function travel({ options, test, before, act, ends, calls = 1, lines }: Row): Promise<void> {
  const stateDir = `${await temporaryFolder()}/state`;
  const [faults, disk] = [createFaultPlan(), createDisk()];
  const { path } = await randomFile(0);
  await promises.writeFile(path, MODEL);
  const opening = withCorrelation(START, () =>
    openSmall({ stateDir, ...options }, { faults, auditFiles: disk.openFile, ...test }),
  );
  let ids: readonly unknown[] = [START];
  let found: readonly ReadLine[];
  if (act === undefined) {
    expect(await endOf(opening)).toBe(ends);
    found = await readLog(stateDir);
    if (ends === "ok") await (await opening).vram.close();
  } else {
    const stage: Stage = { ...(await opening), faults, disk, path, stateDir };
    // What opening called does not count.
    faults.reset();
    await before?.(stage);
    const earlier = (await readLog(stateDir)).length;
    expect(await endOf(act(stage))).toBe(ends);
    found = (await readLog(stateDir)).slice(earlier);
    await stage.vram.close();
    ids = Array.from({ length: lines.length === 0 ? 0 : calls }, (): unknown =>
      expect.stringMatching(/^[0-9a-f-]{36}$/),
    );
  }
  expect(wordsOf(found)).toEqual(lines);
  expect([...new Set(found.map(({ correlationId }) => correlationId))], "one correlation id a call").toEqual(ids);
  await requireOwnDevices(stateDir, found);
  await requireSoundLog(stateDir);
}
