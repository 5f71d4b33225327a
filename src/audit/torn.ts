/**
 * A last line that a crash cut off: it is set aside, put on record by `audit_recovered`, and kept. In STATE/audit:
 *
 *     NNNNNN.torn.new    what was cut off the segment, not on record yet
 *     NNNNNN.torn        the same, on record; that of a second crash in one segment is `NNNNNN.torn.2`, and so on
 */
import { promises } from "node:fs";
import { join } from "node:path";
import { replaceFile, syncFolder } from "../files.ts";
import { LIMITS } from "../limits.ts";
import { readWhole, segmentFile } from "./segments.ts";

/** A last line that was cut off by a crash, and now lies in a file of its own. */
export interface TornLine {
  readonly segment: number;
  readonly byteLength: number;
  /** `NNNNNN.torn.new`, to be called `NNNNNN.torn` once it is on record. */
  readonly file: string;
}

const TORN_NEW = /^([0-9]{6})\.torn\.new$/;

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

/** Copies an unterminated last line. After a crash before it is cut off it is copied once more: nothing is lost. */
export async function setAside(folder: string, segment: number, tail: Uint8Array): Promise<void> {
  if (tail.byteLength === 0) return;
  const path = join(folder, `${segmentFile(segment, "jsonl").slice(0, 6)}.torn.new`);
  const before = (await readWhole(path, LIMITS.auditSegmentBytes)) ?? new Uint8Array(0);
  await replaceFile(path, Buffer.concat([before, before.byteLength > 0 ? Buffer.from("\n") : before, tail]));
}

/** Torn lines that were put aside and are not on record yet. */
export async function findTorn(folder: string): Promise<TornLine[]> {
  const found: TornLine[] = [];
  for (const file of (await promises.readdir(folder)).sort()) {
    const [, digits] = TORN_NEW.exec(file) ?? [];
    if (digits === undefined) continue;
    const { size } = await promises.stat(join(folder, file));
    found.push({ segment: Number(digits), byteLength: size, file });
  }
  return found;
}

/** Remembers that `audit_recovered` is on disk. What an earlier crash tore off the same segment stays: `….torn.2`. */
export async function settleTorn(folder: string, { file }: TornLine): Promise<void> {
  const name = file.slice(0, -".new".length);
  const taken = new Set(await promises.readdir(folder));
  let free = name;
  for (let count = 2; taken.has(free); count += 1) free = `${name}.${count}`;
  await promises.rename(join(folder, file), join(folder, free));
  await syncFolder(folder);
}
