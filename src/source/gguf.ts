/**
 * Parses a GGUF header (v2, v3; little-endian) into the tensor table. Place in the journey: file → first bytes → this →
 * tensor table → seal, `locate`. The bytes parsed are the caller's; it uploads the same ones.
 *
 * Threat model: the file is hostile. Counts are checked against the file before a loop starts, lengths before the cursor
 * moves, sizes for overflow, tensors for overlap. Every refusal is `MODEL_MALFORMED` with a rule and an offset. Work is
 * linear in the header plus its sorts; nothing is allocated by a claimed size. Tensor infos are passed for their lengths
 * first and read once all of them are at hand, so that memory holds one table, never a dozen begun and given up.
 *
 * The header's length stands nowhere in the file, so a short prefix is answered by `need`, at least doubling: all
 * retries together parse at most twice the final prefix.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; llama.cpp `ggml/src/gguf.cpp`. Unlike
 * there, names of up to 1024 bytes are accepted, and gaps between tensors.
 */
import { assert, requireInteger } from "../assert.ts";
import { roundUp } from "../bytes.ts";
import { LIMITS } from "../limits.ts";
import { Cursor, PrefixTooShort } from "./cursor.ts";
import type { GgmlType } from "./ggml-types.ts";
import { GGML_TYPES } from "./ggml-types.ts";
import { readMetadata, requireDistinctKeys } from "./gguf-metadata.ts";
import type { TensorTable } from "./layout.ts";
import {
  checkedProduct,
  elementCount,
  quoted,
  requireNameBytes,
  requireTensorCount,
  requireTensorName,
  sortedByOffset,
  whereIsPlaced,
} from "./layout.ts";
import type { HeaderParse, Tensor } from "./tensors.ts";
import { malformed } from "./tensors.ts";

const MAGIC = 0x46554747;
/** Name length: 8, one byte, rank: 4, no extents, type: 4, offset: 8. */
const TENSOR_BYTES_MIN = 8 + 1 + 4 + 4 + 8;
const RANK_MAX = 4;
const EXTENT_BYTES = 8;
const TYPE_BYTES = 4;
const OFFSET_BYTES = 8;

const refuse = (rule: string, offset: number, what: string): Error => malformed("gguf", rule, offset, what);

/** Where the tensors' data may lie: absolute file offsets. */
interface DataSection {
  readonly alignment: number;
  readonly start: number;
  readonly end: number;
}

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
  const metadata = readMetadata(cursor);
  cursor.requireCount(tensorCount, TENSOR_BYTES_MIN, "tensor-count", tensorCountAt);
  const infosAt = cursor.offset;
  const namesAt = new Float64Array(tensorCount);
  let nameBytes = 0;
  for (let index = 0; index < tensorCount; index += 1) {
    const at = cursor.offset;
    namesAt[index] = at;
    nameBytes += passTensorInfo(cursor);
    requireNameBytes("gguf", nameBytes, at);
  }
  const headerByteLength = cursor.offset;
  // All bytes of the header are at hand. Only offsets were kept so far: a retry with a longer prefix leaves no garbage.
  requireDistinctKeys(cursor, metadata);
  requireDistinctNames(cursor, namesAt);
  cursor.rewind(infosAt);
  const { alignment } = metadata;
  const data: DataSection = { alignment, start: roundUp(headerByteLength, alignment), end: fileByteLength };
  const tensors = readTensors(cursor, tensorCount, data);
  return { kind: "complete", headerByteLength, tensors };
}

/** Passes one tensor info, looking only at what its length depends on. Returns the bytes of its name. */
function passTensorInfo(cursor: Cursor): number {
  const byteLength = nameByteLength(cursor);
  cursor.skip(byteLength);
  cursor.skip(readRank(cursor) * EXTENT_BYTES + TYPE_BYTES + OFFSET_BYTES);
  return byteLength;
}

function requireDistinctNames(cursor: Cursor, namesAt: Float64Array): void {
  const at = cursor.firstRepeated(namesAt);
  if (at === undefined) return;
  throw refuse("duplicate-name", at, `the name ${quoted(cursor.stringAt(at).toString())} occurs twice`);
}

function readTensors(cursor: Cursor, count: number, data: DataSection): readonly Tensor[] {
  const table: TensorTable = { tensors: [], placedAt: [] };
  for (let index = 0; index < count; index += 1) readTensorInfo(cursor, data, table);
  const tensors = sortedByOffset(table);
  requireDisjoint(tensors, table);
  return tensors;
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

/** Adds one tensor to `table`. */
function readTensorInfo(cursor: Cursor, data: DataSection, table: TensorTable): void {
  const name = readTensorName(cursor);
  const rank = readRank(cursor);
  const shapeAt = cursor.offset;
  const shape = new Array<number>(rank).fill(0);
  for (let index = 0; index < rank; index += 1) shape[index] = readExtent(cursor, name);
  const typeAt = cursor.offset;
  const typeId = cursor.u32();
  const type = GGML_TYPES.get(typeId);
  if (type === undefined) {
    throw refuse("type-unknown", typeAt, `tensor ${quoted(name)} has the unknown or removed type ${typeId}`);
  }
  const byteLength = requireByteLength(name, type, shape, shapeAt);
  const at = cursor.offset;
  const offset = readOffset(cursor, name, byteLength, data);
  table.tensors.push({ name, dtype: type.name, shape, offset, byteLength });
  table.placedAt.push(at);
}

function readRank(cursor: Cursor): number {
  const at = cursor.offset;
  const rank = cursor.u32();
  if (rank > RANK_MAX) throw refuse("rank-too-large", at, `a tensor has more than ${RANK_MAX} extents`);
  return rank;
}

/** The offset of the tensor in the file. */
function readOffset(cursor: Cursor, name: string, byteLength: number, data: DataSection): number {
  const at = cursor.offset;
  const offset = cursor.u64();
  if (offset % data.alignment !== 0) {
    throw refuse("offset-misaligned", at, `the offset of tensor ${quoted(name)} is no multiple of ${data.alignment}`);
  }
  // Subtractions only: a sum of two figures of the file could round.
  if (byteLength > data.end - data.start - offset) {
    throw refuse("tensor-outside-file", at, `tensor ${quoted(name)} reaches behind the file`);
  }
  return data.start + offset;
}

function readExtent(cursor: Cursor, name: string): number {
  const at = cursor.offset;
  const extent = cursor.u64();
  if (!Number.isSafeInteger(extent)) {
    throw refuse("extent-too-large", at, `tensor ${quoted(name)} has an extent above 2^53−1`);
  }
  return extent;
}

function nameByteLength(cursor: Cursor): number {
  const at = cursor.offset;
  const byteLength = cursor.u64();
  if (byteLength > LIMITS.nameBytes) {
    throw refuse("name-too-long", at, `a tensor name of more than ${LIMITS.nameBytes} bytes`);
  }
  return byteLength;
}

function readTensorName(cursor: Cursor): string {
  const at = cursor.offset;
  const name = cursor.text(nameByteLength(cursor));
  if (name === undefined) throw refuse("utf8-invalid", at, "a tensor name is not valid UTF-8");
  requireTensorName("gguf", name, at);
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

/** Refuses overlaps. `tensors` are those of `table`, sorted by offset; zero-size tensors overlap nothing. */
function requireDisjoint(tensors: readonly Tensor[], table: TensorTable): void {
  let end = 0;
  for (const tensor of tensors) {
    if (tensor.byteLength === 0) continue;
    if (tensor.offset < end) {
      throw refuse("overlap", whereIsPlaced(table, tensor), `tensor ${quoted(tensor.name)} overlaps the one before it`);
    }
    end = tensor.offset + tensor.byteLength;
  }
}
