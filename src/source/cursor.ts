/**
 * A cursor over the first bytes of a GGUF file. Place in the journey: file → first bytes → this → gguf.ts → tensor table.
 *
 * Threat model: every length it is asked to pass comes from the file. It checks a length against the file, the header
 * limit and the bytes at hand before it moves, in that order, so that a lie is told from a prefix that is too short.
 * Lengths are u64 read as numbers: above 2^53 they are rounded, but never below 2^53, so every comparison with a size
 * that exists still refuses them.
 */
import { isUtf8 } from "node:buffer";
import { assert } from "../assert.ts";
import { malformed } from "./tensors.ts";

/** The length field of a string. */
const LENGTH_BYTES = 8;

/** Not an error of the file: the caller holds too few of its first bytes. Caught in gguf.ts, never seen outside. */
export class PrefixTooShort extends Error {
  readonly byteLengthNeeded: number;

  constructor(byteLengthNeeded: number) {
    super(`${byteLengthNeeded} bytes of the file are needed`);
    this.byteLengthNeeded = byteLengthNeeded;
  }
}

export class Cursor {
  readonly #prefix: Buffer;
  readonly #view: DataView;
  readonly #fileByteLength: number;
  readonly #maxHeaderBytes: number;
  #offset = 0;

  constructor(prefix: Uint8Array, fileByteLength: number, maxHeaderBytes: number) {
    this.#prefix = Buffer.from(prefix.buffer, prefix.byteOffset, prefix.byteLength);
    this.#view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
    this.#fileByteLength = fileByteLength;
    this.#maxHeaderBytes = maxHeaderBytes;
  }

  /** The file offset of the next byte. */
  get offset(): number {
    return this.#offset;
  }

  /** Makes sure that `byteLength` bytes can be read from here. */
  require(byteLength: number): void {
    const end = this.#offset + byteLength;
    if (end > this.#fileByteLength) {
      throw malformed("gguf", "truncated", this.#offset, `${byteLength} bytes should follow, but the file ends before`);
    }
    if (end > this.#maxHeaderBytes) {
      const what = `the header takes more than ${this.#maxHeaderBytes} bytes`;
      throw malformed("gguf", "header-too-large", this.#offset, what);
    }
    if (end > this.#prefix.byteLength) throw new PrefixTooShort(end);
  }

  /** Makes sure that `count` items of at least `itemBytes` can follow; `rule` at `at` refuses a count the file cannot hold. */
  requireCount(count: number, itemBytes: number, rule: string, at: number): void {
    if (count * itemBytes > this.#fileByteLength - this.#offset) {
      throw malformed("gguf", rule, at, `${count} items of at least ${itemBytes} bytes do not fit in the file`);
    }
    this.require(count * itemBytes);
  }

  skip(byteLength: number): void {
    this.require(byteLength);
    this.#offset += byteLength;
  }

  /** Goes back to an offset it has passed. */
  rewind(offset: number): void {
    assert(offset <= this.#offset, "the cursor goes back to where it was");
    this.#offset = offset;
  }

  /** Passes the next `byteLength` bytes; whether they are UTF-8. */
  passUtf8(byteLength: number): boolean {
    this.skip(byteLength);
    return isUtf8(this.#prefix.subarray(this.#offset - byteLength, this.#offset));
  }

  /** The text of the next `byteLength` bytes, or undefined if they are no UTF-8. */
  text(byteLength: number): string | undefined {
    const start = this.#offset;
    this.skip(byteLength);
    let ascii = true;
    for (let index = start; index < this.#offset && ascii; index += 1) ascii = this.#view.getUint8(index) < 0x80;
    // Names are nearly always ASCII: no view and no second string for them.
    if (ascii) return this.#prefix.toString("latin1", start, this.#offset);
    return isUtf8(this.#prefix.subarray(start, this.#offset))
      ? this.#prefix.toString("utf8", start, this.#offset)
      : undefined;
  }

  /**
   * The first of the strings at `offsets` that repeats one before it, as the offset of its length. All were passed.
   * Sorting takes O(n log n) whatever the strings are, and 16 bytes for each; text in a set would take as much again as
   * the header.
   */
  firstRepeated(offsets: Float64Array): number | undefined {
    const sorted = offsets.toSorted((a, b) => this.#compareStrings(a, b) || a - b);
    let first: number | undefined;
    let before: number | undefined;
    for (const at of sorted) {
      if (before !== undefined && this.#compareStrings(before, at) === 0) first = Math.min(first ?? at, at);
      before = at;
    }
    return first;
  }

  /** The bytes of a string that was passed, not copied; `at` is the offset of its length. */
  stringAt(at: number): Buffer {
    return this.#prefix.subarray(at + LENGTH_BYTES, this.#stringEnd(at));
  }

  u8(): number {
    this.skip(1);
    return this.#view.getUint8(this.#offset - 1);
  }

  u32(): number {
    this.skip(4);
    return this.#view.getUint32(this.#offset - 4, true);
  }

  /** A u64; above 2^53−1 rounded, and then no safe integer. */
  u64(): number {
    const low = this.u32();
    return low + this.u32() * 2 ** 32;
  }

  /** Orders two strings that were passed, by the offsets of their lengths: 0 if they hold the same bytes. */
  #compareStrings(a: number, b: number): number {
    return this.#prefix.compare(this.#prefix, b, this.#stringEnd(b), a, this.#stringEnd(a));
  }

  #stringEnd(at: number): number {
    return at + LENGTH_BYTES + Number(this.#view.getBigUint64(at, true));
  }
}
