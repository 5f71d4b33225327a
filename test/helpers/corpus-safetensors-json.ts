/** The hostile safetensors files of the corpus (corpus.ts) whose lie is one of JSON: grammar and numbers. */
import type { CorpusRow } from "./corpus.ts";
import { rawSafetensors } from "./model-files.ts";
import { safetensorsEntry as entry } from "./safetensors-files.ts";

/** A file with this header and four bytes of data, refused where `marker` stands. */
export const safetensorsRow = (
  slug: string,
  wrong: string,
  rule: string,
  header: string,
  marker: string,
  delta = 0,
): CorpusRow => {
  const index = header.indexOf(marker);
  if (index === -1) throw new Error(`${slug}: the header has no ${marker}`);
  const offset = 8 + Buffer.byteLength(header.slice(0, index)) + delta;
  return [slug, wrong, rule, offset, rawSafetensors(header, 4)];
};

/** One tensor with one field changed. */
export const oneTensor = (fields: { dtype?: string; shape?: string; offsets?: string }): string =>
  `{${entry("t", fields)}}`;
const json = (): CorpusRow[] => [
  safetensorsRow("json-comma", "a comma behind the last tensor", "json-syntax", `{${entry("t")},}`, ",}", 1),
  safetensorsRow("json-no-value", "a name without a value", "json-syntax", '{"t"}', "}"),
  safetensorsRow("json-array-entry", "a tensor that is an array", "json-syntax", '{"t":[]}', "[]"),
  safetensorsRow("json-null-dtype", "a dtype of null", "json-syntax", oneTensor({ dtype: "null" }), "null"),
  safetensorsRow("json-true-extent", "an extent of true", "json-syntax", oneTensor({ shape: "[true]" }), "true"),
  safetensorsRow(
    "json-nested-shape",
    "a shape of 500 nested arrays",
    "json-syntax",
    oneTensor({ shape: `${"[".repeat(500)}${"]".repeat(500)}` }),
    "[[",
    1,
  ),
  safetensorsRow(
    "json-nested-entry",
    "2,000 nested objects for a tensor",
    "json-syntax",
    `{"t":${"{".repeat(2000)}`,
    "{{",
    1,
  ),
  safetensorsRow(
    "json-nested-field",
    "a field whose value nests 200 deep",
    "field-unknown",
    `{"t":{"a":${"[".repeat(200)}`,
    '"a"',
  ),
  safetensorsRow("json-three-offsets", "three offsets", "json-syntax", oneTensor({ offsets: "[0,4,4]" }), ",4]"),
  safetensorsRow("json-one-offset", "one offset", "json-syntax", oneTensor({ offsets: "[4]" }), "]}"),
  safetensorsRow("json-cut", "a header that ends within a shape", "json-unterminated", '{"t":{"shape":[', "[", 1),
  safetensorsRow("json-cut-string", "a header that ends within a string", "json-unterminated", '{"t', "t", 1),
  safetensorsRow(
    "json-control",
    "a line break within a string",
    "json-control-character",
    '{"__metadata__":{"k":"a\nb"}}',
    "\nb",
  ),
  safetensorsRow("json-escape-x", "the escape \\x41", "json-escape", '{"\\x41":{}}', "\\x"),
  safetensorsRow("json-escape-hex", "the escape \\u00g0", "json-escape", '{"\\u00g0":{}}', "\\u"),
  safetensorsRow("json-surrogate", "half of a surrogate pair", "json-surrogate", '{"\\ud800":{}}', "\\u"),
  safetensorsRow("json-nul-behind", "NUL behind the header's object", "trailing-bytes", `${oneTensor({})}\0`, "\0"),
  safetensorsRow("json-two-objects", "two objects", "trailing-bytes", `${oneTensor({})}{}`, "{}", 0),
];

const numbers = (): CorpusRow[] => [
  safetensorsRow("number-1e400", "an extent of 1e400", "json-number", oneTensor({ shape: "[1e400]" }), "1e400"),
  safetensorsRow("number-4e0", "an extent of 4e0", "json-number", oneTensor({ shape: "[4e0]" }), "4e0"),
  safetensorsRow("number-fraction", "an extent of 4.0", "json-number", oneTensor({ shape: "[4.0]" }), "4.0"),
  safetensorsRow("number-leading-zero", "an extent of 04", "json-number", oneTensor({ shape: "[04]" }), "04]"),
  safetensorsRow("number-negative-extent", "an extent of −4", "json-number", oneTensor({ shape: "[-4]" }), "-4"),
  safetensorsRow("number-negative-zero", "an offset of −0", "json-number", oneTensor({ offsets: "[-0,4]" }), "-0"),
  safetensorsRow("number-nan", "an extent of NaN", "json-syntax", oneTensor({ shape: "[NaN]" }), "NaN"),
  safetensorsRow(
    "number-2e53",
    "an extent of 2^53",
    "json-integer-too-large",
    oneTensor({ shape: "[9007199254740992]" }),
    "9007",
  ),
  safetensorsRow(
    "number-2e53-and-1",
    "an offset of 2^53+1, which rounds to 2^53",
    "json-integer-too-large",
    oneTensor({ offsets: "[0,9007199254740993]" }),
    "9007",
  ),
  safetensorsRow(
    "number-2e64",
    "an offset of 2^64−1",
    "json-integer-too-large",
    oneTensor({ offsets: "[0,18446744073709551615]" }),
    "1844",
  ),
  safetensorsRow(
    "number-400-digits",
    "an extent of 400 digits",
    "json-integer-too-large",
    oneTensor({ shape: `[${"9".repeat(400)}]` }),
    "999",
  ),
];

export const safetensorsJsonCorpus = (): readonly CorpusRow[] => [...json(), ...numbers()];
