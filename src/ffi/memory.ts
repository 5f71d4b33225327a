/**
 * Memory that has a descriptor, and mappings of it as JavaScript buffers. A buffer that can be resized lies on pages of
 * its own, so the pages of a file can be laid over it (`MAP_FIXED`): hashing threads then read a mapping like any shared
 * memory, and a buffer can be taken away for good. Before a buffer goes, anonymous pages take the place of the file's;
 * what V8 gives back to the kernel is what it took.
 */
import { closeSync } from "node:fs";
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { addressOf, type Bound, lastError, openLibrary } from "./library.ts";

const MFD_CLOEXEC_ALLOW_SEALING = 1 | 2;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
/** `F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE` (linux/fcntl.h). */
export const MEMFD_SEALS = 0x1 | 0x2 | 0x4 | 0x10;

const PROT_READ_WRITE = 1 | 2;
const MAP = { shared: 0x01, private: 0x02, fixed: 0x10, anonymous: 0x20, noReserve: 0x4000 } as const;
/** V8 of Node 20 makes no buffer of more than 4 GiB that can be resized. */
export const MAPPING_BYTES_MAX = 4 * 2 ** 30;

const PROTOTYPES = {
  memfd_create: "int memfd_create(const char *name, uint32_t flags)",
  ftruncate: "int ftruncate(int fd, int64_t length)",
  fcntl: "int fcntl(int fd, int command, ...)",
  // Its result is an address; MAP_FIXED gives the one that was asked for, or −1, which is −1 as an int, too.
  mmap: "int mmap(uint64_t address, size_t length, int protection, int flags, int fd, int64_t offset)",
} as const;

let libc: Bound<typeof PROTOTYPES> | undefined;

function calls(): Bound<typeof PROTOTYPES> {
  libc ??= openLibrary("libc.so.6").bind(PROTOTYPES);
  return libc;
}

const refused = (what: string): VramError => new VramError("INTERNAL", `${what}: ${lastError()}`);

/** `memfd_create`: zeroed memory of `byteLength` bytes behind a descriptor; pages take up room when they are written. */
export function createMemfd(name: string, byteLength: number): number {
  requireInteger(byteLength, "byteLength", 1, Number.MAX_SAFE_INTEGER);
  const fd = calls().memfd_create(name, MFD_CLOEXEC_ALLOW_SEALING);
  if (fd < 0) throw refused("memory with a descriptor cannot be made");
  if (calls().ftruncate(fd, BigInt(byteLength)) === 0) return fd;
  const error = refused(`memory of ${byteLength} bytes cannot be made`);
  closeSync(fd);
  throw error;
}

/**
 * No new writable mapping and no write from now on, for anybody, and nobody lifts that; mappings that are there keep
 * what they may. May be called twice.
 */
export function sealMemfd(fd: number): void {
  if (calls().fcntl(fd, F_GET_SEALS, "int", 0) === MEMFD_SEALS) return;
  if (calls().fcntl(fd, F_ADD_SEALS, "int", MEMFD_SEALS) !== 0) throw refused("memory cannot be sealed");
}

/** The seals on it, as in linux/fcntl.h. Throws `INVALID_ARGUMENT` for what has none. */
export function sealsOf(fd: number): number {
  const seals = calls().fcntl(fd, F_GET_SEALS, "int", 0);
  if (seals < 0) throw new VramError("INVALID_ARGUMENT", `descriptor ${fd} is no memory that can be sealed`);
  return seals;
}

function map(buffer: ArrayBuffer | SharedArrayBuffer, flags: number, fd: number, offset: number): void {
  const { byteLength } = buffer;
  const address = addressOf(new Uint8Array(buffer));
  const result = calls().mmap(address, BigInt(byteLength), PROT_READ_WRITE, flags | MAP.fixed, fd, BigInt(offset));
  if (result === -1) throw refused(`${byteLength} bytes cannot be mapped`);
}

const ANONYMOUS = MAP.private | MAP.anonymous | MAP.noReserve;

/** Maps part of a file for reading and writing, shared with whoever else maps it. `offset` is a multiple of a page. */
export function mapShared(fd: number, offset: number, byteLength: number): SharedArrayBuffer {
  requireInteger(byteLength, "byteLength of a mapping", 1, MAPPING_BYTES_MAX);
  const buffer = new SharedArrayBuffer(byteLength, { maxByteLength: byteLength });
  map(buffer, MAP.shared, fd, offset);
  return buffer;
}

/** Takes the file's pages away again: whoever still has the buffer sees zeros. */
export function unmapShared(buffer: SharedArrayBuffer): void {
  map(buffer, ANONYMOUS, -1, 0);
}

/**
 * Maps part of a file so that nobody else sees what is written: a write takes a copy of its page first. `offset` is a
 * multiple of a page.
 */
export function mapPrivate(fd: number, offset: number, byteLength: number): ArrayBuffer {
  requireInteger(byteLength, "byteLength of a mapping", 1, MAPPING_BYTES_MAX);
  const buffer = new ArrayBuffer(byteLength, { maxByteLength: byteLength });
  map(buffer, MAP.private, fd, offset);
  return buffer;
}

/** Takes the file's pages away again: the buffer and every view of it are empty. */
export function unmapPrivate(buffer: ArrayBuffer): void {
  if (buffer.byteLength === 0) return;
  map(buffer, ANONYMOUS, -1, 0);
  structuredClone(buffer, { transfer: [buffer] });
}
