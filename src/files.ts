/**
 * Files that survive a crash, and files nobody else may read. A write is not there until its file and then its folder
 * are synced; a name is only ever bound to a whole content. Errors are those of the system: callers say what they mean.
 */
import { randomUUID } from "node:crypto";
import { constants, promises } from "node:fs";
import { dirname, join } from "node:path";
import { systemName, systemReason, VramError } from "./errors.ts";

/** Whether `error` is the system's error of this name, `ENOENT` and so on. */
export function isSystemError(error: unknown, code: string): boolean {
  return systemName(error) === code;
}

async function fill(file: promises.FileHandle, content: string | Uint8Array): Promise<void> {
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Writes a new file and waits until it is on disk; its name must be new, and is not synced yet. */
export async function writeSynced(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  await fill(await promises.open(path, "wx", mode), content);
}

/** Writes new files that others may read, too: all of them, each as a whole, or none. */
export async function writeNew(files: readonly (readonly [path: string, content: string])[]): Promise<void> {
  const made: string[] = [];
  try {
    for (const [path, content] of files) {
      const file = await promises.open(path, "wx");
      made.push(path);
      await fill(file, content);
    }
  } catch (error) {
    for (const path of made) await promises.rm(path, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Finds out whether these files could be written: each is made, empty, and removed again. */
export async function tryNew(paths: readonly string[]): Promise<void> {
  await writeNew(paths.map((path) => [path, ""]));
  for (const path of paths) await promises.rm(path);
}

/** Makes one folder; false if it was there. */
async function makeOne(path: string, mode: number): Promise<boolean> {
  try {
    await promises.mkdir(path, { mode });
    return true;
  } catch (error) {
    if (isSystemError(error, "EEXIST") && (await promises.stat(path)).isDirectory()) return false;
    throw error;
  }
}

/**
 * Makes a folder, and those above it that are missing; returns the topmost that was made. Node's `recursive` never ends
 * where a folder is there and answers ENOENT to whoever makes one in it: /proc does.
 */
export async function makeFolder(path: string, mode = 0o777): Promise<string | undefined> {
  try {
    return (await makeOne(path, mode)) ? path : undefined;
  } catch (error) {
    const above = dirname(path);
    if (!isSystemError(error, "ENOENT") || above === path) throw error;
    const made = await makeFolder(above, mode);
    await makeOne(path, mode);
    return made ?? path;
  }
}

/** Waits until the names in a folder are on disk. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await promises.open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

const temporaryName = (path: string): string => `${path}.${randomUUID()}.tmp`;

/** Removes a file that may hold a key: overwritten, unless another name has the same content already. */
export async function discard(path: string): Promise<void> {
  const file = await promises.open(path, constants.O_WRONLY | constants.O_NOFOLLOW).catch(() => undefined);
  try {
    const stats = await file?.stat();
    if (file !== undefined && stats?.isFile() === true && stats.nlink === 1) {
      await file.write(new Uint8Array(stats.size), 0, stats.size, 0);
      await file.datasync();
    }
  } catch {
    // What cannot be overwritten is removed all the same.
  } finally {
    await file?.close();
  }
  await promises.rm(path, { force: true });
}

/** Replaces a file as a whole: after a crash there is the old content or the new. On disk when it returns. */
export async function replaceFile(path: string, content: string | Uint8Array, mode = 0o600): Promise<void> {
  const temporary = temporaryName(path);
  try {
    await writeSynced(temporary, content, mode);
    await promises.rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await discard(temporary).catch(() => undefined);
    throw error;
  }
}

/**
 * Makes a file with this content unless the name is taken: at no moment is there a file with less than all of it. On
 * disk when it returns.
 */
export async function createFile(path: string, content: string | Uint8Array): Promise<"created" | "exists"> {
  const temporary = temporaryName(path);
  try {
    await writeSynced(temporary, content);
    await promises.link(temporary, path);
    await syncFolder(dirname(path));
    return "created";
  } catch (error) {
    if (isSystemError(error, "EEXIST")) return "exists";
    throw error;
  } finally {
    await promises.rm(temporary, { force: true });
  }
}

/**
 * The bytes of a file that only this user may read, at most `limit` of them; undefined if there is none.
 * `STATE_INVALID` if others may read it, or it is no file of its own.
 */
export async function readPrivate(path: string, limit: number): Promise<Buffer | undefined> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const invalid = (what: string, cause?: unknown): VramError => {
    const reason = systemReason(cause);
    const message = reason === undefined ? `${path}: ${what}` : `${path}: ${what}: ${reason}`;
    return new VramError("STATE_INVALID", message, { cause });
  };
  const file = await promises.open(path, flags).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return undefined;
    throw invalid("cannot be read", cause);
  });
  if (file === undefined) return undefined;
  try {
    const stats = await file.stat();
    if (!stats.isFile() || stats.size > limit) throw invalid("cannot be read: not a file of this kind");
    if (stats.uid !== process.getuid?.()) throw invalid("belongs to another user, and must be this user's");
    if ((stats.mode & 0o077) !== 0) {
      throw invalid("must be readable by its owner, this user, only; run chmod 600 on it");
    }
    // Of exactly the size: a buffer that grows would leave copies behind.
    const bytes = Buffer.alloc(stats.size);
    const { bytesRead } = await file.read(bytes, 0, stats.size, 0);
    return bytes.subarray(0, bytesRead);
  } catch (error) {
    if (error instanceof VramError) throw error;
    throw invalid("cannot be read", error);
  } finally {
    await file.close();
  }
}

/** Removes what was written under temporary names by a process that died; it is overwritten before. */
export async function removeTemporary(folder: string): Promise<void> {
  for (const name of await promises.readdir(folder)) {
    if (/\.[0-9a-f-]{36}\.tmp$/.test(name)) await discard(join(folder, name));
  }
}
