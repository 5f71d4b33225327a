/** Small trees against the reference, whole: every proof of up to 9 leaves, under every index, size and root there is. */
import { describe, expect, it } from "vitest";
import { checkConsistency, checkInclusion, proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import {
  createLogTree,
  createRangeRoot,
  EMPTY_ROOT,
  isUnwritten,
  leafHash,
  nodeHash,
  splitPoint,
} from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { LIMITS } from "../../src/limits.ts";
import { allLeaves, referenceConsistency, referenceInclusion, referenceRoot } from "../helpers/audit-tree.ts";

const MOST = 9;
const joined = allLeaves(MOST);
const leaves = Array.from({ length: MOST }, (_, index) => joined.slice(index * 32, (index + 1) * 32));
const SIZES = Array.from({ length: MOST }, (_, index) => index + 1);
const roots = [EMPTY_ROOT, ...SIZES.map((size) => referenceRoot(leaves.slice(0, size)))];
const rootOf = (size: number): Uint8Array => roots[size] ?? EMPTY_ROOT;
const leafAt = (index: number): Uint8Array => leaves[index] ?? EMPTY_ROOT;
const rangeRoot = createRangeRoot((start, end) => joined.slice(start * 32, end * 32));

describe("[VR-AUD-02] inclusion", () => {
  it("is proven as the reference does, and holds for that index, size and root only", () => {
    for (const size of SIZES) {
      for (let index = 0; index < size; index += 1) {
        const proof = proveInclusion(rangeRoot, index, size);
        expect(proof.map(toHex)).toEqual(referenceInclusion(leaves.slice(0, size), index).map(toHex));
        for (const other of SIZES) {
          const verdict = checkInclusion(leafAt(index), index, size, proof, rootOf(other));
          expect(verdict, `leaf ${index} of ${size}, root of ${other}`).toBe(other === size ? "valid" : "invalid");
          const elsewhere = checkInclusion(leafAt(index), other - 1, size, proof, rootOf(size));
          expect(elsewhere, `leaf ${index} of ${size} as ${other - 1}`).toBe(other - 1 === index ? "valid" : "invalid");
        }
        const paths = [[...proof, leafAt(0)], proof.slice(1), proof.slice(0, -1), proof.toReversed()];
        for (const path of paths.filter((path) => path.map(toHex).join() !== proof.map(toHex).join())) {
          expect(checkInclusion(leafAt(index), index, size, path, rootOf(size))).toBe("invalid");
        }
      }
    }
  });

  it.each([
    [-1, 1],
    [1, 1],
    [0, 0],
    [0.5, 1],
    [0, 1.5],
    [2 ** 53, 2 ** 53],
  ])("of leaf %d of %d is no question that has an answer", (index, size) => {
    expect(checkInclusion(leafAt(0), index, size, [], leafAt(0))).toBe("invalid");
    if (size !== 1.5) expect(() => proveInclusion(rangeRoot, index, size)).toThrow("the leaf is within the tree");
  });
});

describe("[VR-AUD-02] consistency", () => {
  it("is proven as the reference does, and holds for these two roots only", () => {
    for (const size of SIZES) {
      for (let first = 1; first <= size; first += 1) {
        const proof = proveConsistency(rangeRoot, first, size);
        expect(proof.map(toHex)).toEqual(referenceConsistency(leaves.slice(0, size), first).map(toHex));
        const judge = (one: number, other: number, path = proof): string =>
          checkConsistency(first, size, path, rootOf(one), rootOf(other));
        for (const other of SIZES) {
          expect(judge(other, size), `${first} in ${size}, as ${other}`).toBe(other === first ? "valid" : "invalid");
          expect(judge(first, other), `${first} in ${other}, as ${size}`).toBe(other === size ? "valid" : "invalid");
        }
        for (const path of [
          [...proof, leafAt(0)],
          [leafAt(0), ...proof],
        ]) {
          expect(judge(first, size, path)).toBe("invalid");
        }
        if (proof.length > 0)
          expect([judge(first, size, proof.slice(1)), judge(first, size, [])]).not.toContain("valid");
      }
    }
  });

  it.each([
    [0, 1],
    [2, 1],
    [-1, 1],
    [0.5, 1],
    [1, 1.5],
    [1, 2 ** 53],
  ])("of %d in %d is no question that has an answer", (first, size) => {
    expect(checkConsistency(first, size, [], leafAt(0), leafAt(0))).toBe("invalid");
    if (first !== 1) {
      expect(() => proveConsistency(rangeRoot, first, size)).toThrow("the first tree is within the second");
    }
  });

  it("has nodes of 32 bytes, all of them", () => {
    const [inclusion, consistency] = [proveInclusion(rangeRoot, 2, 7), proveConsistency(rangeRoot, 3, 7)];
    for (const bad of [new Uint8Array(31), new Uint8Array(33), new Uint8Array(0)]) {
      const spoilt = inclusion.map((node, at) => (at === 1 ? bad : node));
      expect(checkInclusion(leafAt(2), 2, 7, spoilt, rootOf(7))).toBe("invalid");
      const other = consistency.map((node, at) => (at === 1 ? bad : node));
      expect(checkConsistency(3, 7, other, rootOf(3), rootOf(7))).toBe("invalid");
    }
  });
});

describe("[VR-AUD-02] the tree", () => {
  it("splits at the largest power of two that is smaller", () => {
    const splits = [2, 3, 4, 5, 8, 9, 16, 17, 2 ** 40, 2 ** 40 + 1].map(splitPoint);
    expect(splits).toEqual([1, 2, 2, 4, 4, 8, 8, 16, 2 ** 39, 2 ** 40]);
  });

  it("has leaves and nodes that cannot be taken for each other, and leaves of at most a line", () => {
    const [left, right] = [leafAt(0), leafAt(1)];
    expect(toHex(leafHash(Buffer.concat([left, right])))).not.toBe(toHex(nodeHash(left, right)));
    expect(toHex(leafHash(new Uint8Array(0)))).toBe("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    const longest = new Uint8Array(LIMITS.auditLineBytes).fill(7);
    const hashed = toHex(leafHash(longest));
    // A shorter leaf behind it: nothing of the long one is left in what is hashed.
    expect(toHex(leafHash(longest.subarray(1)))).not.toBe(hashed);
    expect(toHex(leafHash(longest))).toBe(hashed);
    expect(() => leafHash(new Uint8Array(LIMITS.auditLineBytes + 1))).toThrow("a leaf is a line");
  });

  it("knows 32 zeros as what was never written, and nothing else", () => {
    expect(isUnwritten(new Uint8Array(32))).toBe(true);
    for (const at of [0, 15, 31]) expect(isUnwritten(new Uint8Array(32).fill(1, at, at + 1))).toBe(false);
  });

  it("remembers the roots of complete subtrees of 256 leaves and more, and of no others", () => {
    const many = allLeaves(1100);
    const tree = createLogTree();
    const expected = new Map<number, string>();
    for (let size = 1; size <= 1100; size += 1) {
      tree.append(many.slice((size - 1) * 32, size * 32));
      expected.set(size, toHex(tree.root()));
    }
    const remembered = new Map<string, Uint8Array>();
    const read: number[] = [];
    const root = createRangeRoot((start, end) => {
      read.push(end - start);
      return many.slice(start * 32, end * 32);
    }, remembered);
    for (const size of [255, 256, 257, 511, 512, 513, 1024, 1100]) {
      expect(toHex(root(0, size)), `${size} leaves`).toBe(expected.get(size));
    }
    const names = ["0:1024", "0:256", "0:512", "256:512", "512:1024", "512:768", "768:1024"];
    expect([...remembered.keys()].sort()).toEqual(names);
    expect(Math.max(...read)).toBe(256);
    read.splice(0);
    expect(toHex(root(0, 1024))).toBe(expected.get(1024));
    expect(toHex(root(0, 1025))).toBe(expected.get(1025));
    expect(read).toEqual([1]);
    const short = createRangeRoot(() => new Uint8Array(32));
    expect(() => short(0, 2)).toThrow("every leaf of the range is there");
  });
});
