/**
 * Continuing a log, the other half of `recover.ts`: its keys and what it has signed. Everything is judged before anything
 * is changed: keys are made only for a log without a line, K moves on only when the last line carries the next one's mac.
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { VramError } from "../errors.ts";
import { replaceFile } from "../files.ts";
import { LIMITS } from "../limits.ts";
import { checkCheckpoint, type LogCheckpoint } from "./checkpoint.ts";
import { type EpochKey, macKeyOf, nextEpochKey, wipeEpochKey } from "./epochs.ts";
import { createSigningKey, ensureEpochKey, readSigningKey, replaceEpochKey } from "./key-files.ts";
import { checkLineMac } from "./line.ts";
import { encodeVkey, type NoteSigner, noteKeyOf } from "./note.ts";
import { type AuditLine, parseLine } from "./parse-line.ts";
import type { LogPosition } from "./position.ts";
import { readWhole } from "./segments.ts";
import { CHECKPOINT_FILE, CHECKPOINTS_FILE, readFoundKey, splitNotes, VKEY_FILE } from "./stored-checkpoints.ts";

/** Refuses a log that no crash can have left like this. */
export const damaged = (folder: string, what: string): VramError =>
  new VramError("STATE_INVALID", `${folder}: ${what}, which no crash explains`, {
    fix: "`vram audit verify` says what is wrong; to go on, move the state directory away (it is evidence) and begin anew",
  });

/** Cuts a file to `length` bytes, on disk when it returns. */
export async function cut(path: string, length: number): Promise<void> {
  const file = await promises.open(path, "r+");
  try {
    await file.truncate(length);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * K of the epoch of the last line, which must carry its mac: the one that is kept, or the one after it, if a crash came
 * between that line and the key's replacement.
 */
export async function findEpochKey(
  stateDir: string,
  folder: string,
  position: LogPosition,
  last: Uint8Array | undefined,
): Promise<EpochKey> {
  const kept = await ensureEpochKey(stateDir);
  if (kept.epoch === position.epoch) {
    requireOurs(folder, position, last, kept);
    return kept;
  }
  try {
    if (kept.epoch + 1 !== position.epoch) {
      const what = position.epoch === 0 ? "the log is gone" : `its last line is of epoch ${position.epoch}`;
      throw damaged(folder, `${what}, and the key beside it is of epoch ${kept.epoch}`);
    }
    const next = nextEpochKey(kept);
    requireOurs(folder, position, last, next);
    await replaceEpochKey(stateDir, next);
    return next;
  } finally {
    wipeEpochKey(kept);
  }
}

function requireOurs(folder: string, position: LogPosition, last: Uint8Array | undefined, key: EpochKey): void {
  if (last === undefined) return;
  const parsed = parseLine(last);
  const line: AuditLine | undefined = parsed.ok ? parsed.line : undefined;
  const isNext = line?.seq === position.tree.size - 1 && line.epoch === key.epoch;
  if (line === undefined || !isNext || checkLineMac(line, macKeyOf(key)) !== "valid") {
    throw damaged(folder, `its last line, ${position.tree.size - 1}, does not carry our mac`);
  }
}

/** The log's signer, made with the log. The public half lies beside the lines, for whoever reads them. */
export async function findSigner(stateDir: string, folder: string, isNew: boolean): Promise<NoteSigner> {
  const found = await readFoundKey(folder);
  const signer = found === undefined ? undefined : await readSigningKey(stateDir, found.name);
  if (found !== undefined && signer !== undefined) {
    if (encodeVkey(found) === encodeVkey(noteKeyOf(signer))) return signer;
    throw damaged(folder, `${VKEY_FILE} is not the public half of the key in the state directory`);
  }
  if (!isNew) throw damaged(folder, "the key that signs its log checkpoints is gone");
  const fresh = await createSigningKey(stateDir);
  await replaceFile(join(folder, VKEY_FILE), `${encodeVkey(noteKeyOf(fresh))}\n`);
  return fresh;
}

/** The newest log checkpoint; it must not cover more than there is. */
export async function findSigned(
  folder: string,
  signer: NoteSigner,
  entries: number,
): Promise<LogCheckpoint | undefined> {
  const note = await readWhole(join(folder, CHECKPOINT_FILE), LIMITS.noteBytes);
  if (note === undefined) return undefined;
  const checked = checkCheckpoint(note, noteKeyOf(signer));
  if (!checked.ok) throw damaged(folder, `its log checkpoint is not ours (${checked.fault})`);
  if (checked.checkpoint.size > entries) {
    throw damaged(folder, `its log checkpoint covers ${checked.checkpoint.size} entries, and there are ${entries}`);
  }
  return checked.checkpoint;
}

/** Where `checkpoints` ends, without a note that was cut off; and the size its last note names. */
export async function findKept(
  folder: string,
  signer: NoteSigner,
): Promise<{ readonly bytes: number; readonly size: number }> {
  const path = join(folder, CHECKPOINTS_FILE);
  const all = await readWhole(path, LIMITS.auditCheckpointsBytes);
  const notes = all === undefined ? [] : splitNotes(all);
  const last = notes.at(-1);
  const bytes = notes.reduce((sum, note) => sum + note.byteLength + 1, 0);
  const checked = last === undefined ? undefined : checkCheckpoint(last, noteKeyOf(signer));
  if (checked?.ok === false)
    throw damaged(folder, `the last of its ${CHECKPOINTS_FILE} is not ours (${checked.fault})`);
  if (all !== undefined && bytes < all.byteLength) await cut(path, bytes);
  return { bytes, size: checked?.checkpoint.size ?? 0 };
}
