/**
 * Memory one can point at, without showing the pointer. The addresses live in this module's table, so that no record,
 * log, inspection or JSON of a handle can contain one (VR-MEM-07); only the files of this folder read them, and only
 * together with a bounds check (VR-MEM-02).
 */
import { requireRange } from "../assert.ts";
import { closedError } from "../dispose.ts";

/** A range of device memory. `byteLength` is what is in use, not what is mapped. */
export interface Mapped {
  readonly byteLength: number;
}

/** Page-locked host memory, viewed by `bytes` until it is closed. */
export interface Pinned {
  readonly bytes: Uint8Array;
  /** Frees the memory. May be called twice. */
  close(): void;
}

const addresses = new WeakMap<object, bigint>();

/** Remembers the address of a handle. */
export function setAddress(handle: Mapped | Pinned, cuPointer: bigint): void {
  addresses.set(handle, cuPointer);
}

/** Forgets it: the memory is no longer the handle's, and naming it is `CLOSED` from now on. */
export function forgetAddress(handle: Mapped | Pinned): void {
  addresses.delete(handle);
}

function addressOf(handle: Mapped | Pinned, what: string): bigint {
  const cuPointer = addresses.get(handle);
  if (cuPointer === undefined) throw closedError(what);
  return cuPointer;
}

/** The device address of [offset, offset + byteLength) of `memory`; `OUT_OF_BOUNDS` if that is not within it. */
export function deviceAddress(memory: Mapped, offset: number, byteLength: number): bigint {
  requireRange(offset, byteLength, memory.byteLength, "device memory");
  return addressOf(memory, "the device memory") + BigInt(offset);
}

/** The host address of [offset, offset + byteLength) of `memory`; `OUT_OF_BOUNDS` if that is not within it. */
export function hostAddress(memory: Pinned, offset: number, byteLength: number): bigint {
  requireRange(offset, byteLength, memory.bytes.byteLength, "pinned memory");
  return addressOf(memory, "the pinned memory") + BigInt(offset);
}
