/**
 * What only one process at a time may have: a state directory, a GPU. The lock is the kernel's and ends with the process
 * that holds it; the pid in the file is for people.
 */
import { constants, promises } from "node:fs";

/** Ours until `file` is closed, or the process that has it; NaN if its file does not say. */
export type Lock =
  | { readonly taken: true; readonly file: promises.FileHandle }
  | { readonly taken: false; readonly holder: number };

/** Takes the lock on the file at `path`, which is made if it does not exist. Errors are the system's. */
export async function takeLock(path: string): Promise<Lock> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
  // Loaded here: what needs no lock needs no native code.
  const { lockFile } = await import("../ffi/descriptors.ts");
  const file = await promises.open(path, flags, 0o600);
  try {
    if (lockFile(file.fd)) {
      await file.truncate(0);
      await file.write(`${process.pid}\n`, 0);
      return { taken: true, file };
    }
    const holder = Number.parseInt(await file.readFile("utf8"), 10);
    await file.close();
    return { taken: false, holder };
  } catch (error) {
    await file.close();
    throw error;
  }
}
