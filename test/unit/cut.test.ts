/** Where one file is cut into shards: at the tensor border nearest to each share, and at as many as are asked for. */
import { describe, expect, test } from "vitest";
import { cutAtTensors } from "../../src/source/cut.ts";
import type { Tensor } from "../../src/source/tensors.ts";
import { codeOf } from "../helpers/vram.ts";

/** Tensors that begin at these offsets, one behind the other, up to `end`. */
const tensorsAt = (offsets: readonly number[], end: number): Tensor[] =>
  offsets.map((offset, index) => {
    const byteLength = (offsets[index + 1] ?? end) - offset;
    return { name: `t${offset}`, dtype: "U8", shape: [byteLength], offset, byteLength };
  });

describe("a file cut at its tensors", () => {
  /** Worked out by hand. The header reaches to the first offset. */
  const CASES: readonly (readonly [what: string, offsets: number[], end: number, count: number, starts: number[]])[] = [
    ["one part is the whole file", [10, 50], 100, 1, [0]],
    ["one without tensors, too", [], 100, 1, [0]],
    ["halves", [10, 48, 53], 100, 2, [0, 48]],
    ["of two borders as near, the first", [10, 45, 55], 100, 2, [0, 45]],
    ["a large first tensor takes the share of the second part", [10, 80, 85, 90], 100, 4, [0, 80, 85, 90]],
    ["a large last tensor leaves the borders before it to all parts", [10, 11, 12, 13], 100, 4, [0, 11, 12, 13]],
    ["no border twice, though it is the nearest to two shares", [10, 50, 90, 95], 100, 3, [0, 50, 90]],
  ];

  test.each(CASES)("%s", (_what, offsets, end, count, starts) => {
    const tensors = tensorsAt(offsets, end);
    const parts = cutAtTensors(tensors.toReversed(), end, count);
    expect(parts.map((part) => part.offset)).toEqual(starts);
    expect(parts.map((part) => part.offset + part.byteLength)).toEqual([...starts.slice(1), end]);
    const back = parts.flatMap((part) =>
      part.tensors.map((tensor) => {
        expect(tensor.offset + tensor.byteLength).toBeLessThanOrEqual(part.byteLength);
        return { ...tensor, offset: tensor.offset + part.offset };
      }),
    );
    expect(back.sort((a, b) => a.offset - b.offset)).toEqual(tensors);
  });

  test("an empty tensor is no border, and belongs to the part that it stands in", () => {
    const empty = { name: "none", dtype: "U8", shape: [0], offset: 50, byteLength: 0 };
    const tensors = [...tensorsAt([10, 60], 100), empty];
    const [first, second] = cutAtTensors(tensors, 100, 2);
    expect(first?.tensors).toContainEqual(empty);
    expect(second).toMatchObject({ offset: 60, tensors: [{ name: "t60", offset: 0 }] });
    expect(() => cutAtTensors(tensors, 100, 3)).toThrow("a file with 2 tensors cannot be cut into 3 shards");
  });

  test("into no part, into a part of one, or into more than a set may have, is refused", async () => {
    for (const count of [0, -1, 1.5, Number.NaN, 1e9]) {
      expect(await codeOf(Promise.resolve().then(() => cutAtTensors([], 100, count)))).toBe("INVALID_ARGUMENT");
    }
  });
});
