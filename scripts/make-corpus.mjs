/**
 * Writes the corpus of hostile model files, `test/vectors/hostile`, from `test/helpers/corpus.ts`. What it writes depends
 * on that file and those it imports alone. Node 20 does not run TypeScript, so their types are stripped on the way.
 *
 *     node scripts/make-corpus.mjs
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import ts from "typescript";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const CORPUS = join(ROOT, "test/vectors/hostile");
/** What the generator consists of. None of it is code of the parsers. */
const SOURCES = [
  "corpus",
  "corpus-gguf-metadata",
  "corpus-gguf-tensors",
  "corpus-safetensors",
  "corpus-safetensors-json",
  "gguf-files",
  "model-files",
  "safetensors-files",
];

const folder = mkdtempSync(join(tmpdir(), "vram-corpus-"));
try {
  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
  const compilerOptions = {
    module: ts.ModuleKind.ESNext,
    target: ts.ScriptTarget.ES2023,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
  };
  for (const name of SOURCES) {
    const text = readFileSync(join(ROOT, `test/helpers/${name}.ts`), "utf8");
    writeFileSync(join(folder, `${name}.js`), ts.transpileModule(text, { compilerOptions }).outputText);
  }
  const { hostileCorpus, corpusIndex } = await import(pathToFileURL(join(folder, "corpus.js")).href);
  const cases = hostileCorpus();
  for (const format of ["gguf", "safetensors"]) rmSync(join(CORPUS, format), { recursive: true, force: true });
  for (const { file, bytes } of cases) {
    mkdirSync(dirname(join(CORPUS, file)), { recursive: true });
    writeFileSync(join(CORPUS, file), bytes);
  }
  writeFileSync(join(CORPUS, "index.json"), corpusIndex(cases));
  process.stdout.write(`${cases.length} files written to ${CORPUS}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
