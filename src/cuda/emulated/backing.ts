/**
 * Host memory behind the emulated device, handed out again when it comes back. Shared memory that is dropped stays with
 * the process until a garbage collection, and nothing makes one urgent; so it is kept here, up to a limit. What is
 * handed out is dirty, like VRAM: whoever needs zeros writes them. Nobody else can have it; memory that is to be handed
 * to another process is in `shareable.ts`.
 */
import { LIMITS } from "../../limits.ts";

/** Where the granules of one allocation are stored. */
export interface Store {
  /** Room for a granule: with `content`, or else with whatever was there before. */
  take(granule: number, content: Uint8Array | undefined): Uint8Array<SharedArrayBuffer>;
  /** The granule reads as zeros from now on, and needs no room of its own. */
  give(granule: number, bytes: Uint8Array<SharedArrayBuffer>): void;
  /**
   * A descriptor of all granules, each where it lies in the allocation; undefined where nobody else can have them. Those
   * that were never taken, or given back, are zeros. The caller closes it.
   */
  readonly exportFd: (() => number) | undefined;
  /** Nothing of it is needed any more. `stored`: what was taken, and not given back. */
  drop(stored: Iterable<Uint8Array<SharedArrayBuffer>>): void;
}

/** Kept at most; beyond it memory is left to the garbage collector. */
const KEPT_BYTES_MAX = 1024 ** 3;

const kept = new Map<number, SharedArrayBuffer[]>();
let keptBytes = 0;

/** `byteLength` bytes of shared memory with whatever was there before. */
export function takeBacking(byteLength: number): SharedArrayBuffer {
  const again = kept.get(byteLength)?.pop();
  if (again === undefined) return new SharedArrayBuffer(byteLength);
  keptBytes -= byteLength;
  return again;
}

/** Gives memory back. Nobody may use it any more. */
export function giveBacking(memory: SharedArrayBuffer): void {
  const { byteLength } = memory;
  if (keptBytes + byteLength > KEPT_BYTES_MAX) return;
  keptBytes += byteLength;
  const same = kept.get(byteLength);
  if (same === undefined) kept.set(byteLength, [memory]);
  else same.push(memory);
}

/** Room for an allocation of `byteLength` bytes, whole granules, on the device `uuid`. */
export type OpenStore = (uuid: string, byteLength: number) => Store;

/** Memory of this process alone, a piece for each granule. */
export const heapStore: Store = {
  take: (_granule, content) => {
    const bytes = new Uint8Array(takeBacking(LIMITS.granuleBytes));
    if (content !== undefined) bytes.set(content);
    return bytes;
  },
  give: (_granule, bytes) => giveBacking(bytes.buffer),
  exportFd: undefined,
  drop: (stored) => {
    for (const { buffer } of stored) giveBacking(buffer);
  },
};
