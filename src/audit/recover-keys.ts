/**
 * Continuing a log, the other half of `recover.ts`: its keys and what it has signed. What is called `judge…` or `read…`
 * changes nothing: keys are made only for a log without a line, K moves on only when the last line carries the mac of
 * the next one, and both only once everything else was judged.
 */
import { join } from "node:path";
import { constantTimeEqual } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { replaceFile } from "../files.ts";
import { LIMITS } from "../limits.ts";
import { checkCheckpoint, parseCheckpoint } from "./checkpoint.ts";
import { type EpochKey, macKeyOf, nextEpochKey, wipeEpochKey } from "./epochs.ts";
import { createSigningKey, EPOCH_KEY_FILE, readEpochFile, readSigningKey } from "./key-files.ts";
import { checkLineMac } from "./line.ts";
import { encodeVkey, type NoteSigner, noteKeyOf, parseNote } from "./note.ts";
import { type AuditLine, parseLine } from "./parse-line.ts";
import type { LogPosition } from "./position.ts";
import { readWhole } from "./segments.ts";
import { CHECKPOINT_FILE, CHECKPOINTS_FILE, readFoundKey, splitNotes, VKEY_FILE } from "./stored-checkpoints.ts";

/** Refuses a log that no crash can have left like this. */
export const damaged = (folder: string, what: string): VramError =>
  new VramError("STATE_INVALID", `${folder}: ${what}, which no crash explains`, {
    fix: "`vram audit verify` says what is wrong; to go on, move the state directory away (it is evidence) and begin anew",
  });

/**
 * K of the epoch of the last line, which must carry its mac: the one that is kept, or the one after it, if a crash came
 * between that line and the key's replacement. Undefined for a log without a line that has none yet.
 */
export async function judgeEpochKey(
  stateDir: string,
  folder: string,
  position: LogPosition,
  last: Uint8Array | undefined,
): Promise<FoundEpochKey | undefined> {
  const kept = await readEpochFile(join(stateDir, EPOCH_KEY_FILE));
  if (kept === undefined) {
    if (position.tree.size === 0) return undefined;
    throw damaged(folder, "the epoch key beside it is gone");
  }
  const isNext = kept.epoch + 1 === position.epoch;
  const key = isNext ? nextEpochKey(kept) : kept;
  try {
    if (key.epoch !== position.epoch) {
      const what = position.epoch === 0 ? "the log is gone" : `its last line is of epoch ${position.epoch}`;
      throw damaged(folder, `${what}, and the key beside it is of epoch ${kept.epoch}`);
    }
    requireOurs(folder, position, last, key);
    return { key, isReplaced: !isNext };
  } catch (error) {
    wipeEpochKey(key);
    throw error;
  } finally {
    if (isNext) wipeEpochKey(kept);
  }
}

/** K as it was found, and whether its file has it already. */
export interface FoundEpochKey {
  readonly key: EpochKey;
  readonly isReplaced: boolean;
}

function requireOurs(folder: string, position: LogPosition, last: Uint8Array | undefined, key: EpochKey): void {
  if (last === undefined) return;
  const parsed = parseLine(last);
  const line: AuditLine | undefined = parsed.ok ? parsed.line : undefined;
  const isInPlace = line?.seq === position.tree.size - 1 && line.epoch === key.epoch;
  if (line === undefined || !isInPlace || checkLineMac(line, macKeyOf(key)) !== "valid") {
    throw damaged(folder, `its last line, ${position.tree.size - 1}, does not carry our mac`);
  }
}

/** The log's signer; undefined for a log that has none yet. */
export async function judgeSigner(stateDir: string, folder: string, isNew: boolean): Promise<NoteSigner | undefined> {
  const found = await readFoundKey(folder);
  const signer = found === undefined ? undefined : await readSigningKey(stateDir, found.name);
  if (found !== undefined && signer !== undefined) {
    if (encodeVkey(found) === encodeVkey(noteKeyOf(signer))) return signer;
    throw damaged(folder, `${VKEY_FILE} is not the public half of the key in the state directory`);
  }
  if (!isNew) throw damaged(folder, "the key that signs its log checkpoints is gone");
  return undefined;
}

/** Makes a signer for a new log. The public half lies beside the lines, for whoever reads them. */
export async function makeSigner(stateDir: string, folder: string): Promise<NoteSigner> {
  const signer = await createSigningKey(stateDir);
  await replaceFile(join(folder, VKEY_FILE), `${encodeVkey(noteKeyOf(signer))}\n`);
  return signer;
}

/** The newest notes of a log, as they were found. */
export interface FoundHeads {
  readonly newest: Uint8Array | undefined;
  readonly lastKept: Uint8Array | undefined;
  /** Bytes of `checkpoints` without a note that was cut off, and with it. */
  readonly keptBytes: number;
  readonly fileBytes: number;
  /** The sizes they name: the tree's roots at these are what they are compared with. */
  readonly sizes: ReadonlySet<number>;
}

export async function readHeads(folder: string): Promise<FoundHeads> {
  const newest = await readWhole(join(folder, CHECKPOINT_FILE), LIMITS.noteBytes);
  const all = await readWhole(join(folder, CHECKPOINTS_FILE), LIMITS.auditCheckpointsBytes);
  const notes = all === undefined ? [] : splitNotes(all);
  const sizes = new Set<number>();
  for (const note of [newest, notes.at(-1)]) {
    const size = note === undefined ? undefined : parseCheckpoint(parseNote(note)?.text ?? "")?.size;
    if (size !== undefined) sizes.add(size);
  }
  return {
    newest,
    lastKept: notes.at(-1),
    keptBytes: notes.reduce((sum, note) => sum + note.byteLength + 1, 0),
    fileBytes: all?.byteLength ?? 0,
    sizes,
  };
}

/**
 * The size that a note of ours names, 0 without a note. What it was signed over must be there as it was: `roots` has the
 * tree's roots at the sizes that were named. Without a signer there was never a note.
 */
export function judgeHead(
  folder: string,
  file: string,
  note: Uint8Array | undefined,
  signer: NoteSigner | undefined,
  roots: ReadonlyMap<number, Uint8Array>,
): number {
  if (note === undefined) return 0;
  if (signer === undefined) throw damaged(folder, `${file} is there, and the log is gone`);
  const checked = checkCheckpoint(note, noteKeyOf(signer));
  if (!checked.ok) throw damaged(folder, `the last log checkpoint in ${file} is not ours (${checked.fault})`);
  const { size, root } = checked.checkpoint;
  const ours = roots.get(size);
  if (ours === undefined)
    throw damaged(folder, `the log checkpoint in ${file} covers ${size} entries: more than there are`);
  if (!constantTimeEqual(ours, root)) throw damaged(folder, `its first ${size} entries are not those that were signed`);
  return size;
}

/**
 * What an epoch leaves behind when it ends is on disk before the next one begins, and is never removed. Whoever cuts
 * lines off would have to take these notes away too, and that is seen here: otherwise the rest would be signed anew.
 */
export function requireHeads(folder: string, position: LogPosition, heads: FoundHeads, keptSize: number): void {
  const { size } = position.tree;
  // A segment begins with an epoch, so in one that has lines these are counted.
  const epochBegan = position.segmentEntries === 0 ? size : size - position.epochEntries;
  if (epochBegan > 0 && keptSize !== epochBegan && keptSize !== size) {
    throw damaged(folder, `${CHECKPOINTS_FILE} has no log checkpoint over the ${epochBegan} entries of closed epochs`);
  }
  if (keptSize > 0 && heads.newest === undefined) throw damaged(folder, `${CHECKPOINT_FILE} is gone`);
}
