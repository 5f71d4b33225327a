/**
 * Cutting one model file into shards at tensor boundaries, as arithmetic only. The header goes with the first shard;
 * every byte of the file belongs to exactly one; no tensor is split.
 */
import { requireInteger } from "../assert.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Tensor } from "./tensors.ts";

/** A part of a file. Offsets in bytes from the start of the file; its tensors' offsets from the start of the part. */
export interface Part {
  readonly offset: number;
  readonly byteLength: number;
  readonly tensors: readonly Tensor[];
}

/**
 * Cuts a file of `byteLength` bytes into `count` parts of about the same size. Throws `INVALID_ARGUMENT` if there are
 * too few tensors to cut between. `tensors` do not overlap.
 */
export function cutAtTensors(tensors: readonly Tensor[], byteLength: number, count: number): Part[] {
  requireInteger(count, "shards", 1, LIMITS.setMembers);
  const ordered = tensors.filter((tensor) => tensor.byteLength > 0).sort((a, b) => a.offset - b.offset);
  const borders = ordered.slice(1).map((tensor) => tensor.offset);
  if (borders.length < count - 1) {
    throw new VramError(
      "INVALID_ARGUMENT",
      `a file with ${ordered.length} tensors cannot be cut into ${count} shards`,
      {
        details: { argument: "shards" },
      },
    );
  }
  const parts: Part[] = [];
  let offset = 0;
  for (const end of [...chooseBorders(borders, byteLength, count), byteLength]) {
    parts.push(partOf(tensors, offset, end));
    offset = end;
  }
  return parts;
}

/** The part from `offset` to `end`. */
function partOf(tensors: readonly Tensor[], offset: number, end: number): Part {
  const inside = tensors.filter((tensor) => tensor.offset >= offset && tensor.offset < end);
  const shifted = inside.map((tensor) => ({ ...tensor, offset: tensor.offset - offset }));
  return { offset, byteLength: end - offset, tensors: shifted };
}

/** `count` − 1 ascending borders, each the nearest to its share that leaves enough of them for the rest. */
function chooseBorders(borders: readonly number[], byteLength: number, count: number): number[] {
  const chosen: number[] = [];
  let left = borders;
  for (let part = 1; part < count; part += 1) {
    const ideal = (byteLength / count) * part;
    const nearer = (a: number, b: number): number => (Math.abs(b - ideal) < Math.abs(a - ideal) ? b : a);
    // One at least: there are `count` − 1 borders or more, and each step leaves one for each step behind it.
    const best = left.slice(0, left.length - (count - part - 1)).reduce(nearer);
    chosen.push(best);
    left = left.slice(left.indexOf(best) + 1);
  }
  return chosen;
}
