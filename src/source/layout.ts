/**
 * Arithmetic and names shared by both header parsers: sizes that cannot overflow, names that are safe to keep and to
 * print, the order of the data. Place in the journey: file → header → this → tensor table → seal.
 *
 * Threat model: every number and every name comes from the file. Products are checked; names are refused where two
 * readers could see two different names (a C reader stops at NUL).
 */
import { present } from "../assert.ts";
import { printable } from "../bytes.ts";
import { LIMITS } from "../limits.ts";
import type { SourceFormat, Tensor } from "./tensors.ts";
import { malformed } from "./tensors.ts";

/** The tensors in the order of the header, and beside them the file offsets of the fields that place them. */
export interface TensorTable {
  readonly tensors: Tensor[];
  /** What a refusal points at. Apart from the tensors: an object for each pair would take 32 bytes more. */
  readonly placedAt: number[];
}

/** The offset of the field that places `tensor`, for a refusal. */
export const whereIsPlaced = ({ tensors, placedAt }: TensorTable, tensor: Tensor): number =>
  present(placedAt[tensors.indexOf(tensor)], "a tensor of the table");

/** Characters of a name that a message shows. */
const SHOWN_CHARACTERS = 64;

/** a × b, or undefined beyond 2^53−1. Exact: a true product of 2^53 or more never rounds below 2^53. */
export function checkedProduct(a: number, b: number): number | undefined {
  const product = a * b;
  return Number.isSafeInteger(product) ? product : undefined;
}

/**
 * The elements of a tensor of these extents (1 without extents), or undefined beyond 2^53−1. The product is taken in
 * the order of the file, as safetensors' `Metadata::validate` does: an overflow is not mended by a zero after it.
 */
export function elementCount(shape: readonly number[]): number | undefined {
  let count: number | undefined = 1;
  for (const extent of shape) {
    if (count === undefined) return undefined;
    count = checkedProduct(count, extent);
  }
  return count;
}

/** A name as a message may show it: quoted, printable, at most 64 characters. */
export function quoted(name: string): string {
  const characters = Array.from(name);
  const shown = characters.slice(0, SHOWN_CHARACTERS).join("");
  return `"${printable(shown)}${characters.length > SHOWN_CHARACTERS ? "…" : ""}"`;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;

/** Refuses a tensor name that is empty or holds an ASCII control character. */
export function requireTensorName(format: SourceFormat, name: string, at: number): void {
  if (name.length === 0) throw malformed(format, "name-empty", at, "a tensor has an empty name");
  if (CONTROL.test(name)) {
    throw malformed(format, "name-control", at, `tensor name ${quoted(name)} holds a control character`);
  }
}

/** Refuses one tensor more than `LIMITS.tensorCount`. */
export function requireTensorCount(format: SourceFormat, count: number, at: number): void {
  if (count > LIMITS.tensorCount) {
    throw malformed(format, "tensor-count", at, `more than ${LIMITS.tensorCount} tensors`);
  }
}

/** Refuses names that together take more than `LIMITS.tensorNameBytes`; `byteLength` with the one at `at`. */
export function requireNameBytes(format: SourceFormat, byteLength: number, at: number): void {
  if (byteLength > LIMITS.tensorNameBytes) {
    throw malformed(format, "names-too-long", at, `tensor names of more than ${LIMITS.tensorNameBytes} bytes in all`);
  }
}

/** In the order of the data; at one offset the zero-size tensors come first. O(n log n), stable. */
export function sortedByOffset({ tensors }: TensorTable): Tensor[] {
  return tensors.toSorted((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
}
