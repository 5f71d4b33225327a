/**
 * The kernels' own source, compiled for the CPU by g++ and run one thread at a time, against node:crypto and against
 * our hashing; and the committed PTX against that source. What is left for a GPU to show is that its compiler and its
 * arithmetic agree with these.
 */
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { createCipheriv, createHash } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hashBlocks, saltBlock } from "../../src/hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES } from "../../src/hash/geometry.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const KERNELS = join(ROOT, "kernels");
const HARNESS = fileURLToPath(new URL("kernel-harness.cpp", import.meta.url));
const GUARD = Buffer.alloc(32, 0xa5);

const VARIANTS = [
  { variant: "plain", defines: [] },
  { variant: "imad", defines: ["-DVRAM_IMAD"] },
  { variant: "imad-umulhi", defines: ["-DVRAM_IMAD", "-DVRAM_UMULHI"] },
] as const;

interface BuildRecord {
  readonly nvcc: { readonly build: string };
  readonly files: Record<string, { readonly sha256: string }>;
}

const record = JSON.parse(readFileSync(join(KERNELS, "build.json"), "utf8")) as unknown as BuildRecord;

/** What a tool says about itself, or nothing where it is missing. */
function versionOf(tool: string): string {
  const { error, stdout } = spawnSync(tool, ["--version"], { encoding: "utf8" });
  return error === undefined ? stdout : "";
}

const withoutCompiler = versionOf("g++") === "" ? " (skipped: g++ is not here)" : "";
const withoutNvcc = versionOf("nvcc").includes(record.nvcc.build)
  ? ""
  : " (skipped: nvcc of the recorded build is not here)";

/** Bytes without a pattern, the same in every run; another key for each `key`. */
const bytesOf = (byteLength: number, key: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, key), Buffer.alloc(16)).update(Buffer.alloc(byteLength));

/** Compiles the harness with the kernels in `folder`. */
async function compileHarness(folder: string, defines: readonly string[], program: string): Promise<void> {
  const flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", ...defines, "-I", folder];
  await promisify(execFile)("g++", [...flags, HARNESS, "-o", program]);
}

/** A job of the harness: `alignment` says how near to the unmapped page behind it the source may lie. */
interface TestJob {
  readonly data: Buffer;
  readonly alignment: number;
}

interface TestLaunch {
  readonly jobs: readonly TestJob[];
  readonly padded?: Uint8Array | undefined;
  /** Threads of the launch; one per block unless given. */
  readonly gridX?: number;
  readonly blockX?: number;
  /** What the kernel is told; the truth unless given. */
  readonly totalBlocks?: number;
}

/** Runs the launch. Returns the digests of each job, after checking that nothing was written beside them. */
function runLaunch(program: string, { jobs, padded, gridX, blockX = 32, totalBlocks }: TestLaunch): Buffer[] {
  const counts = jobs.map(({ data }) => blockCount(data.byteLength));
  const sum = counts.reduce((total, count) => total + count, 0);
  const head = Buffer.alloc(24);
  head.writeUInt32LE(gridX ?? Math.ceil(sum / blockX), 0);
  head.writeUInt32LE(blockX, 4);
  head.writeUInt32LE(jobs.length, 8);
  head.writeUInt32LE(padded === undefined ? 0 : 1, 12);
  head.writeBigUInt64LE(BigInt(totalBlocks ?? sum), 16);
  const rows = jobs.flatMap(({ data, alignment }) => {
    const row = new BigUint64Array([BigInt(data.byteLength), BigInt(alignment)]);
    return [Buffer.from(row.buffer), data];
  });
  const input = Buffer.concat([head, padded ?? Buffer.of(), ...rows]);
  const output = execFileSync(program, ["hash"], { input, maxBuffer: 2 ** 26 });
  let at = 0;
  const take = (byteLength: number): Buffer => {
    at += byteLength;
    return output.subarray(at - byteLength, at);
  };
  const digests = counts.map((count) => {
    expect(take(GUARD.byteLength), "before the target").toEqual(GUARD);
    const found = take(count * HASH_BYTES);
    expect(take(GUARD.byteLength), "after the target").toEqual(GUARD);
    return found;
  });
  expect(at).toBe(output.byteLength);
  return digests;
}

/** The same by node:crypto, block by block. */
function expectedDigests(data: Buffer, padded?: Uint8Array): Buffer {
  const digests: Buffer[] = [];
  for (let at = 0; at < data.byteLength; at += BLOCK_BYTES) {
    const block = Buffer.alloc(BLOCK_BYTES);
    data.copy(block, 0, at);
    const digest = createHash("sha256");
    if (padded !== undefined) digest.update(padded);
    digests.push(digest.update(block).digest());
  }
  return Buffer.concat(digests);
}

const SIZES = [1, 15, 16, 63, 64, 65, 80, 127, 128, 4032, 4033, 4080, 4095, 4096, 4097, 4112, 8191, 8192, 524_289];
const SALTS = [
  ["without salt", undefined],
  ["with a salt", saltBlock(bytesOf(32, 99))],
] as const;

describe.skipIf(withoutCompiler !== "")(`the kernels on the CPU${withoutCompiler}`, () => {
  let scratch = "";
  const program = (variant: string): string => join(scratch, variant);

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), "vram-kernels-"));
    const changed = join(scratch, "source");
    cpSync(KERNELS, changed, { recursive: true, filter: (path) => !path.endsWith(".ptx") });
    const source = readFileSync(join(changed, "sha256.cuh"), "utf8");
    const [before, after, ...more] = source.split("rotateRight(x, 13)");
    expect(more, "the rotation is found once").toEqual([]);
    writeFileSync(join(changed, "sha256.cuh"), `${before ?? ""}rotateRight(x, 14)${after ?? ""}`);
    await Promise.all([
      ...VARIANTS.map(({ variant, defines }) => compileHarness(KERNELS, defines, program(variant))),
      compileHarness(changed, [], program("changed")),
    ]);
  });

  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  describe.each(VARIANTS)("$variant", ({ variant }) => {
    describe.each(SALTS)("%s", (_name, padded) => {
      test.each([1, 16, 4096])("hashes sources of every length, aligned to %i, as node:crypto does", (alignment) => {
        for (const byteLength of SIZES) {
          const data = bytesOf(byteLength, 1);
          const [found] = runLaunch(program(variant), { jobs: [{ data, alignment }], padded });
          expect(found, `${byteLength} bytes`).toEqual(expectedDigests(data, padded));
        }
      });

      test("finds the job of every block: many in one launch, empty ones among them", () => {
        const sizes = [0, ...SIZES, 0, 0, 1, 70_000, 0];
        const jobs = sizes.map((byteLength, index) => ({
          data: bytesOf(byteLength, index),
          alignment: index % 2 === 0 ? 16 : 1,
        }));
        const found = runLaunch(program(variant), { jobs, padded });
        for (const [index, { data }] of jobs.entries()) {
          expect(found[index], `job ${index}`).toEqual(expectedDigests(data, padded));
          const ours = Buffer.alloc(blockCount(data.byteLength) * HASH_BYTES);
          hashBlocks(data, ours, padded);
          expect(found[index], `job ${index}, by hashBlocks`).toEqual(ours);
        }
      });
    });

    test("threads without a block write nothing, not even when the total is too large", () => {
      const jobs = [5000, 4096, 1].map((byteLength, key) => ({ data: bytesOf(byteLength, key), alignment: 16 }));
      const expected = jobs.map(({ data }) => expectedDigests(data));
      expect(runLaunch(program(variant), { jobs, gridX: 3, blockX: 256 })).toEqual(expected);
      expect(runLaunch(program(variant), { jobs, gridX: 3, blockX: 256, totalBlocks: 500 })).toEqual(expected);
      expect(runLaunch(program(variant), { jobs, gridX: 1, totalBlocks: 2 })).toEqual([expected[0], GUARD, GUARD]);
      expect(runLaunch(program(variant), { jobs: [], gridX: 1, totalBlocks: 1 })).toEqual([]);
    });

    test("the ceiling kernel computes what the plain one does, something else in each thread and round", () => {
      const run = (which: string, rounds: number): string[] => {
        const output = execFileSync(program(which), ["ceiling", "40", String(rounds)]);
        return Array.from({ length: 40 }, (_, thread) => output.subarray(8 * thread, 8 * thread + 8).toString("hex"));
      };
      expect(run(variant, 3)).toEqual(run("plain", 3));
      expect(new Set([1, 2, 3].flatMap((rounds) => run(variant, rounds))).size).toBe(120);
    });
  });

  test("one rotation by another distance, and every digest is wrong", () => {
    const data = bytesOf(3 * BLOCK_BYTES, 1);
    const [right] = runLaunch(program("plain"), { jobs: [{ data, alignment: 16 }] });
    const [wrong] = runLaunch(program("changed"), { jobs: [{ data, alignment: 16 }] });
    for (let at = 0; at < 3 * HASH_BYTES; at += HASH_BYTES) {
      expect(wrong?.subarray(at, at + HASH_BYTES)).not.toEqual(right?.subarray(at, at + HASH_BYTES));
    }
  });

  test("the probes store, load, wait, and read every word once", () => {
    const input = bytesOf(16 * 1001, 1);
    const output = execFileSync(program("plain"), ["probes"], { input });
    const sum = new Uint32Array(new Uint8Array(input).buffer).reduce((all, word) => (all ^ word) >>> 0, 0);
    expect([output.readUInt32LE(0), output.readUInt32LE(4)]).toEqual([0x12345678, sum]);
  });
});

describe("the committed PTX", () => {
  const ENTRIES: Record<string, readonly string[]> = {
    fsverity: ["vram_hash_blocks"],
    ceiling: ["vram_sha256_ceiling"],
    probes: ["vram_probe_load", "vram_probe_read", "vram_probe_spin", "vram_probe_store"],
  };

  test("is all that build.json lists, and nothing else", () => {
    const names = readdirSync(KERNELS).filter((name) => name.endsWith(".ptx"));
    expect(names.map((name) => `kernels/${name}`).sort()).toEqual(Object.keys(record.files).sort());
  });

  test.each(Object.entries(record.files))(
    "[VR-DEV-02] %s has its digest, version, target and entries",
    (path, { sha256 }) => {
      const text = readFileSync(join(ROOT, path), "utf8");
      const all = (pattern: RegExp): string[] => [...text.matchAll(pattern)].map(([, found = ""]) => found).sort();
      expect(createHash("sha256").update(text).digest("hex")).toBe(sha256);
      expect(all(/^\.version (.*)$/gm)).toEqual(["6.3"]);
      expect(all(/^\.target (.*)$/gm)).toEqual(["sm_75"]);
      expect(all(/\.entry (\w+)\(/g)).toEqual(ENTRIES[/kernels\/(\w+)/.exec(path)?.[1] ?? ""]);
    },
  );

  test.skipIf(withoutNvcc !== "")(`is what its sources make${withoutNvcc}`, () => {
    const { status, stdout, stderr } = spawnSync("npm", ["run", "-s", "kernels", "--", "--check"], {
      cwd: ROOT,
      encoding: "utf8",
    });
    expect(`${stdout}${stderr}`).toContain("unchanged: 7 PTX files");
    expect(status).toBe(0);
  });

  test.skipIf(withoutNvcc !== "")(`takes the registers that kernels/README.md says${withoutNvcc}`, () => {
    const table = execFileSync(process.execPath, ["scripts/kernels.mjs", "--registers"], {
      cwd: ROOT,
      encoding: "utf8",
    });
    expect(readFileSync(join(KERNELS, "README.md"), "utf8")).toContain(table);
  });
});
