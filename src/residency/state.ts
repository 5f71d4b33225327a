/**
 * The state directory: what must survive a restart. One process has it at a time (`lock`). `root.key` (0600, 64 hex digits), and `state.json`: backend, device
 * UUIDs, and which workers are stopped. Writes are atomic: a temporary file, fsync, rename, fsync of the directory.
 * Without a directory the same state lives in memory and ends with the process.
 */
import type { KeyObject } from "node:crypto";
import { existsSync, promises } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import type { Backend } from "../cuda/driver.ts";
import { Mutex } from "../dispose.ts";
import { systemReason, VramError } from "../errors.ts";
import { isSystemError, removeTemporary, replaceFile } from "../files.ts";
import { createRootKey } from "../seal/key.ts";
import { takeLock } from "./lock.ts";
import { loadRootKey } from "./root-key.ts";

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
  /** Lets another process have the directory. */
  close(): Promise<void>;
}

/** The UUID of a GPU, of a MIG slice of one, or of an emulated device. Fit for the name of a file. */
export const deviceUuid = z.string().regex(/^(?:GPU|MIG|EMU)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);

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

/** `what` names the file; what the system said is added. */
function invalid(what: string, cause?: unknown): VramError {
  const reason = systemReason(cause);
  return new VramError("STATE_INVALID", reason === undefined ? what : `${what}: ${reason}`, { cause });
}

/** Passes on what is an error of ours or none of the system's; says of a refusal of the system what it is about. */
function refusalOf(what: string, thrown: unknown): unknown {
  return systemReason(thrown) === undefined ? thrown : invalid(what, thrown);
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
export async function requirePrivateDirectory(directory: string): Promise<void> {
  await makeDirectory(resolve(directory)).catch((cause: unknown) => {
    throw invalid(`${directory}: the state directory cannot be made`, cause);
  });
  const stats = await promises.stat(directory).catch((cause: unknown) => {
    throw invalid(`${directory}: cannot be looked at`, cause);
  });
  if (!stats.isDirectory()) throw invalid(`${directory}: not a directory`);
  if (stats.uid !== process.getuid?.()) throw invalid(`${directory}: belongs to another user`);
  if ((stats.mode & 0o077) !== 0) throw invalid(`${directory}: others may enter it; run chmod 700 on it`);
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
    if (isSystemError(cause, "ENOENT")) return undefined;
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

/** How a state is kept. */
interface Keeping {
  readonly save: (file: StateFile) => Promise<void>;
  readonly close: () => Promise<void>;
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
        const current = file;
        if (current === undefined) throw new VramError("INTERNAL", "the state is bound before a worker stops");
        const others = Object.entries(current.stopped).filter(([uuid]) => uuid !== deviceUuid);
        const next = stopped === undefined ? others : [...others, [deviceUuid, stopped] as const];
        file = { ...current, stopped: Object.fromEntries(next) };
        await keeping.save(file);
      }),
    close: keeping.close,
  };
}

/** State in memory: a fresh root key, gone with the process. */
export function createMemoryState(): StateStore {
  return store(createRootKey(), undefined, { save: async () => undefined, close: async () => undefined });
}

/** Takes the directory for this process: two writers would break the audit log and undo each other's stops. */
async function lockDirectory(directory: string): Promise<promises.FileHandle> {
  const path = join(directory, "lock");
  const lock = await takeLock(path).catch((thrown: unknown) => {
    throw refusalOf(`${path}: cannot be made or written`, thrown);
  });
  if (lock.taken) return lock.file;
  throw new VramError("STATE_BUSY", `${directory}: in use by process ${lock.holder}`, {
    details: { pid: lock.holder },
  });
}

/**
 * State in a directory, which is made if it does not exist. No other process has it until it is closed. The root key may
 * be a credential in the folder `credentials` instead of a file of the state.
 */
export async function openStateDirectory(directory: string, credentials?: string): Promise<StateStore> {
  await requirePrivateDirectory(directory);
  const lock = await lockDirectory(directory);
  try {
    await removeTemporary(directory);
    const rootKey = await loadRootKey(directory, credentials);
    return keptIn(directory, rootKey, await readStateFile(directory), lock);
  } catch (thrown) {
    await lock.close();
    throw refusalOf(`${directory}: the state cannot be read or made`, thrown);
  }
}

function keptIn(
  directory: string,
  rootKey: KeyObject,
  file: StateFile | undefined,
  lock: promises.FileHandle,
): StateStore {
  return store(rootKey, file, {
    close: () => lock.close(),
    save: async (next) => {
      const path = join(directory, "state.json");
      await replaceFile(path, `${JSON.stringify(next, null, 2)}\n`).catch((cause: unknown) => {
        throw invalid(`${path}: cannot be written`, cause);
      });
    },
  });
}
