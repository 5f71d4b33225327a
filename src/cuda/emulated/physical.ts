/**
 * The bytes of one allocation, in granules of 2 MiB. A granule is dirty (never written: a pseudo-random pattern that
 * needs no storage), zero (needs no storage either) or stored (2 MiB of shared memory, which hashing threads read
 * where it lies). Fresh VRAM is not promised to be zero, so here it never is: not one byte of the pattern is 0.
 *
 * `PhysicalMemory` is the seam behind which a later implementation may put a memfd. It knows nothing of addresses,
 * access or capacity, and does no bounds checks beyond assertions: `access.ts` has done them.
 */
import { assert } from "../../assert.ts";
import { LIMITS } from "../../limits.ts";

export const GRANULE_BYTES = LIMITS.granuleBytes;

/** A piece of one granule. `bytes` is shared memory; without it the piece is all zeros. */
export interface Segment {
  readonly byteLength: number;
  readonly bytes?: Uint8Array<SharedArrayBuffer>;
}

export interface PhysicalMemory {
  readonly byteLength: number;
  /** Bytes that take up host memory. */
  storedBytes(): number;
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  fill(offset: number, value: number, byteLength: number): void;
  /** The range in pieces that do not cross a granule, in order. Valid until the range is written. */
  segments(offset: number, byteLength: number): Iterable<Segment>;
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

/** The state of each granule of one allocation. */
interface Granules {
  readonly stored: ReadonlyMap<number, Uint8Array<SharedArrayBuffer>>;
  /** Whether it is zero without being stored. */
  isZero(granule: number): boolean;
  makeZero(granule: number): void;
  /** The granule as stored bytes; `keep` is false when all of it is about to be overwritten. */
  store(granule: number, keep: boolean): Uint8Array<SharedArrayBuffer>;
  /** Reads a granule that is dirty. */
  readDirt(granule: number, start: number, into: Uint8Array): void;
}

function openGranules(count: number, seed: number): Granules {
  const stored = new Map<number, Uint8Array<SharedArrayBuffer>>();
  /** 1 where a granule that is not stored is zero, 0 where it is dirty. */
  const zeroed = new Uint8Array(count);
  const turnOf = (granule: number): number =>
    ((Math.imul(seed, 0x2545f491) + Math.imul(granule + 1, 0x27d4eb2f)) >>> 0) % GRANULE_BYTES;
  return {
    stored,
    isZero: (granule) => zeroed[granule] === 1 && !stored.has(granule),
    makeZero: (granule) => {
      stored.delete(granule);
      zeroed[granule] = 1;
    },
    store: (granule, keep) => {
      const known = stored.get(granule);
      if (known !== undefined) return known;
      const bytes = new Uint8Array(new SharedArrayBuffer(GRANULE_BYTES));
      if (keep && zeroed[granule] === 0) readDirt(turnOf(granule), 0, bytes);
      stored.set(granule, bytes);
      return bytes;
    },
    readDirt: (granule, start, into) => readDirt(turnOf(granule), start, into),
  };
}

/** Fresh memory of `byteLength` bytes, a multiple of the granule. `seed` makes its dirt differ from its neighbours'. */
export function openPhysicalMemory(byteLength: number, seed: number): PhysicalMemory {
  assert(byteLength > 0 && byteLength % GRANULE_BYTES === 0, "physical memory comes in whole granules");
  const granules = openGranules(byteLength / GRANULE_BYTES, seed);
  const inside = (offset: number, length: number): void =>
    assert(
      offset >= 0 && length >= 0 && offset + length <= byteLength,
      "physical memory is accessed within its bounds",
    );
  const storedPart = ({ granule, start, byteLength: length }: Piece): Uint8Array<SharedArrayBuffer> | undefined =>
    granules.stored.get(granule)?.subarray(start, start + length);

  return {
    byteLength,
    storedBytes: () => granules.stored.size * GRANULE_BYTES,
    read: (offset, into) => {
      inside(offset, into.byteLength);
      for (const piece of pieces(offset, into.byteLength)) {
        const target = into.subarray(piece.at, piece.at + piece.byteLength);
        const bytes = storedPart(piece);
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
        else granules.store(piece.granule, !whole).set(source, piece.start);
      }
    },
    fill: (offset, value, length) => {
      inside(offset, length);
      for (const piece of pieces(offset, length)) {
        const whole = piece.byteLength === GRANULE_BYTES;
        if (value === 0 && (whole || granules.isZero(piece.granule))) granules.makeZero(piece.granule);
        else granules.store(piece.granule, !whole).fill(value, piece.start, piece.start + piece.byteLength);
      }
    },
    segments: function* (offset, length) {
      inside(offset, length);
      for (const piece of pieces(offset, length)) {
        const known = storedPart(piece);
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
