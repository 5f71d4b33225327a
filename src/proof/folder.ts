/**
 * The files of a proof bundle as they lie on the disk. A folder that somebody handed over is hostile until it is checked:
 * links and devices are named, not followed or opened, and everything is bounded.
 */
import { createHash } from "node:crypto";
import { constants, promises } from "node:fs";
import { join } from "node:path";
import { toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { openFailure } from "../source/file.ts";

/** What lies in a folder: regular files by path, `/` between folders, folders with nothing in them, and everything else. */
export interface Listing {
  readonly files: readonly string[];
  readonly empty: readonly string[];
  readonly others: readonly string[];
}

const tooMuch = (folder: string, what: string): VramError =>
  new VramError("SOURCE_TOO_LARGE", `${folder}: ${what} is more than a proof bundle has`, {
    fix: "name the folder of one run, the one with SHA256SUMS in it",
  });

/** Everything below a folder, sorted. Throws `SOURCE_NOT_FOUND` and its like, `SOURCE_TOO_LARGE` beyond the limits. */
export async function listFolder(folder: string): Promise<Listing> {
  const files: string[] = [];
  const empty: string[] = [];
  const others: string[] = [];
  const pending = [""];
  for (let below = pending.pop(); below !== undefined; below = pending.pop()) {
    const entries = await promises.readdir(join(folder, below), { withFileTypes: true }).catch((error: unknown) => {
      throw openFailure(folder, error);
    });
    if (entries.length === 0) empty.push(below);
    for (const entry of entries) {
      const path = below === "" ? entry.name : `${below}/${entry.name}`;
      if (entry.isDirectory()) pending.push(path);
      else (entry.isFile() ? files : others).push(path);
    }
    const count = files.length + empty.length + others.length + pending.length;
    if (count > LIMITS.proofFiles) throw tooMuch(folder, `over ${LIMITS.proofFiles} files`);
  }
  return { files: files.sort(), empty: empty.sort(), others: others.sort() };
}

/** Bytes of one file of the bundle, which is not followed if it became a link, nor waited for if it became a pipe. */
async function openInside(folder: string, path: string): Promise<promises.FileHandle> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  return promises.open(join(folder, path), O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error: unknown) => {
    throw openFailure(path, error);
  });
}

async function sizeOf(handle: promises.FileHandle, path: string, limit: number): Promise<number> {
  const { size } = await handle.stat();
  if (size > limit) throw tooMuch(path, `${size} bytes`);
  return size;
}

/** SHA-256 of a file, in hex. Throws the errors of opening it, and `SOURCE_TOO_LARGE`. */
export async function hashFile(folder: string, path: string): Promise<string> {
  const handle = await openInside(folder, path);
  try {
    await sizeOf(handle, path, LIMITS.proofFileBytes);
    const hash = createHash("sha256");
    for await (const piece of handle.createReadStream({ autoClose: false })) hash.update(piece as Buffer);
    return toHex(hash.digest());
  } finally {
    await handle.close();
  }
}

/** All bytes of a file of at most `limit`. Throws the errors of opening it, and `SOURCE_TOO_LARGE`. */
export async function readInside(folder: string, path: string, limit: number): Promise<Buffer> {
  const handle = await openInside(folder, path);
  try {
    await sizeOf(handle, path, limit);
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}
