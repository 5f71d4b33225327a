/** The hostile safetensors files of the corpus (corpus.ts) whose lie is one of the format. Offsets are the file's. */
import type { CorpusRow } from "./corpus.ts";
import { oneTensor as one, safetensorsRow as row } from "./corpus-safetensors-json.ts";
import { buildSafetensors, concat, rawSafetensors, utf8 } from "./model-files.ts";
import { safetensorsEntry as entry } from "./safetensors-files.ts";

const MIB = 1024 * 1024;
const EVERY_BIT = 2n ** 64n - 1n;

const extents = (count: number, extent: string): string => `[${Array.from({ length: count }, () => extent).join(",")}]`;

const valid = buildSafetensors(
  [
    { name: "a", dtype: "F32", shape: [2], data: new Uint8Array(8) },
    { name: "b", dtype: "BF16", shape: [2, 2], data: new Uint8Array(8) },
  ],
  { metadata: new Map([["format", "pt"]]) },
);
const dataAt = valid.byteLength - 16;

const start = (): CorpusRow[] => [
  ["cut-empty", "no bytes at all", "truncated", 0, new Uint8Array(0)],
  ["cut-in-length", "cut off in the header length", "truncated", 0, valid.subarray(0, 7)],
  ["cut-in-header", "cut off in the header", "truncated", 0, valid.subarray(0, 40)],
  [
    "cut-before-data",
    "cut off behind the header",
    "tensor-outside-file",
    Buffer.from(valid).indexOf("[0,8]"),
    valid.subarray(0, dataAt),
  ],
  ["header-2e31", "a header of 2^31 bytes", "header-too-large", 0, rawSafetensors("{}", 0, 2 ** 31)],
  ["header-2e53", "a header of 2^53 bytes", "header-too-large", 0, rawSafetensors("{}", 0, 2n ** 53n)],
  ["header-2e64", "a header of 2^64−1 bytes", "header-too-large", 0, rawSafetensors("{}", 0, EVERY_BIT)],
  [
    "header-wraps-back",
    "a header of 2^64−8 bytes: a sum of 64 bits ends where the file begins",
    "header-too-large",
    0,
    rawSafetensors("{}", 0, 2n ** 64n - 8n),
  ],
  [
    "header-16-mib",
    "a header of 16 MiB, the limit, in a file of ten bytes",
    "truncated",
    0,
    rawSafetensors("{}", 0, 16 * MIB),
  ],
  [
    "header-16-mib-and-1",
    "a header of one byte above the limit",
    "header-too-large",
    0,
    rawSafetensors("{}", 0, 16 * MIB + 1),
  ],
  [
    "header-16-mib-and-1-asked-for",
    "the same with a limit of 100 MiB: now its bytes are missing",
    "truncated",
    0,
    rawSafetensors("{}", 0, 16 * MIB + 1),
    { maxHeaderBytes: 100 * MIB },
  ],
  [
    "header-100-mib-and-1",
    "a header of one byte above the highest limit",
    "header-too-large",
    0,
    rawSafetensors("{}", 0, 100 * MIB + 1),
    { maxHeaderBytes: 100 * MIB },
  ],
  [
    "header-of-the-file",
    "a header length that counts the file, itself included",
    "truncated",
    0,
    rawSafetensors(one({}), 4, 8 + one({}).length + 4),
  ],
  [
    "header-takes-data",
    "a header length that counts the data",
    "trailing-bytes",
    8 + one({ offsets: "[0,0]", shape: "[0]" }).length,
    rawSafetensors(one({ offsets: "[0,0]", shape: "[0]" }), 4, one({ offsets: "[0,0]", shape: "[0]" }).length + 4),
  ],
  ["header-0", "a header of no bytes", "header-start", 8, rawSafetensors("", 4)],
  ["header-space", "a space before the header", "header-start", 8, rawSafetensors(" {}", 0)],
  ["header-array", "an array for a header", "header-start", 8, rawSafetensors("[]", 0)],
  ["header-bom", "a byte order mark before the header", "header-start", 8, rawSafetensors("\ufeff{}", 0)],
  ["data-unnamed", "two bytes behind the last tensor", "data-end", valid.byteLength, concat(valid, new Uint8Array(2))],
  ["data-without-tensors", "data, and no tensor", "data-end", 10, rawSafetensors("{}", 4)],
];

const names = (): CorpusRow[] => [
  row(
    "name-twice",
    "a tensor name twice",
    "duplicate-name",
    `{${entry("a")},${entry("a", { shape: "[0]", offsets: "[4,4]" })}}`,
    ',"a"',
    1,
  ),
  row(
    "name-twice-escaped",
    "a tensor name again, with an escape",
    "duplicate-name",
    `{${entry("a")},${entry("\\u0061")}}`,
    '"\\u0061"',
  ),
  row(
    "name-proto-twice",
    "the name __proto__ twice",
    "duplicate-name",
    `{${entry("__proto__")},${entry("__proto__")}}`,
    ',"__proto__"',
    1,
  ),
  row("name-empty", "an empty name", "name-empty", `{${entry("")}}`, '""'),
  row("name-nul", "a name with NUL", "name-control", `{${entry("a\\u0000b")}}`, '"a'),
  row("name-1025", "a name of 1,025 bytes", "name-too-long", `{${entry("n".repeat(1025))}}`, '"n'),
  row(
    "metadata-twice",
    "__metadata__ twice",
    "duplicate-name",
    '{"__metadata__":{},"__metadata__":{}}',
    ',"__metadata__"',
    1,
  ),
  row("metadata-null", "metadata of null", "json-syntax", '{"__metadata__":null}', "null"),
  row("metadata-number", "a metadata value that is a number", "json-syntax", '{"__metadata__":{"k":1}}', "1"),
  row("metadata-object", "a metadata value that is an object", "json-syntax", '{"__metadata__":{"k":{}}}', "{}}}"),
  row(
    "metadata-key-twice",
    "a metadata key twice, once with an escape",
    "duplicate-key",
    '{"__metadata__":{"k":"","\\u006b":""}}',
    '"\\u006b"',
  ),
  row(
    "metadata-proto-twice",
    "the metadata key __proto__ twice",
    "duplicate-key",
    '{"__metadata__":{"__proto__":"","__proto__":""}}',
    ',"__proto__"',
    1,
  ),
  row(
    "field-twice",
    "a field twice",
    "duplicate-key",
    '{"t":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    ',"dtype"',
    1,
  ),
  row("field-proto", "the field __proto__", "field-unknown", '{"t":{"__proto__":{"dtype":"U8"}}}', '"__proto__"'),
  row("field-missing", "a tensor without data_offsets", "field-missing", '{"t":{"dtype":"U8","shape":[4]}}', '{"dtype'),
  row("dtype-lower-case", "the dtype u8", "dtype-unknown", one({ dtype: '"u8"' }), '"u8"'),
  row("dtype-constructor", "the dtype constructor", "dtype-unknown", one({ dtype: '"constructor"' }), '"constructor"'),
  [
    "name-utf8",
    "a name that is no UTF-8",
    "utf8-invalid",
    10,
    rawSafetensors(concat(utf8('{"'), Uint8Array.of(0xff), utf8('":{}}'))),
  ],
  [
    "metadata-utf8",
    "a metadata value with an overlong NUL",
    "utf8-invalid",
    30,
    rawSafetensors(concat(utf8('{"__metadata__":{"k":"'), Uint8Array.of(0xc0, 0x80), utf8('"}}'))),
  ],
];

const places = (): CorpusRow[] => [
  row(
    "rank-65",
    "65 extents, one above the limit",
    "rank-too-large",
    one({ shape: extents(65, "1") }),
    extents(65, "1"),
    1 + 2 * 64,
  ),
  row(
    "product-2e64",
    "extents whose product is 2^64",
    "size-overflow",
    one({ shape: "[4294967296,4294967296]" }),
    "[4294",
  ),
  row(
    "product-mended",
    "an overflow before an extent of 0",
    "size-overflow",
    one({ shape: "[9007199254740991,2,0]" }),
    "[9007",
  ),
  row("bits-overflow", "2^53−1 elements of eight bits", "size-overflow", one({ shape: "[9007199254740991]" }), "[9007"),
  row("bits-fraction", "three elements of four bits", "size-fractional", one({ dtype: '"F4"', shape: "[3]" }), "[3]"),
  row("span-too-long", "a shape of three bytes in a span of four", "size-mismatch", one({ shape: "[3]" }), "[0,4]"),
  row("span-too-short", "a shape of 16 bytes in a span of four", "size-mismatch", one({ dtype: '"F32"' }), "[0,4]"),
  row(
    "span-for-zero",
    "a shape with an extent of 0 in a span of four",
    "size-mismatch",
    one({ shape: "[4,0]" }),
    "[0,4]",
  ),
  row("offsets-reversed", "an end before the begin", "offsets-reversed", one({ offsets: "[4,0]" }), "[4,0]"),
  row("offsets-negative", "a negative begin", "json-number", one({ offsets: "[-4,0]" }), "-4"),
  row(
    "offset-outside",
    "an end behind the file",
    "tensor-outside-file",
    one({ shape: "[5]", offsets: "[0,5]" }),
    "[0,5]",
  ),
  row(
    "offset-2e53-outside",
    "an end of 2^53−1",
    "tensor-outside-file",
    one({ offsets: "[0,9007199254740991]" }),
    "[0,9007",
  ),
  row(
    "empty-outside",
    "a tensor of no bytes behind the file",
    "tensor-outside-file",
    one({ shape: "[0]", offsets: "[9,9]" }),
    "[9,9]",
  ),
  row(
    "overlap",
    "a tensor within another",
    "overlap",
    `{${entry("t")},${entry("u", { shape: "[2]", offsets: "[2,4]" })}}`,
    "[2,4]",
  ),
  row("overlap-same", "two tensors in one place", "overlap", `{${entry("t")},${entry("u")}}`, "[0,4]}}"),
  row(
    "overlap-empty",
    "a tensor of no bytes within another",
    "overlap",
    `{${entry("t")},${entry("u", { shape: "[0]", offsets: "[2,2]" })}}`,
    "[2,2]",
  ),
  row("hole-first", "a hole before the first tensor", "hole", one({ shape: "[3]", offsets: "[1,4]" }), "[1,4]"),
  row(
    "hole-between",
    "a hole between two tensors",
    "hole",
    `{${entry("t", { shape: "[1]", offsets: "[0,1]" })},${entry("u", { shape: "[1]", offsets: "[3,4]" })}}`,
    "[3,4]",
  ),
];

export const safetensorsFormatCorpus = (): readonly CorpusRow[] => [...start(), ...names(), ...places()];
