/** The tree of the audit log against RFC 6962 as the text has it, over random sizes up to 5,000 leaves. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkConsistency, checkInclusion, proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import { createLogTree, createRangeRoot } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";
import { allLeaves, referenceConsistency, referenceInclusion, referenceRoot } from "../helpers/audit-tree.ts";

const leaves = allLeaves(5000);
const nodes = Array.from({ length: 5000 }, (_, index) => leaves.slice(index * 32, (index + 1) * 32));
/** Shared by all runs: what it remembers of one size must be right for every other. */
const rangeRoot = createRangeRoot((start, end) => leaves.slice(start * 32, end * 32));

const SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 1023, 1025, 4096, 4097, 5000];
const size = fc.oneof(fc.constantFrom(...SIZES), fc.integer({ min: 0, max: 5000 }));
/** Sizes with a leaf of each, or a smaller size. */
const pair = size
  .filter((count) => count > 0)
  .chain((count) => fc.tuple(fc.constant(count), fc.oneof(fc.integer({ min: 0, max: count - 1 }), fc.constant(0))));

/** Roots at all sizes, made by appending. */
const tree = createLogTree();
const roots = [tree.root()];
for (const leaf of nodes) {
  tree.append(leaf);
  roots.push(tree.root());
}
const root = (count: number): Uint8Array => roots[count] ?? new Uint8Array(0);

describe("the tree of the audit log", () => {
  it("[VR-AUD-02] has the root of the reference at every size", () => {
    const seen = fc.property(size, (count) => {
      expect(toHex(root(count))).toBe(toHex(referenceRoot(nodes.slice(0, count))));
      if (count > 0) expect(toHex(rangeRoot(0, count))).toBe(toHex(root(count)));
    });
    fc.assert(seen, { numRuns: 60, examples: SIZES.map((count) => [count]) });
  });

  it("[VR-AUD-02] proves that a leaf is in it, as the reference does", () => {
    const seen = fc.property(pair, ([count, index]) => {
      const proof = proveInclusion(rangeRoot, index, count);
      expect(proof.map(toHex)).toEqual(referenceInclusion(nodes.slice(0, count), index).map(toHex));
      const judge = (at: number, path = proof) => checkInclusion(nodes[at] ?? root(0), index, count, path, root(count));
      expect(judge(index)).toBe("valid");
      expect(judge(index === 0 ? 1 : index - 1)).toBe("invalid");
      if (proof.length > 1) expect(judge(index, proof.toReversed())).toBe("invalid");
    });
    fc.assert(seen, { numRuns: 40 });
  });

  it("[VR-AUD-02] proves that it continues a smaller one, as the reference does", () => {
    const seen = fc.property(pair, ([count, smaller]) => {
      const first = smaller + 1;
      const proof = proveConsistency(rangeRoot, first, count);
      expect(proof.map(toHex)).toEqual(referenceConsistency(nodes.slice(0, count), first).map(toHex));
      expect(checkConsistency(first, count, proof, root(first), root(count))).toBe("valid");
      expect(checkConsistency(first, count, proof, root(first - 1), root(count))).toBe("invalid");
      if (proof.length > 0) expect(checkConsistency(first, count, proof, root(first), root(first))).toBe("invalid");
    });
    fc.assert(seen, { numRuns: 40 });
  });

  it("takes no proof that was changed in one bit", () => {
    const seen = fc.property(pair, fc.nat(), fc.integer({ min: 0, max: 255 }), ([count, index], which, bit) => {
      // Copies: `slice` of a Buffer would be what the tree remembers.
      const proof = proveInclusion(rangeRoot, index, count).map((hash) => Uint8Array.from(hash));
      fc.pre(proof.length > 0);
      expect(checkInclusion(nodes[index] ?? root(0), index, count, proof, root(count))).toBe("valid");
      const changed = proof[which % proof.length] ?? root(0);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(checkInclusion(nodes[index] ?? root(0), index, count, proof, root(count))).toBe("invalid");
    });
    fc.assert(seen, { numRuns: 100 });
  });
});
