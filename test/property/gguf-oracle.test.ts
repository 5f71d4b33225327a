/**
 * The GGUF parser against `@huggingface/gguf`, written by others from the same format: on every valid file both must see
 * the same tensors at the same places. The oracle is no judge of hostile files: it accepts truncated headers and
 * overlapping tensors.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import fc from "fast-check";
import { afterAll, expect, it } from "vitest";
import { GGML_TYPES } from "../../src/source/ggml-types.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { reportCount } from "../helpers/counts.ts";
import {
  buildGguf,
  GGUF_VALUE,
  type GgufEntry,
  type GgufTensor,
  ggufArray,
  ggufString,
} from "../helpers/model-files.ts";

const RUNS = 500;
const { VRAM_TEST_SEED } = process.env;
const seed = Number(VRAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
reportCount(`gguf-oracle: ${RUNS} files, VRAM_TEST_SEED=${seed}`);

const folder = mkdtempSync(join(tmpdir(), "vram-gguf-oracle-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const VALUE_BYTES = new Map<number, number>([
  [GGUF_VALUE.uint8, 1],
  [GGUF_VALUE.int8, 1],
  [GGUF_VALUE.uint16, 2],
  [GGUF_VALUE.int16, 2],
  [GGUF_VALUE.uint32, 4],
  [GGUF_VALUE.int32, 4],
  [GGUF_VALUE.float32, 4],
  [GGUF_VALUE.uint64, 8],
  [GGUF_VALUE.int64, 8],
  [GGUF_VALUE.float64, 8],
]);

interface TypedValue {
  readonly type: number;
  readonly value: Uint8Array;
}

const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });

/** A value of a given type; strings are any bytes, as vocabularies have them. */
const encodedValue = (type: number, depth: number): fc.Arbitrary<Uint8Array> => {
  if (type === GGUF_VALUE.bool) return fc.constantFrom(Uint8Array.of(0), Uint8Array.of(1));
  if (type === GGUF_VALUE.string) return fc.uint8Array({ maxLength: 12 }).map(ggufString);
  if (type === GGUF_VALUE.array) return arrayOf(depth + 1);
  return bytes(VALUE_BYTES.get(type) ?? 0);
};

/** Arrays nest at most four deep. */
const arrayOf = (depth: number): fc.Arbitrary<Uint8Array> => {
  const deepest = depth === 4;
  const types = Object.values(GGUF_VALUE).filter((type) => !deepest || type !== GGUF_VALUE.array);
  return fc
    .constantFrom(...types)
    .chain((type) => fc.array(encodedValue(type, depth), { maxLength: 3 }).map((items) => ggufArray(type, items)));
};

const typedValue: fc.Arbitrary<TypedValue> = fc
  .constantFrom(...Object.values(GGUF_VALUE))
  .chain((type) => encodedValue(type, 0).map((value) => ({ type, value })));

// The oracle drops a leading byte order mark from names; this parser keeps it. Control characters are refused here.
const text = fc.string({
  minLength: 1,
  maxLength: 20,
  unit: fc.constantFrom("a", "b", ".", "_", "7", "é", "✓", "\u{1f600}", " "),
});

const entries: fc.Arbitrary<GgufEntry[]> = fc
  .uniqueArray(fc.tuple(text, typedValue), { maxLength: 6, selector: ([key]) => key })
  .map((list) => list.map(([key, { type, value }]) => ({ key: `k.${key}`, type, value })));

const tensor: fc.Arbitrary<GgufTensor> = fc
  .tuple(
    text,
    fc.constantFrom(...GGML_TYPES),
    fc.nat({ max: 3 }),
    fc.array(fc.nat({ max: 3 }), { maxLength: 3 }),
    fc.boolean(),
  )
  .map(([name, [type, { blockElements, blockBytes }], blocks, rest, scalar]) => {
    if (scalar && blockElements === 1) return { name, type, shape: [], data: new Uint8Array(blockBytes) };
    const byteLength = rest.reduce((product, extent) => product * extent, blocks * blockBytes);
    return { name, type, shape: [blocks * blockElements, ...rest], data: new Uint8Array(byteLength) };
  });

const model = fc.record({
  version: fc.constantFrom(2, 3),
  kv: entries,
  tensors: fc.uniqueArray(tensor, { maxLength: 6, selector: ({ name }) => name }),
  alignment: fc.option(fc.constantFrom(1, 8, 16, 32, 64, 256, 4096), { nil: undefined }),
});

/** The parser orders by data, the oracle as the header does; names are unique. */
const byName = (a: { readonly name: string }, b: { readonly name: string }): number => (a.name < b.name ? -1 : 1);

it(`[VR-IN-02] ${RUNS} generated files: the same tensors as @huggingface/gguf, at the same offsets`, async () => {
  const path = join(folder, "model.gguf");
  let files = 0;
  await fc.assert(
    fc.asyncProperty(model, async ({ version, kv, tensors, alignment }) => {
      const file = buildGguf({ version, kv, tensors, ...(alignment === undefined ? {} : { alignment }) });
      writeFileSync(path, file);
      const oracle = await gguf(path, { allowLocalFile: true });
      const expected = oracle.tensorInfos.map(({ name, dtype, shape, offset }) => ({
        name,
        dtype: GGMLQuantizationType[dtype],
        shape: shape.map(Number),
        offset: Number(oracle.tensorDataOffset + offset),
      }));

      const parsed = parseGguf(file, file.byteLength);
      if (parsed.kind !== "complete") throw new Error("the whole file is not enough");
      expect(parsed.headerByteLength).toBe(oracle.tensorInfoByteRange[1]);
      const measured = parsed.tensors.map(({ name, dtype, shape, offset }) => ({ name, dtype, shape, offset }));
      expect(measured.sort(byName)).toEqual(expected.sort(byName));
      const sizes = parsed.tensors.map(({ name, byteLength }) => ({ name, byteLength }));
      const built = tensors.map(({ name, data }) => ({ name, byteLength: data.byteLength }));
      expect(sizes.sort(byName)).toEqual(built.sort(byName));

      // Prefixes that grow as asked for lead to the same table.
      let prefix = parseGguf(file.subarray(0, 24), file.byteLength);
      while (prefix.kind === "need") prefix = parseGguf(file.subarray(0, prefix.byteLength), file.byteLength);
      expect(prefix).toEqual(parsed);
      files += 1;
    }),
    { numRuns: RUNS, seed },
  );
  expect(files).toBeGreaterThanOrEqual(RUNS);
});
