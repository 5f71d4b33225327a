/**
 * Parses a GGUF header (v2, v3; little-endian) into the tensor table. Place in the journey: file → first bytes → this →
 * tensor table → seal, `locate`. The bytes parsed are the caller's; it uploads the same ones.
 *
 * Threat model: the file is hostile. Counts are checked against the file before a loop starts, lengths before the cursor
 * moves, sizes for overflow, tensors for overlap. Every refusal is `MODEL_MALFORMED` with a rule and an offset. Work is
 * linear in the header plus one sort; nothing is allocated by a claimed size.
 *
 * The header's length stands nowhere in the file, so a short prefix is answered by `need`, at least doubling: all
 * retries together parse at most twice the final prefix.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; llama.cpp `ggml/src/gguf.cpp`. Unlike
 * there, names of up to 1024 bytes are accepted, and gaps between tensors.
 */
import { isUtf8 } from "node:buffer";
import { assert, requireInteger } from "../assert.ts";
import { roundUp } from "../bytes.ts";
import { LIMITS } from "../limits.ts";
import { Cursor, PrefixTooShort } from "./cursor.ts";
import type { GgmlType } from "./ggml-types.ts";
import { GGML_TYPES } from "./ggml-types.ts";
import { readMetadata } from "./gguf-metadata.ts";
import type { PlacedTensor } from "./layout.ts";
import { checkedProduct, elementCount, quoted, requireTensorCount, requireTensorName, sortByOffset } from "./layout.ts";
import type { HeaderParse } from "./tensors.ts";
import { malformed } from "./tensors.ts";

const MAGIC = 0x46554747;
/** Name length: 8, one byte, rank: 4, no extents, type: 4, offset: 8. */
const TENSOR_BYTES_MIN = 8 + 1 + 4 + 4 + 8;
const RANK_MAX = 4;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const refuse = (rule: string, offset: number, what: string): Error => malformed("gguf", rule, offset, what);

/**
 * The tensor table of the file that begins with `prefix` and has `fileByteLength` bytes, in the order of the data; or
 * how many bytes from the start are needed to go on. `headerByteLength` ends with the last tensor info, before padding.
 * Throws `MODEL_MALFORMED` with `details` {format, rule, offset}.
 */
export function parseGguf(
  prefix: Uint8Array,
  fileByteLength: number,
  options: { readonly maxHeaderBytes?: number } = {},
): HeaderParse {
  const limit = options.maxHeaderBytes ?? LIMITS.ggufHeaderBytes;
  requireInteger(limit, "maxHeaderBytes", 1, Number.MAX_SAFE_INTEGER);
  assert(prefix.byteLength <= fileByteLength, "the prefix is part of the file");
  try {
    return readHeader(new Cursor(prefix, fileByteLength, limit), fileByteLength);
  } catch (thrown) {
    if (!(thrown instanceof PrefixTooShort)) throw thrown;
    const wanted = Math.max(2 * prefix.byteLength, thrown.byteLengthNeeded);
    return { kind: "need", byteLength: Math.min(fileByteLength, limit, wanted) };
  }
}

function readHeader(cursor: Cursor, fileByteLength: number): HeaderParse {
  requireVersion(cursor);
  const tensorCountAt = cursor.offset;
  const tensorCount = cursor.u64();
  requireTensorCount("gguf", tensorCount, tensorCountAt);
  const alignment = readMetadata(cursor);
  cursor.requireCount(tensorCount, TENSOR_BYTES_MIN, "tensor-count", tensorCountAt);
  const names = new Set<string>();
  const infos: PlacedTensor[] = [];
  for (let index = 0; index < tensorCount; index += 1) infos.push(readTensorInfo(cursor, names, alignment));
  const dataStart = roundUp(cursor.offset, alignment);
  const tensors = infos.map((info) => place(info, dataStart, fileByteLength));
  sortByOffset(tensors);
  requireDisjoint(tensors);
  return { kind: "complete", headerByteLength: cursor.offset, tensors: tensors.map(({ tensor }) => tensor) };
}

function requireVersion(cursor: Cursor): void {
  if (cursor.u32() !== MAGIC) throw refuse("magic", 0, 'the file does not begin with "GGUF"');
  const at = cursor.offset;
  const version = cursor.u32();
  // Versions are small: only a big-endian writer puts its bytes into the upper half.
  if (version !== 0 && (version & 0xffff) === 0) {
    throw refuse("big-endian", at, "the file is big-endian; only little-endian GGUF is read");
  }
  if (version !== 2 && version !== 3) throw refuse("version-unsupported", at, `version ${version} is not 2 or 3`);
}

/** One tensor info; its `offset` still counts from the start of the data. */
function readTensorInfo(cursor: Cursor, names: Set<string>, alignment: number): PlacedTensor {
  const name = readTensorName(cursor, names);
  const rankAt = cursor.offset;
  const rank = cursor.u32();
  if (rank > RANK_MAX)
    throw refuse("rank-too-large", rankAt, `tensor ${quoted(name)} has more than ${RANK_MAX} extents`);
  const shapeAt = cursor.offset;
  const shape = Array.from({ length: rank }, () => readExtent(cursor, name));
  const typeAt = cursor.offset;
  const typeId = cursor.u32();
  const type = GGML_TYPES.get(typeId);
  if (type === undefined) {
    throw refuse("type-unknown", typeAt, `tensor ${quoted(name)} has the unknown or removed type ${typeId}`);
  }
  const byteLength = requireByteLength(name, type, shape, shapeAt);
  const at = cursor.offset;
  const offset = cursor.u64();
  if (offset % alignment !== 0) {
    throw refuse("offset-misaligned", at, `the offset of tensor ${quoted(name)} is no multiple of ${alignment}`);
  }
  return { tensor: { name, dtype: type.name, shape, offset, byteLength }, at };
}

function readExtent(cursor: Cursor, name: string): number {
  const at = cursor.offset;
  const extent = cursor.u64();
  if (!Number.isSafeInteger(extent)) {
    throw refuse("extent-too-large", at, `tensor ${quoted(name)} has an extent above 2^53−1`);
  }
  return extent;
}

function readTensorName(cursor: Cursor, names: Set<string>): string {
  const at = cursor.offset;
  const byteLength = cursor.u64();
  if (byteLength > LIMITS.nameBytes) {
    throw refuse("name-too-long", at, `a tensor name of more than ${LIMITS.nameBytes} bytes`);
  }
  const bytes = cursor.bytes(byteLength);
  if (!isUtf8(bytes)) throw refuse("utf8-invalid", at, "a tensor name is not valid UTF-8");
  const name = decoder.decode(bytes);
  requireTensorName("gguf", name, at);
  if (names.has(name)) throw refuse("duplicate-name", at, `the name ${quoted(name)} occurs twice`);
  names.add(name);
  return name;
}

/** Bytes of a tensor by its type and shape; a shape without extents is one element. */
function requireByteLength(name: string, type: GgmlType, shape: readonly number[], shapeAt: number): number {
  const rowElements = shape[0] ?? 1;
  if (rowElements % type.blockElements !== 0) {
    const what = `a row of ${rowElements} elements is no multiple of ${type.name}'s block of ${type.blockElements}`;
    throw refuse("block-misaligned", shapeAt, `tensor ${quoted(name)}: ${what}`);
  }
  const elements = elementCount(shape);
  const byteLength =
    elements === undefined ? undefined : checkedProduct(elements / type.blockElements, type.blockBytes);
  if (byteLength === undefined) throw refuse("size-overflow", shapeAt, `the size of tensor ${quoted(name)} overflows`);
  return byteLength;
}

/** The tensor with its offset in the file. */
function place({ tensor, at }: PlacedTensor, dataStart: number, fileByteLength: number): PlacedTensor {
  // Subtractions only: a sum of two figures of the file could round.
  if (tensor.byteLength > fileByteLength - dataStart - tensor.offset) {
    throw refuse("tensor-outside-file", at, `tensor ${quoted(tensor.name)} reaches behind the file`);
  }
  return { tensor: { ...tensor, offset: dataStart + tensor.offset }, at };
}

/** Refuses overlaps. `tensors` are sorted by offset; zero-size tensors overlap nothing. */
function requireDisjoint(tensors: readonly PlacedTensor[]): void {
  let end = 0;
  for (const { tensor, at } of tensors) {
    if (tensor.byteLength === 0) continue;
    if (tensor.offset < end) throw refuse("overlap", at, `tensor ${quoted(tensor.name)} overlaps the one before it`);
    end = tensor.offset + tensor.byteLength;
  }
}
