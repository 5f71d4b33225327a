/**
 * A cursor over the first bytes of a GGUF file. Place in the journey: file → first bytes → this → gguf.ts → tensor table.
 *
 * Threat model: every length it is asked to pass comes from the file. It checks a length against the file, the header
 * limit and the bytes at hand before it moves, in that order, so that a lie is told from a prefix that is too short.
 * Lengths are u64 read as numbers: above 2^53 they are rounded, but never below 2^53, so every comparison with a size
 * that exists still refuses them.
 */
import { malformed } from "./tensors.ts";

/** Not an error of the file: the caller holds too few of its first bytes. Caught in gguf.ts, never seen outside. */
export class PrefixTooShort extends Error {
  readonly byteLengthNeeded: number;

  constructor(byteLengthNeeded: number) {
    super(`${byteLengthNeeded} bytes of the file are needed`);
    this.byteLengthNeeded = byteLengthNeeded;
  }
}

export class Cursor {
  readonly #prefix: Uint8Array;
  readonly #view: DataView;
  readonly #fileByteLength: number;
  readonly #maxHeaderBytes: number;
  #offset = 0;

  constructor(prefix: Uint8Array, fileByteLength: number, maxHeaderBytes: number) {
    this.#prefix = prefix;
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

  /** The next `byteLength` bytes, not copied. */
  bytes(byteLength: number): Uint8Array {
    this.skip(byteLength);
    return this.#prefix.subarray(this.#offset - byteLength, this.#offset);
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
}
