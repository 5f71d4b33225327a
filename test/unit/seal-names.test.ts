/** Ids and names at their borders: the longest, the shortest, and what stands right behind them. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { cleanName, createId, createShardId, requireName, requireShardId } from "../../src/seal/names.ts";
import { thrownBy } from "../helpers/emulated.ts";

/** Code, argument and message of the refusal. */
function refusal(act: () => unknown): readonly unknown[] {
  const error = thrownBy(act);
  return error instanceof VramError ? [error.code, error.details["argument"], error.message] : [error];
}

describe("a shard id", () => {
  it.each(["a", "Z", "0", "a.b", "a.b.c", "9_-.", "A-Za-z0-9._-", "a".repeat(LIMITS.idLength)])("may be %j", (id) => {
    expect(requireShardId(id)).toBe(id);
  });

  it.each([
    ["nothing", ""],
    ["one character too many", "a".repeat(LIMITS.idLength + 1)],
    ["a first character that is no letter or digit", ".a"],
    ["a hyphen in front, which is an option", "-a"],
    ["the parent folder", "a..b"],
    ["a separator", "a/b"],
    ["a blank in front", " a"],
    ["a blank behind", "a "],
    ["a line feed behind", "a\n"],
    ["a good one on another line", "/\na"],
    ["another alphabet", "á"],
  ])("is not %s", (_why, id) => {
    expect(refusal(() => requireShardId(id))).toEqual([
      "INVALID_ARGUMENT",
      "shardId",
      "a shard id is 1 to 256 of A–Z a–z 0–9 . _ - starting with a letter or digit, without ..",
    ]);
  });
});

describe("a name", () => {
  it.each(["a", "model.bin", "a b", "é", "模型", "..", "n".repeat(LIMITS.nameBytes), "é".repeat(LIMITS.nameBytes / 2)])(
    "may be %j",
    (name) => {
      expect(requireName(name)).toBe(name);
    },
  );

  it.each([
    ["nothing", ""],
    ["one byte too many", "n".repeat(LIMITS.nameBytes + 1)],
    ["as many characters of more bytes", "é".repeat(LIMITS.nameBytes / 2 + 1)],
    ["with NUL", "a\0b"],
    ["with a line feed", "a\n"],
    ["with DEL", "\u007fa"],
    ["with half a character", "a\ud800"],
    ["with a bidirectional override", "a\u202eb"],
    ["with a byte order mark", "\ufeffa"],
    ["with a line separator", "a\u2028b"],
    ["with a paragraph separator", "a\u2029b"],
  ])("is not %s", (_why, name) => {
    expect(refusal(() => requireName(name))).toEqual([
      "INVALID_ARGUMENT",
      "name",
      "a name is 1 to 1024 bytes of text without control or invisible characters",
    ]);
  });

  it.each([
    ["stays as it is", "model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors"],
    ["loses controls, each by itself", "a\n\tb\u0000", "a__b_"],
    ["loses what is invisible", "a\u202eb\u2028c\u2029d", "a_b_c_d"],
    ["loses halves of characters", "a\ud800b", "a\ufffdb"],
    ["is unnamed if it is empty", "", "unnamed"],
    ["keeps the most bytes that there may be", "n".repeat(LIMITS.nameBytes), "n".repeat(LIMITS.nameBytes)],
    ["is cut", "n".repeat(LIMITS.nameBytes + 9), "n".repeat(LIMITS.nameBytes)],
    ["is cut between characters of two bytes", `a${"é".repeat(600)}`, `a${"é".repeat(511)}`],
    ["is cut between characters of four bytes", `ab${"😀".repeat(300)}`, `ab${"😀".repeat(255)}`],
  ])("made of a file's %s", (_what, given, made) => {
    expect(cleanName(given)).toBe(made);
    expect(requireName(cleanName(given))).toBe(made);
  });
});

describe("a generated id", () => {
  it("says what it is of, and has 26 letters of base32 that do not come again", () => {
    expect(createShardId()).toMatch(/^shard-[a-z2-7]{26}$/);
    for (const kind of ["shard", "lease", "op", "export", "statement"] as const) {
      expect(createId(kind)).toMatch(new RegExp(`^${kind}-[a-z2-7]{26}$`));
    }
    expect(requireShardId(createShardId())).toHaveLength(32);
    expect(new Set(Array.from({ length: 100 }, createShardId)).size).toBe(100);
  });

  it("uses all of the alphabet", () => {
    const tails = Array.from({ length: 200 }, () => createShardId().slice("shard-".length)).join("");
    expect([...new Set(tails)].sort().join("")).toBe("234567abcdefghijklmnopqrstuvwxyz");
  });
});
