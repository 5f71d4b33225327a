/**
 * The bytes of one allocation, in granules of 2 MiB. A granule is dirty (never written: a pseudo-random pattern that
 * needs no storage), zero (needs no storage either) or stored (2 MiB of shared memory, which hashing threads read
 * where it lies). Of a stored granule only the 4 KiB pages that are used take up host memory: the dirt of a page is
 * written down when it is first touched. Fresh VRAM is not promised to be zero, so here it never is: not one byte of
 * the pattern is 0.
 *
 * Where granules are stored is the `Store`'s business: on the heap, or in a memfd that other processes may map. Whoever
 * maps it reads what `read` returns, so what is dirty is written down before it is handed out.
 *
 * `PhysicalMemory` knows nothing of addresses, access or capacity, and does no bounds checks beyond assertions:
 * `access.ts` has done them.
 */
import { assert } from "../../assert.ts";
import { LIMITS } from "../../limits.ts";
import { heapStore, type Store } from "./backing.ts";

export const GRANULE_BYTES = LIMITS.granuleBytes;
const PAGE_BYTES = 4096;

/** A piece of one granule. `bytes` is shared memory; without it the piece is all zeros. */
export interface Segment {
  readonly byteLength: number;
  readonly bytes?: Uint8Array<SharedArrayBuffer>;
}

export interface PhysicalMemory {
  readonly byteLength: number;
  /** Bytes of stored granules: at most so much host memory is taken up. */
  storedBytes(): number;
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  fill(offset: number, value: number, byteLength: number): void;
  /** The range in pieces that do not cross a granule, in order. Valid until the range is written. */
  segments(offset: number, byteLength: number): Iterable<Segment>;
  /**
   * A descriptor of it for another process, which nobody writes through, and which the caller closes; undefined where it
   * cannot be had. What is written from now on is seen through it.
   */
  exportFd(): number | undefined;
  /** Gives its host memory back. Nothing may be called afterwards. */
  drop(): void;
}

const ZEROS = Buffer.alloc(GRANULE_BYTES);

const isZero = (bytes: Uint8Array): boolean => ZEROS.subarray(0, bytes.byteLength).equals(bytes);

let dirt: Uint8Array | undefined;

/** One granule of pseudo-random bytes, none of them 0: a 32-bit mix (MurmurHash3's finaliser) of the position. */
function dirtOf(): Uint8Array {
  if (dirt !== undefined) return dirt;
  const words = new Uint32Array(GRANULE_BYTES / 4);
  for (let index = 0; index < words.length; index += 1) {
    let word = Math.imul(index + 1, 0x9e3779b1);
    word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
    word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
    words[index] = (word ^ (word >>> 16)) | 0x01010101;
  }
  dirt = new Uint8Array(words.buffer);
  return dirt;
}

/** Reads a dirty granule from byte `start` of it: the pattern, turned by `turn` bytes so that granules differ. */
function readDirt(turn: number, start: number, into: Uint8Array): void {
  const pattern = dirtOf();
  const from = (start + turn) % GRANULE_BYTES;
  const first = pattern.subarray(from, from + into.byteLength);
  into.set(first);
  into.set(pattern.subarray(0, into.byteLength - first.byteLength), first.byteLength);
}

interface Piece {
  readonly granule: number;
  /** Offset within the granule. */
  readonly start: number;
  readonly byteLength: number;
  /** Offset within the range. */
  readonly at: number;
}

/** [offset, offset + byteLength) cut at granules. */
function* pieces(offset: number, byteLength: number): Generator<Piece> {
  for (let at = 0; at < byteLength; ) {
    const granule = Math.floor((offset + at) / GRANULE_BYTES);
    const start = offset + at - granule * GRANULE_BYTES;
    const length = Math.min(GRANULE_BYTES - start, byteLength - at);
    yield { granule, start, byteLength: length, at };
    at += length;
  }
}

interface StoredGranule {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  /** 1 for each page whose dirt is not in `bytes` yet; absent where there never was any. */
  readonly untouched: Uint8Array | undefined;
}

/** The state of each granule of one allocation. */
interface Granules {
  readonly storedCount: number;
  /** Whether it is zero without being stored. */
  isZero(granule: number): boolean;
  makeZero(granule: number): void;
  /** Stores whatever is dirty. */
  writeDown(): void;
  /** Gives all stored granules back. */
  drop(): void;
  /** The piece of a stored granule; undefined if it is not stored. */
  read(piece: Piece): Uint8Array<SharedArrayBuffer> | undefined;
  /** The piece as stored bytes; all of it is about to be overwritten. */
  store(piece: Piece): Uint8Array<SharedArrayBuffer>;
  /** Stores the piece's bytes. */
  write(piece: Piece, from: Uint8Array): void;
  /** Reads a granule that is dirty. */
  readDirt(granule: number, start: number, into: Uint8Array): void;
}

function openGranules(count: number, seed: number, store: Store): Granules {
  const stored = new Map<number, StoredGranule>();
  /** 1 where a granule that is not stored is zero, 0 where it is dirty. */
  const zeroed = new Uint8Array(count);
  const turnOf = (granule: number): number =>
    ((Math.imul(seed, 0x2545f491) + Math.imul(granule + 1, 0x27d4eb2f)) >>> 0) % GRANULE_BYTES;

  /** The piece's bytes, its dirt written down except in pages that are `overwritten` as a whole. */
  const touch = ({ bytes, untouched }: StoredGranule, piece: Piece, overwritten: boolean) => {
    const { granule, start } = piece;
    const end = start + piece.byteLength;
    for (let at = start - (start % PAGE_BYTES); untouched !== undefined && at < end; at += PAGE_BYTES) {
      if (untouched[at / PAGE_BYTES] === 0) continue;
      untouched[at / PAGE_BYTES] = 0;
      const lost = overwritten && start <= at && at + PAGE_BYTES <= end;
      if (!lost) readDirt(turnOf(granule), at, bytes.subarray(at, at + PAGE_BYTES));
    }
    return bytes.subarray(start, end);
  };

  /** Stores a granule that is not: as `content`, or else as it reads. */
  const open = (granule: number, content?: Uint8Array): StoredGranule => {
    const bytes = store.take(granule, content);
    const dirty = content === undefined && zeroed[granule] === 0;
    if (content === undefined && !dirty) bytes.fill(0);
    const untouched = dirty ? new Uint8Array(GRANULE_BYTES / PAGE_BYTES).fill(1) : undefined;
    const opened = { bytes, untouched };
    stored.set(granule, opened);
    return opened;
  };

  return {
    get storedCount() {
      return stored.size;
    },
    isZero: (granule) => zeroed[granule] === 1 && !stored.has(granule),
    makeZero: (granule) => {
      const known = stored.get(granule);
      if (known !== undefined) store.give(granule, known.bytes);
      stored.delete(granule);
      zeroed[granule] = 1;
    },
    writeDown: () => {
      for (const piece of pieces(0, count * GRANULE_BYTES)) {
        const { granule } = piece;
        const known = stored.get(granule) ?? (zeroed[granule] === 0 ? open(granule) : undefined);
        if (known !== undefined) touch(known, piece, false);
      }
    },
    drop: () => {
      store.drop([...stored.values()].map(({ bytes }) => bytes));
      stored.clear();
    },
    read: (piece) => {
      const known = stored.get(piece.granule);
      return known === undefined ? undefined : touch(known, piece, false);
    },
    store: (piece) => touch(stored.get(piece.granule) ?? open(piece.granule), piece, true),
    write: (piece, from) => {
      const known = stored.get(piece.granule);
      if (known === undefined && piece.byteLength === GRANULE_BYTES) open(piece.granule, from);
      else touch(known ?? open(piece.granule), piece, true).set(from);
    },
    readDirt: (granule, start, into) => readDirt(turnOf(granule), start, into),
  };
}

/**
 * Fresh memory of `byteLength` bytes, a multiple of the granule. `seed` makes its dirt differ from its neighbours'. It is
 * stored in `store`, which goes with it.
 */
export function openPhysicalMemory(byteLength: number, seed: number, store: Store = heapStore): PhysicalMemory {
  assert(byteLength > 0 && byteLength % GRANULE_BYTES === 0, "physical memory comes in whole granules");
  const granules = openGranules(byteLength / GRANULE_BYTES, seed, store);
  const inside = (offset: number, length: number): void =>
    assert(
      offset >= 0 && length >= 0 && offset + length <= byteLength,
      "physical memory is accessed within its bounds",
    );

  return {
    byteLength,
    storedBytes: () => granules.storedCount * GRANULE_BYTES,
    drop: () => granules.drop(),
    exportFd: () => {
      if (store.exportFd === undefined) return undefined;
      granules.writeDown();
      return store.exportFd();
    },
    read: (offset, into) => {
      inside(offset, into.byteLength);
      for (const piece of pieces(offset, into.byteLength)) {
        const target = into.subarray(piece.at, piece.at + piece.byteLength);
        const bytes = granules.read(piece);
        if (bytes !== undefined) target.set(bytes);
        else if (granules.isZero(piece.granule)) target.fill(0);
        else granules.readDirt(piece.granule, piece.start, target);
      }
    },
    write: (offset, from) => {
      inside(offset, from.byteLength);
      for (const piece of pieces(offset, from.byteLength)) {
        const source = from.subarray(piece.at, piece.at + piece.byteLength);
        const whole = piece.byteLength === GRANULE_BYTES;
        if ((whole || granules.isZero(piece.granule)) && isZero(source)) granules.makeZero(piece.granule);
        else granules.write(piece, source);
      }
    },
    fill: (offset, value, length) => {
      inside(offset, length);
      for (const piece of pieces(offset, length)) {
        const whole = piece.byteLength === GRANULE_BYTES;
        if (value === 0 && (whole || granules.isZero(piece.granule))) granules.makeZero(piece.granule);
        else granules.store(piece).fill(value);
      }
    },
    segments: function* (offset, length) {
      inside(offset, length);
      for (const piece of pieces(offset, length)) {
        const known = granules.read(piece);
        if (known !== undefined) yield { byteLength: piece.byteLength, bytes: known };
        else if (granules.isZero(piece.granule)) yield { byteLength: piece.byteLength };
        else {
          const bytes = new Uint8Array(new SharedArrayBuffer(piece.byteLength));
          granules.readDirt(piece.granule, piece.start, bytes);
          yield { byteLength: piece.byteLength, bytes };
        }
      }
    },
  };
}
