/**
 * The wanted set of a state directory, `STATE/wanted.json` (0600): what a service seals again after a restart. Changes
 * are serialised and replace the file as a whole; a row that cannot be written is not wanted.
 */
import type { KeyObject } from "node:crypto";
import { join } from "node:path";
import type { Backend } from "../cuda/driver.ts";
import { Mutex } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { readPrivate, replaceFile } from "../files.ts";
import { LIMITS } from "../limits.ts";
import { deriveKey } from "../seal/key.ts";
import { decodeWanted, encodeWanted, nameOf, requireRows, type WantedRow } from "./wanted-rows.ts";

export const WANTED_FILE = "wanted.json";

export interface WantedSet {
  /** What is wanted now, in the order in which it came. */
  rows(): readonly WantedRow[];
  /**
   * Wants a row, instead of the one of the same name if there is one. On disk when it returns. `INVALID_ARGUMENT` if it is
   * not well-formed, or does not go together with the others.
   */
  put(row: WantedRow): Promise<void>;
  /** Puts `after` in the place of `before`; false if that is not wanted any more. On disk when it returns. */
  replace(before: WantedRow, after: WantedRow): Promise<boolean>;
  /**
   * Wants it no more; the row that is gone, or undefined if there was none of this name. On disk when it returns; if it
   * rejects, it is not wanted here all the same, and the next change writes that down.
   */
  remove(name: string): Promise<WantedRow | undefined>;
}

/** Where a wanted set belongs. The directory is one process's at a time (`residency/state.ts`). */
export interface WantedPlace {
  readonly stateDir: string;
  readonly rootKey: KeyObject;
  readonly backend: Backend;
}

/** Opens the wanted set; empty where there is no file yet. `STATE_INVALID` if somebody else wrote it. */
export async function openWanted({ stateDir, rootKey, backend }: WantedPlace): Promise<WantedSet> {
  const path = join(stateDir, WANTED_FILE);
  const key = deriveKey(rootKey, "wanted", backend, "");
  const changing = new Mutex();
  const bytes = await readPrivate(path, LIMITS.wantedFileBytes);
  let rows = bytes === undefined ? [] : decodeWanted(key, bytes, backend, path);

  const save = async (next: readonly WantedRow[]): Promise<void> => {
    const document = encodeWanted(key, next);
    if (document.byteLength > LIMITS.wantedFileBytes) {
      throw new VramError("INVALID_ARGUMENT", `the wanted set cannot hold more than ${LIMITS.wantedFileBytes} bytes`);
    }
    await replaceFile(path, document).catch((cause: unknown) => {
      throw new VramError("STATE_INVALID", `${path}: cannot be written`, { cause });
    });
    rows = next;
  };

  /** The rows with this one among them; the others stay the objects that they are. */
  const withRow = (row: WantedRow): readonly WantedRow[] => {
    const others = rows.filter((one) => nameOf(one) !== nameOf(row));
    return [...others, ...requireRows([...others, row], backend).slice(-1)];
  };

  return {
    rows: () => rows,
    put: (row) => changing.run(() => save(withRow(row))),
    replace: (before, after) =>
      changing.run(async () => {
        if (!rows.includes(before)) return false;
        await save(withRow(after));
        return true;
      }),
    remove: (name) =>
      changing.run(async () => {
        const gone = rows.find((one) => nameOf(one) === name);
        if (gone === undefined) return undefined;
        rows = rows.filter((one) => one !== gone);
        await save(rows);
        return gone;
      }),
  };
}
