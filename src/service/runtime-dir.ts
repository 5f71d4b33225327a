/** The folder of the locks of GPUs, and by default of the socket: ours, and nobody else may put anything there. */
import { promises } from "node:fs";
import { systemReason, VramError } from "../errors.ts";
import { makeFolder } from "../files.ts";

/** Makes the folder if it does not exist. `STATE_INVALID` if it is another's, or others may write to it. */
export async function requireRuntimeDirectory(path: string): Promise<void> {
  const refuse = (why: string, cause?: unknown): VramError =>
    new VramError("STATE_INVALID", `${path}: ${why}`, {
      fix: "set XDG_RUNTIME_DIR to a folder that belongs to this user alone",
      ...(cause === undefined ? {} : { cause }),
    });
  try {
    await makeFolder(path, 0o700);
    const stats = await promises.lstat(path);
    if (!stats.isDirectory()) throw refuse("not a directory");
    if (stats.uid !== process.getuid?.()) throw refuse("belongs to another user");
    if ((stats.mode & 0o022) !== 0) throw refuse("others may write to it");
  } catch (thrown) {
    if (thrown instanceof VramError) throw thrown;
    throw refuse(`cannot be made or looked at: ${systemReason(thrown) ?? String(thrown)}`, thrown);
  }
}
