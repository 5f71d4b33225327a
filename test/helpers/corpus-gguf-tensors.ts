/** The hostile GGUF files of the corpus (corpus.ts) whose lie stands in the tensor infos: names, sizes and places. */
import type { CorpusRow } from "./corpus.ts";
import { ggufString, ggufTensorInfo, rawGguf, u32, u64 } from "./model-files.ts";

const F32 = 0;
const Q4_0 = 2;
/** Where the tensor infos begin: there is no metadata. */
const BODY_AT = 24;
/** A tensor info whose name has one byte and whose shape has one extent. */
const RANK_AT = BODY_AT + 9;
const SHAPE_AT = RANK_AT + 4;
const INFO_TYPE_AT = SHAPE_AT + 8;
const OFFSET_AT = INFO_TYPE_AT + 4;
const INFO_BYTES = OFFSET_AT + 8 - BODY_AT;

const EVERY_BIT = 2n ** 64n - 1n;
const data = new Uint8Array(256);

interface Info {
  readonly name?: string | Uint8Array;
  readonly shape?: readonly (number | bigint)[];
  readonly type?: number;
  readonly offset?: number | bigint;
}
const info = ({ name = "t", shape = [1], type = F32, offset = 0 }: Info): Uint8Array =>
  ggufTensorInfo(name, shape, type, offset);
const withTensors = (...infos: Info[]): Uint8Array => rawGguf([...infos.map(info), data], { tensors: infos.length });

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

export const ggufTensorCorpus = (): readonly CorpusRow[] => [...names(), ...sizes(), ...places()];
