/**
 * Memory of an emulated device that another process may map: one memfd for each allocation, mapped as a whole for as long
 * as the allocation lives. Before the first descriptor is handed out it is sealed, so that nobody maps it writable or
 * writes to it but through the mapping that is here. What was handed out cannot be called back: the kernel keeps the
 * memory for whoever has it, also when the allocation or this process is gone, and its name says what it was
 * (`holders.ts`).
 */
import { closeSync, writeSync } from "node:fs";
import { assert } from "../../assert.ts";
import { duplicate } from "../../ffi/descriptors.ts";
import { createMemfd, mapShared, sealMemfd, unmapShared } from "../../ffi/memory.ts";
import { LIMITS } from "../../limits.ts";
import type { Store } from "./backing.ts";
import { nameMemory } from "./holders.ts";

/** One mapping has at most so many bytes, whole granules: V8 makes no buffer of more than 4 GiB for it. */
const PIECE_BYTES = 1024 ** 3;

/** Maps all of it, in pieces. On failure nothing stays mapped. */
function mapPieces(fd: number, byteLength: number): readonly SharedArrayBuffer[] {
  const mapped: SharedArrayBuffer[] = [];
  try {
    for (let at = 0; at < byteLength; at += PIECE_BYTES) {
      mapped.push(mapShared(fd, at, Math.min(PIECE_BYTES, byteLength - at)));
    }
    return mapped;
  } catch (error) {
    for (const buffer of mapped) unmapShared(buffer);
    throw error;
  }
}

/** A memfd of that name, and a mapping of it. On failure there is neither. */
function openMapped(name: string, byteLength: number) {
  const fd = createMemfd(name, byteLength);
  try {
    return { fd, mapped: mapPieces(fd, byteLength) };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Writes past the mapping: a page that is not there yet costs less this way than when it is first touched. */
function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.byteLength; ) {
    done += writeSync(fd, bytes, done, bytes.byteLength - done, offset + done);
  }
}

/** Memory of `byteLength` bytes, whole granules, of the device. Fails as `createMemfd` and `mapShared` do. */
export function openShareable(uuid: string, byteLength: number): Store {
  const { name, noteAllocated } = nameMemory(uuid, byteLength);
  const { fd, mapped } = openMapped(name, byteLength);
  const noteFreed = noteAllocated();
  /** Granules that were given back, and whose bytes are still there: nobody sees them before the memory is exported. */
  const stale = new Set<number>();
  let isExported = false;

  const bytesOf = (granule: number): Uint8Array<SharedArrayBuffer> => {
    const at = granule * LIMITS.granuleBytes;
    const piece = mapped[Math.floor(at / PIECE_BYTES)];
    assert(piece !== undefined, "a granule lies in its memory");
    return new Uint8Array(piece, at % PIECE_BYTES, LIMITS.granuleBytes);
  };

  return {
    take: (granule, content) => {
      const bytes = bytesOf(granule);
      stale.delete(granule);
      if (content !== undefined && isExported) bytes.set(content);
      else if (content !== undefined) writeAll(fd, content, granule * LIMITS.granuleBytes);
      return bytes;
    },
    give: (granule, bytes) => {
      // Whoever has it reads zeros at once; no hole can be punched into what is sealed.
      if (isExported) bytes.fill(0);
      else stale.add(granule);
    },
    exportFd: () => {
      for (const granule of stale) bytesOf(granule).fill(0);
      stale.clear();
      sealMemfd(fd);
      isExported = true;
      return duplicate(fd);
    },
    drop: () => {
      for (const buffer of mapped) unmapShared(buffer);
      closeSync(fd);
      noteFreed(isExported);
    },
  };
}
