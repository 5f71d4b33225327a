/** RFC 6962 §2.1 once more, as the text has it: recursive, over lists of leaf hashes, hashed by another library. */
import { sha256 } from "@noble/hashes/sha2.js";

type Hashes = readonly Uint8Array[];

const node = (left: Uint8Array, right: Uint8Array): Uint8Array => sha256(Uint8Array.from([1, ...left, ...right]));

/** k: the largest power of two smaller than n. */
const kOf = (n: number): number => 2 ** Math.ceil(Math.log2(n) - 1);

/** MTH. */
export function referenceRoot(leaves: Hashes): Uint8Array {
  const [only] = leaves;
  if (only === undefined) return sha256(new Uint8Array(0));
  if (leaves.length === 1) return only;
  const k = kOf(leaves.length);
  return node(referenceRoot(leaves.slice(0, k)), referenceRoot(leaves.slice(k)));
}

/** PATH(m, D[n]). */
export function referenceInclusion(leaves: Hashes, m: number): Hashes {
  if (leaves.length === 1) return [];
  const k = kOf(leaves.length);
  return m < k
    ? [...referenceInclusion(leaves.slice(0, k), m), referenceRoot(leaves.slice(k))]
    : [...referenceInclusion(leaves.slice(k), m - k), referenceRoot(leaves.slice(0, k))];
}

/** SUBPROOF(m, D[n], b); PROOF(m, D[n]) with b = true. */
export function referenceConsistency(leaves: Hashes, m: number, b = true): Hashes {
  if (m === leaves.length) return b ? [] : [referenceRoot(leaves)];
  const k = kOf(leaves.length);
  return m <= k
    ? [...referenceConsistency(leaves.slice(0, k), m, b), referenceRoot(leaves.slice(k))]
    : [...referenceConsistency(leaves.slice(k), m - k, false), referenceRoot(leaves.slice(0, k))];
}

/** Different leaf hashes, joined. */
export function allLeaves(count: number, seed = 0): Uint8Array {
  const hashes = Array.from({ length: count }, (_, index) => sha256(Buffer.from(`leaf ${seed} ${index}`)));
  return new Uint8Array(Buffer.concat(hashes));
}
