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
  const cuts = [0, ...chooseBorders(borders, byteLength, count), byteLength];
  return cuts.slice(0, -1).map((offset, index) => {
    const end = cuts[index + 1] ?? byteLength;
    const inside = tensors.filter((tensor) => tensor.offset >= offset && tensor.offset < end);
    const shifted = inside.map((tensor) => ({ ...tensor, offset: tensor.offset - offset }));
    return { offset, byteLength: end - offset, tensors: shifted };
  });
}

/** `count` − 1 ascending borders, each the nearest to its share that leaves enough of them for the rest. */
function chooseBorders(borders: readonly number[], byteLength: number, count: number): number[] {
  const chosen: number[] = [];
  let next = 0;
  for (let part = 1; part < count; part += 1) {
    const ideal = (byteLength / count) * part;
    const last = borders.length - (count - part);
    let best = next;
    for (let index = next; index <= last; index += 1) {
      if (Math.abs((borders[index] ?? 0) - ideal) < Math.abs((borders[best] ?? 0) - ideal)) best = index;
    }
    chosen.push(borders[best] ?? 0);
    next = best + 1;
  }
  return chosen;
}
