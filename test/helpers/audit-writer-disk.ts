/** A disk for the audit log's writer that fails, fills up or hangs when a test says so. Otherwise it is the real one. */
import { promises } from "node:fs";
import { basename } from "node:path";
import type { OpenFile } from "../../src/audit/durable.ts";

/** What is called before the real thing, with the file's name; what it throws is thrown, and nothing was done. */
export interface Disk {
  readonly openFile: OpenFile;
  onOpen: (name: string) => Promise<void>;
  /** May write to the disk itself. */
  onWrite: (name: string, bytes: Uint8Array, file: promises.FileHandle) => Promise<void>;
  onSync: (name: string) => Promise<void>;
  onTruncate: (name: string) => Promise<void>;
  /** Files that were opened and not closed. */
  readonly openFiles: () => number;
}

/** The system's error of this name. */
export const systemError = (code: string): Error => Object.assign(new Error(`${code}: the test's disk`), { code });

const nothing = (): Promise<void> => Promise.resolve();

export function createDisk(): Disk {
  let openFiles = 0;
  const wrap = (file: promises.FileHandle, name: string): promises.FileHandle => {
    const write = async (bytes: Uint8Array, offset: number, length: number, position: number): Promise<unknown> => {
      await disk.onWrite(name, bytes.subarray(offset, offset + length), file);
      return file.write(bytes, offset, length, position);
    };
    const datasync = async (): Promise<void> => {
      await disk.onSync(name);
      await file.datasync();
    };
    const truncate = async (length: number): Promise<void> => {
      await disk.onTruncate(name);
      await file.truncate(length);
    };
    const close = async (): Promise<void> => {
      await file.close();
      openFiles -= 1;
    };
    openFiles += 1;
    return { write, datasync, truncate, close } as unknown as promises.FileHandle;
  };
  const disk: Disk = {
    openFile: async (path, flags, mode) => {
      await disk.onOpen(basename(path));
      return wrap(await promises.open(path, flags, mode), basename(path));
    },
    onOpen: nothing,
    onWrite: nothing,
    onSync: nothing,
    onTruncate: nothing,
    openFiles: () => openFiles,
  };
  return disk;
}
