/** The committed corpus of hostile files: made by our generator to the byte, and refused by the rule the index names. */
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { nodeFileSystem } from "../../src/source/file.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import { openSource } from "../../src/source/source.ts";
import { type CorpusEntry, corpusIndex, hostileCorpus } from "../helpers/corpus.ts";
import { reportCount } from "../helpers/counts.ts";
import { expectRefusal } from "../helpers/header-parses.ts";

const CORPUS = resolve(import.meta.dirname, "../vectors/hostile");
const MIB = 1024 * 1024;
/** Generous: the slowest takes about a millisecond. */
const SLOWEST_MS = 1000;

const made = hostileCorpus();
const index = JSON.parse(readFileSync(resolve(CORPUS, "index.json"), "utf8")) as readonly CorpusEntry[];
const of = (format: string): readonly CorpusEntry[] => index.filter(({ file }) => file.startsWith(`${format}/`));
reportCount(`corpus: ${of("gguf").length} GGUF cases, ${of("safetensors").length} safetensors cases`);

/** What this thread holds, in its heap and outside. */
const bytesHeld = (): number => {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

describe("the corpus of hostile model files", () => {
  it("[VR-IN-02] is what its generator makes, byte for byte, and nothing else", () => {
    expect(readFileSync(resolve(CORPUS, "index.json"), "utf8")).toBe(corpusIndex(made));
    for (const { file, bytes } of made) {
      expect(Buffer.compare(readFileSync(resolve(CORPUS, file)), bytes), file).toBe(0);
    }
    const committed = ["gguf", "safetensors"].flatMap((format) =>
      readdirSync(resolve(CORPUS, format)).map((name) => `${format}/${name}`),
    );
    expect(committed.sort()).toEqual(made.map(({ file }) => file).sort());
  });

  it("[VR-IN-02] has at least 60 GGUF and 40 safetensors cases in less than 300 KiB", () => {
    expect(of("gguf").length).toBeGreaterThanOrEqual(60);
    expect(of("safetensors").length).toBeGreaterThanOrEqual(40);
    expect(made.reduce((sum, { bytes }) => sum + bytes.byteLength, 0)).toBeLessThan(300 * 1024);
  });
});

describe("a file of the corpus", () => {
  it.each(index)("[VR-IN-02] $file is refused by $rule at $offset: $wrong", async (entry) => {
    const { file, rule, offset, maxHeaderBytes } = entry;
    const path = resolve(CORPUS, file);
    const bytes = readFileSync(path);
    const format = file.startsWith("gguf/") ? "gguf" : "safetensors";
    const parse = format === "gguf" ? parseGguf : parseSafetensors;
    const heldBefore = bytesHeld();
    const started = performance.now();
    expectRefusal(() => parse(bytes, bytes.byteLength, maxHeaderBytes === undefined ? {} : { maxHeaderBytes }), {
      format,
      rule,
      offset,
    });
    const options = maxHeaderBytes === undefined ? {} : { maxSafetensorsHeaderBytes: maxHeaderBytes };
    await expect(openSource({ kind: "path", path }, options, nodeFileSystem)).rejects.toMatchObject({
      code: "MODEL_MALFORMED",
      details: { format, rule, offset },
    });
    expect(performance.now() - started).toBeLessThan(SLOWEST_MS);
    // Every claim of these files is 2^31 or more, or so small that it does not matter: one that was believed would show.
    expect(bytesHeld() - heldBefore).toBeLessThan(32 * MIB);
  });
});
