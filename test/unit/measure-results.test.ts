import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { requireRealResults } from "../../src/device/measure-window.ts";

const HASH = 32;

/** Four canary digests and `count` result hashes, and the pattern that stood there before. */
function results(count: number) {
  const answer = new Uint8Array(randomBytes((4 + count) * HASH));
  const pattern = new Uint8Array(randomBytes((4 + count) * HASH));
  const canaries = [0, 1, 2, 3].map((index) => answer.slice(index * HASH, (index + 1) * HASH));
  return { answer, pattern, canaries };
}

describe("the result area of a measurement", () => {
  it("[VR-VER-05] is believed when every canary is right and no hash of the pattern survived", () => {
    const { answer, pattern, canaries } = results(9);
    expect(() => requireRealResults(answer, pattern, canaries)).not.toThrow();
    expect(() => requireRealResults(answer, pattern, canaries.slice(0, 2))).not.toThrow();
  });

  it("[VR-VER-05] is refused when the pattern survived anywhere, first hash to last", () => {
    for (let survivor = 0; survivor < 9; survivor += 1) {
      const { answer, pattern, canaries } = results(9);
      const at = (4 + survivor) * HASH;
      answer.set(pattern.subarray(at, at + HASH), at);
      expect(() => requireRealResults(answer, pattern, canaries), `hash ${survivor}`).toThrow("was never written");
    }
  });

  it("[VR-VER-05] is refused when one bit of any canary digest is wrong", () => {
    for (let canary = 0; canary < 4; canary += 1) {
      const { answer, pattern, canaries } = results(1);
      const at = canary * HASH + 7;
      answer[at] = (answer[at] ?? 0) ^ 1;
      expect(() => requireRealResults(answer, pattern, canaries), `canary ${canary}`).toThrow(`canary block ${canary}`);
    }
  });
});
