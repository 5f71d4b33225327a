/**
 * The state directory: what must survive a restart. `root.key` (0600, 64 hex digits), and `state.json`: backend, device
 * UUIDs, and which workers are stopped. Writes are atomic: a temporary file, fsync, rename, fsync of the directory.
 * Without a directory the same state lives in memory and ends with the process.
 */
import type { KeyObject } from "node:crypto";
import { constants, promises } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../cuda/driver.ts";
import { VramError } from "../errors.ts";
import { createRootKey, readRootKey, writeRootKey } from "../seal/key.ts";

export interface StoppedWorker {
  readonly reason: string;
  readonly stoppedAtMs: number;
}

export interface StateStore {
  readonly rootKey: KeyObject;
  /** Backend this state belongs to; undefined before the first start. */
  readonly backend: Backend | undefined;
  /** UUIDs of the devices it belongs to; empty before the first start. */
  readonly devices: readonly string[];
  /** Remembers the devices of the first start; later starts must have the same. `BACKEND_CHANGED` otherwise. */
  bind(backend: Backend, deviceUuids: readonly string[]): Promise<void>;
  stopped(deviceUuid: string): StoppedWorker | undefined;
  /** Records that a worker is stopped, or (undefined) that it runs again. Durable when it returns. */
  setStopped(deviceUuid: string, stopped: StoppedWorker | undefined): Promise<void>;
}

interface StateFile {
  readonly version: 1;
  readonly backend: Backend;
  readonly devices: readonly string[];
  readonly stopped: Readonly<Record<string, StoppedWorker>>;
}

const invalid = (what: string, cause?: unknown): VramError => new VramError("STATE_INVALID", what, { cause });

/** Writes a file so that a crash leaves the old content or the new, never a part. */
async function writeAtomically(directory: string, name: string, content: string): Promise<void> {
  const temporary = join(directory, `.${name}.tmp`);
  const file = await promises.open(temporary, "w", 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await promises.rename(temporary, join(directory, name));
  const folder = await promises.open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Opens or makes the directory; it must be ours and closed to others. */
async function requirePrivateDirectory(directory: string): Promise<void> {
  await promises.mkdir(directory, { recursive: true, mode: 0o700 }).catch((cause: unknown) => {
    throw invalid(`${directory}: the state directory cannot be made`, cause);
  });
  const stats = await promises.stat(directory);
  if (!stats.isDirectory()) throw invalid(`${directory}: not a directory`);
  if (stats.uid !== process.getuid?.()) throw invalid(`${directory}: belongs to another user`);
  if ((stats.mode & 0o077) !== 0) throw invalid(`${directory}: others may enter it; run chmod 700 on it`);
}

async function loadRootKey(directory: string): Promise<KeyObject> {
  const path = join(directory, "root.key");
  const fresh = writeRootKey();
  try {
    const file = await promises.open(path, "wx", 0o600);
    try {
      await file.writeFile(fresh);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) {
      throw invalid(`${path}: cannot be made`, error);
    }
  } finally {
    fresh.fill(0);
  }
  const file = await promises.open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch((cause: unknown) => {
    throw invalid(`${path}: cannot be read`, cause);
  });
  try {
    const { mode, uid } = await file.stat();
    if ((mode & 0o077) !== 0 || uid !== process.getuid?.()) {
      throw invalid(`${path}: must be readable by its owner, this user, only; run chmod 600 on it`);
    }
    return readRootKey(await file.readFile());
  } finally {
    await file.close();
  }
}

function parseStateFile(text: string, path: string): StateFile {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw invalid(`${path}: not JSON`, cause);
  }
  const file = parsed as Partial<StateFile> | null;
  const wellFormed =
    file?.version === 1 &&
    typeof file.backend === "string" &&
    Array.isArray(file.devices) &&
    file.devices.every((uuid) => typeof uuid === "string") &&
    typeof file.stopped === "object" &&
    Object.values(file.stopped).every((one) => typeof one.reason === "string" && typeof one.stoppedAtMs === "number");
  if (!wellFormed) throw invalid(`${path}: not a state file of this version`);
  return file as StateFile;
}

async function readStateFile(directory: string): Promise<StateFile | undefined> {
  const path = join(directory, "state.json");
  const text = await promises.readFile(path, "utf8").catch((cause: unknown) => {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw invalid(`${path}: cannot be read`, cause);
  });
  return text === undefined ? undefined : parseStateFile(text, path);
}

function requireSameBinding(file: StateFile, backend: Backend, deviceUuids: readonly string[]): void {
  if (file.backend !== backend) {
    throw new VramError("BACKEND_CHANGED", `this state belongs to the backend ${file.backend}, not to ${backend}`);
  }
  if (file.devices.join() !== deviceUuids.join()) {
    throw new VramError("BACKEND_CHANGED", "this state belongs to other devices", {
      details: { expected: file.devices, actual: deviceUuids },
    });
  }
}

function store(
  rootKey: KeyObject,
  initial: StateFile | undefined,
  save: (file: StateFile) => Promise<void>,
): StateStore {
  let file = initial;
  return {
    rootKey,
    backend: initial?.backend,
    devices: initial?.devices ?? [],
    bind: async (backend, deviceUuids) => {
      if (file !== undefined) {
        requireSameBinding(file, backend, deviceUuids);
        return;
      }
      file = { version: 1, backend, devices: deviceUuids, stopped: {} };
      await save(file);
    },
    stopped: (deviceUuid) => new Map(Object.entries(file?.stopped ?? {})).get(deviceUuid),
    setStopped: async (deviceUuid, stopped) => {
      if (file === undefined) throw new VramError("INTERNAL", "the state is bound before a worker stops");
      const others = Object.entries(file.stopped).filter(([uuid]) => uuid !== deviceUuid);
      file = {
        ...file,
        stopped: Object.fromEntries(stopped === undefined ? others : [...others, [deviceUuid, stopped]]),
      };
      await save(file);
    },
  };
}

/** State in memory: a fresh root key, gone with the process. */
export function createMemoryState(): StateStore {
  return store(createRootKey(), undefined, async () => undefined);
}

/** State in a directory, which is made if it does not exist. */
export async function openStateDirectory(directory: string): Promise<StateStore> {
  await requirePrivateDirectory(directory);
  const rootKey = await loadRootKey(directory);
  const file = await readStateFile(directory);
  return store(rootKey, file, (next) => writeAtomically(directory, "state.json", `${JSON.stringify(next, null, 2)}\n`));
}
