/**
 * Composition: from options to a system with its workers. On failure everything opened so far is closed again.
 */
import { randomBytes } from "node:crypto";
import type { OpenFile } from "./audit/durable.ts";
import { type EmulatedMachine, openBackend } from "./backend.ts";
import { toHex } from "./bytes.ts";
import { type Clock, systemClock } from "./clock.ts";
import type { Backend, CudaDriver } from "./cuda/driver.ts";
import type { EmulatedFaults } from "./cuda/emulated/faults.ts";
import type { EmulatedDeviceSpec } from "./cuda/emulated/options.ts";
import {
  type BackendChoice,
  type BackendDecision,
  type BackendWish,
  chooseBackend,
  type HostTraces,
  readHostTraces,
  requireRealDriver,
} from "./device/detect.ts";
import { type LocalDevice, openLocalDevice } from "./device/local.ts";
import type { LocalDeviceOptions } from "./device/local-parts.ts";
import { type ReleaseFailureReporter, UndoStack } from "./dispose.ts";
import { toVramError, VramError } from "./errors.ts";
import { openHashPool } from "./hash/pool.ts";
import { createJournal, type Journal, type JournalReader } from "./journal/journal.ts";
import { createLeases, type Leases } from "./lease/leases.ts";
import { LIMITS } from "./limits.ts";
import { checkVramOptions } from "./options.ts";
import { type AuditOptions, attachAuditLog, recordEnd, recordStart } from "./recording.ts";
import { POLICY_WITH_MPS, policyDigest, VRAM_ONLY_POLICY } from "./residency/policy.ts";
import { createRegistry } from "./residency/registry.ts";
import { createMemoryState, openStateDirectory, type StateStore } from "./residency/state.ts";
import { type OnMismatch, openWorker, type System, type Worker } from "./residency/worker.ts";
import { deriveKey } from "./seal/key.ts";
import { type FileSystem, nodeFileSystem } from "./source/file.ts";

/** Options of `openVram`. Sizes in bytes. */
export interface VramOptions {
  /** `auto` (default): a GPU if there is one; the emulated device only where there is no trace of NVIDIA. */
  readonly backend?: BackendChoice;
  /** Refuse anything but a GPU through the loader's own driver library. */
  readonly requireGpu?: boolean;
  /** Where keys and worker states are kept. Without it they live in memory and end with the process. */
  readonly stateDir?: string;
  /** The emulated devices; of no other backend. */
  readonly emulated?: {
    /** How many; default 1. */
    readonly devices?: number;
    /** Of each; default 2 GiB, rounded down to whole granules. */
    readonly byteLength?: number;
  };
  /** Also accept a GPU that is shared through MPS. */
  readonly allowMps?: boolean;
  /** What a mismatch stops: the worker of the device (default), or the shard alone. */
  readonly onMismatch?: OnMismatch;
  /** A source with more bytes is refused with `SOURCE_TOO_LARGE`; default 100 GB. */
  readonly maxModelBytes?: number;
  /** Never promised to anyone, on each device; default 64 MiB, or 1/32 of a small device. */
  readonly headroomBytes?: number;
  /** Files must lie under one of these; default `/`. */
  readonly modelRoots?: readonly string[];
  /** Threads that hash on the host; default one per core, 0 = the calling thread. */
  readonly hashThreads?: number;
  /** `LD_LIBRARY_PATH`: where a driver library may also be. */
  readonly libraryPath?: string;
  /** Another driver library than the loader's `libcuda.so.1`: the backend is then `cuda-substituted`. */
  readonly cudaLibrary?: string;
  /** Another NVML library than the loader's `libnvidia-ml.so.1`. */
  readonly nvmlLibrary?: string;
  /** How the audit log in `stateDir` is kept. Without a state directory there is none. */
  readonly audit?: AuditOptions;
  /** Readers of the journal from its first entry on. */
  readonly readers?: readonly JournalReader[];
}

/** What only tests supply. */
export interface TestOptions {
  /** The disk of the audit log. */
  readonly auditFiles?: OpenFile;
  /** Instead of the machine's clocks. */
  readonly clock?: Clock;
  /** The file system that models are read from; without it the real one. */
  readonly fs?: FileSystem;
  /** What the emulated driver is made to do wrong. */
  readonly faults?: EmulatedFaults;
  /** What the machine shows of NVIDIA, instead of looking. */
  readonly traces?: HostTraces;
  /** Overrides for each emulated device; `byteLength` and `uuid` are filled in. */
  readonly deviceSpec?: Partial<EmulatedDeviceSpec>;
  /** Slots of the staging ring; default: `limits.ts`. */
  readonly ringSlots?: number;
  /** Bytes of one slot of the staging ring. */
  readonly ringSlotBytes?: number;
  /** Bytes that one launch of the measuring kernel covers. */
  readonly measureWindowBytes?: number;
}

/** A system with its workers, wherever their devices are, and how to close them. */
export interface OpenCore {
  readonly system: System;
  readonly leases: Leases;
  /** One for each device; where a device was lost and opened again, the last. */
  readonly workers: readonly Worker[];
  readonly decision: BackendDecision;
  /** The audit log's public key; absent where there is no log. */
  readonly logKey?: string;
  close(): Promise<void>;
}

/** With its devices in this process. */
export interface OpenSystem extends OpenCore {
  readonly devices: readonly LocalDevice[];
  readonly driver: CudaDriver;
}

/** Failed releases are told to the journal. */
export function releaseReporter(journal: Journal): ReleaseFailureReporter {
  return (what, thrown) => journal.note({ type: "release_failed", what, message: toVramError(thrown).message });
}

/** What a system is put together from. */
export interface SystemParts {
  readonly clock: Clock;
  readonly journal: Journal;
  readonly state: StateStore;
  readonly instanceId: string;
  readonly backend: Backend;
  /** Leases that may be held at once. */
  readonly maxLeases?: number;
}

/** The system, and the book of leases that hears of it when something can no longer be relied on. */
export function createSystem(options: VramOptions, parts: SystemParts): { system: System; leases: Leases } {
  const { clock, journal, state, instanceId, backend } = parts;
  const leases = createLeases({ clock, journal }, parts.maxLeases);
  const policy = options.allowMps === true ? POLICY_WITH_MPS : VRAM_ONLY_POLICY;
  let sequence = 0;
  const system: System = {
    journal,
    clock,
    registry: createRegistry(),
    state,
    policy,
    policyDigest: policyDigest(policy),
    setKey: deriveKey(state.rootKey, "set", backend, ""),
    instanceId,
    nextSequence: () => {
      sequence += 1;
      return sequence;
    },
    onMismatch: options.onMismatch ?? "stop",
    maxModelBytes: options.maxModelBytes ?? LIMITS.maxModelBytes,
    modelRoots: options.modelRoots ?? ["/"],
    reportRelease: releaseReporter(journal),
    onUnreliable: ({ worker, shard, because }) => {
      void leases.revoke((one) => one.worker === worker && (shard === undefined || one === shard), because);
    },
  };
  return { system, leases };
}

/** What the options ask of a backend. */
export function wishOf({ backend, requireGpu, cudaLibrary: library }: VramOptions): BackendWish {
  return {
    ...(backend === undefined ? {} : { backend }),
    ...(requireGpu === undefined ? {} : { requireGpu }),
    ...(library === undefined ? {} : { library }),
  };
}

function machineOf(options: VramOptions, test: TestOptions, state: StateStore): EmulatedMachine {
  return {
    ...options.emulated,
    remembered: state.backend === "emulated" ? state.devices : [],
    ...(test.deviceSpec === undefined ? {} : { overrides: test.deviceSpec }),
    ...(test.faults === undefined ? {} : { faults: test.faults }),
  };
}

/** Opens a device. Of several GPUs the error names the one that failed, and how to go on without it. */
async function openDevice(backend: Backend, uuid: string, options: LocalDeviceOptions): Promise<LocalDevice> {
  try {
    return await openLocalDevice(options);
  } catch (thrown) {
    const error = toVramError(thrown);
    if (backend === "emulated") throw error;
    const leaveOut = "CUDA_VISIBLE_DEVICES can leave this GPU out";
    const fix = ["DEVICE_LOST", "DEVICE_STALLED"].includes(error.code)
      ? `look for messages of NVRM in \`dmesg\`, and at \`nvidia-smi\`; ${leaveOut}`
      : `${error.fix}; ${leaveOut}`;
    throw new VramError(error.code, `device ${options.ordinal} (${uuid}) cannot be opened: ${error.message}`, {
      fix,
      details: error.details,
      cause: error.cause ?? error,
    });
  }
}

/** Opens the pool, the driver, every device, and a worker for each. */
export async function openSystem(given: VramOptions, test: TestOptions = {}): Promise<OpenSystem> {
  const options = checkVramOptions(given);
  const clock = test.clock ?? systemClock;
  const journal = createJournal(clock);
  for (const reader of options.readers ?? []) journal.attach(reader);
  const traces = test.traces ?? readHostTraces(options.libraryPath);
  const decision = chooseBackend(wishOf(options), traces);
  const report = releaseReporter(journal);
  const undo = new UndoStack(report);
  const instanceId = toHex(randomBytes(16));
  try {
    const state = options.stateDir === undefined ? createMemoryState() : await openStateDirectory(options.stateDir);
    undo.defer("state directory", () => state.close());
    const { stateDir, audit } = options;
    const openFile = test.auditFiles === undefined ? {} : { openFile: test.auditFiles };
    const log = await attachAuditLog(journal, { stateDir, audit, clock, instanceId, ...openFile }, undo);
    const pool = openHashPool(options.hashThreads);
    undo.defer("hash pool", () => pool.close());
    const machine = machineOf(options, test, state);
    const { driver, monitor, kernelImage, uuids } = await openBackend(decision, machine, options, pool, undo);
    if (decision.backend === "cuda" && test.traces === undefined) requireRealDriver(options.libraryPath);
    await state.bind(decision.backend, uuids);
    const parts = { clock, journal, state, instanceId, backend: decision.backend };
    const { system, leases } = createSystem(options, parts);
    const devices: LocalDevice[] = [];
    const workers: Worker[] = [];
    for (const ordinal of uuids.keys()) {
      const device = await openDevice(decision.backend, uuids[ordinal] ?? "", {
        driver,
        ordinal,
        clock,
        pool,
        report,
        monitor,
        kernelImage,
        fs: test.fs ?? nodeFileSystem,
        wddm: traces.wddm && decision.backend !== "emulated",
        ...(test.ringSlots === undefined ? {} : { ringSlots: test.ringSlots }),
        ...(test.ringSlotBytes === undefined ? {} : { ringSlotBytes: test.ringSlotBytes }),
        ...(test.measureWindowBytes === undefined ? {} : { measureWindowBytes: test.measureWindowBytes }),
      });
      undo.defer("device", () => device.close());
      devices.push(device);
      workers.push(await openWorker(system, device, options.headroomBytes));
    }
    await recordStart(system, workers, kernelImage);
    const close = async (): Promise<void> => {
      await recordEnd(journal);
      await undo.unwind();
    };
    const logKey = log === undefined ? {} : { logKey: log.vkey };
    return { system, leases, workers, devices, driver, decision, close, ...logKey };
  } catch (error) {
    await recordEnd(journal, error);
    await undo.unwind();
    throw error;
  }
}
