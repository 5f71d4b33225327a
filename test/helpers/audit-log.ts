/**
 * Audit logs made with the encoders, for the tests of the verifier: in memory, so that a test can change a line, leave
 * one out, or seal everything anew as somebody with the keys would. Everything follows from the options.
 */
import { createHash, type KeyObject } from "node:crypto";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signCheckpoint } from "../../src/audit/checkpoint.ts";
import { type EpochKey, epochKeyFrom, macKeyOf, nextEpochKey } from "../../src/audit/epochs.ts";
import { encodeLine, type LineData } from "../../src/audit/line.ts";
import { encodeVkey, type NoteSigner, noteKeyOf, readNoteSigner } from "../../src/audit/note.ts";
import { segmentFile } from "../../src/audit/segments.ts";
import { createLogTree, leafHash } from "../../src/audit/tree.ts";

/** Bytes that follow from a text. */
export const bytesOf = (text: string): Uint8Array => new Uint8Array(createHash("sha256").update(text).digest());

/** K(0) of the logs made here. */
export const K0: EpochKey = epochKeyFrom(0, bytesOf("K(0) of the tests"));

const BOOT = Buffer.from("f0e1d2c3b4a5968778695a4b3c2d1e0f", "hex");

/** A signer whose key follows from `seed`. PKCS#8 of Ed25519 is 16 fixed bytes and the seed (RFC 8410 §7). */
export function testSigner(name = "vram-residency/0123456789abcdef", seed = "the log key of the tests"): NoteSigner {
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), bytesOf(seed)]);
  const pem = `-----BEGIN PRIVATE KEY-----\n${der.toString("base64")}\n-----END PRIVATE KEY-----\n`;
  return readNoteSigner(name, Buffer.from(pem));
}

/** What a line says, before it is chained and sealed. */
export interface Draft {
  readonly type: string;
  readonly data: LineData;
  readonly epoch: number;
}

/** A log as a list of segments of lines without line feeds. */
export interface TestLog {
  readonly drafts: readonly Draft[];
  /** Lines per segment. */
  readonly segmentLines: number;
  readonly lines: readonly Uint8Array[];
  /** Sizes at which a log checkpoint is stored. */
  readonly heads: readonly number[];
  readonly signer: NoteSigner;
}

export interface LogOptions {
  readonly count: number;
  readonly segmentLines?: number;
  readonly epochLines?: number;
  readonly signer?: NoteSigner;
  /** Put into `data`, so that logs differ. */
  readonly story?: string;
}

/** The mac key of an epoch, each derived once. */
export function macKeyring(k0: EpochKey = K0): (epoch: number) => KeyObject {
  const keys: EpochKey[] = [k0];
  const macKeys = new Map<number, KeyObject>();
  return (epoch) => {
    for (let last = keys.at(-1) ?? k0; last.epoch < epoch; last = keys.at(-1) ?? k0) keys.push(nextEpochKey(last));
    const macKey = macKeys.get(epoch) ?? macKeyOf(keys[epoch - k0.epoch] ?? k0);
    macKeys.set(epoch, macKey);
    return macKey;
  };
}

/** K of an epoch, as an attacker finds it who comes then. */
export function keyAt(epoch: number): EpochKey {
  let key = K0;
  while (key.epoch < epoch) key = nextEpochKey(key);
  return key;
}

const keyring = macKeyring();

/** Chains and seals drafts behind `before`, with the keys the drafts name. */
export function sealDrafts(drafts: readonly Draft[], before: readonly Uint8Array[] = []): Uint8Array[] {
  const lines = [...before];
  for (const { type, data, epoch } of drafts.slice(before.length)) {
    const last = lines.at(-1);
    const line = encodeLine(
      {
        seq: lines.length,
        timeMs: 1_767_225_600_000 + lines.length,
        boot: BOOT,
        epoch,
        type,
        data,
        prev: last === undefined ? new Uint8Array(32) : leafHash(last),
      },
      keyring(epoch),
    );
    lines.push(line.subarray(0, -1));
  }
  return lines;
}

/** A sound log: an epoch begins with each segment and every `epochLines` lines, and ends with a log checkpoint. */
export function makeLog(options: LogOptions): TestLog {
  const { count, segmentLines = 250, epochLines = 100, signer = testSigner(), story = "" } = options;
  let epoch = 0;
  const heads: number[] = [];
  const drafts = Array.from({ length: count }, (_, seq): Draft => {
    const begins = (seq % segmentLines) % epochLines === 0;
    if (!begins) {
      const data = { bytesCovered: seq * 4096, device: { ordinal: 0, uuid: "EMU-0" }, durationMs: seq / 8, story };
      return { type: "seal_verified", data, epoch };
    }
    epoch += 1;
    if (seq > 0) heads.push(seq);
    return { type: "epoch_started", data: { because: seq % segmentLines === 0 ? "segment" : "entries" }, epoch };
  });
  return { drafts, segmentLines, lines: sealDrafts(drafts), heads: [...heads, count], signer };
}

/** The log with other lines, in segments as before. */
export const withLines = (log: TestLog, lines: readonly Uint8Array[]): TestLog => ({ ...log, lines });

/** The log with one line changed from the draft on, and everything behind it chained and sealed anew. */
export function resealed(log: TestLog, seq: number, data: LineData): TestLog {
  const drafts = log.drafts.map((draft, index) => (index === seq ? { ...draft, data } : draft));
  return { ...log, drafts, lines: sealDrafts(drafts, log.lines.slice(0, seq)) };
}

/** The signed head of the log over its first `size` lines. */
export function headOf(log: TestLog, size: number): Uint8Array {
  const tree = createLogTree();
  for (const line of log.lines.slice(0, size)) tree.append(leafHash(line));
  return signCheckpoint(size, tree.root(), log.signer);
}

export type Files = ReadonlyMap<string, Uint8Array>;

const join2 = (lines: readonly Uint8Array[]): Uint8Array =>
  Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")]));

/** Lines in segments. */
export function segmentsOf({ lines, segmentLines }: TestLog): readonly (readonly Uint8Array[])[] {
  const count = Math.max(1, Math.ceil(lines.length / segmentLines));
  return Array.from({ length: count }, (_, index) => lines.slice(index * segmentLines, (index + 1) * segmentLines));
}

/** The lines of a log as its files. */
export function lineFiles(log: TestLog): Files {
  return new Map(segmentsOf(log).map((lines, index) => [segmentFile(index + 1, "jsonl"), join2(lines)]));
}

/** The kept leaf hashes of a log. */
export function leafFiles(log: TestLog): Files {
  const files = segmentsOf(log).map((lines, index) => {
    return [segmentFile(index + 1, "leaves"), Buffer.concat(lines.map(leafHash))] as const;
  });
  return new Map(files);
}

/** The stored log checkpoints and the log's key. */
export function headFiles(log: TestLog): Files {
  const notes = log.heads.map((size) => headOf(log, size));
  const kept = notes.slice(0, -1).flatMap((note) => [note, Buffer.from("\n")]);
  return new Map([
    ["checkpoints", Buffer.concat(kept)],
    ["checkpoint", notes.at(-1) ?? new Uint8Array(0)],
    ["log.vkey", Buffer.from(`${vkeyOf(log)}\n`)],
  ]);
}

export const vkeyOf = ({ signer }: TestLog): string => encodeVkey(noteKeyOf(signer));

/** All files of a sound log. */
export const filesOf = (log: TestLog): Files => new Map([...lineFiles(log), ...leafFiles(log), ...headFiles(log)]);

/** Replaces what is in `folder` by these files. */
export function writeFiles(folder: string, files: Files): string {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [name, bytes] of files) writeFileSync(join(folder, name), bytes);
  return folder;
}
