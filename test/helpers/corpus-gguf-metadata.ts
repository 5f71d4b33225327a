/** The hostile GGUF files of the corpus (corpus.ts) whose lie stands before the tensors: counts, keys and values. */
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

const EVERY_BIT = 2n ** 64n - 1n;
const room = new Uint8Array(64);
const info = ggufTensorInfo("t", [1], 0, 0);

const valid = buildGguf({
  kv: [
    { key: "general.name", type: GGUF_VALUE.string, value: ggufString("model") },
    { key: "k.words", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.string, [ggufString("a"), ggufString("b")]) },
  ],
  tensors: [
    { name: "a", type: 0, shape: [8], data: new Uint8Array(32) },
    { name: "b", type: 2, shape: [32, 2], data: new Uint8Array(36) },
  ],
});
/** Where its tensor infos begin: key, type and value of two entries. */
const infosAt = BODY_AT + (8 + 12 + 4 + 8 + 5) + (8 + 7 + 4 + 4 + 8 + 9 + 9);
/** Where the offset of its second tensor stands: the first info, then name, rank, two extents and type. */
const lastOffsetAt = infosAt + (9 + 4 + 8 + 4 + 8) + (9 + 4 + 16 + 4);

const withEntry = (type: number, ...value: Uint8Array[]): Uint8Array =>
  rawGguf([ggufEntry({ key: "k", type, value: concat(...value) })], { entries: 1 });
const withKeys = (...keys: (string | Uint8Array)[]): Uint8Array =>
  rawGguf([...keys.map((key) => concat(ggufString(key), u32(GGUF_VALUE.uint8), new Uint8Array(1))), room], {
    entries: keys.length,
  });
const withAlignment = (type: number, value: Uint8Array): Uint8Array =>
  rawGguf([ggufEntry({ key: "general.alignment", type, value }), room], { entries: 1 });

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
  // Key and type of the first entry take 24 bytes, the length of its value 8.
  ["cut-in-string", "cut off within a string of the metadata", "truncated", 56, valid.subarray(0, 58)],
  ["cut-data", "the last byte of the data is missing", "tensor-outside-file", lastOffsetAt, valid.subarray(0, -1)],
];

const counts = (): CorpusRow[] => [
  [
    "tensors-none-fit",
    "one tensor more than there are bytes for",
    "tensor-count",
    TENSORS_AT,
    rawGguf([info], { tensors: 2 }),
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
    "40,001 tensors, one above the limit",
    "tensor-count",
    TENSORS_AT,
    rawGguf([], { tensors: 40_001 }),
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

export const ggufMetadataCorpus = (): readonly CorpusRow[] => [...start(), ...counts(), ...keys(), ...values()];
