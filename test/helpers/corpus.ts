/**
 * The corpus of hostile model files under `test/vectors/hostile`: small files, each with one thing wrong, and an index
 * that says which rule must refuse it and at which byte. All of it is our own: the builders share no code with the
 * parsers, and the expected offsets follow from where the builder put the lie. `node scripts/make-corpus.mjs` writes the
 * files; `test/unit/corpus.test.ts` compares them byte for byte with what is made here.
 */
import { ggufMetadataCorpus } from "./corpus-gguf-metadata.ts";
import { ggufTensorCorpus } from "./corpus-gguf-tensors.ts";
import { safetensorsFormatCorpus } from "./corpus-safetensors.ts";
import { safetensorsJsonCorpus } from "./corpus-safetensors-json.ts";

/** `[slug, what is wrong, rule, offset, bytes, options]`: a row of the tables in the other files. */
export type CorpusRow = readonly [
  slug: string,
  wrong: string,
  rule: string,
  offset: number,
  bytes: Uint8Array,
  options?: { readonly maxHeaderBytes: number },
];

/** What the index says about one file. */
export interface CorpusEntry {
  /** Relative to the corpus, with the format as its folder. */
  readonly file: string;
  readonly wrong: string;
  readonly rule: string;
  readonly offset: number;
  /** The header limit to ask for, where it is not the default. */
  readonly maxHeaderBytes?: number;
}

export interface CorpusCase extends CorpusEntry {
  readonly format: "gguf" | "safetensors";
  readonly bytes: Uint8Array;
}

const casesOf = (format: CorpusCase["format"], rows: readonly CorpusRow[]): readonly CorpusCase[] =>
  rows.map(([slug, wrong, rule, offset, bytes, options]) => ({
    format,
    file: `${format}/${slug}.${format}`,
    wrong,
    rule,
    offset,
    ...options,
    bytes,
  }));

/** Every case, made anew. */
export const hostileCorpus = (): readonly CorpusCase[] => [
  ...casesOf("gguf", [...ggufMetadataCorpus(), ...ggufTensorCorpus()]),
  ...casesOf("safetensors", [...safetensorsFormatCorpus(), ...safetensorsJsonCorpus()]),
];

/** The text of `index.json`: a line for each case, so that a change is seen as one line. */
export function corpusIndex(cases: readonly CorpusCase[]): string {
  const lines = cases.map(({ file, wrong, rule, offset, maxHeaderBytes }) =>
    JSON.stringify({ file, wrong, rule, offset, maxHeaderBytes }),
  );
  return `[\n  ${lines.join(",\n  ")}\n]\n`;
}
