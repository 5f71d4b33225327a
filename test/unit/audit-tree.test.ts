/**
 * The tree of RFC 6962. Vectors: the eight leaves and roots of the tests of Certificate Transparency
 * (google/certificate-transparency, merkletree/merkle_tree_test.cc), and proofs of the same tests.
 */
import { describe, expect, it } from "vitest";
import { checkConsistency, checkInclusion, proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import { createLogTree, createRangeRoot, EMPTY_ROOT, leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { allLeaves, referenceConsistency, referenceInclusion, referenceRoot } from "../helpers/audit-tree.ts";

const LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS = [
  "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
  "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
  "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
  "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
  "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
  "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
  "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
const bytes = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, "hex"));
const rootOf = (size: number): Uint8Array => bytes(ROOTS[size - 1] ?? "");
const hashes = LEAVES.map((leaf) => leafHash(bytes(leaf)));

describe("the vectors of Certificate Transparency", () => {
  it("[VR-AUD-02] have the roots that this tree has, leaf by leaf", () => {
    const tree = createLogTree();
    expect(toHex(tree.root())).toBe("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (const [index, hash] of hashes.entries()) {
      tree.append(hash);
      expect(tree.size).toBe(index + 1);
      expect(toHex(tree.root())).toBe(ROOTS[index]);
    }
  });

  const rangeRoot = createRangeRoot((start, end) => Buffer.concat(hashes.slice(start, end)));
  const INCLUSION = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  ];
  const CONSISTENCY = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
  ];

  it("[VR-AUD-02] have the proofs that are made here", () => {
    expect(proveInclusion(rangeRoot, 5, 8).map(toHex)).toEqual(INCLUSION);
    expect(proveConsistency(rangeRoot, 6, 8).map(toHex)).toEqual(CONSISTENCY);
    const [leaf = EMPTY_ROOT] = hashes.slice(5);
    expect(checkInclusion(leaf, 5, 8, INCLUSION.map(bytes), rootOf(8))).toBe("valid");
    expect(checkInclusion(leaf, 4, 8, INCLUSION.map(bytes), rootOf(8))).toBe("invalid");
    expect(checkConsistency(6, 8, CONSISTENCY.map(bytes), rootOf(6), rootOf(8))).toBe("valid");
    expect(checkConsistency(6, 8, CONSISTENCY.map(bytes), rootOf(5), rootOf(8))).toBe("invalid");
  });
});

const SIZES = Array.from({ length: 64 }, (_, index) => index + 1);
const leaves = allLeaves(64);
const rangeRoot = createRangeRoot((start, end) => leaves.slice(start * 32, end * 32));
const nodes = Array.from({ length: 64 }, (_, index) => leaves.slice(index * 32, (index + 1) * 32));
const roots = [EMPTY_ROOT, ...SIZES.map((size) => referenceRoot(nodes.slice(0, size)))];
const root = (size: number): Uint8Array => roots[size] ?? EMPTY_ROOT;

describe("proofs up to 64 leaves", () => {
  it("[VR-AUD-02] inclusion: every leaf of every size, and no other leaf, size or root", () => {
    for (const size of SIZES) {
      for (let index = 0; index < size; index += 1) {
        const proof = proveInclusion(rangeRoot, index, size);
        expect(proof.map(toHex)).toEqual(referenceInclusion(nodes.slice(0, size), index).map(toHex));
        const leaf = nodes[index] ?? EMPTY_ROOT;
        const judge = (at: number, of: number, head = root(size), path = proof) =>
          checkInclusion(leaf, at, of, path, head);
        expect(judge(index, size)).toBe("valid");
        expect(judge((index + 1) % size, size)).toBe(size === 1 ? "valid" : "invalid");
        expect(judge(index, size, root(size - 1))).toBe("invalid");
        expect(judge(index, size, root(size), [...proof, leaf])).toBe("invalid");
        if (proof.length > 0) expect(judge(index, size, root(size), proof.slice(1))).toBe("invalid");
      }
    }
  });

  it("[VR-AUD-02] consistency: every pair of sizes, and no other root", () => {
    for (const size of SIZES) {
      for (let first = 1; first <= size; first += 1) {
        const proof = proveConsistency(rangeRoot, first, size);
        expect(proof.map(toHex)).toEqual(referenceConsistency(nodes.slice(0, size), first).map(toHex));
        const judge = (old: Uint8Array, head: Uint8Array, path = proof) =>
          checkConsistency(first, size, path, old, head);
        expect(judge(root(first), root(size))).toBe("valid");
        expect(judge(root(first - 1), root(size))).toBe("invalid");
        expect(judge(root(first), root(size - 1))).toBe("invalid");
        expect(judge(root(first), root(size), [...proof, root(1)])).toBe("invalid");
        if (proof.length > 0) expect(judge(root(first), root(size), proof.slice(1))).toBe("invalid");
        if (proof.length > 0) expect(judge(root(first), root(size), proof.slice(0, -1))).toBe("invalid");
      }
    }
  });

  it("numbers and hashes that cannot be are invalid, not errors", () => {
    const leaf = root(1);
    for (const [index, size] of [
      [-1, 1],
      [1, 1],
      [0, 0],
      [0.5, 1],
      [0, Number.NaN],
      [2 ** 53, 2 ** 54],
    ] as const) {
      expect(checkInclusion(leaf, index, size, [], leaf)).toBe("invalid");
    }
    for (const [first, size] of [
      [0, 1],
      [2, 1],
      [-1, 1],
      [0.5, 1],
      [1, Number.POSITIVE_INFINITY],
    ] as const) {
      expect(checkConsistency(first, size, [], leaf, leaf)).toBe("invalid");
    }
    expect(checkInclusion(leaf, 0, 2, [leaf.slice(1)], leaf)).toBe("invalid");
    expect(checkConsistency(1, 2, [leaf.slice(1)], leaf, leaf)).toBe("invalid");
    expect(checkConsistency(3, 4, [], leaf, leaf)).toBe("invalid");
    expect(() => proveInclusion(rangeRoot, 1, 1)).toThrow("within the tree");
    expect(() => proveConsistency(rangeRoot, 0, 1)).toThrow("within the second");
  });
});
