/**
 * Our digests against the tools that everybody has: `fsverity digest` and `sha256sum`, on files around every border of
 * the tree, and on real models. Where the tool is missing, its stored answers (`test/vectors/fsverity.json`) remain.
 */
import { execFileSync } from "node:child_process";
import { createCipheriv } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "../../src/bytes.ts";
import { parseSalt } from "../../src/hash/descriptor.ts";
import { type HashPool, openHashPool } from "../../src/hash/pool.ts";
import { nodeFileSystem } from "../../src/source/file.ts";
import { openSource, type SourceSpec } from "../../src/source/source.ts";
import { digestOpened } from "../../src/staging/digest.ts";
import { MODELS } from "../helpers/header-parses.ts";
import { MIB, temporaryFolder } from "../helpers/vram.ts";

interface VectorFile {
  readonly about: string;
  readonly tool: string;
  readonly command: string;
  readonly bytes: string;
  readonly vectors: readonly {
    readonly size: number;
    readonly seed: string;
    readonly salt: string | null;
    readonly digest: string;
  }[];
}

const VECTORS = JSON.parse(
  readFileSync(new URL("../vectors/fsverity.json", import.meta.url), "utf8"),
) as unknown as VectorFile;

/** Bytes as the vector file describes them: the AES-128-CTR key stream of `seed`. */
function streamOf(size: number, seed: string): Buffer {
  const cipher = createCipheriv("aes-128-ctr", fromHex(seed, 16, "seed"), Buffer.alloc(16));
  return cipher.update(Buffer.alloc(size));
}

/** The tool's own words, or undefined where there is none. */
function fsverity(...args: string[]): string | undefined {
  try {
    return execFileSync("fsverity", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

const withoutTool = fsverity("--version") === undefined;
if (withoutTool) console.log("skipped: comparison with the tool fsverity, which is not installed");

const digestByTool = (path: string, salt?: string): string =>
  fsverity("digest", "--compact", ...(salt === undefined ? [] : ["--salt", salt]), path) ?? "no tool";

const sha256ByTool = (path: string): string => execFileSync("sha256sum", [path], { encoding: "utf8" }).slice(0, 64);

async function digestByUs(
  spec: SourceSpec,
  pool: HashPool,
  salt?: string,
): Promise<{ fsverity: string; sha256: string }> {
  const source = await openSource(spec, { format: "raw" }, nodeFileSystem);
  const salted = salt === undefined ? {} : { salt: parseSalt(salt) };
  try {
    const { tree, sha256 } = await digestOpened(source, pool, { tree: true, sha256: true, ...salted });
    return { fsverity: toHex(tree?.digest ?? Buffer.of()), sha256: toHex(sha256 ?? Buffer.of()) };
  } finally {
    await source.close();
  }
}

const inline = openHashPool(0);
const SEED = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const SALTS = ["a7", "000102030405060708090a0b0c0d0e0f", "F0".repeat(32)];
const SIZES = [0, 1, 4095, 4096, 4097, 524_287, 524_288, 524_289];
const LARGE = [64 * MIB - 1, 64 * MIB, 64 * MIB + 1];

describe("the tool fsverity agrees", () => {
  test.skipIf(withoutTool).each([...SIZES, ...LARGE])("on %i bytes (needs fsverity)", async (size) => {
    const path = join(await temporaryFolder(), "file.bin");
    await writeFile(path, streamOf(size, SEED));
    // One salt is enough for the large ones: what they add is a level, not another way to salt.
    for (const salt of [undefined, ...(size > MIB ? SALTS.slice(2) : SALTS)]) {
      const ours = await digestByUs({ kind: "path", path }, inline, salt);
      expect(ours.fsverity, `salt ${salt ?? "none"}`).toBe(digestByTool(path, salt));
      if (salt === undefined) expect(ours.sha256).toBe(sha256ByTool(path));
    }
  });

  const models = existsSync(MODELS) ? readdirSync(MODELS).filter((name) => /\.(gguf|safetensors)$/.test(name)) : [];
  if (models.length === 0) console.log(`skipped: digests of real models, there are none in ${MODELS}`);
  test.skipIf(withoutTool || models.length === 0)("on real models (needs fsverity and ../shared/models)", async () => {
    for (const path of models.map((name) => join(MODELS, name))) {
      // Headers are parsed where they can be: the bytes that the parser saw have to be in the digest, once. (The shared
      // GGUF files went through a text decoder, which their headers did not survive; test/unit/gguf.test.ts says more.)
      const format = path.endsWith(".gguf") ? "raw" : "auto";
      const source = await openSource({ kind: "path", path }, { format }, nodeFileSystem);
      expect(source.info.format).toBe(format === "raw" ? "raw" : "safetensors");
      const { tree, sha256 } = await digestOpened(source, inline, { tree: true, sha256: true });
      await source.close();
      expect(toHex(tree?.digest ?? Buffer.of()), basename(path)).toBe(digestByTool(path));
      expect(toHex(sha256 ?? Buffer.of()), basename(path)).toBe(sha256ByTool(path));
      const salted = await digestByUs({ kind: "path", path }, inline, SALTS[1]);
      expect(salted.fsverity, basename(path)).toBe(digestByTool(path, SALTS[1]));
    }
  });
});

describe("the stored answers of the tool", () => {
  test("say where they come from", () => {
    expect(VECTORS.tool).toMatch(/^fsverity v\d/);
    expect(VECTORS.command).toContain("fsverity digest --compact");
    expect(VECTORS.bytes).toContain("openssl enc -aes-128-ctr");
    expect(new Set(VECTORS.vectors.map(({ size }) => size))).toEqual(new Set([...SIZES, MIB + 1, ...LARGE]));
    expect(new Set(VECTORS.vectors.map(({ salt }) => salt?.length ?? 0))).toEqual(new Set([0, 2, 32, 64]));
  });

  test.each([...new Set(VECTORS.vectors.map(({ size }) => size))])("[VR-SEAL-05] hold for %i bytes", async (size) => {
    for (const { seed, salt, digest } of VECTORS.vectors.filter((vector) => vector.size === size)) {
      const bytes = streamOf(size, seed);
      const { fsverity: ours } = await digestByUs({ kind: "bytes", bytes }, inline, salt ?? undefined);
      expect(ours, `salt ${salt ?? "none"}`).toBe(digest);
    }
  });
});

const THREAD = new URL("../../dist/hash/pool-thread.js", import.meta.url);
const withoutBuild = !existsSync(THREAD);
if (withoutBuild) console.log("skipped: hashing threads, dist is not built (npm run build)");

describe("hashing threads", () => {
  test.skipIf(withoutBuild)("[VR-SEAL-05] give the digests that one thread gives (needs dist)", async () => {
    const size = 64 * MIB + 1;
    const pool = openHashPool(2, THREAD);
    try {
      for (const { seed, salt, digest } of VECTORS.vectors.filter((vector) => vector.size === size)) {
        const bytes = streamOf(size, seed);
        const { fsverity: ours } = await digestByUs({ kind: "bytes", bytes }, pool, salt ?? undefined);
        expect(ours, `salt ${salt ?? "none"}`).toBe(digest);
      }
    } finally {
      await pool.close();
    }
  });
});
