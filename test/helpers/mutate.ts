/**
 * Mutation of model files for the fuzz test: valid files and hostile ones go in, files that are a little different come
 * out. Everything follows from one seed and a number, so that a finding is named by the two.
 */
import { everyGgufValue, F32, nestedGgufArray, Q4_0, smallGguf } from "./gguf-files.ts";
import {
  buildGguf,
  buildSafetensors,
  concat,
  GGUF_VALUE,
  ggufArray,
  ggufString,
  u32,
  u64,
  utf8,
} from "./model-files.ts";
import { smallSafetensors } from "./safetensors-files.ts";

export type FuzzFormat = "gguf" | "safetensors";

/** The next integer from 0 up to, without, `limit`. */
export type Random = (limit: number) => number;

/** A stream of numbers for the mutation `index` of the run `seed`: mulberry32 (Tommy Ettinger, public domain). */
export function randomOf(seed: number, index: number): Random {
  let state = (Math.imul(seed, 0x9e37_79b1) ^ Math.imul(index + 1, 0x85eb_ca6b)) >>> 0;
  return (limit) => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

const text = (length: number): string => "layers.".repeat(length).slice(0, length);

/** Valid files of each format, of up to 4 KiB: every kind of metadata, several types, padding, gaps, empty tensors. */
export const VALID_FILES: Readonly<Record<FuzzFormat, readonly Uint8Array[]>> = {
  gguf: [
    smallGguf,
    buildGguf({ version: 2, kv: everyGgufValue }),
    buildGguf({
      alignment: 64,
      tensors: [
        { name: "late", type: F32, shape: [1], data: new Uint8Array(4), offset: 128 },
        { name: "early", type: F32, shape: [2, 2, 2, 2], data: new Uint8Array(64 + 4) },
      ],
    }),
    buildGguf({
      kv: [
        ...everyGgufValue,
        {
          key: "tokens",
          type: GGUF_VALUE.array,
          value: ggufArray(
            GGUF_VALUE.string,
            Array.from({ length: 150 }, (_, n) => ggufString(`t${n}`)),
          ),
        },
        { key: "deep", type: GGUF_VALUE.array, value: nestedGgufArray(4) },
      ],
      tensors: Array.from({ length: 20 }, (_, n) =>
        n % 4 === 0
          ? { name: `blk.${n}.${text(n)}`, type: Q4_0, shape: [32, 1], data: new Uint8Array(18) }
          : { name: `blk.${n}.${text(n)}`, type: F32, shape: [n % 3, 2], data: new Uint8Array((n % 3) * 8) },
      ),
    }),
  ],
  safetensors: [
    smallSafetensors,
    buildSafetensors([]),
    buildSafetensors([], { metadata: new Map([["format", "pt"]]), pad: 9 }),
    buildSafetensors(
      Array.from({ length: 40 }, (_, n) => ({
        name: `model.${n}.${text(n)}✓`,
        dtype: ["F32", "I32", "U32"][n % 3] ?? "F32",
        shape: n % 5 === 0 ? [] : [n % 4, 1],
        data: new Uint8Array(n % 5 === 0 ? 4 : (n % 4) * 4),
      })),
      { metadata: new Map(Array.from({ length: 8 }, (_, n) => [`key "${n}"`, "ü\\\n".repeat(n)])), pad: 5 },
    ),
  ],
};

/** Numbers at which comparisons, sums and products turn over. */
const EDGES = [0n, 1n, 7n, 31n, 32n, 255n, 2n ** 15n, 2n ** 16n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n];
/** Pieces of JSON that mean something to a header. */
const TOKENS = ["{", "}", "[", "]", ",", ":", '"', "\\", "\\u0061", "-", "1e400", "0", "null", "{}", " ", "\n"];
const WORDS = ['"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"__proto__"', '"F4"', '"U8"', "[0,0]", "[]"];

type Step = (file: Uint8Array, random: Random, other: Uint8Array) => Uint8Array;

const edge = (random: Random): bigint =>
  BigInt.asUintN(64, (EDGES[random(EDGES.length)] ?? 0n) + BigInt(random(3) - 1));
const replaced = (file: Uint8Array, at: number, gone: number, put: Uint8Array): Uint8Array =>
  concat(file.subarray(0, at), put, file.subarray(at + gone));
/** A range of at most 64 bytes. */
const range = (file: Uint8Array, random: Random): Uint8Array => {
  const start = random(file.byteLength + 1);
  return file.subarray(start, start + random(65));
};
/** One of the runs of digits of the first 4 KiB, as [start, length]. */
const digits = (file: Uint8Array, random: Random): readonly [number, number] => {
  const runs = [...Buffer.from(file.subarray(0, 4096)).toString("latin1").matchAll(/\d+/g)];
  const run = runs[random(runs.length)];
  return run === undefined ? [random(file.byteLength + 1), 0] : [run.index, run[0].length];
};
const atRandom =
  (put: (random: Random) => Uint8Array, gone: number): Step =>
  (file, random) =>
    replaced(file, random(file.byteLength + 1), gone, put(random));
const pick = (list: readonly string[]) => (random: Random) => utf8(list[random(list.length)] ?? "");

const flipBit: Step = (file, random) => {
  const out = Uint8Array.from(file);
  const at = random(file.byteLength);
  if (at < out.byteLength) out[at] = (out[at] ?? 0) ^ (1 << random(8));
  return out;
};
const setDigits: Step = (file, random) => {
  const [at, length] = digits(file, random);
  return replaced(file, at, length, utf8(String(edge(random))));
};
const splice: Step = (file, random, other) =>
  replaced(file, random(file.byteLength + 1), random(65), range(other, random));
const duplicate: Step = (file, random) => replaced(file, random(file.byteLength + 1), 0, range(file, random));
const remove: Step = (file, random) => replaced(file, random(file.byteLength + 1), random(33), new Uint8Array(0));
const truncate: Step = (file, random) => file.subarray(0, random(file.byteLength + 1));
const extend: Step = (file, random) => concat(file, new Uint8Array(1 + random(64)).fill(random(256)));

const STEPS: readonly Step[] = [
  flipBit,
  flipBit,
  atRandom((random) => Uint8Array.of(random(256)), 1),
  atRandom((random) => u32(Number(BigInt.asUintN(32, edge(random)))), 4),
  atRandom((random) => u64(edge(random)), 8),
  // Counts, lengths and offsets are small: one that is a little off reaches further than one that is absurd.
  atRandom((random) => u64(random(64)), 8),
  setDigits,
  atRandom(pick(TOKENS), 1),
  atRandom(pick(TOKENS), 0),
  atRandom(pick(WORDS), 4),
  splice,
  duplicate,
  remove,
  truncate,
  extend,
];

/** A safetensors file whose header length fits again, up to the last brace: else every insertion would end right there. */
function mended(file: Uint8Array): Uint8Array {
  const end = file.lastIndexOf(0x7d) + 1;
  return end <= 8 ? file : concat(u64(end - 8), file.subarray(8));
}

/** `base` after one to three steps; `other` is where splices come from. */
export function mutate(format: FuzzFormat, base: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  let file = base;
  for (let left = 1 + random(3); left > 0; left -= 1)
    file = (STEPS[random(STEPS.length)] ?? flipBit)(file, random, other);
  return format === "safetensors" && random(2) === 0 ? mended(file) : file;
}
