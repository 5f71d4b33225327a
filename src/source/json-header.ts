/**
 * A strict reader for the JSON of a safetensors header, token by token over the bytes, with the file offset of
 * everything it refuses. Place in the journey: file → header bytes → this → safetensors.ts → tensor table.
 *
 * Threat model: the bytes are hostile. `JSON.parse` is not used: it accepts duplicate keys and rounds integers above
 * 2^53, so two readers could see two different tables. This reader knows only what the format's grammar needs (objects,
 * arrays, strings, non-negative integers); the caller spells out the nesting, so depth is fixed. One pass, no copies
 * but the strings it returns, whose length the caller bounds.
 *
 * Sources: RFC 8259 (JSON); https://github.com/huggingface/safetensors#format.
 */
import { isUtf8 } from "node:buffer";
import { malformed } from "./tensors.ts";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const SPACE = 0x20;
const LOWER_U = 0x75;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;
/** An escape takes at most six bytes (`\u0041`) for one byte of text. */
const BYTES_PER_ESCAPE = 6;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** What may follow a backslash besides `u`; those that stand for themselves are not in the map. */
const SIMPLE_ESCAPES = '"\\/bfnrt';
const ESCAPED: ReadonlyMap<string, string> = new Map([
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

const isWhitespace = (byte: number): boolean => byte === SPACE || byte === 0x0a || byte === 0x0d || byte === 0x09;
const isDigit = (byte: number): boolean => byte >= DIGIT_0 && byte <= DIGIT_9;
const isHighSurrogate = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;
const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff;

const refuse = (rule: string, offset: number, what: string): Error => malformed("safetensors", rule, offset, what);

const tooLong = (rule: string, at: number, byteLimit: number): Error =>
  refuse(rule, at, `a string of more than ${byteLimit} bytes`);

/** The text of a string whose escapes were checked. */
const resolveEscapes = (raw: string): string =>
  raw.replace(/\\(?:u(.{4})|(.))/gu, (_, hex: string | undefined, simple: string) =>
    hex === undefined ? (ESCAPED.get(simple) ?? simple) : String.fromCharCode(Number.parseInt(hex, 16)),
  );

/** Where the raw bytes of a checked string lie, and what they hold. */
interface ScannedString {
  start: number;
  end: number;
  ascii: boolean;
  escaped: boolean;
}

/** Reads tokens from `bytes`, whose index is the file offset. */
export class JsonHeader {
  readonly #bytes: Buffer;
  #offset: number;
  /** The string scanned last: one object, because a header has more strings than anything else. */
  readonly #scanned: ScannedString = { start: 0, end: 0, ascii: true, escaped: false };

  /** `bytes` is the file from its start to the end of the header; reading begins at `offset`. */
  constructor(bytes: Uint8Array, offset: number) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#offset = offset;
  }

  /** The offset of the next token. */
  next(): number {
    while (isWhitespace(this.#byte())) this.#offset += 1;
    return this.#offset;
  }

  /** Takes the punctuation `token`, or refuses what stands in its place. */
  expect(token: string): void {
    if (!this.#accept(token)) throw this.#unexpected(`"${token}"`);
  }

  /**
   * Begins the walk of `open item, item, … close`: the offset of the first item, or undefined when there is none. The
   * caller reads an item before it goes on with `following`. No generator: its objects would be half of a parse's garbage.
   */
  first(open: string, close: string): number | undefined {
    this.expect(open);
    return this.#accept(close) ? undefined : this.next();
  }

  /** The offset of the item behind the one just read, or undefined at `close`, which it takes. */
  following(close: string): number | undefined {
    if (this.#accept(",")) return this.next();
    this.expect(close);
    return undefined;
  }

  /** A string of at most `byteLimit` bytes of UTF-8, escapes resolved; `rule` refuses a longer one. */
  string(byteLimit: number, rule: string): string {
    const at = this.next();
    this.#scanString();
    const { start, end, ascii, escaped } = this.#scanned;
    if (end - start > byteLimit * BYTES_PER_ESCAPE) throw tooLong(rule, at, byteLimit);
    const raw = ascii ? this.#bytes.toString("latin1", start, end) : decoder.decode(this.#bytes.subarray(start, end));
    const text = escaped ? resolveEscapes(raw) : raw;
    if (Buffer.byteLength(text) > byteLimit) throw tooLong(rule, at, byteLimit);
    return text;
  }

  /** Checks a string of any length without keeping it. */
  skipString(): void {
    this.next();
    this.#scanString();
  }

  /** An integer in [0, 2^53−1], without sign, fraction, exponent or leading zero. */
  integer(): number {
    const at = this.next();
    const notAnInteger = "a number is not a plain non-negative integer";
    if (this.#byte() === 0x2d) throw refuse("json-number", at, notAnInteger);
    if (!isDigit(this.#byte())) throw this.#unexpected("an integer");
    const leadingZero = this.#byte() === DIGIT_0;
    let value = 0;
    for (let byte = this.#byte(); isDigit(byte); byte = this.#byte()) {
      // Exact up to 2^53−1; beyond it rounding never comes back below, so the check holds.
      value = value * 10 + (byte - DIGIT_0);
      if (value > Number.MAX_SAFE_INTEGER) throw refuse("json-integer-too-large", at, "an integer is above 2^53−1");
      this.#offset += 1;
    }
    if (leadingZero && this.#offset > at + 1) throw refuse("json-number", at, notAnInteger);
    if (".eE".includes(String.fromCharCode(this.#byte()))) throw refuse("json-number", at, notAnInteger);
    return value;
  }

  /** Refuses anything but spaces up to the end of the header. */
  end(): void {
    while (this.#byte() === SPACE) this.#offset += 1;
    if (this.#offset < this.#bytes.byteLength) {
      throw refuse("trailing-bytes", this.#offset, "something other than spaces follows the header's object");
    }
  }

  /** The byte at the offset; −1, which is no byte, at the end. */
  #byte(): number {
    return this.#bytes[this.#offset] ?? -1;
  }

  #accept(token: string): boolean {
    this.next();
    const found = this.#byte() === token.charCodeAt(0);
    if (found) this.#offset += 1;
    return found;
  }

  #unexpected(expected: string): Error {
    const byte = this.#byte();
    if (byte === -1) return refuse("json-unterminated", this.#offset, `the header ends where ${expected} should stand`);
    return refuse("json-syntax", this.#offset, `byte 0x${byte.toString(16)} stands where ${expected} should`);
  }

  /** Checks the string at the offset, notes it in `#scanned`, and moves behind it. */
  #scanString(): void {
    this.expect('"');
    const start = this.#offset;
    let ascii = true;
    let escaped = false;
    for (let byte = this.#byte(); byte !== QUOTE; byte = this.#byte()) {
      if (byte === -1) throw this.#unexpected("the end of a string");
      if (byte < SPACE) throw refuse("json-control-character", this.#offset, "a control character inside a string");
      if (byte === BACKSLASH) {
        escaped = true;
        this.#scanEscape();
      } else {
        ascii &&= byte < 0x80;
        this.#offset += 1;
      }
    }
    const end = this.#offset;
    if (!ascii && !isUtf8(this.#bytes.subarray(start, end))) {
      throw refuse("utf8-invalid", start, "a string is not valid UTF-8");
    }
    this.#offset += 1;
    this.#scanned.start = start;
    this.#scanned.end = end;
    this.#scanned.ascii = ascii;
    this.#scanned.escaped = escaped;
  }

  /** Moves behind one escape; a high surrogate and the low one that must follow it count as one. */
  #scanEscape(): void {
    const at = this.#offset;
    this.#offset += 1;
    if (this.#byte() !== LOWER_U) {
      if (!SIMPLE_ESCAPES.includes(String.fromCharCode(this.#byte()))) {
        throw refuse("json-escape", at, "an escape that JSON does not know");
      }
      this.#offset += 1;
      return;
    }
    const unit = this.#codeUnit(at);
    if (isHighSurrogate(unit)) {
      const lowAt = this.#offset;
      const paired = this.#byte() === BACKSLASH && this.#bytes[lowAt + 1] === LOWER_U;
      this.#offset += 1;
      if (paired && isLowSurrogate(this.#codeUnit(lowAt))) return;
    }
    if (isHighSurrogate(unit) || isLowSurrogate(unit)) {
      throw refuse("json-surrogate", at, "an escape names half of a surrogate pair");
    }
  }

  /** The code unit of `uXXXX` at the offset; moves behind it. */
  #codeUnit(at: number): number {
    const start = this.#offset + 1;
    const digits = String.fromCharCode(...this.#bytes.subarray(start, start + 4));
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw refuse("json-escape", at, "an escape without four hex digits");
    this.#offset = start + 4;
    return Number.parseInt(digits, 16);
  }
}
