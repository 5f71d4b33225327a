/**
 * Judges the bytes of `data` in an audit line: whether they are the one way to write that object. Two readers must never
 * disagree about what a line says, so there is one form: RFC 8785 (JCS), and keys are ASCII words, so that their order
 * as bytes is their order as text. White space, doubled or unsorted keys, other escapes, `1.0` and deep nesting are
 * faults. Works on bytes and builds nothing; UTF-8 is judged for the line as a whole, before.
 */
import { LIMITS } from "../limits.ts";

/** What the functions below return instead of an offset. */
const FAULT = -1;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const ZERO = 0x30;
const POINT = 0x2e;
const LETTER_E = 0x65;

const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
const isLetter = (byte: number): boolean => (byte >= 0x61 && byte <= 0x7a) || (byte >= 0x41 && byte <= 0x5a);
const isWord = (byte: number): boolean => isLetter(byte) || isDigit(byte) || byte === 0x5f;

/** Longest key. */
const KEY_BYTES = 64;
/** Decimals of up to this many digits are exact enough to come back as they were (`DBL_DIG`). */
const PLAIN_DIGITS = 15;
/** The longest number that JSON.stringify writes has 25 characters. */
const NUMBER_BYTES = 25;

/** The escapes that RFC 8785 writes with one letter. */
const SHORT_ESCAPES = new Set(Array.from('"\\bfnrt', (char) => char.charCodeAt(0)));
const SHORT_CONTROLS = new Set(["08", "09", "0a", "0c", "0d"]);

type Bytes = Uint8Array;

/** A byte, or 0 past the end, which nothing here accepts. */
const byteAt = (bytes: Bytes, at: number): number => bytes[at] ?? 0;

/** The offset behind an escape whose backslash is at `at`. */
function escapeEnd(bytes: Bytes, at: number): number {
  const letter = byteAt(bytes, at + 1);
  if (SHORT_ESCAPES.has(letter)) return at + 2;
  const text = String.fromCharCode(...bytes.subarray(at + 1, at + 6));
  const digits = /^u00([01][0-9a-f])$/.exec(text)?.[1];
  return digits === undefined || SHORT_CONTROLS.has(digits) ? FAULT : at + 6;
}

/** The offset behind the string whose quotation mark is at `at`. */
function stringEnd(bytes: Bytes, at: number): number {
  let next = at + 1;
  while (next < bytes.byteLength) {
    const byte = byteAt(bytes, next);
    if (byte === QUOTE) return next + 1;
    if (byte < 0x20) return FAULT;
    next = byte === BACKSLASH ? escapeEnd(bytes, next) : next + 1;
    if (next === FAULT) return FAULT;
  }
  return FAULT;
}

/** The offset behind the digits at `at`. */
function digitsEnd(bytes: Bytes, at: number): number {
  let end = at;
  while (isDigit(byteAt(bytes, end))) end += 1;
  return end;
}

/** Whether a decimal below 1 has so many zeros that it is written with an exponent: 1e-7. */
function isTiny(bytes: Bytes, at: number): boolean {
  if (byteAt(bytes, at) !== ZERO) return false;
  for (let index = at + 2; index < at + 8; index += 1) {
    if (byteAt(bytes, index) !== ZERO) return false;
  }
  return true;
}

/** The offset behind any number at `at` that `JSON.stringify` would have written that way. */
function anyNumberEnd(bytes: Bytes, at: number): number {
  const text = String.fromCharCode(...bytes.subarray(at, at + NUMBER_BYTES + 1));
  const written = /^[-0-9.eE+]+/.exec(text)?.[0] ?? "";
  const value = Number(written);
  return Number.isFinite(value) && JSON.stringify(value) === written ? at + written.length : FAULT;
}

/**
 * The offset behind the number at `at`: what `JSON.stringify` would have written for it. Decimals of at most 15 digits
 * need no second look: no two of them are the same double, so each is the shortest way to write its own.
 */
function numberEnd(bytes: Bytes, at: number): number {
  const end = digitsEnd(bytes, at);
  const hasPoint = byteAt(bytes, end) === POINT;
  const last = hasPoint ? digitsEnd(bytes, end + 1) : end;
  const letter = byteAt(bytes, last) | 0x20;
  const isPlain = end > at && last - at <= PLAIN_DIGITS && letter !== LETTER_E;
  if (!isPlain || (hasPoint && isTiny(bytes, at))) return anyNumberEnd(bytes, at);
  if (end - at > 1 && byteAt(bytes, at) === ZERO) return FAULT;
  return hasPoint && (last === end + 1 || byteAt(bytes, last - 1) === ZERO) ? FAULT : last;
}

function wordEnd(bytes: Bytes, at: number, word: string): number {
  for (let index = 0; index < word.length; index += 1) {
    if (byteAt(bytes, at + index) !== word.charCodeAt(index)) return FAULT;
  }
  return at + word.length;
}

/** Whether the key [a, aEnd) stands before the key [b, bEnd), byte by byte. */
function isBefore(bytes: Bytes, a: number, aEnd: number, b: number, bEnd: number): boolean {
  const shared = Math.min(aEnd - a, bEnd - b);
  for (let index = 0; index < shared; index += 1) {
    const difference = byteAt(bytes, a + index) - byteAt(bytes, b + index);
    if (difference !== 0) return difference < 0;
  }
  return aEnd - a < bEnd - b;
}

/** The offset of the closing quotation mark of the key whose opening one is at `at`. */
function keyEnd(bytes: Bytes, at: number): number {
  if (byteAt(bytes, at) !== QUOTE || !isLetter(byteAt(bytes, at + 1))) return FAULT;
  let end = at + 2;
  while (isWord(byteAt(bytes, end))) end += 1;
  return byteAt(bytes, end) === QUOTE && end - at - 1 <= KEY_BYTES ? end : FAULT;
}

function arrayEnd(bytes: Bytes, at: number, depth: number): number {
  if (byteAt(bytes, at + 1) === 0x5d) return at + 2;
  for (let next = at; ; ) {
    next = valueEnd(bytes, next + 1, depth);
    if (next === FAULT) return FAULT;
    if (byteAt(bytes, next) === 0x5d) return next + 1;
    if (byteAt(bytes, next) !== COMMA) return FAULT;
  }
}

/**
 * The offset behind the object whose brace is at `at`, or -1 if it is not in canonical form. `depth` is how deep it
 * may still go, itself included.
 */
export function canonicalObjectEnd(bytes: Uint8Array, at: number, depth: number = LIMITS.auditDataDepth): number {
  if (depth === 0 || byteAt(bytes, at) !== 0x7b) return FAULT;
  if (byteAt(bytes, at + 1) === 0x7d) return at + 2;
  let last = at;
  let lastEnd = at;
  for (let next = at; ; ) {
    const key = next + 2;
    const end = keyEnd(bytes, next + 1);
    if (end === FAULT || byteAt(bytes, end + 1) !== COLON) return FAULT;
    if (lastEnd > last && !isBefore(bytes, last, lastEnd, key, end)) return FAULT;
    last = key;
    lastEnd = end;
    next = valueEnd(bytes, end + 2, depth - 1);
    if (next === FAULT) return FAULT;
    if (byteAt(bytes, next) === 0x7d) return next + 1;
    if (byteAt(bytes, next) !== COMMA) return FAULT;
  }
}

/** The offset behind the value at `at`; `depth` is how much deeper objects and arrays may go. */
function valueEnd(bytes: Bytes, at: number, depth: number): number {
  switch (byteAt(bytes, at)) {
    case QUOTE:
      return stringEnd(bytes, at);
    case 0x7b:
      return canonicalObjectEnd(bytes, at, depth);
    case 0x5b:
      return depth === 0 ? FAULT : arrayEnd(bytes, at, depth - 1);
    case 0x74:
      return wordEnd(bytes, at, "true");
    case 0x66:
      return wordEnd(bytes, at, "false");
    case 0x6e:
      return wordEnd(bytes, at, "null");
    default:
      return numberEnd(bytes, at);
  }
}
