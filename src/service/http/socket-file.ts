/**
 * The file of a Unix socket: in a folder that nobody else may change, and for this user alone, or a group that the
 * configuration names. What a dead service left is removed; a living one, and anything that is no socket, is left alone.
 */
import { promises } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { systemReason, VramError } from "../../errors.ts";
import { isSystemError, makeFolder } from "../../files.ts";

/** Whose the socket is: this user's, and the members of a group, by number. */
export interface SocketOwner {
  readonly uid: number;
  readonly groupId: number | undefined;
}

const ROOT = 0;
const WRITABLE_BY_OTHERS = 0o022;
/** A service on this machine accepts at once, or its queue is full, which is an answer too. */
const CONNECT_MS = 2000;

function invalid(path: string, what: string, cause?: unknown): VramError {
  const reason = systemReason(cause);
  const fix = "name another place with the key `socket`, or mend this one";
  return new VramError("STATE_INVALID", `${path}: ${what}${reason === undefined ? "" : `: ${reason}`}`, { cause, fix });
}

/** Makes the folder, or checks the one that is there. */
async function requireFolder(folder: string, { uid, groupId }: SocketOwner): Promise<void> {
  const made = await makeFolder(folder, 0o700).catch((cause: unknown) => {
    throw invalid(folder, "the socket's folder cannot be made", cause);
  });
  const stats = await promises.stat(folder);
  if (stats.uid !== uid && stats.uid !== ROOT) throw invalid(folder, "the socket's folder belongs to another user");
  if ((stats.mode & WRITABLE_BY_OTHERS) !== 0) {
    throw invalid(folder, "others may change the socket's folder; it must be writable for its owner only");
  }
  if (groupId !== undefined) await openFolder(folder, groupId, made !== undefined);
}

/** Lets a group reach what is in a folder; one that is there already shows it no more than that. */
async function openFolder(folder: string, groupId: number, isNew: boolean): Promise<void> {
  const { mode, gid } = await promises.stat(folder);
  const isReached = (mode & 0o001) !== 0 || (gid === groupId && (mode & 0o010) !== 0);
  if (!isReached) await shareWith(folder, groupId, isNew ? 0o750 : (mode & 0o777) | 0o010);
}

async function shareWith(path: string, groupId: number, mode: number): Promise<void> {
  try {
    await promises.chown(path, -1, groupId);
    await promises.chmod(path, mode);
  } catch (cause) {
    throw invalid(path, `cannot be given to the group ${groupId}; the service's user must be a member`, cause);
  }
}

/** Whether a service answers on a socket. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, timeout: CONNECT_MS });
    const settle = (end: () => void) => () => {
      socket.destroy();
      end();
    };
    socket.on(
      "connect",
      settle(() => resolve(true)),
    );
    socket.on(
      "timeout",
      settle(() => resolve(true)),
    );
    socket.on("error", (cause) => {
      if (isSystemError(cause, "ECONNREFUSED") || isSystemError(cause, "ENOENT")) resolve(false);
      else if (isSystemError(cause, "EAGAIN")) resolve(true);
      else reject(invalid(path, "it cannot be told whether a service answers there", cause));
    });
  });
}

/** `sun_path` (unix(7)) without its NUL. The kernel never sees what is behind it, and Node does not say so. */
const PATH_BYTES_MAX = 107;

/** Makes the place of a socket free. `STATE_BUSY` if a service answers there, `STATE_INVALID` if it is something else. */
export async function prepareSocket(path: string, owner: SocketOwner): Promise<void> {
  if (Buffer.byteLength(path) > PATH_BYTES_MAX) {
    throw invalid(path, `the path of a socket has at most ${PATH_BYTES_MAX} bytes`);
  }
  await requireFolder(dirname(path), owner);
  const stats = await promises.lstat(path).catch((cause: unknown) => {
    if (isSystemError(cause, "ENOENT")) return undefined;
    throw invalid(path, "cannot be looked at", cause);
  });
  if (stats === undefined) return;
  if (!stats.isSocket() || stats.uid !== owner.uid)
    throw invalid(path, "there is something else, and it is left alone");
  if (await isAnswered(path)) {
    throw new VramError("STATE_BUSY", `${path}: a service answers there already`, {
      fix: "stop it, or name another place with the key `socket`",
    });
  }
  await promises.rm(path, { force: true });
}

/** Says who may connect. Until then nobody is answered. */
export async function openSocket(path: string, { groupId }: SocketOwner): Promise<void> {
  if (groupId === undefined) await promises.chmod(path, 0o600);
  else await shareWith(path, groupId, 0o660);
}
