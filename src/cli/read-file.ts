/** Small files that a command is given by name. Opened with the care of any file: a FIFO is refused, not waited for. */
import { VramError } from "../errors.ts";
import { nodeFileSystem, openFile } from "../source/file.ts";

/** All bytes of a file; `SOURCE_TOO_LARGE` if there are more than `limit`. */
export async function readSmallFile(path: string, limit: number): Promise<Uint8Array> {
  const file = await openFile(path, ["/"], nodeFileSystem);
  try {
    if (file.byteLength > limit) {
      throw new VramError("SOURCE_TOO_LARGE", `${path}: has ${file.byteLength} bytes, and ${limit} is the most`, {
        fix: "name the file that is meant",
      });
    }
    const bytes = new Uint8Array(file.byteLength);
    await file.readAt(bytes, 0);
    return bytes;
  } finally {
    await file.close();
  }
}
