/** State directories with an audit log in them, for the commands that read one. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { EpochKey } from "../../src/audit/epochs.ts";
import { type Files, filesOf, type TestLog, writeFiles } from "./audit-log.ts";
import { temporaryFolder } from "./vram.ts";

/** The text of an epoch key file, or of an escrow file. */
export const epochFile = ({ epoch, key }: EpochKey): string => `${epoch} ${Buffer.from(key).toString("hex")}\n`;

/** Writes bytes into a fresh folder, mode 0600. Returns the path. */
export async function privateFile(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
}

/** A fresh state directory with these files as its log, and with the key of an epoch if there is one. */
export async function stateWith(log: TestLog | Files, key?: EpochKey): Promise<string> {
  const stateDir = join(await temporaryFolder(), "state");
  mkdirSync(stateDir, { mode: 0o700 });
  writeFiles(join(stateDir, "audit"), log instanceof Map ? (log as Files) : filesOf(log as TestLog));
  if (key !== undefined) writeFileSync(join(stateDir, "audit-epoch.key"), epochFile(key), { mode: 0o600 });
  return stateDir;
}
