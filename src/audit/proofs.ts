/**
 * Proofs over the tree of the audit log. Inclusion (RFC 6962 §2.1.1): this line is in the log of this root. Consistency
 * (§2.1.2): the log of this root continues the one of that root, so nothing before was changed or removed. They are made
 * by whoever has the leaf hashes and judged by whoever has two roots. Judging follows RFC 9162 §2.1.3.2 and §2.1.4.2,
 * which write down the algorithm for the same tree. Sizes are numbers up to 2^53 − 1, so halving is division, not a shift.
 */
import { assert } from "../assert.ts";
import { constantTimeEqual } from "../bytes.ts";
import { NODE_BYTES, nodeHash, type RangeRoot, splitPoint } from "./tree.ts";

/** Hashes from the bottom up, 32 bytes each. */
export type Proof = readonly Uint8Array[];

/** PATH(m, D[n]) of RFC 6962 §2.1.1: that leaf `index` is in the tree of `size` leaves. */
export function proveInclusion(rangeRoot: RangeRoot, index: number, size: number): Proof {
  assert(Number.isSafeInteger(index) && index >= 0 && index < size, "the leaf is within the tree");
  const proof: Uint8Array[] = [];
  for (let start = 0, end = size; end - start > 1; ) {
    const middle = start + splitPoint(end - start);
    const isLeft = index < middle;
    proof.unshift(isLeft ? rangeRoot(middle, end) : rangeRoot(start, middle));
    if (isLeft) end = middle;
    else start = middle;
  }
  return proof;
}

/** PROOF(m, D[n]) of RFC 6962 §2.1.2: that the tree of `size` leaves continues the one of `first`. 0 < first ≤ size. */
export function proveConsistency(rangeRoot: RangeRoot, first: number, size: number): Proof {
  assert(Number.isSafeInteger(first) && first > 0 && first <= size, "the first tree is within the second");
  const proof: Uint8Array[] = [];
  let start = 0;
  let end = size;
  // Down to the subtree that ends where the first tree ends.
  while (first !== end) {
    const middle = start + splitPoint(end - start);
    const isLeft = first <= middle;
    proof.unshift(isLeft ? rangeRoot(middle, end) : rangeRoot(start, middle));
    if (isLeft) end = middle;
    else start = middle;
  }
  // If that is the first tree itself, its root is known to whoever judges.
  if (start > 0) proof.unshift(rangeRoot(start, end));
  return proof;
}

const isEven = (value: number): boolean => value % 2 === 0;
const half = (value: number): number => Math.floor(value / 2);
const areNodes = (proof: Proof): boolean => proof.every((node) => node.byteLength === NODE_BYTES);

/** Whether `proof` shows that the leaf with this hash is leaf `index` of the tree of `size` leaves and this root. */
export function checkInclusion(
  leaf: Uint8Array,
  index: number,
  size: number,
  proof: Proof,
  root: Uint8Array,
): "valid" | "invalid" {
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(size) || index < 0 || index >= size) return "invalid";
  if (!areNodes(proof)) return "invalid";
  let at = index;
  let last = size - 1;
  let node = leaf;
  for (const sibling of proof) {
    if (last === 0) return "invalid";
    if (!isEven(at) || at === last) {
      node = nodeHash(sibling, node);
      for (; isEven(at) && at !== 0; at = half(at)) last = half(last);
    } else {
      node = nodeHash(node, sibling);
    }
    at = half(at);
    last = half(last);
  }
  return last === 0 && constantTimeEqual(node, root) ? "valid" : "invalid";
}

/** Whether `proof` shows that the tree of `size` leaves and this root continues the one of `first` leaves. */
export function checkConsistency(
  first: number,
  size: number,
  proof: Proof,
  firstRoot: Uint8Array,
  root: Uint8Array,
): "valid" | "invalid" {
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(size) || first <= 0 || first > size) return "invalid";
  if (!areNodes(proof)) return "invalid";
  if (first === size) return proof.length === 0 && constantTimeEqual(firstRoot, root) ? "valid" : "invalid";
  let at = first - 1;
  let last = size - 1;
  for (; !isEven(at); at = half(at)) last = half(last);
  // A first tree that is a complete subtree is not in the proof.
  const [start, ...rest] = at === 0 ? [firstRoot, ...proof] : proof;
  if (start === undefined) return "invalid";
  let older = start;
  let newer = start;
  for (const sibling of rest) {
    if (last === 0) return "invalid";
    if (!isEven(at) || at === last) {
      older = nodeHash(sibling, older);
      newer = nodeHash(sibling, newer);
      for (; isEven(at) && at !== 0; at = half(at)) last = half(last);
    } else {
      newer = nodeHash(newer, sibling);
    }
    at = half(at);
    last = half(last);
  }
  const holds = last === 0 && constantTimeEqual(older, firstRoot) && constantTimeEqual(newer, root);
  return holds ? "valid" : "invalid";
}
