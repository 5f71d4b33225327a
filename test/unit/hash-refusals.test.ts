/** What the arithmetic of digests refuses, and in which words: the name of the argument is what a caller goes by. */
import { describe, expect, test } from "vitest";
import { VramError } from "../../src/errors.ts";
import { saltBlock } from "../../src/hash/blocks.ts";
import { DIGEST_ALGORITHM, fsverityDigest, parseDigest, parseSalt } from "../../src/hash/descriptor.ts";
import { RANGE_BYTES, treeGeometry } from "../../src/hash/geometry.ts";
import { createTreeBuilder, foldKept } from "../../src/hash/tree.ts";
import { errorOf } from "../helpers/header-parses.ts";

const refusal = (act: () => unknown): readonly unknown[] => {
  const error = errorOf(act);
  return error instanceof VramError ? [error.code, error.message, error.details] : [error];
};
const assertion = (what: string) => ["INTERNAL", `assertion failed: ${what}`, {}];
const ROOT = new Uint8Array(32);
const LENGTH = [
  "INVALID_ARGUMENT",
  "byteLength must be an integer from 0 to 9007199254740991",
  { argument: "byteLength" },
];
const SALT = "a salt is 1 to 32 bytes";

describe("refused", () => {
  test.each([
    ["a length below zero", () => treeGeometry(-1), LENGTH],
    ["a length of a digest below zero", () => fsverityDigest(ROOT, -1), LENGTH],
    ["a root that is too short", () => fsverityDigest(new Uint8Array(31), 1), assertion("a root is one hash")],
    ["a root that is too long", () => fsverityDigest(new Uint8Array(33), 1), assertion("a root is one hash")],
    ["an empty salt of a digest", () => fsverityDigest(ROOT, 1, new Uint8Array(0)), assertion(SALT)],
    ["a salt of a digest that is too long", () => fsverityDigest(ROOT, 1, new Uint8Array(33)), assertion(SALT)],
    ["an empty salt", () => saltBlock(new Uint8Array(0)), assertion(SALT)],
    ["a salt that is too long", () => saltBlock(new Uint8Array(33)), assertion(SALT)],
    ["half a leaf", () => createTreeBuilder(1).appendLeaves(new Uint8Array(16)), assertion("leaves are whole hashes")],
    [
      "a leaf too many",
      () => createTreeBuilder(1).appendLeaves(new Uint8Array(64)),
      assertion("there is one leaf for each block"),
    ],
    [
      "a leaf too few",
      () => createTreeBuilder(1).finish(),
      assertion("each level is complete once those below it are"),
    ],
    [
      "a kept level of another length",
      () => foldKept(ROOT, RANGE_BYTES + 1),
      assertion("the kept level has one hash per range"),
    ],
  ])("%s", (_what, act, refused) => {
    expect(refusal(act)).toEqual(refused);
  });

  test.each(["", "0", "00".repeat(33), "0".repeat(63)])("the salt %j, by its length", (text) => {
    const said = "a salt is 1 to 32 bytes of hex";
    expect(refusal(() => parseSalt(text))).toEqual(["INVALID_ARGUMENT", said, { argument: "salt" }]);
  });

  test("a salt that is no hex", () => {
    expect(refusal(() => parseSalt("0g"))).toEqual([
      "INVALID_ARGUMENT",
      "salt must be 2 hex digits",
      { argument: "salt" },
    ]);
  });

  test.each(["", "fsverity:", "00", `md5:${"0".repeat(64)}`])("the digest %j", (text) => {
    const said = "a digest is fsverity:HEX or sha256:HEX with 64 lower-case hex digits";
    expect(refusal(() => parseDigest(text))).toEqual(["INVALID_ARGUMENT", said, { argument: "digest" }]);
  });
});

test("the digest has the name that seals and statements give it", () => {
  expect(DIGEST_ALGORITHM).toBe("fsverity-sha256-4096");
});

test("the root of a tree is its own: changing the kept level afterwards does not change it", () => {
  const kept = new Uint8Array(32).fill(7);
  const { root } = foldKept(kept, 1);
  kept.fill(0);
  expect([...root]).toEqual(Array.from({ length: 32 }, () => 7));
});
