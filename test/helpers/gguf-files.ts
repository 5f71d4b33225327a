/** Small valid GGUF files that the tests of the parser cut, patch and grow. */
import { buildGguf, concat, GGUF_VALUE, type GgufEntry, ggufArray, ggufString } from "./model-files.ts";

export const F32 = 0;
export const Q4_0 = 2;

/** One metadata entry of every value type, and arrays. */
export const everyGgufValue: readonly GgufEntry[] = [
  { key: "k.u8", type: GGUF_VALUE.uint8, value: new Uint8Array(1) },
  { key: "k.i8", type: GGUF_VALUE.int8, value: new Uint8Array(1) },
  { key: "k.u16", type: GGUF_VALUE.uint16, value: new Uint8Array(2) },
  { key: "k.i16", type: GGUF_VALUE.int16, value: new Uint8Array(2) },
  { key: "k.u32", type: GGUF_VALUE.uint32, value: new Uint8Array(4) },
  { key: "k.i32", type: GGUF_VALUE.int32, value: new Uint8Array(4) },
  { key: "k.f32", type: GGUF_VALUE.float32, value: new Uint8Array(4) },
  { key: "k.bool", type: GGUF_VALUE.bool, value: Uint8Array.of(1) },
  { key: "k.str", type: GGUF_VALUE.string, value: ggufString(Uint8Array.of(0xff, 0x00, 0xc3)) },
  { key: "k.u64", type: GGUF_VALUE.uint64, value: new Uint8Array(8) },
  { key: "k.i64", type: GGUF_VALUE.int64, value: new Uint8Array(8) },
  { key: "k.f64", type: GGUF_VALUE.float64, value: new Uint8Array(8) },
  { key: "k.none", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.array, []) },
  { key: "k.bools", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.bool, [Uint8Array.of(0, 1)], 2) },
  { key: "k.words", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.string, [ggufString("a"), ggufString("")]) },
  { key: "k.é", type: GGUF_VALUE.array, value: ggufArray(GGUF_VALUE.int16, [new Uint8Array(6)], 3) },
];

/** An array of arrays, `depth` deep, around one uint8. */
export const nestedGgufArray = (depth: number): Uint8Array => {
  const outer = ggufArray(GGUF_VALUE.array, [], 1);
  const innermost = ggufArray(GGUF_VALUE.uint8, [new Uint8Array(1)]);
  return concat(...Array.from({ length: depth - 1 }, () => outer), innermost);
};

/** A valid file with every value type, three tensors and 100 bytes of data. */
export const smallGguf = buildGguf({
  kv: [...everyGgufValue, { key: "k.deep", type: GGUF_VALUE.array, value: nestedGgufArray(4) }],
  tensors: [
    { name: "blk.0.weight", type: Q4_0, shape: [64, 2], data: new Uint8Array(72).fill(1) },
    { name: "empty", type: F32, shape: [0, 3], data: new Uint8Array(0) },
    { name: "scalar ✓", type: F32, shape: [], data: new Uint8Array(4) },
  ],
});
