/**
 * Mutation fuzz over both header parsers. Whatever a file says, a parser answers with a table that holds or with a
 * refusal that names rule and offset: never with another error, never late, never differently the second time.
 *
 * `VRAM_FUZZ_SEED` replays a run, `VRAM_FUZZ_MINUTES` makes it longer and keeps findings (`npm run fuzz`).
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { extname, resolve } from "node:path";
import { afterAll, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { parseGguf } from "../../src/source/gguf.ts";
import { parseSafetensors } from "../../src/source/safetensors.ts";
import type { HeaderParse } from "../../src/source/tensors.ts";
import { hostileCorpus } from "../helpers/corpus.ts";
import { reportCount } from "../helpers/counts.ts";
import { type FuzzFormat, mutate, randomOf, VALID_FILES } from "../helpers/mutate.ts";

const MUTATIONS = 20_000;
const SLOWEST_MS = 50;
const { VRAM_FUZZ_SEED, VRAM_FUZZ_MINUTES } = process.env;
const seed = Number(VRAM_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const minutes = Number(VRAM_FUZZ_MINUTES ?? 0);
reportCount(`fuzz: VRAM_FUZZ_SEED=${seed}`);

const FINDINGS = resolve(import.meta.dirname, "../vectors/hostile/findings");
const FORMATS: readonly FuzzFormat[] = ["gguf", "safetensors"];
const PARSERS = { gguf: parseGguf, safetensors: parseSafetensors };
const HEADER_LIMITS = { gguf: LIMITS.ggufHeaderBytes, safetensors: LIMITS.safetensorsHeaderBytes + 8 };
const corpus = hostileCorpus();
const BASES: Readonly<Record<FuzzFormat, readonly Uint8Array[]>> = {
  gguf: corpus.filter(({ format }) => format === "gguf").map(({ bytes }) => bytes),
  safetensors: corpus.filter(({ format }) => format === "safetensors").map(({ bytes }) => bytes),
};

const tally = { mutations: 0, accepted: 0, refused: 0, rules: new Set<string>() };
afterAll(() => {
  const { mutations, accepted, refused, rules } = tally;
  reportCount(
    `fuzz: ${mutations} mutations, seed ${seed}, ${accepted} accepted, ${refused} refused, rules hit ${rules.size}`,
  );
});

/** What a parser said, in a form that compares. */
type Answer = HeaderParse | { readonly kind: "refused"; readonly rule: string; readonly offset: number };

function ask(format: FuzzFormat, prefix: Uint8Array, fileByteLength: number): Answer {
  try {
    return PARSERS[format](prefix, fileByteLength);
  } catch (thrown) {
    if (!(thrown instanceof VramError) || thrown.code !== "MODEL_MALFORMED") throw thrown;
    const { rule, offset, ...rest } = thrown.details as { rule: string; offset: number };
    if (JSON.stringify(rest) !== JSON.stringify({ format })) throw new Error("details of another form");
    if (!/^[a-z0-9-]+$/.test(rule) || !Number.isSafeInteger(offset) || offset < 0 || offset > fileByteLength) {
      throw new Error(`no rule and offset of this file: ${rule} at ${offset}`);
    }
    return { kind: "refused", rule, offset };
  }
}

const demand = (holds: boolean, what: string): void => {
  if (!holds) throw new Error(what);
};

/** The growing-prefix protocol, from no byte on; prefixes are copies, so that nothing behind them can be read. */
function askGrowing(format: FuzzFormat, file: Uint8Array): Answer {
  let byteLength = 0;
  for (;;) {
    const answer = ask(format, file.slice(0, byteLength), file.byteLength);
    if (answer.kind !== "need") return answer;
    demand(answer.byteLength > byteLength, `needs ${answer.byteLength} bytes and has ${byteLength}`);
    demand(answer.byteLength <= Math.min(file.byteLength, HEADER_LIMITS[format]), "needs more than there may be");
    byteLength = answer.byteLength;
  }
}

/** The tensors lie behind the header, within the file, apart from each other, in order, under names of their own. */
function checkTable(format: FuzzFormat, file: Uint8Array, answer: HeaderParse & { readonly kind: "complete" }): void {
  const { headerByteLength, tensors } = answer;
  demand(headerByteLength <= file.byteLength, "the header ends behind the file");
  demand(new Set(tensors.map(({ name }) => name)).size === tensors.length, "a name twice");
  let end = headerByteLength;
  for (const { name, shape, offset, byteLength } of tensors) {
    demand(
      [offset, byteLength, ...shape].every((n) => Number.isSafeInteger(n) && n >= 0),
      `${name}: not an integer`,
    );
    demand(offset >= headerByteLength && offset + byteLength <= file.byteLength, `${name} lies outside the file`);
    demand(byteLength > 0 === shape.every((extent) => extent > 0), `${name} is empty and is not`);
    if (byteLength === 0) continue;
    demand(format === "gguf" ? offset >= end : offset === end, `${name} does not follow the one before it`);
    end = offset + byteLength;
  }
  demand(format === "gguf" || end === file.byteLength, "data that no tensor names");
}

/** Milliseconds of the fastest of a few runs: what a busy machine adds is not the parser's. */
function fastest(run: () => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let tries = 0; tries < 4 && best >= SLOWEST_MS; tries += 1) {
    const started = performance.now();
    run();
    best = Math.min(best, performance.now() - started);
  }
  return best;
}

/** Throws unless both ways to ask give one answer, in time, and the answer holds. */
function checkFile(format: FuzzFormat, file: Uint8Array): Answer {
  let answer: Answer | undefined;
  const ms = fastest(() => {
    answer = ask(format, file, file.byteLength);
  });
  demand(ms < SLOWEST_MS, `took ${ms} ms`);
  if (answer === undefined || answer.kind === "need") throw new Error("the whole file is not enough");
  if (answer.kind === "complete") checkTable(format, file, answer);
  const first = JSON.stringify(answer);
  demand(JSON.stringify(ask(format, file, file.byteLength)) === first, "another answer the second time");
  demand(JSON.stringify(askGrowing(format, file)) === first, "another answer to a growing prefix");
  return answer;
}

function mutation(index: number): { readonly format: FuzzFormat; readonly file: Uint8Array } {
  const random = randomOf(seed, index);
  const format = FORMATS[index % 2] ?? "gguf";
  const choose = (list: readonly Uint8Array[]): Uint8Array => list[random(list.length)] ?? new Uint8Array(0);
  // Two of three start from a valid file: a hostile one has little way left to go.
  const base = choose(random(3) === 0 ? BASES[format] : VALID_FILES[format]);
  return { format, file: mutate(format, base, choose(BASES[format]), random) };
}

/** Checks one mutation; a breach is named by seed and number, and kept in a long run. */
function runMutation(index: number): void {
  const { format, file } = mutation(index);
  tally.mutations += 1;
  try {
    const answer = checkFile(format, file);
    if (answer.kind === "refused") tally.rules.add(`${format} ${answer.rule}`);
    tally[answer.kind === "refused" ? "refused" : "accepted"] += 1;
  } catch (cause) {
    if (minutes > 0) {
      mkdirSync(FINDINGS, { recursive: true });
      writeFileSync(resolve(FINDINGS, `seed-${seed}-number-${index}.${format}`), file);
    }
    throw new Error(`VRAM_FUZZ_SEED=${seed}, mutation ${index} (${format}): ${String(cause)}`, { cause });
  }
}

const findings = existsSync(FINDINGS) ? readdirSync(FINDINGS).sort() : [];

it(`[VR-IN-02] what fuzzing once found (${findings.length}) holds now`, () => {
  for (const name of findings) {
    checkFile(extname(name) === ".gguf" ? "gguf" : "safetensors", readFileSync(resolve(FINDINGS, name)));
  }
});

it("the files that mutations start from are what they are called", () => {
  for (const format of FORMATS) {
    for (const file of VALID_FILES[format]) expect(checkFile(format, file).kind).toBe("complete");
  }
});

it(
  `[VR-IN-02] ${minutes > 0 ? `${minutes} minutes` : MUTATIONS} of mutations end in a table that holds or in a refusal`,
  async () => {
    const deadline = performance.now() + minutes * 60_000;
    let reported = performance.now();
    for (let index = 0; index < MUTATIONS || performance.now() < deadline; index += 1) {
      runMutation(index);
      if (index % 500 !== 0) continue;
      // The runner talks to this thread: it has to come up for air.
      await new Promise((resume) => setImmediate(resume));
      if (performance.now() - reported < 10_000) continue;
      reported = performance.now();
      console.log(`fuzz: ${index} mutations, ${Math.max(0, Math.round((deadline - reported) / 1000))} s to go`);
    }
    expect(tally.accepted).toBeGreaterThan(MUTATIONS / 50);
    expect(tally.rules.size).toBeGreaterThan(40);
  },
  300_000 + minutes * 60_000,
);
