/**
 * Where the root key comes from (design §5, "Keys"): the file `root.key` of the state directory, which is made at the
 * first start; or a credential of the service manager (systemd: `LoadCredential=`), which is read where it lies and never
 * copied, so that the state directory alone opens nothing.
 */
import type { KeyObject } from "node:crypto";
import { constants, existsSync, promises } from "node:fs";
import { join } from "node:path";
import { systemReason, VramError } from "../errors.ts";
import { createFile, isSystemError, readPrivate } from "../files.ts";
import { readRootKey, writeRootKey } from "../seal/key.ts";

/** What the credential has to be called. */
export const ROOT_KEY_CREDENTIAL = "vram-residency.root.key";

/** Of what could be a root key: 64 digits, and as much again to say that it is not one. */
const ROOT_KEY_BYTES_MAX = 128;
/** Nobody else may write to a credential, nor anybody who is neither its owner nor named read it. */
const OTHERS = 0o027;
const SUPERUSER = 0;

/** `what` names the file; what the system said is added. */
function invalid(what: string, cause?: unknown): VramError {
  const reason = systemReason(cause);
  return new VramError("STATE_INVALID", reason === undefined ? what : `${what}: ${reason}`, { cause });
}

/** At no moment is there a key file with less than a whole key in it; if somebody else was first, theirs is taken. */
async function ensureRootKey(path: string): Promise<void> {
  const fresh = writeRootKey();
  try {
    await createFile(path, fresh);
  } catch (error) {
    throw invalid(`${path}: cannot be made`, error);
  } finally {
    fresh.fill(0);
  }
}

/** The root key in the state directory; undefined if there is none. */
async function readOwn(path: string): Promise<KeyObject | undefined> {
  const text = await readPrivate(path, ROOT_KEY_BYTES_MAX);
  return text === undefined ? undefined : readRootKey(text);
}

/**
 * The root key among the credentials; undefined if there is none. systemd gives the files to root, and the service the
 * right to read them by an access list, whose mask shows as the rights of the group.
 */
async function readCredential(folder: string): Promise<KeyObject | undefined> {
  const path = join(folder, ROOT_KEY_CREDENTIAL);
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const file = await promises.open(path, flags).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return undefined;
    throw invalid(`${path}: cannot be read`, cause);
  });
  if (file === undefined) return undefined;
  try {
    const stats = await file.stat();
    const { uid, mode, size } = stats;
    if (!stats.isFile() || size > ROOT_KEY_BYTES_MAX) throw invalid(`${path}: not a root key`);
    if (uid !== SUPERUSER && uid !== process.getuid?.()) throw invalid(`${path}: belongs to another user`);
    if ((mode & OTHERS) !== 0) throw invalid(`${path}: others may read it, or write to it`);
    const text = Buffer.alloc(size);
    await file.read(text, 0, size, 0);
    return readRootKey(text);
  } finally {
    await file.close();
  }
}

/**
 * The root key of a state: that of the credentials in the folder `credentials` if there is one, else that of the state
 * directory, which is made unless there is a state already. `STATE_INVALID` if both are there and differ.
 */
export async function loadRootKey(directory: string, credentials?: string): Promise<KeyObject> {
  const path = join(directory, "root.key");
  const given = credentials === undefined ? undefined : await readCredential(credentials);
  if (given !== undefined) {
    const own = await readOwn(path);
    if (own === undefined || own.equals(given)) return given;
    throw new VramError("STATE_INVALID", `${path}: another key than the credential ${ROOT_KEY_CREDENTIAL}`, {
      fix: "keep the one that this state was made with: give it as the credential, or give none",
    });
  }
  if (!existsSync(path)) {
    if (existsSync(join(directory, "state.json"))) {
      throw invalid(`${path}: it is gone, and the state beside it needs it (or the credential it came from)`);
    }
    await ensureRootKey(path);
  }
  const own = await readOwn(path);
  if (own === undefined) throw invalid(`${path}: cannot be read`);
  return own;
}
