/**
 * The Merkle tree over the lines of the audit log: RFC 6962 §2.1, SHA-256. A leaf is a line without its line feed. What
 * a log checkpoint signs is the root, so that one hash stands for every line before it. Appending keeps the frontier
 * only: the roots of the complete subtrees, at most 53 of them.
 */
import { hash } from "node:crypto";
import { assert } from "../assert.ts";
import { LIMITS } from "../limits.ts";

/** Bytes of a leaf hash, of a node and of a root. */
export const NODE_BYTES = 32;

/** RFC 6962 domain separation: what precedes a leaf and a pair of nodes. */
const LEAF_PREFIX = 0;
const NODE_PREFIX = 1;

/** One scratch for the leaf being hashed, one for the pair: hashing is synchronous. */
const leafInput = new Uint8Array(1 + LIMITS.auditLineBytes).fill(LEAF_PREFIX);
const nodeInput = new Uint8Array(1 + 2 * NODE_BYTES).fill(NODE_PREFIX);

// As a string, one character a byte: half the time of asking for a Buffer (measured, Node 20: 0.58 against 1.17 µs).
const sha256 = (input: Uint8Array): Uint8Array => Buffer.from(hash("sha256", input, "binary"), "binary");

/** The root of a tree without leaves: SHA-256 of nothing. */
export const EMPTY_ROOT: Uint8Array = sha256(new Uint8Array(0));

/** Whether these are 32 zeros: no hash is, but a place in a file that was grown and not yet written. */
export const isUnwritten = (hash: Uint8Array): boolean => hash.every((byte) => byte === 0);

/** SHA-256(0x00 ‖ line). `line` is at most 65,535 bytes. */
export function leafHash(line: Uint8Array): Uint8Array {
  assert(line.byteLength <= LIMITS.auditLineBytes, "a leaf is a line");
  leafInput.set(line, 1);
  return sha256(leafInput.subarray(0, 1 + line.byteLength));
}

/** SHA-256(0x01 ‖ left ‖ right). */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  nodeInput.set(left, 1);
  nodeInput.set(right, 1 + NODE_BYTES);
  return sha256(nodeInput);
}

/** A tree that grows leaf by leaf. */
export interface LogTree {
  /** Leaves so far. */
  readonly size: number;
  /** Appends a leaf hash: one node hash on average. */
  append(leaf: Uint8Array): void;
  /** The root at this size: at most 52 node hashes. */
  root(): Uint8Array;
}

/** The roots of complete subtrees, folded from the right. */
function foldFrontier(frontier: readonly Uint8Array[]): Uint8Array {
  return frontier.length === 0 ? EMPTY_ROOT : frontier.reduceRight((right, left) => nodeHash(left, right));
}

/** An empty tree. */
export function createLogTree(): LogTree {
  /** Largest first: one for each bit of `size` that is set. */
  const frontier: Uint8Array[] = [];
  let size = 0;
  return {
    get size() {
      return size;
    },
    append: (leaf) => {
      let node = leaf;
      for (let rest = size; rest % 2 === 1; rest = (rest - 1) / 2) {
        const left = frontier.pop();
        assert(left !== undefined, "the frontier has a subtree for each bit of the size");
        node = nodeHash(left, node);
      }
      frontier.push(node);
      size += 1;
    },
    root: () => foldFrontier(frontier),
  };
}

/** The root over the leaf hashes [start, end) of a log: what proofs are made of. */
export type RangeRoot = (start: number, end: number) => Uint8Array;

/** The largest power of two below `count`, which is at least 2. */
export function splitPoint(count: number): number {
  let split = 1;
  while (split * 2 < count) split *= 2;
  return split;
}

/** Leaves hashed anew each time; above this the roots of complete subtrees are remembered, 32 bytes each. */
const REMEMBERED_LEAVES = 256;

/**
 * Roots of ranges of a log whose leaf hashes `readLeaves` gives, 32 bytes each, joined. Complete subtrees are
 * remembered: the first proof reads every leaf, a later one at most 512 of them. 1 byte of memory for 8 leaves or so.
 * Whoever keeps `remembered` for as long as a log only grows need not read it all again.
 */
export function createRangeRoot(
  readLeaves: (start: number, end: number) => Uint8Array,
  remembered: Map<string, Uint8Array> = new Map(),
): RangeRoot {
  const ofLeaves = (start: number, end: number): Uint8Array => {
    const leaves = readLeaves(start, end);
    assert(leaves.byteLength === (end - start) * NODE_BYTES, "every leaf of the range is there");
    const tree = createLogTree();
    for (let at = 0; at < leaves.byteLength; at += NODE_BYTES) tree.append(leaves.slice(at, at + NODE_BYTES));
    return tree.root();
  };

  const rangeRoot: RangeRoot = (start, end) => {
    const count = end - start;
    if (count < REMEMBERED_LEAVES) return ofLeaves(start, end);
    const name = `${start}:${end}`;
    const known = remembered.get(name);
    if (known !== undefined) return known;
    const split = splitPoint(count);
    const root =
      count === REMEMBERED_LEAVES
        ? ofLeaves(start, end)
        : nodeHash(rangeRoot(start, start + split), rangeRoot(start + split, end));
    // Only complete subtrees are the same in every later size.
    if (split * 2 === count) remembered.set(name, root);
    return root;
  };
  return rangeRoot;
}
