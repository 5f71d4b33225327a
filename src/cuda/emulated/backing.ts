/**
 * Host memory behind the emulated device, handed out again when it comes back. Shared memory that is dropped stays with
 * the process until a garbage collection, and nothing makes one urgent; so it is kept here, up to a limit. What is
 * handed out is dirty, like VRAM: whoever needs zeros writes them.
 */

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
