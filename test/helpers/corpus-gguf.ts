/** The hostile GGUF files of the corpus (corpus.ts). Offsets count from the start of the file. */
import type { CorpusRow } from "./corpus.ts";
import { nestedGgufArray } from "./gguf-files.ts";
import {
  buildGguf,
  concat,
  GGUF_VALUE,
  ggufArray,
  ggufEntry,
  ggufString,
  ggufTensorInfo,
  patched,
  rawGguf,
  u32,
  u64,
  utf8,
} from "./model-files.ts";

const F32 = 0;
const Q4_0 = 2;
const VERSION_AT = 4;
const TENSORS_AT = 8;
const ENTRIES_AT = 16;
/** Where the metadata begins. */
const BODY_AT = 24;
/** An entry whose key is "k": 8 + 1 bytes of key, then the type, then the value. */
const TYPE_AT = BODY_AT + 9;
const VALUE_AT = TYPE_AT + 4;
/** An entry whose key is "general.alignment", of 17 bytes. */
const ALIGNMENT_TYPE_AT = BODY_AT + 8 + 17;
const ALIGNMENT_AT = ALIGNMENT_TYPE_AT + 4;
/** A tensor info whose name has one byte and whose shape has one extent. */
const RANK_AT = BODY_AT + 9;
const SHAPE_AT = RANK_AT + 4;
const INFO_TYPE_AT = SHAPE_AT + 8;
const OFFSET_AT = INFO_TYPE_AT + 4;
const INFO_BYTES = OFFSET_AT + 8 - BODY_AT;

const EVERY_BIT = 2n ** 64n - 1n;
const room = new Uint8Array(64);
const data = new Uint8Array(256);

const valid = buildGguf({
  kv: [
    { key: "general.name", type: GGUF_VALUE.string, value: ggufString("model") },
    { key: "k.words", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.string, [ggufString("a"), ggufString("b")]) },
  ],
  tensors: [
    { name: "a", type: F32, shape: [8], data: new Uint8Array(32) },
    { name: "b", type: Q4_0, shape: [32, 2], data: new Uint8Array(36) },
  ],
});

const withEntry = (type: number, ...value: Uint8Array[]): Uint8Array =>
  rawGguf([ggufEntry({ key: "k", type, value: concat(...value) })], { entries: 1 });
const withKeys = (...keys: (string | Uint8Array)[]): Uint8Array =>
  rawGguf([...keys.map((key) => concat(ggufString(key), u32(GGUF_VALUE.uint8), new Uint8Array(1))), room], {
    entries: keys.length,
  });
const withAlignment = (type: number, value: Uint8Array): Uint8Array =>
  rawGguf([ggufEntry({ key: "general.alignment", type, value }), room], { entries: 1 });

interface Info {
  readonly name?: string | Uint8Array;
  readonly shape?: readonly (number | bigint)[];
  readonly type?: number;
  readonly offset?: number | bigint;
}
const info = ({ name = "t", shape = [1], type = F32, offset = 0 }: Info): Uint8Array =>
  ggufTensorInfo(name, shape, type, offset);
const withTensors = (...infos: Info[]): Uint8Array => rawGguf([...infos.map(info), data], { tensors: infos.length });

const counts = (): CorpusRow[] => [
  [
    "tensors-none-fit",
    "one tensor more than there are bytes for",
    "tensor-count",
    TENSORS_AT,
    rawGguf([info({})], { tensors: 2 }),
  ],
  ["tensors-2e31", "2^31 tensors", "tensor-count", TENSORS_AT, rawGguf([], { tensors: 2 ** 31 })],
  [
    "tensors-2e32",
    "2^32 tensors: a count of 32 bits would be 0",
    "tensor-count",
    TENSORS_AT,
    rawGguf([], { tensors: 2 ** 32 }),
  ],
  ["tensors-2e53", "2^53 tensors", "tensor-count", TENSORS_AT, rawGguf([], { tensors: 2n ** 53n })],
  ["tensors-2e64", "2^64−1 tensors", "tensor-count", TENSORS_AT, rawGguf([], { tensors: EVERY_BIT })],
  [
    "tensors-above-limit",
    "50,001 tensors, one above the limit",
    "tensor-count",
    TENSORS_AT,
    rawGguf([], { tensors: 50_001 }),
  ],
  [
    "entries-none-fit",
    "one metadata entry more than there are bytes for",
    "metadata-count",
    ENTRIES_AT,
    rawGguf([], { entries: 1 }),
  ],
  [
    "entries-65537",
    "65,537 metadata entries, one above the limit",
    "metadata-count",
    ENTRIES_AT,
    rawGguf([], { entries: 65_537 }),
  ],
  ["entries-2e31", "2^31 metadata entries", "metadata-count", ENTRIES_AT, rawGguf([], { entries: 2 ** 31 })],
  ["entries-2e53", "2^53 metadata entries", "metadata-count", ENTRIES_AT, rawGguf([], { entries: 2n ** 53n })],
  ["entries-2e64", "2^64−1 metadata entries", "metadata-count", ENTRIES_AT, rawGguf([], { entries: EVERY_BIT })],
];

const start = (): CorpusRow[] => [
  ["magic-lower-case", "the magic begins with g", "magic", 0, patched(valid, 0, utf8("g"))],
  ["magic-ggjt", "the magic of an older format", "magic", 0, patched(valid, 0, utf8("tjgg"))],
  ["version-0", "version 0", "version-unsupported", VERSION_AT, patched(valid, VERSION_AT, u32(0))],
  [
    "version-1",
    "version 1, whose lengths have 32 bits",
    "version-unsupported",
    VERSION_AT,
    patched(valid, VERSION_AT, u32(1)),
  ],
  ["version-4", "version 4", "version-unsupported", VERSION_AT, patched(valid, VERSION_AT, u32(4))],
  ["version-2e32", "version 2^32−1", "version-unsupported", VERSION_AT, patched(valid, VERSION_AT, u32(0xffff_ffff))],
  [
    "big-endian",
    "version 3 written by a big-endian machine",
    "big-endian",
    VERSION_AT,
    patched(valid, VERSION_AT, u32(3).reverse()),
  ],
  ["cut-empty", "no bytes at all", "truncated", 0, new Uint8Array(0)],
  ["cut-in-magic", "cut off in the magic", "truncated", 0, valid.subarray(0, 3)],
  ["cut-in-counts", "cut off in the tensor count", "truncated", TENSORS_AT, valid.subarray(0, TENSORS_AT + 2)],
  // 24 + 8 + 12 + 4 is where the length of the string stands; two entries take 28 bytes at least.
  ["cut-in-string", "cut off within a string of the metadata", "truncated", 56, valid.subarray(0, 58)],
  [
    "cut-data",
    "the last byte of the data is missing",
    "tensor-outside-file",
    infosAt + 41 + INFO_BYTES - 8,
    valid.subarray(0, -1),
  ],
];

/** Where the tensor infos of `valid` begin: two entries of 37 and 57 bytes. The second one's shape has two extents. */
const infosAt = BODY_AT + (8 + 12 + 4 + 8 + 5) + (8 + 7 + 4 + 4 + 8 + 9 + 9);

const keys = (): CorpusRow[] => [
  ["key-empty", "an empty key", "key-empty", BODY_AT, withKeys("")],
  [
    "key-65536",
    "a key of 65,536 bytes, one above the limit",
    "key-too-long",
    BODY_AT,
    rawGguf([u64(65_536), room], { entries: 1 }),
  ],
  ["key-2e31", "a key of 2^31 bytes", "key-too-long", BODY_AT, rawGguf([u64(2 ** 31), room], { entries: 1 })],
  ["key-2e64", "a key of 2^64−1 bytes", "key-too-long", BODY_AT, rawGguf([u64(EVERY_BIT), room], { entries: 1 })],
  [
    "key-wraps-back",
    "a key of 2^64−8 bytes: a sum of 64 bits points at the key again",
    "key-too-long",
    BODY_AT,
    rawGguf([u64(2n ** 64n - 8n), room], { entries: 1 }),
  ],
  [
    "key-behind-file",
    "a key that ends behind the file",
    "truncated",
    BODY_AT + 8,
    rawGguf([u64(1000), room], { entries: 1 }),
  ],
  ["key-latin1", "a key in Latin-1", "utf8-invalid", BODY_AT, withKeys(Uint8Array.of(0x6b, 0xe9))],
  [
    "key-surrogate",
    "a key that encodes half of a surrogate pair",
    "utf8-invalid",
    BODY_AT,
    withKeys(Uint8Array.of(0xed, 0xa0, 0x80)),
  ],
  ["key-twice", "a key twice", "duplicate-key", BODY_AT + 14, withKeys("k", "k")],
  [
    "key-twice-among-many",
    "the third of five keys again as the last",
    "duplicate-key",
    BODY_AT + 4 * 14,
    withKeys("a", "b", "c", "d", "c"),
  ],
  ["key-proto-twice", "the key __proto__ twice", "duplicate-key", BODY_AT + 22, withKeys("__proto__", "__proto__")],
];

const values = (): CorpusRow[] => [
  ["value-type-13", "value type 13", "value-type-unknown", TYPE_AT, withEntry(13, room)],
  ["value-type-2e32", "value type 2^32−1", "value-type-unknown", TYPE_AT, withEntry(0xffff_ffff, room)],
  ["array-type-13", "an array of value type 13", "value-type-unknown", VALUE_AT, withEntry(9, ggufArray(13, []), room)],
  ["bool-2", "a bool of 2", "bool-invalid", VALUE_AT, withEntry(7, Uint8Array.of(2))],
  [
    "bools-255",
    "a bool of 255 in an array",
    "bool-invalid",
    VALUE_AT + 14,
    withEntry(9, ggufArray(7, [Uint8Array.of(0, 1, 255)], 3)),
  ],
  ["value-cut", "a uint64 of seven bytes", "truncated", VALUE_AT, withEntry(10, new Uint8Array(7))],
  ["string-behind-file", "a string that ends behind the file", "truncated", VALUE_AT + 8, withEntry(8, u64(65), room)],
  ["string-2e31", "a string of 2^31 bytes", "truncated", VALUE_AT + 8, withEntry(8, u64(2 ** 31), room)],
  ["string-2e53", "a string of 2^53 bytes", "truncated", VALUE_AT + 8, withEntry(8, u64(2n ** 53n), room)],
  ["string-2e64", "a string of 2^64−1 bytes", "truncated", VALUE_AT + 8, withEntry(8, u64(EVERY_BIT), room)],
  [
    "string-wraps-back",
    "a string of 2^64−21 bytes: a sum of 64 bits points at its own entry",
    "truncated",
    VALUE_AT + 8,
    withEntry(8, u64(2n ** 64n - 21n), room),
  ],
  [
    "string-of-the-file",
    "a string as long as the file it stands in",
    "truncated",
    VALUE_AT + 8,
    withEntry(8, u64(109), room),
  ],
  [
    "array-65-of-64",
    "an array of one element more than there are bytes for",
    "array-count",
    VALUE_AT + 4,
    withEntry(9, ggufArray(0, [], 65), room),
  ],
  ["array-2e31", "an array of 2^31 uint8", "array-count", VALUE_AT + 4, withEntry(9, ggufArray(0, [], 2 ** 31), room)],
  [
    "array-2e61-uint64",
    "an array of 2^61 uint64: their bytes are 0 modulo 2^64",
    "array-count",
    VALUE_AT + 4,
    withEntry(9, ggufArray(10, [], 2n ** 61n), room),
  ],
  [
    "array-2e64-strings",
    "an array of 2^64−1 strings",
    "array-count",
    VALUE_AT + 4,
    withEntry(9, ggufArray(8, [], EVERY_BIT), room),
  ],
  [
    "array-of-the-file",
    "an array of as many uint8 as the file has bytes",
    "array-count",
    VALUE_AT + 4,
    withEntry(9, ggufArray(0, [], 113), room),
  ],
  [
    "array-string-2e64",
    "a string of 2^64−1 bytes within an array",
    "truncated",
    VALUE_AT + 20,
    withEntry(9, ggufArray(8, [u64(EVERY_BIT)]), room),
  ],
  [
    "array-5-deep",
    "arrays five deep, one above the limit",
    "array-too-deep",
    VALUE_AT + 48,
    withEntry(9, nestedGgufArray(5)),
  ],
  ["array-300-deep", "arrays 300 deep", "array-too-deep", VALUE_AT + 48, withEntry(9, nestedGgufArray(300))],
  [
    "array-inner-2e64",
    "an array of an array of 2^64−1 uint8",
    "array-count",
    VALUE_AT + 16,
    withEntry(9, ggufArray(9, [ggufArray(0, [], EVERY_BIT)]), room),
  ],
  ["alignment-int32", "an alignment that is an int32", "alignment-type", ALIGNMENT_TYPE_AT, withAlignment(5, u32(32))],
  [
    "alignment-uint64",
    "an alignment that is a uint64",
    "alignment-type",
    ALIGNMENT_TYPE_AT,
    withAlignment(10, u64(32)),
  ],
  ["alignment-0", "an alignment of 0", "alignment-value", ALIGNMENT_AT, withAlignment(4, u32(0))],
  ["alignment-48", "an alignment that is no power of two", "alignment-value", ALIGNMENT_AT, withAlignment(4, u32(48))],
  [
    "alignment-2e21",
    "an alignment of 2 MiB, above the limit",
    "alignment-value",
    ALIGNMENT_AT,
    withAlignment(4, u32(2 ** 21)),
  ],
  ["alignment-2e31", "an alignment of 2^31", "alignment-value", ALIGNMENT_AT, withAlignment(4, u32(2 ** 31))],
];

const names = (): CorpusRow[] => [
  ["name-empty", "an empty tensor name", "name-empty", BODY_AT, withTensors({ name: "" })],
  [
    "name-1025",
    "a tensor name of 1,025 bytes, one above the limit",
    "name-too-long",
    BODY_AT,
    withTensors({ name: "n".repeat(1025) }),
  ],
  [
    "name-2e64",
    "a tensor name of 2^64−1 bytes",
    "name-too-long",
    BODY_AT,
    rawGguf([u64(EVERY_BIT), data], { tensors: 1 }),
  ],
  [
    "name-nul",
    "a tensor name with NUL: a C reader sees another name",
    "name-control",
    BODY_AT,
    withTensors({ name: "a\0b" }),
  ],
  ["name-escape", "a tensor name with a terminal escape", "name-control", BODY_AT, withTensors({ name: "\u001b[2J" })],
  [
    "name-overlong",
    "a tensor name with an overlong encoding of NUL",
    "utf8-invalid",
    BODY_AT,
    withTensors({ name: Uint8Array.of(0xc0, 0x80) }),
  ],
  [
    "name-cut-utf8",
    "a tensor name that ends within a character",
    "utf8-invalid",
    BODY_AT,
    withTensors({ name: Uint8Array.of(0x61, 0xe2, 0x9c) }),
  ],
  ["name-twice", "a tensor name twice", "duplicate-name", BODY_AT + INFO_BYTES, withTensors({}, { offset: 32 })],
  [
    "name-twice-among-many",
    "the first of four tensor names again as the third",
    "duplicate-name",
    BODY_AT + 2 * INFO_BYTES,
    withTensors({}, { name: "u", offset: 32 }, { offset: 64 }, { name: "v", offset: 96 }),
  ],
];

const sizes = (): CorpusRow[] => [
  ["rank-5", "five extents, one above the limit", "rank-too-large", RANK_AT, withTensors({ shape: [1, 1, 1, 1, 1] })],
  [
    "rank-2e32",
    "2^32−1 extents",
    "rank-too-large",
    RANK_AT,
    rawGguf([ggufString("t"), u32(0xffff_ffff), data], { tensors: 1 }),
  ],
  ["extent-2e53", "an extent of 2^53", "extent-too-large", SHAPE_AT, withTensors({ shape: [2n ** 53n] })],
  ["extent-2e64", "a last extent of 2^64−1", "extent-too-large", SHAPE_AT + 8, withTensors({ shape: [0, EVERY_BIT] })],
  [
    "product-2e64",
    "extents whose product is 2^64",
    "size-overflow",
    SHAPE_AT,
    withTensors({ shape: [2 ** 32, 2 ** 32] }),
  ],
  [
    "product-mended",
    "an overflow before an extent of 0",
    "size-overflow",
    SHAPE_AT,
    withTensors({ shape: [2 ** 30, 2 ** 30, 0] }),
  ],
  [
    "bytes-overflow",
    "2^53−1 elements of four bytes",
    "size-overflow",
    SHAPE_AT,
    withTensors({ shape: [Number.MAX_SAFE_INTEGER] }),
  ],
  ["type-removed", "type 4, removed from the format", "type-unknown", INFO_TYPE_AT, withTensors({ type: 4 })],
  ["type-repacked", "type 31, which never stands in files", "type-unknown", INFO_TYPE_AT, withTensors({ type: 31 })],
  ["type-to-come", "type 43, the first that is not there", "type-unknown", INFO_TYPE_AT, withTensors({ type: 43 })],
  ["type-2e32", "type 2^32−1", "type-unknown", INFO_TYPE_AT, withTensors({ type: 0xffff_ffff })],
  [
    "row-half-a-block",
    "a row of half a block",
    "block-misaligned",
    SHAPE_AT,
    withTensors({ shape: [16, 2], type: Q4_0 }),
  ],
  [
    "scalar-quantized",
    "a scalar of a quantized type",
    "block-misaligned",
    SHAPE_AT,
    withTensors({ shape: [], type: Q4_0 }),
  ],
];

const places = (): CorpusRow[] => [
  ["offset-1", "an offset of 1 at an alignment of 32", "offset-misaligned", OFFSET_AT, withTensors({ offset: 1 })],
  ["offset-16", "an offset of 16 at an alignment of 32", "offset-misaligned", OFFSET_AT, withTensors({ offset: 16 })],
  ["offset-behind-file", "an offset behind the file", "tensor-outside-file", OFFSET_AT, withTensors({ offset: 288 })],
  ["offset-2e31", "an offset of 2^31", "tensor-outside-file", OFFSET_AT, withTensors({ offset: 2 ** 31 })],
  ["offset-2e53", "an offset of 2^53", "tensor-outside-file", OFFSET_AT, withTensors({ offset: 2n ** 53n })],
  [
    "offset-wraps-back",
    "an offset of 2^64−64: a sum of 64 bits points into the header",
    "tensor-outside-file",
    OFFSET_AT,
    withTensors({ offset: 2n ** 64n - 64n }),
  ],
  [
    "end-behind-file",
    "a tensor that ends behind the file",
    "tensor-outside-file",
    OFFSET_AT,
    withTensors({ shape: [80] }),
  ],
  [
    "empty-behind-file",
    "a tensor of no bytes behind the file",
    "tensor-outside-file",
    OFFSET_AT,
    withTensors({ shape: [0], offset: 1024 }),
  ],
  [
    "no-data",
    "a tensor in a file that ends with its header",
    "tensor-outside-file",
    OFFSET_AT,
    rawGguf([info({})], { tensors: 1 }),
  ],
  ["overlap-same-place", "two tensors in one place", "overlap", OFFSET_AT + INFO_BYTES, withTensors({}, { name: "u" })],
  [
    "overlap-tail",
    "a tensor that begins in the tail of another",
    "overlap",
    OFFSET_AT + INFO_BYTES,
    withTensors({ shape: [9] }, { name: "u", offset: 32 }),
  ],
  [
    "overlap-disorder",
    "the tensor listed first begins in the one listed last",
    "overlap",
    OFFSET_AT,
    withTensors({ offset: 32 }, { name: "u", shape: [9] }),
  ],
  [
    "overlap-across-empty",
    "two that overlap, and one of no bytes between them",
    "overlap",
    OFFSET_AT + 2 * INFO_BYTES,
    withTensors({ shape: [16] }, { name: "u", shape: [0], offset: 32 }, { name: "v", offset: 32 }),
  ],
];

export const ggufCorpus = (): readonly CorpusRow[] => [
  ...start(),
  ...counts(),
  ...keys(),
  ...values(),
  ...names(),
  ...sizes(),
  ...places(),
];
