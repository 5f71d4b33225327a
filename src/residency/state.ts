/**
 * The state directory: what must survive a restart. `root.key` (0600, 64 hex digits), and `state.json`: backend, device
 * UUIDs, and which workers are stopped. Writes are atomic: a temporary file, fsync, rename, fsync of the directory.
 * Without a directory the same state lives in memory and ends with the process.
 */
import { type KeyObject, randomUUID } from "node:crypto";
import { constants, existsSync, promises } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import type { Backend } from "../cuda/driver.ts";
import { Mutex } from "../dispose.ts";
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

const deviceUuid = z.string().regex(/^(?:GPU|MIG|EMU)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);

const stateFile = z
  .strictObject({
    version: z.literal(1),
    backend: z.enum(["cuda", "cuda-substituted", "emulated"]),
    devices: z.array(deviceUuid).min(1),
    stopped: z.record(z.string(), z.strictObject({ reason: z.string(), stoppedAtMs: z.number() })),
  })
  .refine(({ devices }) => new Set(devices).size === devices.length)
  .refine(({ backend, devices }) => devices.every((uuid) => uuid.startsWith("EMU-") === (backend === "emulated")));
type StateFile = z.infer<typeof stateFile>;

const invalid = (what: string, cause?: unknown): VramError => new VramError("STATE_INVALID", what, { cause });

/** Writes a new file; its name must be new, so that no other process writes to the same one. */
async function writeSynced(path: string, content: string | Uint8Array): Promise<void> {
  const file = await promises.open(path, "wx", 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const folder = await promises.open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Writes a file so that a crash leaves the old content or the new, never a part. */
async function writeAtomically(directory: string, name: string, content: string): Promise<void> {
  const temporary = join(directory, `.${name}.${randomUUID()}.tmp`);
  try {
    await writeSynced(temporary, content);
    await promises.rename(temporary, join(directory, name));
    await syncDirectory(directory);
  } catch (cause) {
    await promises.rm(temporary, { force: true });
    throw invalid(`${join(directory, name)}: cannot be written`, cause);
  }
}

/** Makes a directory and its parents. Node's own `recursive` never ends where a file system refuses with ENOENT (/proc). */
async function makeDirectory(directory: string): Promise<void> {
  try {
    await promises.mkdir(directory, { mode: 0o700 });
  } catch (error) {
    if (existsSync(directory)) return;
    if (existsSync(dirname(directory))) throw error;
    await makeDirectory(dirname(directory));
    await promises.mkdir(directory, { mode: 0o700 });
  }
}

/** Opens or makes the directory; it must be ours and closed to others. */
async function requirePrivateDirectory(directory: string): Promise<void> {
  await makeDirectory(resolve(directory)).catch((cause: unknown) => {
    throw invalid(`${directory}: the state directory cannot be made`, cause);
  });
  const stats = await promises.stat(directory);
  if (!stats.isDirectory()) throw invalid(`${directory}: not a directory`);
  if (stats.uid !== process.getuid?.()) throw invalid(`${directory}: belongs to another user`);
  if ((stats.mode & 0o077) !== 0) throw invalid(`${directory}: others may enter it; run chmod 700 on it`);
}

/**
 * Makes `root.key` if there is none: written and synced under another name, then linked into place, which fails if
 * somebody else was first. At no moment is there a key file with less than a whole key in it.
 */
async function ensureRootKey(directory: string, path: string): Promise<void> {
  const temporary = join(directory, `.root.key.${randomUUID()}.tmp`);
  const fresh = writeRootKey();
  try {
    await writeSynced(temporary, fresh);
    await promises.link(temporary, path);
    await syncDirectory(directory);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) {
      throw invalid(`${path}: cannot be made`, error);
    }
  } finally {
    fresh.fill(0);
    await promises.rm(temporary, { force: true });
  }
}

async function loadRootKey(directory: string): Promise<KeyObject> {
  const path = join(directory, "root.key");
  if (!existsSync(path)) {
    if (existsSync(join(directory, "state.json")))
      throw invalid(`${path}: it is gone, and the state beside it needs it`);
    await ensureRootKey(directory, path);
  }
  const file = await promises.open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch((cause: unknown) => {
    throw invalid(`${path}: cannot be read`, cause);
  });
  try {
    const { mode, uid } = await file.stat();
    if ((mode & 0o077) !== 0 || uid !== process.getuid?.()) {
      throw invalid(`${path}: must be readable by its owner, this user, only; run chmod 600 on it`);
    }
    const text = await file.readFile().catch((cause: unknown) => {
      throw invalid(`${path}: cannot be read`, cause);
    });
    return readRootKey(text);
  } finally {
    await file.close();
  }
}

function parseStateFile(text: string, path: string): StateFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw invalid(`${path}: not JSON`, cause);
  }
  const parsed = stateFile.safeParse(json);
  if (!parsed.success) throw invalid(`${path}: not a state file of this version`, parsed.error);
  return parsed.data;
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

/** How a state is kept: read again before each change, so that two processes do not undo each other's stop. */
interface Keeping {
  readonly read: () => Promise<StateFile | undefined>;
  readonly save: (file: StateFile) => Promise<void>;
}

function store(rootKey: KeyObject, initial: StateFile | undefined, keeping: Keeping): StateStore {
  let file = initial;
  const changing = new Mutex();
  return {
    rootKey,
    backend: initial?.backend,
    devices: initial?.devices ?? [],
    bind: async (backend, deviceUuids) => {
      if (file !== undefined) {
        requireSameBinding(file, backend, deviceUuids);
        return;
      }
      file = { version: 1, backend, devices: [...deviceUuids], stopped: {} };
      await keeping.save(file);
    },
    stopped: (deviceUuid) => new Map(Object.entries(file?.stopped ?? {})).get(deviceUuid),
    // One at a time: of two devices that stop at once each keeps the other's stop.
    setStopped: (deviceUuid, stopped) =>
      changing.run(async () => {
        const current = (await keeping.read()) ?? file;
        if (current === undefined) throw new VramError("INTERNAL", "the state is bound before a worker stops");
        const others = Object.entries(current.stopped).filter(([uuid]) => uuid !== deviceUuid);
        const next = stopped === undefined ? others : [...others, [deviceUuid, stopped] as const];
        file = { ...current, stopped: Object.fromEntries(next) };
        await keeping.save(file);
      }),
  };
}

/** State in memory: a fresh root key, gone with the process. */
export function createMemoryState(): StateStore {
  return store(createRootKey(), undefined, { read: async () => undefined, save: async () => undefined });
}

/** State in a directory, which is made if it does not exist. */
export async function openStateDirectory(directory: string): Promise<StateStore> {
  await requirePrivateDirectory(directory);
  const rootKey = await loadRootKey(directory);
  return store(rootKey, await readStateFile(directory), {
    read: () => readStateFile(directory),
    save: (next) => writeAtomically(directory, "state.json", `${JSON.stringify(next, null, 2)}\n`),
  });
}
