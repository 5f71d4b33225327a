/**
 * Who has memory on a GPU, as NVML lists it. In a container process ids may be missing or those of the host: a process
 * listed is evidence, one not listed is none.
 */
import type { StatusFunction } from "../ffi/library.ts";
import { LIMITS } from "../limits.ts";
import type { Tenant } from "./monitor.ts";
import { countOf, NVML_STATUS, type NvmlCalls, room, succeeds, textOf } from "./nvml-calls.ts";

/** What the first call has room for; it is called again with more where that is too little. */
const FIRST_COUNT = 32;
/** Room per entry, so that a driver with longer ones than we believe writes within it. */
const ENTRY_ROOM_BYTES = 64;
/**
 * `nvmlProcessInfo_t`: pid at 0, bytes used at 8, 24 bytes long; but 32 under the same symbol in drivers from R535 up
 * to 535.98 (nvitop issue 88).
 */
const ENTRY_BYTES = 24;
const LONG_ENTRY_BYTES = 32;
/** What the room is filled with, to see how far it was written. */
const UNWRITTEN = 0xa5;
/** `PID_MAX_LIMIT` of 64-bit Linux. */
const PID_MAX = 2 ** 22;
const USED_UNKNOWN = 2n ** 64n - 1n;
const NAME_BYTES = 1024;
const NAME_CHARACTERS = 64;

interface Entry {
  readonly pid: number;
  readonly byteLength: number;
}

/** The entries at this distance from each other, or undefined if their process ids cannot be any. */
function entriesAt(stride: number, view: DataView, count: number): readonly Entry[] | undefined {
  const entries = Array.from({ length: count }, (_, index) => {
    const used = view.getBigUint64(index * stride + 8, true);
    const byteLength = used === USED_UNKNOWN ? 0 : (countOf(used) ?? 0);
    return { pid: view.getUint32(index * stride, true), byteLength };
  });
  return entries.every(({ pid }) => pid > 0 && pid <= PID_MAX) ? entries : undefined;
}

/** The entries, or undefined if they are written in no way we know. */
function entriesOf({ bytes, view }: ReturnType<typeof room>, count: number): readonly Entry[] | undefined {
  const short = entriesAt(ENTRY_BYTES, view, count);
  if (short !== undefined) return short;
  const end = count * LONG_ENTRY_BYTES;
  const isLong = bytes.subarray(end - 8, end).some((byte) => byte !== UNWRITTEN);
  return isLong ? entriesAt(LONG_ENTRY_BYTES, view, count) : undefined;
}

/** Calls with more room until it suffices: at least doubled each time, up to `nvmlProcesses`. */
function listOf(call: StatusFunction | undefined, device: bigint): readonly Entry[] | undefined {
  const count = room(4);
  for (let capacity = FIRST_COUNT; ; ) {
    const entries = room(capacity * ENTRY_ROOM_BYTES);
    entries.bytes.fill(UNWRITTEN);
    count.view.setUint32(0, capacity, true);
    const status = call?.(device, count.bytes, entries.bytes);
    const answered = count.view.getUint32(0, true);
    if (status === NVML_STATUS.SUCCESS) return answered <= capacity ? entriesOf(entries, answered) : undefined;
    if (status !== NVML_STATUS.INSUFFICIENT_SIZE || capacity === LIMITS.nvmlProcesses) return undefined;
    capacity = Math.min(Math.max(2 * capacity, answered), LIMITS.nvmlProcesses);
  }
}

/** The last part of the path the process was started by: where other people's files are is not ours to tell. */
function nameOf(calls: NvmlCalls, pid: number): string {
  const { bytes } = room(NAME_BYTES);
  const path = succeeds(calls.processName, pid, bytes, NAME_BYTES) ? textOf(bytes) : "";
  const name = (path.split("/").at(-1) ?? "").replaceAll(/\p{Cc}/gu, " ").trim();
  return name === "" ? "unknown" : name.slice(0, NAME_CHARACTERS);
}

/**
 * Processes with compute or graphics contexts on the device, each once, by process id; undefined if there is no list
 * of those that compute. Sizes in bytes.
 */
export function readProcesses(calls: NvmlCalls, device: bigint): readonly Tenant[] | undefined {
  const computing = listOf(calls.computeProcesses, device);
  if (computing === undefined) return undefined;
  const used = new Map<number, number>();
  // One that does both is in both lists with the same memory.
  for (const { pid, byteLength } of [...computing, ...(listOf(calls.graphicsProcesses, device) ?? [])]) {
    used.set(pid, Math.max(used.get(pid) ?? 0, byteLength));
  }
  const byPid = [...used].sort(([left], [right]) => left - right);
  return byPid.map(([pid, byteLength]) => ({ pid, name: nameOf(calls, pid), byteLength }));
}
