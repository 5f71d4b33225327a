/**
 * Where state is read from: `--state-dir`, else `$XDG_STATE_HOME/vram-residency`, else `~/.local/state/vram-residency`
 * (XDG Base Directory Specification: a relative path counts as unset). And where the audit log in it is.
 */
import { promises } from "node:fs";
import { auditFolder } from "../audit/key-files.ts";
import { listSegments } from "../audit/segments.ts";
import { CHECKPOINT_FILE, CHECKPOINTS_FILE, VKEY_FILE } from "../audit/stored-checkpoints.ts";
import { defaultStateDir } from "../config/places.ts";
import { systemReason, VramError } from "../errors.ts";
import { isSystemError } from "../files.ts";

export interface StateOptions {
  readonly stateDir?: string;
}

export interface LogOptions extends StateOptions {
  /** An audit folder that was copied from elsewhere, instead of a state directory. */
  readonly log?: string;
}

/** The state directory that a command reads. It need not exist. */
export function stateDirOf({ stateDir }: StateOptions, env: Readonly<Record<string, string | undefined>>): string {
  if (stateDir === "") throw new VramError("INVALID_ARGUMENT", "--state-dir must name a directory");
  if (stateDir !== undefined) return stateDir;
  const usual = defaultStateDir(env);
  if (usual !== undefined) return usual;
  throw new VramError("INVALID_ARGUMENT", "neither XDG_STATE_HOME nor HOME says where the state is", {
    fix: "name it with --state-dir",
  });
}

/**
 * The names in a folder; none if there is no such folder. `STATE_INVALID` where this user may not look: there is no
 * telling what is there.
 */
export async function listNames(folder: string): Promise<readonly string[]> {
  return promises.readdir(folder).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return [];
    const message = `${folder}: cannot be read: ${systemReason(cause) ?? String(cause)}`;
    throw new VramError("STATE_INVALID", message, { cause });
  });
}

/** Whether there is anything of a log in `folder`: after its segments were removed, what remains tells of them. */
async function hasLog(folder: string): Promise<boolean> {
  const names = await listNames(folder);
  if (names.length === 0) return false;
  if ([CHECKPOINT_FILE, CHECKPOINTS_FILE, VKEY_FILE].some((name) => names.includes(name))) return true;
  const { segments, strays } = await listSegments(folder);
  return segments.length + strays.length > 0;
}

/** Whether the state has an audit log. */
export const stateHasLog = (stateDir: string): Promise<boolean> => hasLog(auditFolder(stateDir));

/** The folder of the log that a command reads, and its state directory if it belongs to one. There is a log in it. */
export async function logFolderOf(
  options: LogOptions,
  env: Readonly<Record<string, string | undefined>>,
): Promise<{ readonly folder: string; readonly stateDir: string | undefined }> {
  if (options.log !== undefined) {
    if (await hasLog(options.log)) return { folder: options.log, stateDir: undefined };
    throw new VramError("STATE_INVALID", `${options.log}: there is no audit log in it`, {
      fix: "name the folder that has 000001.jsonl or 000001.leaves in it; in a state directory it is called audit",
    });
  }
  const stateDir = stateDirOf(options, env);
  if (await stateHasLog(stateDir)) return { folder: auditFolder(stateDir), stateDir };
  throw new VramError("STATE_INVALID", `${stateDir}: there is no audit log in this state directory`, {
    fix: "name another one with --state-dir; `vram try --state-dir DIR FILE` writes a log",
  });
}
