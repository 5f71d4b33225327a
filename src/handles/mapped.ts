/**
 * Memory one can point at, without showing the pointer. The addresses live in this module's table, so that no record,
 * log, inspection or JSON of a handle can contain one (VR-MEM-07); only the files of this folder read them, and only
 * together with a bounds check (VR-MEM-02).
 */
import { present, requireRange } from "../assert.ts";

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

/** The device address of [offset, offset + byteLength) of `memory`; `OUT_OF_BOUNDS` if that is not within it. */
export function deviceAddress(memory: Mapped, offset: number, byteLength: number): bigint {
  requireRange(offset, byteLength, memory.byteLength, "device memory");
  return present(addresses.get(memory), "the address of a mapping") + BigInt(offset);
}

/** The host address of [offset, offset + byteLength) of `memory`; `OUT_OF_BOUNDS` if that is not within it. */
export function hostAddress(memory: Pinned, offset: number, byteLength: number): bigint {
  requireRange(offset, byteLength, memory.bytes.byteLength, "pinned memory");
  return present(addresses.get(memory), "the address of pinned memory") + BigInt(offset);
}
