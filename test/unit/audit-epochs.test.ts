/** Epoch keys: forwards they follow from each other, backwards they do not, and what was given up is gone. */
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { describe, expect, it } from "vitest";
import {
  createEpochKey,
  type EpochAge,
  epochKeyFrom,
  macKeyOf,
  macKeysFrom,
  nextEpochKey,
  whyAdvance,
  wipeEpochKey,
} from "../../src/audit/epochs.ts";
import { toHex } from "../../src/bytes.ts";
import { K0, keyAt } from "../helpers/audit-log.ts";

const noble = (key: Uint8Array, info: string): string =>
  toHex(hkdf(sha256, key, new Uint8Array(0), Buffer.from(info), 32));
const isWiped = (key: Uint8Array): boolean => key.every((byte) => byte === 0);

describe("epoch keys", () => {
  it("[VR-AUD-02] are those of another implementation of HKDF", () => {
    let key = K0;
    for (let epoch = 0; epoch < 20; epoch += 1) {
      expect(key.epoch).toBe(epoch);
      expect(toHex(macKeyOf(key).export())).toBe(noble(key.key, "audit/mac/v1"));
      const next = nextEpochKey(key);
      expect(toHex(next.key)).toBe(noble(key.key, "audit/evolve/v1"));
      key = next;
    }
  });

  it("are random at first, copied when given, and 32 bytes", () => {
    expect(createEpochKey().key).not.toEqual(createEpochKey().key);
    expect(createEpochKey()).toMatchObject({ epoch: 0, key: { byteLength: 32 } });
    const bytes = new Uint8Array(32).fill(7);
    const key = epochKeyFrom(3, bytes);
    bytes.fill(0);
    expect(key.key).toEqual(new Uint8Array(32).fill(7));
    expect(() => epochKeyFrom(0, new Uint8Array(31))).toThrow("32 bytes");
    expect(() => epochKeyFrom(-1, new Uint8Array(32))).toThrow("epoch");
  });

  it("[VR-AUD-02] are not used once they are wiped", () => {
    const key = createEpochKey();
    const next = nextEpochKey(key);
    wipeEpochKey(key);
    expect(isWiped(key.key)).toBe(true);
    expect(isWiped(next.key)).toBe(false);
    expect(() => macKeyOf(key)).toThrow("wiped");
    expect(() => nextEpochKey(key)).toThrow("wiped");
  });
});

describe("the rule for a new epoch", () => {
  const age: EpochAge = { isFirstOfStart: false, beginsSegment: false, ageMs: 899_999, entries: 65_535 };

  it.each([
    ["start", { isFirstOfStart: true }],
    ["segment", { beginsSegment: true }],
    ["time", { ageMs: 900_000 }],
    ["entries", { entries: 65_536 }],
  ] as const)("%s", (cause, changed) => {
    expect(whyAdvance(age)).toBeUndefined();
    expect(whyAdvance({ ...age, ...changed })).toBe(cause);
  });

  it("names the first cause of several", () => {
    expect(whyAdvance({ isFirstOfStart: true, beginsSegment: true, ageMs: 1e9, entries: 1e9 })).toBe("start");
    expect(whyAdvance({ ...age, beginsSegment: true, ageMs: 1e9 })).toBe("segment");
  });
});

describe("mac keys from a known key", () => {
  const hexOf = (epoch: number): string => toHex(macKeyOf(keyAt(epoch)).export());

  it("[VR-AUD-02] are those of this epoch and of all later ones, and of none before", () => {
    const keys = macKeysFrom(keyAt(5));
    expect(keys.of(4)).toBeUndefined();
    for (const epoch of [5, 6, 9, 9]) expect(toHex(keys.of(epoch)?.export() ?? K0.key)).toBe(hexOf(epoch));
    keys.close();
  });

  it("go back to the last one that was confirmed, and not beyond", () => {
    const keys = macKeysFrom(K0);
    expect(keys.of(3)).toBeDefined();
    keys.confirm();
    expect(keys.of(1000)).toBeDefined();
    expect(toHex(keys.of(4)?.export() ?? K0.key)).toBe(hexOf(4));
    expect(toHex(keys.of(3)?.export() ?? K0.key)).toBe(hexOf(3));
    expect(keys.of(2)).toBeUndefined();
    keys.confirm();
    expect(toHex(keys.of(3)?.export() ?? K0.key)).toBe(hexOf(3));
  });

  it("are not derived without end, and the key that was given stays", () => {
    const keys = macKeysFrom(K0);
    expect(keys.of(2 ** 21 + 1)).toBeUndefined();
    expect(keys.of(Number.MAX_SAFE_INTEGER)).toBeUndefined();
    expect(toHex(keys.of(1)?.export() ?? K0.key)).toBe(hexOf(1));
    expect(keys.of(2 ** 21 + 1)).toBeUndefined();
    expect(K0.key.some((byte) => byte !== 0)).toBe(true);
  });

  it("are gone after close", () => {
    const keys = macKeysFrom(K0);
    keys.of(2);
    keys.close();
    expect(() => keys.of(1)).toThrow("wiped");
  });
});
