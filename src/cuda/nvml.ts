/**
 * NVML, the library behind nvidia-smi: health of a GPU and who else uses it. Its calls can hang on a sick GPU, so this
 * runs in a process of its own (`nvml-process.ts`) that may be killed. Nothing here is a condition: a field is absent
 * when its function is missing, or answers anything but success, or answers what cannot be.
 * Source of layouts and values: nvml.h, as in `nvml-calls.ts`.
 */
import { VramError } from "../errors.ts";
import { openLibrary } from "../ffi/library.ts";
import { LIMITS } from "../limits.ts";
import type { EccCounts, GpuEvidence, GpuHealth, RecoveryAction } from "./monitor.ts";
import { countOf, NVML_PROTOTYPES, NVML_STATUS, type NvmlCalls, room, succeeds, textOf } from "./nvml-calls.ts";
import { readEvidence } from "./nvml-evidence.ts";
import { readProcesses } from "./nvml-processes.ts";

/** `NVML_INIT_FLAG_NO_GPUS`: without a GPU the library opens all the same. */
const NO_GPUS = 1;
/** `NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE`. */
const VERSION_BYTES = 80;
/** `nvmlMemory_v2_t`: its size, and its size | version 2 << 24 for its first field. */
const MEMORY_BYTES = 40;
const MEMORY_VERSION = 0x02000028;
/** `nvmlFieldValue_t`, `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION` (R570), `NVML_VALUE_TYPE_UNSIGNED_INT`. */
const FIELD_BYTES = 40;
const FIELD_RECOVERY_ACTION = 230;
const TYPE_UNSIGNED_INT = 1;
/** `nvmlEventData_t`, `nvmlEventTypeXidCriticalError`. */
const EVENT_BYTES = 32;
const EVENT_XID = 8n;
/** Xid 45 follows every process that ends with work in flight: cleaning up, no fault. */
const XID_CLEANUP = 45;
/** `nvmlDeviceGpuRecoveryAction_t`; drivers after R610 have more values, which become "unknown". */
const RECOVERY_ACTIONS: readonly RecoveryAction[] = [
  "none",
  "gpu-reset",
  "node-reboot",
  "drain-p2p",
  "drain-and-reset",
];
/** "GPU-…", "MIG-…", and the older "MIG-GPU-…/gi/ci"; `NVML_DEVICE_UUID_V2_BUFFER_SIZE` is 96. */
const UUID = /^(GPU|MIG)-[0-9A-Za-z/-]{1,91}$/;

/** NVML, initialised until the process ends: volatile ECC counts start anew when its last client leaves. */
export interface Nvml {
  /** What is known of the GPU or MIG slice with this UUID. `{}` where NVML knows none. */
  read(uuid: string): GpuHealth;
  /** Evidence of that GPU over a nonce of 32 bytes; undefined where there is none. */
  evidence(uuid: string, nonce: Uint8Array): GpuEvidence | undefined;
  /** For example "580.95.05". */
  driverVersion(): string | undefined;
}

function readDriverVersion(calls: NvmlCalls): string | undefined {
  const { bytes } = room(VERSION_BYTES);
  return succeeds(calls.driverVersion, bytes, VERSION_BYTES) ? textOf(bytes) : undefined;
}

function findDevice(calls: NvmlCalls, uuid: string): bigint | undefined {
  const { bytes, view } = room(8);
  return UUID.test(uuid) && succeeds(calls.deviceByUuid, uuid, bytes) ? view.getBigUint64(0, true) : undefined;
}

function readMemory(calls: NvmlCalls, device: bigint): GpuHealth["memory"] {
  const { bytes, view } = room(MEMORY_BYTES);
  view.setUint32(0, MEMORY_VERSION, true);
  if (!succeeds(calls.memoryInfo, device, bytes)) return undefined;
  const [bytesTotal, bytesReserved, bytesFree, bytesUsed] = [8, 16, 24, 32].map((at) =>
    countOf(view.getBigUint64(at, true)),
  );
  const known =
    bytesTotal !== undefined && bytesReserved !== undefined && bytesFree !== undefined && bytesUsed !== undefined;
  return known ? { bytesTotal, bytesReserved, bytesFree, bytesUsed } : undefined;
}

/** `counter`: 0 volatile, 1 aggregate. `nvmlMemoryErrorType_t`: 0 corrected, 1 uncorrected. */
function readEccCounts(calls: NvmlCalls, device: bigint, counter: number): EccCounts | undefined {
  const { bytes, view } = room(8);
  const count = (type: number): number | undefined =>
    succeeds(calls.eccErrors, device, type, counter, bytes) ? countOf(view.getBigUint64(0, true)) : undefined;
  const corrected = count(0);
  const uncorrected = count(1);
  return corrected !== undefined && uncorrected !== undefined ? { corrected, uncorrected } : undefined;
}

function readEcc(calls: NvmlCalls, device: bigint): GpuHealth["ecc"] {
  const volatile = readEccCounts(calls, device, 0);
  const aggregate = readEccCounts(calls, device, 1);
  return volatile !== undefined && aggregate !== undefined ? { volatile, aggregate } : undefined;
}

function readRemappedRows(calls: NvmlCalls, device: bigint): GpuHealth["remappedRows"] {
  const { bytes, view } = room(16);
  const fields = [0, 4, 8, 12].map((at) => bytes.subarray(at, at + 4));
  if (!succeeds(calls.remappedRows, device, ...fields)) return undefined;
  return {
    corrected: view.getUint32(0, true),
    uncorrected: view.getUint32(4, true),
    pending: view.getUint32(8, true) !== 0,
    failed: view.getUint32(12, true) !== 0,
  };
}

function readRecoveryAction(calls: NvmlCalls, device: bigint): RecoveryAction | undefined {
  const { bytes, view } = room(FIELD_BYTES);
  view.setUint32(0, FIELD_RECOVERY_ACTION, true);
  if (!succeeds(calls.fieldValues, device, 1, bytes)) return undefined;
  // A field has a status of its own, and says of which type its value is.
  const answered = view.getInt32(28, true) === NVML_STATUS.SUCCESS && view.getInt32(24, true) === TYPE_UNSIGNED_INT;
  return answered ? (RECOVERY_ACTIONS[view.getUint32(32, true)] ?? "unknown") : undefined;
}

/** A device's event set, and the Xids it told of. */
interface Watch {
  readonly set: bigint;
  xids: readonly number[];
}

/** Undefined where the device tells of no Xids: not on Linux, no permission, a MIG slice. */
function openWatch(calls: NvmlCalls, device: bigint): Watch | undefined {
  const { bytes, view } = room(8);
  if (!succeeds(calls.eventSetCreate, bytes)) return undefined;
  const set = view.getBigUint64(0, true);
  if (succeeds(calls.registerEvents, device, EVENT_XID, set)) return { set, xids: [] };
  calls.eventSetFree?.(set);
  return undefined;
}

/** Takes the events that have arrived, without waiting; false if that failed. At most `nvmlXids` at a time. */
function takeXids(calls: NvmlCalls, watch: Watch): boolean {
  const { bytes, view } = room(EVENT_BYTES);
  for (let taken = 0; taken < LIMITS.nvmlXids; taken += 1) {
    const status = calls.eventSetWait?.(watch.set, bytes, 0);
    if (status === NVML_STATUS.TIMEOUT) return true;
    if (status !== NVML_STATUS.SUCCESS) return false;
    const xid = countOf(view.getBigUint64(16, true));
    const isXid = view.getBigUint64(8, true) === EVENT_XID && xid !== undefined && xid !== XID_CLEANUP;
    if (isXid) watch.xids = [...watch.xids, xid].slice(-LIMITS.nvmlXids);
  }
  return true;
}

/** The fields that are known. */
function withoutAbsent(health: { readonly [Field in keyof GpuHealth]-?: GpuHealth[Field] | undefined }): GpuHealth {
  return Object.fromEntries(Object.entries(health).filter(([, value]) => value !== undefined));
}

/**
 * Loads NVML, `libnvidia-ml.so.1` or the path of another, and initialises it. Throws `DEVICE_UNUSABLE` if it is not
 * there or refuses, with `details.status` then; it may be tried again. There is no closing: the process ends.
 */
export function openNvml(library: string): Nvml {
  const calls: NvmlCalls = openLibrary(library).bindPresent(NVML_PROTOTYPES);
  const status = calls.init?.(NO_GPUS);
  if (status !== NVML_STATUS.SUCCESS) {
    const what = status === undefined ? "lacks nvmlInitWithFlags" : `refused to start: nvmlInitWithFlags ${status}`;
    throw new VramError("DEVICE_UNUSABLE", `${library} ${what}`, { details: { library, status } });
  }
  const watches = new Map<string, Watch>();
  const readXids = (uuid: string, device: bigint): GpuHealth["xids"] => {
    const watch = watches.get(uuid) ?? openWatch(calls, device);
    if (watch === undefined) return undefined;
    watches.set(uuid, watch);
    return takeXids(calls, watch) ? watch.xids : undefined;
  };
  return {
    driverVersion: () => readDriverVersion(calls),
    evidence: (uuid, nonce) => {
      const device = findDevice(calls, uuid);
      return device === undefined ? undefined : readEvidence(calls, device, nonce);
    },
    read: (uuid) => {
      const device = findDevice(calls, uuid);
      if (device === undefined) return {};
      return withoutAbsent({
        driverVersion: readDriverVersion(calls),
        processes: readProcesses(calls, device),
        memory: readMemory(calls, device),
        ecc: readEcc(calls, device),
        remappedRows: readRemappedRows(calls, device),
        recoveryAction: readRecoveryAction(calls, device),
        xids: readXids(uuid, device),
      });
    },
  };
}
