/**
 * Parses a safetensors header into the tensor table. Place in the journey: file → first bytes → this → tensor table →
 * seal, `locate`. The bytes parsed are the caller's; it uploads the same ones.
 *
 * Threat model: the file is hostile. It may lie about every length, repeat names, overlap tensors or leave holes that
 * carry bytes no tensor names. Every such file ends in `MODEL_MALFORMED` with a rule and an offset. Work is linear in
 * the header, plus one sort; nothing is allocated by a claimed size, only by bytes that are there.
 *
 * Format: u64-LE N; N bytes of JSON that begin with `{` and may be padded with spaces; data, indexed without holes up
 * to the end of the file. Source: https://github.com/huggingface/safetensors (README, "Format"; `tensor.rs`,
 * `Metadata::validate`). Stricter than `tensor.rs`: duplicate keys, unknown fields and names without text are refused.
 */
import { assert, requireInteger } from "../assert.ts";
import { LIMITS } from "../limits.ts";
import { JsonHeader } from "./json-header.ts";
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

/** The header length field. */
const LENGTH_BYTES = 8;
const OPENING_BRACE = 0x7b;
/** Entries of `__metadata__`: writers use about ten. 65,536 × about 100 bytes of set = 6.5 MB. */
const METADATA_COUNT = 65_536;
const METADATA_KEY_BYTES = 65_535;
/** Bytes of all metadata keys, which are kept until the last is read; values are not. 64 for each of 65,536. */
const METADATA_KEYS_BYTES = 4 * 1024 * 1024;
/** Longer than every field and dtype of the format. */
const WORD_BYTES = 16;
/** numpy 2 and PyTorch stop at 64 dimensions. */
const RANK_MAX = 64;
/** Extents of all tensors: two bytes of the header (`1,`) take eight in memory. Eight a tensor = 2.5 MB. */
const EXTENT_COUNT = 8 * LIMITS.tensorCount;

interface Dtype {
  readonly name: string;
  /** Bits of one element. */
  readonly bits: number;
}

const DTYPE_BITS: readonly (readonly [name: string, bits: number])[] = [
  ["BOOL", 8],
  ["F4", 4],
  ["F6_E2M3", 6],
  ["F6_E3M2", 6],
  ["U8", 8],
  ["I8", 8],
  ["F8_E5M2", 8],
  ["F8_E4M3", 8],
  ["F8_E8M0", 8],
  ["F8_E4M3FNUZ", 8],
  ["F8_E5M2FNUZ", 8],
  ["I16", 16],
  ["U16", 16],
  ["F16", 16],
  ["BF16", 16],
  ["I32", 32],
  ["U32", 32],
  ["F32", 32],
  ["C64", 64],
  ["F64", 64],
  ["I64", 64],
  ["U64", 64],
];
const DTYPES: ReadonlyMap<string, Dtype> = new Map(DTYPE_BITS.map(([name, bits]) => [name, { name, bits }]));

const refuse = (rule: string, offset: number, what: string): Error => malformed("safetensors", rule, offset, what);

/** The data section: absolute file offsets. */
interface DataSection {
  readonly start: number;
  readonly end: number;
}

/** The table as it is read. */
interface Table extends TensorTable {
  /** Extents of all shapes so far. */
  extentCount: number;
  /** Where a shape is collected: an array of its own that grows would be most of a parse's garbage. */
  readonly extents: number[];
}

/** A member of a tensor entry and the offset of its value. */
interface Field<T> {
  readonly at: number;
  readonly value: T;
}

/**
 * The tensor table of the file that begins with `prefix` and has `fileByteLength` bytes, in the order of the data; or
 * the number of bytes needed, once the length field is known. `headerByteLength` is where the data starts.
 * Throws `MODEL_MALFORMED` with `details` {format, rule, offset}.
 */
export function parseSafetensors(
  prefix: Uint8Array,
  fileByteLength: number,
  options: { readonly maxHeaderBytes?: number } = {},
): HeaderParse {
  const limit = options.maxHeaderBytes ?? LIMITS.safetensorsHeaderBytes;
  requireInteger(limit, "maxHeaderBytes", 1, LIMITS.safetensorsHeaderBytesMax);
  assert(prefix.byteLength <= fileByteLength, "the prefix is part of the file");
  if (fileByteLength < LENGTH_BYTES) throw refuse("truncated", 0, "the file ends within the header length");
  if (prefix.byteLength < LENGTH_BYTES) return { kind: "need", byteLength: LENGTH_BYTES };
  const claimed = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (claimed > limit)
    throw refuse("header-too-large", 0, `the header length is ${claimed.toString()}, above ${limit}`);
  const headerByteLength = LENGTH_BYTES + Number(claimed);
  if (headerByteLength > fileByteLength) throw refuse("truncated", 0, "the header length points behind the file");
  if (prefix.byteLength < headerByteLength) return { kind: "need", byteLength: headerByteLength };

  const data: DataSection = { start: headerByteLength, end: fileByteLength };
  const table = readHeader(prefix.subarray(0, headerByteLength), data);
  const tensors = sortedByOffset(table);
  requireContiguous(tensors, table, data);
  return { kind: "complete", headerByteLength, tensors };
}

function readHeader(bytes: Uint8Array, data: DataSection): TensorTable {
  if (bytes[LENGTH_BYTES] !== OPENING_BRACE)
    throw refuse("header-start", LENGTH_BYTES, 'the header must begin with "{"');
  const json = new JsonHeader(bytes, LENGTH_BYTES);
  const names = new Set<string>();
  let nameBytes = 0;
  const extents = new Array<number>(RANK_MAX).fill(0);
  const table: Table = { tensors: [], placedAt: [], extentCount: 0, extents };
  for (let at = json.first("{", "}"); at !== undefined; at = json.following("}")) {
    const name = json.string(LIMITS.nameBytes, "name-too-long");
    if (names.has(name)) throw refuse("duplicate-name", at, `the name ${quoted(name)} occurs twice`);
    names.add(name);
    json.expect(":");
    if (name === "__metadata__") {
      readMetadata(json);
    } else {
      requireTensorName("safetensors", name, at);
      nameBytes += Buffer.byteLength(name);
      requireNameBytes("safetensors", nameBytes, at);
      requireTensorCount("safetensors", table.tensors.length + 1, at);
      readTensor(json, name, data, table);
    }
  }
  json.end();
  return table;
}

/** Checks the string→string map; its values are not kept. */
function readMetadata(json: JsonHeader): void {
  const keys = new Set<string>();
  let keyBytes = 0;
  for (let at = json.first("{", "}"); at !== undefined; at = json.following("}")) {
    const key = json.string(METADATA_KEY_BYTES, "metadata-key-too-long");
    if (keys.has(key)) throw refuse("duplicate-key", at, `the metadata key ${quoted(key)} occurs twice`);
    keys.add(key);
    if (keys.size > METADATA_COUNT) throw refuse("metadata-count", at, `more than ${METADATA_COUNT} metadata entries`);
    keyBytes += Buffer.byteLength(key);
    if (keyBytes > METADATA_KEYS_BYTES) {
      throw refuse("metadata-keys-too-long", at, `metadata keys of more than ${METADATA_KEYS_BYTES} bytes in all`);
    }
    json.expect(":");
    json.skipString();
  }
}

/** Adds one tensor to `table`. */
function readTensor(json: JsonHeader, name: string, data: DataSection, table: Table): void {
  const entryAt = json.next();
  let dtype: Dtype | undefined;
  let shape: Field<number[]> | undefined;
  let offsets: Field<readonly [begin: number, end: number]> | undefined;
  for (let keyAt = json.first("{", "}"); keyAt !== undefined; keyAt = json.following("}")) {
    const key = json.string(WORD_BYTES, "field-unknown");
    const isTwice =
      (key === "dtype" && dtype !== undefined) ||
      (key === "shape" && shape !== undefined) ||
      (key === "data_offsets" && offsets !== undefined);
    if (isTwice) throw refuse("duplicate-key", keyAt, `tensor ${quoted(name)} has the field ${quoted(key)} twice`);
    json.expect(":");
    const at = json.next();
    if (key === "dtype") dtype = readDtype(json, name, at);
    else if (key === "shape") shape = { at, value: readShape(json, table) };
    else if (key === "data_offsets") offsets = { at, value: readOffsets(json) };
    else throw refuse("field-unknown", keyAt, `tensor ${quoted(name)} has the unknown field ${quoted(key)}`);
  }
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    throw refuse("field-missing", entryAt, `tensor ${quoted(name)} lacks dtype, shape or data_offsets`);
  }
  const sizeByShape = requireByteLength(name, dtype, shape);
  const [begin, end] = offsets.value;
  if (begin > end) throw refuse("offsets-reversed", offsets.at, `tensor ${quoted(name)} ends before it begins`);
  if (end > data.end - data.start) {
    throw refuse("tensor-outside-file", offsets.at, `tensor ${quoted(name)} reaches behind the file`);
  }
  if (end - begin !== sizeByShape) {
    const claim = `takes ${sizeByShape} bytes by dtype and shape, ${end - begin} by data_offsets`;
    throw refuse("size-mismatch", offsets.at, `tensor ${quoted(name)} ${claim}`);
  }
  const offset = data.start + begin;
  table.tensors.push({ name, dtype: dtype.name, shape: shape.value, offset, byteLength: end - begin });
  table.placedAt.push(offsets.at);
}

function readDtype(json: JsonHeader, name: string, at: number): Dtype {
  const text = json.string(WORD_BYTES, "dtype-unknown");
  const dtype = DTYPES.get(text);
  if (dtype === undefined)
    throw refuse("dtype-unknown", at, `tensor ${quoted(name)} has the unknown dtype ${quoted(text)}`);
  return dtype;
}

function readShape(json: JsonHeader, table: Table): number[] {
  const { extents } = table;
  let rank = 0;
  for (let at = json.first("[", "]"); at !== undefined; at = json.following("]")) {
    if (rank === RANK_MAX) throw refuse("rank-too-large", at, `a shape of more than ${RANK_MAX} extents`);
    if (table.extentCount === EXTENT_COUNT)
      throw refuse("extent-count", at, `more than ${EXTENT_COUNT} extents in all`);
    extents[rank] = json.integer();
    rank += 1;
    table.extentCount += 1;
  }
  return extents.slice(0, rank);
}

function readOffsets(json: JsonHeader): readonly [begin: number, end: number] {
  json.expect("[");
  const begin = json.integer();
  json.expect(",");
  const end = json.integer();
  json.expect("]");
  return [begin, end];
}

/** Bytes of a tensor by its dtype and shape. */
function requireByteLength(name: string, dtype: Dtype, shape: Field<readonly number[]>): number {
  const elements = elementCount(shape.value);
  const bits = elements === undefined ? undefined : checkedProduct(elements, dtype.bits);
  if (bits === undefined) throw refuse("size-overflow", shape.at, `the size of tensor ${quoted(name)} overflows`);
  if (bits % 8 !== 0) {
    throw refuse("size-fractional", shape.at, `tensor ${quoted(name)} of ${bits} bits does not fill whole bytes`);
  }
  return bits / 8;
}

/** Refuses overlaps, holes, and data that no tensor names. `tensors` are those of `table`, sorted by offset. */
function requireContiguous(tensors: readonly Tensor[], table: TensorTable, data: DataSection): void {
  let end = data.start;
  for (const tensor of tensors) {
    if (tensor.offset !== end) {
      const [rule, what] =
        tensor.offset < end
          ? ["overlap", `tensor ${quoted(tensor.name)} overlaps the one before it`]
          : ["hole", `${tensor.offset - end} bytes before tensor ${quoted(tensor.name)}`];
      throw refuse(rule, whereIsPlaced(table, tensor), what);
    }
    end += tensor.byteLength;
  }
  if (end < data.end) throw refuse("data-end", end, `${data.end - end} bytes follow the last tensor`);
}
