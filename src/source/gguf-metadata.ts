/**
 * Passes the metadata of a GGUF header: checks every key and value, keeps `general.alignment`. Place in the journey:
 * file → first bytes → gguf.ts → this → tensor infos → tensor table.
 *
 * Threat model: keys may repeat (two readers could take two alignments), counts and lengths may lie, arrays may nest
 * without end. Values are skipped in place, arrays at most four deep. Strings are not decoded: vocabularies legitimately
 * hold strings that are no UTF-8.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It wants alignments to be multiples of 8; like
 * llama.cpp `ggml/src/gguf.cpp`, this reader takes every power of two.
 */
import type { Cursor } from "./cursor.ts";
import { quoted } from "./layout.ts";
import { malformed } from "./tensors.ts";

const ALIGNMENT_KEY = Buffer.from("general.alignment");
const DEFAULT_ALIGNMENT = 32;
const ALIGNMENT_MAX = 1024 * 1024;
/** Key length: 8, one byte, value type: 4, one byte of value. */
const ENTRY_BYTES_MIN = 8 + 1 + 4 + 1;
/** Entries of the metadata: models have about 50. 65,536 × 8 bytes of offsets, twice, = 1 MB. */
const METADATA_COUNT = 65_536;
const KEY_BYTES = 65_535;
const ARRAY_DEPTH_MAX = 4;
/** Bytes of a value of types 0–12; of a string (8) and an array (9) the least it takes. */
const VALUE_BYTES_MIN: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const UINT32 = 4;
const BOOL = 7;
const STRING = 8;
const ARRAY = 9;

const refuse = (rule: string, offset: number, what: string): Error => malformed("gguf", rule, offset, what);

/** What is kept of the metadata. */
export interface Metadata {
  /** `general.alignment`, the one value that places tensors. */
  readonly alignment: number;
  /** Offsets of the keys' lengths: text of every key could take as much again as the header. */
  readonly keysAt: Float64Array;
}

/** Passes the metadata. That no key occurs twice is for `requireDistinctKeys` to see. */
export function readMetadata(cursor: Cursor): Metadata {
  const countAt = cursor.offset;
  const count = cursor.u64();
  if (count > METADATA_COUNT) throw refuse("metadata-count", countAt, `more than ${METADATA_COUNT} metadata entries`);
  cursor.requireCount(count, ENTRY_BYTES_MIN, "metadata-count", countAt);
  let alignment = DEFAULT_ALIGNMENT;
  const keysAt = new Float64Array(count);
  for (let index = 0; index < count; index += 1) {
    keysAt[index] = cursor.offset;
    const isAlignment = passKey(cursor);
    const typeAt = cursor.offset;
    const type = cursor.u32();
    const bytesMin = requireValueType(type, typeAt);
    if (isAlignment) alignment = readAlignment(cursor, type, typeAt);
    else skipValues(cursor, type, bytesMin, 1, 0);
  }
  return { alignment, keysAt };
}

/** Refuses a key that repeats one before it. */
export function requireDistinctKeys(cursor: Cursor, { keysAt }: Metadata): void {
  const at = cursor.firstRepeated(keysAt);
  if (at === undefined) return;
  throw refuse("duplicate-key", at, `the metadata key ${quoted(cursor.stringAt(at).toString())} occurs twice`);
}

/** Passes a key; whether it is `general.alignment`. */
function passKey(cursor: Cursor): boolean {
  const at = cursor.offset;
  const byteLength = cursor.u64();
  if (byteLength === 0) throw refuse("key-empty", at, "a metadata key is empty");
  if (byteLength > KEY_BYTES) throw refuse("key-too-long", at, `a metadata key of more than ${KEY_BYTES} bytes`);
  if (!cursor.passUtf8(byteLength)) throw refuse("utf8-invalid", at, "a metadata key is not valid UTF-8");
  return byteLength === ALIGNMENT_KEY.byteLength && ALIGNMENT_KEY.equals(cursor.stringAt(at));
}

function readAlignment(cursor: Cursor, type: number, typeAt: number): number {
  if (type !== UINT32) throw refuse("alignment-type", typeAt, "general.alignment is not a uint32");
  const at = cursor.offset;
  const alignment = cursor.u32();
  const isPowerOfTwo = alignment !== 0 && (alignment & (alignment - 1)) === 0;
  if (!isPowerOfTwo || alignment > ALIGNMENT_MAX) {
    throw refuse("alignment-value", at, `general.alignment ${alignment} is not a power of two up to ${ALIGNMENT_MAX}`);
  }
  return alignment;
}

/** The least bytes a value of `type` takes. */
function requireValueType(type: number, at: number): number {
  const bytesMin = VALUE_BYTES_MIN[type];
  if (bytesMin === undefined) throw refuse("value-type-unknown", at, `value type ${type} is not within 0–12`);
  return bytesMin;
}

/** Passes `count` values. `depth` is the number of arrays around them; recursion ends at `ARRAY_DEPTH_MAX`. */
function skipValues(cursor: Cursor, type: number, bytesMin: number, count: number, depth: number): void {
  if (type === BOOL) {
    for (let index = 0; index < count; index += 1) {
      if (cursor.u8() > 1) throw refuse("bool-invalid", cursor.offset - 1, "a bool is neither 0 nor 1");
    }
  } else if (type === STRING) {
    for (let index = 0; index < count; index += 1) cursor.skip(cursor.u64());
  } else if (type === ARRAY) {
    for (let index = 0; index < count; index += 1) skipArray(cursor, depth);
  } else {
    cursor.skip(count * bytesMin);
  }
}

function skipArray(cursor: Cursor, depth: number): void {
  const typeAt = cursor.offset;
  if (depth === ARRAY_DEPTH_MAX)
    throw refuse("array-too-deep", typeAt, `arrays nest more than ${ARRAY_DEPTH_MAX} deep`);
  const type = cursor.u32();
  const bytesMin = requireValueType(type, typeAt);
  const countAt = cursor.offset;
  const count = cursor.u64();
  cursor.requireCount(count, bytesMin, "array-count", countAt);
  skipValues(cursor, type, bytesMin, count, depth + 1);
}
