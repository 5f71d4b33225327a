/**
 * What the log says about itself: the log checkpoints that lie beside it, and its public key. In STATE/audit:
 *
 *     checkpoint    the newest signed note, replaced as a whole
 *     checkpoints   one note for each closed epoch, appended, each followed by an empty line
 *     log.vkey      `NAME+HASH+KEY` and a line feed
 *
 * They show changes by whoever has not the signing key. They cannot show that the whole folder was put back to an
 * earlier state; for that a log checkpoint has to be remembered elsewhere. `checkpoint` is replaced before its note is
 * appended to `checkpoints`, and read after it, so that its size is never the smaller one in a sound log.
 */
import { join } from "node:path";
import { LIMITS } from "../limits.ts";
import { type CheckpointFault, checkCheckpoint, type LogCheckpoint } from "./checkpoint.ts";
import { type NoteKey, parseVkey } from "./note.ts";
import { readWhole, unreadable } from "./segments.ts";

export const CHECKPOINT_FILE = "checkpoint";
export const CHECKPOINTS_FILE = "checkpoints";
export const VKEY_FILE = "log.vkey";

/** Why a stored note is not what it should be; `order`: it is not larger than the one before it. */
export type StoredFault = CheckpointFault | "order";

/** The stored log checkpoints, sizes ascending, without those that are bad. */
export interface StoredCheckpoints {
  readonly checkpoints: readonly LogCheckpoint[];
  /** Whether notes of closed epochs are kept, and the newest one is not there. */
  readonly isNewestGone: boolean;
  readonly bad: readonly { readonly file: string; readonly index: number; readonly fault: StoredFault }[];
}

/** Notes one after the other, each with an empty line behind it. An unfinished last one is being written: left out. */
export function splitNotes(bytes: Uint8Array): readonly Uint8Array[] {
  const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const notes: Uint8Array[] = [];
  for (let start = 0; ; ) {
    // The empty line between text and signatures, then the one behind the note.
    const border = whole.indexOf("\n\n", start);
    const end = border === -1 ? -1 : whole.indexOf("\n\n", border + 2);
    if (end === -1) return notes;
    notes.push(whole.subarray(start, end + 1));
    start = end + 2;
  }
}

/** The log's key as its own folder names it; undefined if it names none. */
export async function readFoundKey(folder: string): Promise<NoteKey | undefined> {
  const path = join(folder, VKEY_FILE);
  const bytes = await readWhole(path, LIMITS.noteBytes);
  if (bytes === undefined) return undefined;
  const text = Buffer.from(bytes).toString("latin1");
  if (!text.endsWith("\n")) throw unreadable(path);
  try {
    return parseVkey(text.slice(0, -1));
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

/** Reads and checks the stored log checkpoints with the log's key. */
export async function readStoredCheckpoints(folder: string, key: NoteKey): Promise<StoredCheckpoints> {
  const kept = await readWhole(join(folder, CHECKPOINTS_FILE), LIMITS.auditCheckpointsBytes);
  const newest = await readWhole(join(folder, CHECKPOINT_FILE), LIMITS.noteBytes);
  const checkpoints: LogCheckpoint[] = [];
  const bad: StoredCheckpoints["bad"][number][] = [];

  const take = (file: string, index: number, note: Uint8Array): void => {
    const checked = checkCheckpoint(note, key);
    if (!checked.ok) {
      bad.push({ file, index, fault: checked.fault });
      return;
    }
    const { checkpoint } = checked;
    const last = checkpoints.at(-1);
    const isLarger = last === undefined || checkpoint.size > last.size;
    // The newest one is usually the last of those kept, again. Two roots for one size are both compared with the log.
    if (isLarger || (file === CHECKPOINT_FILE && checkpoint.size === last.size)) checkpoints.push(checkpoint);
    else bad.push({ file, index, fault: "order" });
  };

  if (kept !== undefined) {
    for (const [index, note] of splitNotes(kept).entries()) take(CHECKPOINTS_FILE, index, note);
  }
  if (newest !== undefined) take(CHECKPOINT_FILE, 0, newest);
  return { checkpoints, bad, isNewestGone: newest === undefined && checkpoints.length > 0 };
}
