/** The tree's arithmetic, the descriptor, and the ways to a root: what every digest of the system stands on. */
import { createCipheriv, createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { frame, toHex, u32le, u64le } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { hashBlocks, saltBlock } from "../../src/hash/blocks.ts";
import { formatDigest, fsverityDigest, parseDigest, parseSalt, sha256 } from "../../src/hash/descriptor.ts";
import { BLOCK_BYTES, blockCount, keptHashCount, RANGE_BYTES, treeGeometry } from "../../src/hash/geometry.ts";
import { createTreeBuilder, foldKept, keptAddsUp } from "../../src/hash/tree.ts";
import { errorOf } from "../helpers/header-parses.ts";

/** Bytes without a pattern, the same in every run. */
const bytesOf = (byteLength: number): Buffer =>
  createCipheriv("aes-128-ctr", Buffer.alloc(16, 5), Buffer.alloc(16)).update(Buffer.alloc(byteLength));
const SALT = Uint8Array.from({ length: 32 }, (_, index) => index * 7 + 1);
/** Linux Documentation/filesystems/fsverity.rst; `fsverity digest` of an empty file. */
const EMPTY = "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95";

const codeBy = (run: () => unknown): string => {
  const error = errorOf(run);
  return error instanceof VramError ? error.code : `no VramError: ${String(error)}`;
};

describe("geometry", () => {
  /** Hashes on each level, worked out by hand from ⌈n ÷ 4096⌉, then ⌈n ÷ 128⌉ down to 1. */
  const CASES: readonly (readonly [byteLength: number, hashCounts: readonly number[]])[] = [
    [0, []],
    [1, [1]],
    [4095, [1]],
    [4096, [1]],
    [4097, [2, 1]],
    [524_287, [128, 1]],
    [524_288, [128, 1]],
    [524_289, [129, 2, 1]],
    [2 ** 26, [16_384, 128, 1]],
    [2 ** 26 + 1, [16_385, 129, 2, 1]],
    [2 ** 32 - 1, [1_048_576, 8192, 64, 1]],
    [2 ** 32, [1_048_576, 8192, 64, 1]],
    [2 ** 32 + 1, [1_048_577, 8193, 65, 1]],
    [70_000_000_000, [17_089_844, 133_515, 1044, 9, 1]],
    [2 ** 53 - 1, [2 ** 41, 2 ** 34, 2 ** 27, 2 ** 20, 2 ** 13, 64, 1]],
  ];

  test.each(CASES)("%i bytes have the levels %j", (byteLength, hashCounts) => {
    expect(treeGeometry(byteLength)).toEqual({ byteLength, hashCounts });
    expect(keptHashCount(byteLength)).toBe(Math.ceil(byteLength / RANGE_BYTES));
  });

  test("blocks are counted exactly up to 2^53 − 1, where a plain division would round", () => {
    const near = [
      2 ** 53 - 1,
      2 ** 53 - 4095,
      2 ** 53 - 4096,
      2 ** 53 - 4097,
      2 ** 53 - 8193,
      2 ** 45 + 1,
      2 ** 32 + 1,
    ];
    for (const byteLength of near) {
      const exact = (BigInt(byteLength) + 4095n) / 4096n;
      expect(BigInt(blockCount(byteLength)), String(byteLength)).toBe(exact);
    }
  });

  test.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])("a length of %d is refused", (byteLength) => {
    expect(codeBy(() => treeGeometry(byteLength))).toBe("INVALID_ARGUMENT");
    expect(codeBy(() => fsverityDigest(new Uint8Array(32), byteLength))).toBe("INVALID_ARGUMENT");
  });
});

describe("descriptor", () => {
  test("an empty file has the digest that the tool gives it", () => {
    expect(toHex(fsverityDigest(new Uint8Array(32), 0))).toBe(EMPTY);
    expect(toHex(createTreeBuilder(0).finish().digest)).toBe(EMPTY);
    expect(toHex(foldKept(new Uint8Array(0), 0).digest)).toBe(EMPTY);
  });

  test("every field stands where the kernel's struct has it", () => {
    const root = bytesOf(32);
    const byteLength = 2 ** 40 + 12_345;
    const head = Buffer.from([1, 1, 12, SALT.byteLength, 0, 0, 0, 0]);
    const wanted = Buffer.concat([head, u64le(byteLength), root, Buffer.alloc(32), SALT, Buffer.alloc(144)]);
    expect(wanted.byteLength).toBe(256);
    expect(fsverityDigest(root, byteLength, SALT)).toEqual(sha256(wanted));
  });

  test("a salt changes the digest, and so does its length", () => {
    const digests = [undefined, Uint8Array.of(0), Uint8Array.of(0, 0), Uint8Array.of(1)].map((salt) =>
      toHex(fsverityDigest(new Uint8Array(32), 4096, salt)),
    );
    expect(new Set(digests).size).toBe(4);
  });
});

describe("digests and salts as text", () => {
  const hex = "0123456789abcdef".repeat(4);

  test("[VR-IN-01] a digest is read back as it was written, and bare hex is fsverity", () => {
    for (const kind of ["fsverity", "sha256"] as const) {
      const parsed = parseDigest(`${kind}:${hex}`);
      expect(parsed.kind).toBe(kind);
      expect(formatDigest(parsed.kind, parsed.bytes)).toBe(`${kind}:${hex}`);
    }
    expect(parseDigest(hex)).toEqual({ kind: "fsverity", bytes: new Uint8Array(Buffer.from(hex, "hex")) });
  });

  test.each([
    ["nothing", ""],
    ["upper case", hex.toUpperCase()],
    ["one digit less", hex.slice(1)],
    ["one digit more", `${hex}0`],
    ["a trailing newline", `${hex}\n`],
    ["a leading blank", ` ${hex}`],
    ["NUL", `${hex.slice(1)}\0`],
    ["another algorithm", `sha512:${hex}`],
    ["an upper-case algorithm", `SHA256:${hex}`],
    ["two algorithms", `sha256:sha256:${hex}`],
    ["no algorithm before the colon", `:${hex}`],
    ["0x", `0x${hex.slice(2)}`],
    ["fullwidth digits", `${hex.slice(1)}０`],
    ["a Cyrillic а", `${hex.slice(1)}а`],
    ["a second line", `${hex}\n${hex}`],
  ])("[VR-IN-01] a digest is refused: %s", (_why, text) => {
    expect(codeBy(() => parseDigest(text))).toBe("INVALID_ARGUMENT");
  });

  test("[VR-IN-01] a salt is 1 to 32 bytes of hex in either case, as the tool takes it", () => {
    expect(parseSalt("00")).toEqual(Uint8Array.of(0));
    expect(parseSalt("aAFf")).toEqual(Uint8Array.of(0xaa, 0xff));
    expect(parseSalt("11".repeat(32)).byteLength).toBe(32);
    for (const text of ["", "0", "123", "11".repeat(33), "zz", " 1", "1\n", "0x11", "１１", "11 22"]) {
      expect(
        codeBy(() => parseSalt(text)),
        JSON.stringify(text),
      ).toBe("INVALID_ARGUMENT");
    }
  });
});

/** A level's parent, by another loop than the one under test. */
function parents(level: Uint8Array, salt: Uint8Array | undefined): Buffer {
  const out: Buffer[] = [];
  for (let at = 0; at < level.byteLength; at += BLOCK_BYTES) {
    const hash = createHash("sha256");
    if (salt !== undefined) hash.update(Buffer.concat([salt, Buffer.alloc(64 - salt.byteLength)]));
    const block = level.subarray(at, at + BLOCK_BYTES);
    out.push(
      hash
        .update(block)
        .update(Buffer.alloc(BLOCK_BYTES - block.byteLength))
        .digest(),
    );
  }
  return Buffer.concat(out);
}

describe("trees", () => {
  // 20,000 leaves are 20000, 157, 2, 1: three levels above the leaves, each with a partial block.
  const LEAF_COUNTS = [1, 2, 127, 128, 129, 16_384, 16_385, 20_000];

  test.each(LEAF_COUNTS.flatMap((count) => [[count, "no salt"] as const, [count, "a salt"] as const]))(
    "%i leaves (%s) build the tree that folding level by level gives",
    (count, salted) => {
      const salt = salted === "a salt" ? SALT : undefined;
      const leaves = bytesOf(count * 32);
      const byteLength = count * BLOCK_BYTES - 1;
      let root: Buffer = leaves;
      while (root.byteLength > 32) root = parents(root, salt);
      const builder = createTreeBuilder(byteLength, salt);
      // In uneven pieces: block borders of the levels must not depend on how leaves arrive.
      for (let at = 0, step = 1; at < leaves.byteLength; step += 6) {
        builder.appendLeaves(leaves.subarray(at, at + step * 32));
        at += step * 32;
      }
      const tree = builder.finish();
      expect(toHex(tree.root)).toBe(toHex(root));
      expect(tree.digest).toEqual(fsverityDigest(root, byteLength, salt));
      expect(toHex(tree.kept)).toBe(toHex(count === 1 ? leaves : parents(leaves, salt)));
      expect(foldKept(tree.kept, byteLength, salt)).toEqual(tree);
    },
  );

  test("a tree with a leaf too few, too many or cut in two is refused", () => {
    const leaf = bytesOf(32);
    expect(codeBy(() => createTreeBuilder(4097).finish())).toBe("INTERNAL");
    expect(codeBy(() => createTreeBuilder(4096).appendLeaves(leaf.subarray(1)))).toBe("INTERNAL");
    for (const byteLength of [0, 1, 4097, RANGE_BYTES]) {
      const tooMany = bytesOf((blockCount(byteLength) + 1) * 32);
      expect(
        codeBy(() => createTreeBuilder(byteLength).appendLeaves(tooMany)),
        String(byteLength),
      ).toBe("INTERNAL");
    }
  });

  test("a kept level of the wrong size is refused", () => {
    expect(codeBy(() => foldKept(new Uint8Array(32), RANGE_BYTES + 1))).toBe("INTERNAL");
    expect(codeBy(() => foldKept(new Uint8Array(96), RANGE_BYTES + 1))).toBe("INTERNAL");
  });

  test("the kept level is believed only as long as it adds up to the sealed digest", () => {
    const byteLength = 3 * RANGE_BYTES + 5;
    const kept = bytesOf(4 * 32);
    const { digest } = foldKept(kept, byteLength);
    expect(keptAddsUp(kept, byteLength, digest)).toBe(true);
    for (const at of [0, 64, 127]) {
      const changed = Uint8Array.from(kept);
      changed[at] = (changed[at] ?? 0) ^ 0x80;
      expect(keptAddsUp(changed, byteLength, digest), `byte ${at}`).toBe(false);
    }
    expect(keptAddsUp(kept, byteLength - 1, digest)).toBe(false);
    expect(keptAddsUp(kept, byteLength, digest.subarray(1))).toBe(false);
  });

  test.each([0, 33, 64])("a salt of %i bytes makes no tree", (byteLength) => {
    const salt = new Uint8Array(byteLength);
    expect(codeBy(() => createTreeBuilder(10, salt))).toBe("INTERNAL");
    expect(codeBy(() => foldKept(new Uint8Array(32), 10, salt))).toBe("INTERNAL");
    expect(codeBy(() => fsverityDigest(new Uint8Array(32), 10, salt))).toBe("INTERNAL");
  });
});

describe("blocks", () => {
  test("a partial last block is zero-padded, and nothing is written behind the last digest", () => {
    const data = bytesOf(2 * BLOCK_BYTES + 100);
    const out = new Uint8Array(4 * 32).fill(0xee);
    hashBlocks(data, out);
    expect(toHex(out)).toBe(toHex(parents(data, undefined)) + "ee".repeat(32));
    // A short block after a long one: what the long one left in the scratch must not show.
    hashBlocks(data, out, saltBlock(SALT));
    expect(toHex(out.subarray(0, 96))).toBe(toHex(parents(data, SALT)));
  });

  test("framed parts cannot be taken for others", () => {
    expect(frame([])).toEqual(Buffer.alloc(0));
    expect(toHex(frame([Uint8Array.of(1, 2), new Uint8Array(0), Uint8Array.of(3)]))).toBe(
      "020000000102" + "00000000" + "0100000003",
    );
    expect(toHex(u32le(0xffff_fffe))).toBe("feffffff");
  });
});
