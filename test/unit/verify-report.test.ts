/** What a verification says: rates, where the bytes were read from, and damage in numbers and words, at their borders. */
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Located } from "../../src/device/device.ts";
import { VramError } from "../../src/errors.ts";
import { RANGE_BYTES } from "../../src/hash/geometry.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Shard } from "../../src/residency/shard.ts";
import { createSetSeal } from "../../src/seal/set.ts";
import { type Damage, damageOf, mismatchError, readFrom, refineDamage } from "../../src/verify/report.ts";
import { verifySet } from "../../src/verify/verify-set.ts";
import {
  AGE_MS,
  BYTES,
  damaged,
  INFO,
  KEPT,
  measured,
  openShard,
  REF,
  SET_KEY,
  TENSORS,
} from "../helpers/verify-shard.ts";

describe("where the bytes were read from", () => {
  const cache = 2 ** 20;
  it.each([
    ["cuda", 2 * cache - 1, "l2-possible"],
    ["cuda", 2 * cache, "vram"],
    ["cuda", 2 * cache + 1, "vram"],
    ["cuda-substituted", 2 * cache, "substituted"],
    ["emulated", 2 * cache, "emulated"],
  ] as const)("on %s, %i bytes: %s", (backend, byteLength, from) => {
    expect(readFrom({ ...INFO, backend, l2CacheBytes: cache }, byteLength)).toBe(from);
  });
});

describe("the rate of a measurement", () => {
  it.each([
    [2000, 524_338],
    [3, 349_558_667],
    [0, 0],
  ])("of a mebibyte and 100 bytes in %i ms is %i bytes per second", async (durationMs, bytesPerSecond) => {
    const { ask, answers } = openShard();
    answers.measure = async () => ({ ...measured(KEPT), durationMs });
    expect(await ask()).toMatchObject({ bytesPerSecond, durationMs, bytesCovered: BYTES, device: REF });
  });
});

describe("[VR-VER-03] damage", () => {
  const { shard } = openShard();
  const many: Shard = {
    ...shard,
    seal: { ...shard.seal, byteLength: RANGE_BYTES * 5000 },
    tensors: [],
  };
  const offsets = (count: number): number[] => Array.from({ length: count }, (_, index) => index * RANGE_BYTES);

  it("is ranges, the last of which may be short, and each tensor that overlaps one, once", () => {
    expect(damageOf(shard, [0, RANGE_BYTES, 2 * RANGE_BYTES])).toEqual({
      ranges: [
        { offset: 0, byteLength: RANGE_BYTES },
        { offset: RANGE_BYTES, byteLength: RANGE_BYTES },
        { offset: 2 * RANGE_BYTES, byteLength: 100 },
      ],
      ...{ rangeCount: 3, tensors: ["a", "b", "c"], tensorCount: 3, precision: "range", blocks: [], blockCount: 0 },
    });
    expect(damageOf(shard, [2 * RANGE_BYTES]).tensors).toEqual(["c"]);
  });

  it("is listed up to a limit, and counted beyond it", () => {
    const count = LIMITS.reportedRanges;
    for (const more of [0, 1, 3]) {
      const damage = damageOf(many, offsets(count + more));
      expect([damage.ranges.length, damage.rangeCount]).toEqual([count, count + more]);
    }
  });

  it("that could not be located more closely says why", () => {
    const damage = damageOf(shard, [0]);
    expect(refineDamage(shard, damage, { precision: "range", because: "gone" })).toEqual({
      ...damage,
      because: "gone",
    });
  });

  it("that could be is blocks with their tensors, and says what was not compared", () => {
    const block = { offset: RANGE_BYTES, byteLength: 4096, differing: 1, byteOffsets: [RANGE_BYTES + 1] };
    const located: Located = { precision: "block", blocks: [block], blockCount: 9 };
    const damage = damageOf(shard, [RANGE_BYTES]);
    const refined: Damage = {
      ...damage,
      precision: "block",
      blocks: [{ ...block, tensors: ["b", "c"] }],
      blockCount: 9,
    };
    expect(refineDamage(shard, damage, located)).toEqual(refined);
    const most = LIMITS.locatedRanges;
    expect(refineDamage(many, damageOf(many, offsets(most)), located)).not.toHaveProperty("because");
    for (const skipped of [1, 7]) {
      expect(refineDamage(many, damageOf(many, offsets(most + skipped)), located).because).toBe(
        `${skipped} more ranges were not compared block by block`,
      );
    }
  });

  it.each([
    [[], 0, "0 ranges of 512 KiB damaged, no tensor there"],
    [["a"], 1, "1 range of 512 KiB damaged, in a"],
    [["a", "b", "c"], 2, "2 ranges of 512 KiB damaged, in a, b, c"],
    [["a", "b", "c", "d"], 2, "2 ranges of 512 KiB damaged, in a, b, c and 1 more"],
    [["a", "b", "c", "d", "e"], 3, "3 ranges of 512 KiB damaged, in a, b, c and 2 more"],
  ])("of tensors %j is said in words", (tensors, rangeCount, words) => {
    const damage: Damage = { ...damageOf(shard, []), tensors, tensorCount: tensors.length, rangeCount };
    const found = measured(damaged(0));
    const error = mismatchError(shard, found, damage);
    const [expected, actual] = [`fsverity:${shard.seal.digest}`, `fsverity:${toHex(found.digest)}`];
    expect([error.code, error.details]).toEqual([
      "MEASUREMENT_MISMATCH",
      { shardId: "shard-m", expected, actual, damage },
    ]);
    expect(error.message).toBe(
      `m: the bytes in VRAM are not the sealed ones: sealed ${expected}, measured ${actual}; ${words}`,
    );
  });

  it("in an entry is at most 64 ranges and tensors, and all of them counted", async () => {
    const test = openShard();
    const tensors = Array.from({ length: 70 }, (_, index) => ({ ...TENSORS[0], name: `t${index}` }));
    Object.assign(test.shard, { tensors });
    test.answers.measure = async () => measured(damaged(0));
    await test.ask().catch(() => undefined);
    const entry = test.steps.find((step) => typeof step === "object") as { tensors: string[]; tensorsTotal: number };
    expect([entry.tensors.length, entry.tensorsTotal]).toEqual([LIMITS.entryRanges, 70]);
  });
});

describe("[VR-SEAL-06] a set", () => {
  const NOTHING = { maxAgeMs: undefined, salt: undefined, signal: undefined };

  function openSet(totals = [2, 2]) {
    const test = openShard({ name: "one", shardIndex: 0, totalShards: totals[0] ?? 2 });
    test.add({ name: "two", shardIndex: 1, totalShards: totals[1] ?? 2 });
    const seal = createSetSeal(
      SET_KEY,
      "",
      test.shards.map((shard) => shard.seal.mac),
    );
    const ask = (presented: unknown, request = {}) =>
      verifySet(test.system, [test.worker], presented, { ...NOTHING, ...request });
    return { ...test, seal, askSet: ask };
  }
  const refusal = async (task: Promise<unknown>): Promise<VramError> =>
    task.then(
      () => expect.fail("it should have been refused"),
      (error: unknown) => (error instanceof VramError ? error : expect.fail(String(error))),
    );

  it("is as old as its oldest member, and every member is reported", async () => {
    const { askSet, seal, shards } = openSet();
    for (const shard of shards.slice(1)) shard.lastMeasured = { wallMs: 1, monotonicMs: 9000 };
    const report = await askSet(seal, { maxAgeMs: 5000 });
    expect(report).toMatchObject({ totalShards: 2, digest: "", ageMs: 1000 });
    expect(report.members.map(({ ageMs, record }) => [record.name, ageMs])).toEqual([
      ["one", AGE_MS],
      ["two", 1000],
    ]);
  });

  it("that does not hold is refused, on record as of no shard, and nothing is measured", async () => {
    const { askSet, seal, steps } = openSet();
    for (const [presented, reason] of [
      [{ ...seal, digest: "00".repeat(32) }, "mac"],
      [{ ...seal, version: 2 }, "malformed"],
    ] as const) {
      expect((await refusal(askSet(presented))).code).toBe("SEAL_REFUSED");
      expect(steps.splice(0)).toEqual([{ type: "seal_refused", device: REF, shardId: "set", reason }]);
    }
  });

  it.each([
    ["a member that is gone", { remove: 1 }, 1],
    ["a member of a set of another size", { totals: [2, 3] }, 1],
    ["members in another order", { swap: true }, 0],
  ])(
    "is not resident with %s",
    async (_what, change: { remove?: number; totals?: number[]; swap?: boolean }, index) => {
      const { askSet, shards, steps } = openSet(change.totals);
      const macs = shards.map((shard) => shard.seal.mac);
      const seal = createSetSeal(SET_KEY, "", change.swap === true ? macs.reverse() : macs);
      if (change.remove !== undefined) shards.splice(change.remove, 1);
      const { code, message, details } = await refusal(askSet(seal));
      expect([code, message]).toEqual(["SHARD_NOT_RESIDENT", `member ${index} of 2 of the set is not resident`]);
      expect(details).toEqual({ shardIndex: index, totalShards: 2 });
      expect(steps).toEqual([]);
    },
  );

  it("fails with the error of its first member that does, and says how the others fared", async () => {
    const { askSet, seal, answers } = openSet();
    let asked = 0;
    answers.measure = async () => {
      asked += 1;
      if (asked === 2) throw new VramError("VRAM_UNREADABLE", "no answer", { fix: "look", details: { at: 1 } });
      return measured(KEPT, BYTES);
    };
    const error = await refusal(askSet(seal));
    expect([error.code, error.message, error.fix]).toEqual(["VRAM_UNREADABLE", "no answer", "look"]);
    expect(error.details).toEqual({ at: 1, shardIndex: 1, members: ["ok", "VRAM_UNREADABLE"] });
    expect(error.cause).toMatchObject({ code: "VRAM_UNREADABLE" });
  });
});
