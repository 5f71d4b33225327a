/** Reading a seal that somebody hands in: every field at its borders, and what each refusal says. */
import crypto, { createSecretKey } from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { describe, expect, it, vi } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { VramError } from "../../src/errors.ts";
import { parseSeal, type Seal, type SealFields } from "../../src/seal/encoding.ts";
import { createRootKey, deriveKey, deriveWorkerKeys, readRootKey, writeRootKey } from "../../src/seal/key.ts";
import { checkPresented, createSeal, sealRefused } from "../../src/seal/seal.ts";
import { checkSetSeal, createSetSeal } from "../../src/seal/set.ts";
import { thrownBy } from "../helpers/emulated.ts";

const UUID = "EMU-00000000-0000-4000-8000-000000000001";
const root = createSecretKey(Buffer.alloc(32, 9));
const keys = deriveWorkerKeys(root, "emulated", UUID);
const U32 = 2 ** 32 - 1;
const U53 = Number.MAX_SAFE_INTEGER;

const FIELDS: Omit<SealFields, "keyId"> = {
  instanceId: "01".repeat(16),
  sequence: 1,
  shardId: "shard-a",
  name: "model.bin",
  shardIndex: 0,
  totalShards: 1,
  sourceOffset: 0,
  byteLength: 1,
  digestAlgorithm: "fsverity-sha256-4096",
  digest: "02".repeat(32),
  sha256: "",
  comparedWith: "witnessed",
  backend: "emulated",
  deviceUuid: UUID,
  policyDigest: "03".repeat(32),
  sealedAtMs: 0,
  maxAgeMs: 0,
};
const seal = createSeal(keys, FIELDS);

const INTEGERS: readonly (readonly [field: keyof Seal, min: number, max: number])[] = [
  ["sequence", 1, U53],
  ["shardIndex", 0, U32],
  ["totalShards", 1, U32],
  ["sourceOffset", 0, U53],
  ["byteLength", 1, U53],
  ["sealedAtMs", 0, U53],
  ["maxAgeMs", 0, U53],
];
const HASHES: readonly (readonly [field: keyof Seal, digits: number])[] = [
  ["keyId", 32],
  ["instanceId", 32],
  ["digest", 64],
  ["sha256", 64],
  ["policyDigest", 64],
  ["mac", 64],
];
const OTHERS: readonly (readonly [field: keyof Seal, good: readonly unknown[], bad: readonly unknown[]])[] = [
  ["version", [1], [0, 2, "1", true]],
  ["shardId", ["s"], ["", "a..b", 1, ["s"]]],
  ["name", ["n"], ["", "a\n", 1, ["n"]]],
  ["digestAlgorithm", ["fsverity-sha256-4096"], ["", "sha256", "fsverity-sha512-4096"]],
  ["sha256", [""], [" "]],
  ["comparedWith", ["expected", "witnessed"], ["", "assumed"]],
  ["backend", ["cuda", "cuda-substituted", "emulated"], ["", "CUDA", "mock"]],
  [
    "deviceUuid",
    ["GPU-01234567", "MIG-01234567-89ab", `EMU-${"a".repeat(64)}`],
    ["GPU-0123456", `GPU-${"a".repeat(65)}`, "xGPU-01234567", "GPU-01234567x", "TPU-01234567", "GPU-0123456G", 1],
  ],
];

const parsed = (field: keyof Seal, value: unknown): unknown => parseSeal({ ...seal, [field]: value })[field];
/** What a refusal says, and of which argument. */
const refusal = (value: unknown): readonly unknown[] => {
  const error = thrownBy(() => parseSeal(value));
  return error instanceof VramError ? [error.code, error.message, error.details] : [error];
};
const refusalOf = (what: string) => ["INVALID_ARGUMENT", `the seal's ${what} is not well-formed`, { argument: "seal" }];

describe("a field of a seal", () => {
  it.each(INTEGERS)("[VR-SEAL-02] %s is an integer from %i to %i", (field, min, max) => {
    for (const value of [min, max]) expect(parsed(field, value)).toBe(value);
    for (const value of [min - 1, max + 1, min + 0.5, Number.NaN, -0.5, String(min), BigInt(min), null, [min]]) {
      expect(refusal({ ...seal, [field]: value }), String(value)).toEqual(refusalOf(field));
    }
  });

  it.each(HASHES)("[VR-SEAL-02] %s is %i hex digits in lower case", (field, digits) => {
    const good = "0123456789abcdef".repeat(digits / 16);
    expect(parsed(field, good)).toBe(good);
    const bad = [good.toUpperCase(), good.slice(1), `${good}0`, `${good.slice(1)}g`, `${good}\n`, [good], 1, null];
    for (const value of bad) expect(refusal({ ...seal, [field]: value }), String(value)).toEqual(refusalOf(field));
  });

  it.each(OTHERS)("[VR-SEAL-02] %s is one of what it may be", (field, good, bad) => {
    for (const value of good) expect(parsed(field, value)).toBe(value);
    for (const value of bad) expect(refusal({ ...seal, [field]: value }), String(value)).toEqual(refusalOf(field));
  });

  it.each(Object.keys(seal) as (keyof Seal)[])("[VR-VER-04] %s may not be absent", (field) => {
    const { [field]: _, ...others } = seal;
    expect(refusal(others)).toEqual(refusalOf(field));
    expect(refusal({ ...others, [field]: undefined })).toEqual(refusalOf(field));
  });
});

describe("a seal as a whole", () => {
  it("[VR-SEAL-02] is an object with these fields and no others, and comes back frozen", () => {
    const copy: Seal = { ...seal };
    expect(parseSeal(copy)).toEqual(seal);
    expect(Object.isFrozen(parseSeal(copy))).toBe(true);
    expect(refusal({ ...seal, note: "" })).toEqual(refusalOf("set of fields"));
    for (const value of [null, undefined, "seal", 1, true, () => seal]) {
      expect(refusal(value), String(value)).toEqual(refusalOf("form"));
    }
  });

  it("[VR-SEAL-02] carries its text as UTF-8: another name of as many characters is another mac", () => {
    const macs = ["é", "è", "e", "模", "型"].map((name) => createSeal(keys, { ...FIELDS, name }).mac);
    expect(new Set(macs).size).toBe(macs.length);
  });

  it("[VR-VER-04] is judged valid, or by the first thing about it that does not hold", () => {
    const other = deriveWorkerKeys(root, "cuda", UUID);
    const elsewhere = createSeal(keys, { ...FIELDS, instanceId: "04".repeat(16) });
    const cases = [
      [seal, "valid"],
      [{ ...seal, sequence: 0 }, "malformed"],
      [createSeal(other, FIELDS), "key"],
      [{ ...createSeal(other, FIELDS), keyId: seal.keyId }, "mac"],
      [elsewhere, "instance"],
      [createSeal(keys, { ...FIELDS, sequence: 2 }), "record"],
    ] as const;
    for (const [presented, verdict] of cases) expect(checkPresented(keys, presented, seal)).toBe(verdict);
  });

  it("[VR-VER-04] that cannot be read at all is nobody's refused seal: the error of who made it comes through", () => {
    const closed = new Error("this proxy is closed");
    const presented = {
      ...seal,
      get mac(): string {
        throw closed;
      },
    };
    expect(String(thrownBy(() => checkPresented(keys, presented, seal)))).toContain(closed.message);
    expect(sealRefused()).toMatchObject({ code: "SEAL_REFUSED", message: "the seal was refused", details: {} });
  });
});

describe("a key", () => {
  it("[VR-SEAL-03] is random, 32 bytes, and comes back from its file; the bytes of the file are overwritten", () => {
    const text = writeRootKey();
    const digits = Buffer.from(text).toString("latin1");
    expect(digits).toMatch(/^[0-9a-f]{64}$/);
    expect(readRootKey(text).export().toString("hex")).toBe(digits);
    expect(text.every((byte) => byte === 0)).toBe(true);
    expect(createRootKey().export()).toHaveLength(32);
    const made = [createRootKey(), createRootKey()].map((key) => toHex(key.export()));
    expect(new Set([...made, digits, "00".repeat(32)]).size).toBe(4);
  });

  it.each(["", "0".repeat(63), "0".repeat(65), `${"0".repeat(64)}\n`, `${"0".repeat(63)}g`])(
    "[VR-SEAL-03] is not read from %j, which is overwritten all the same",
    (digits) => {
      const text = Buffer.from(digits);
      const error = thrownBy(() => readRootKey(text));
      expect(error).toMatchObject({ code: "STATE_INVALID", message: "root.key must hold exactly 64 hex digits" });
      expect(text.every((byte) => byte === 0)).toBe(true);
    },
  );

  it("[VR-SEAL-03] is a key object; the bytes that it was made of are overwritten", () => {
    const made = vi.spyOn(crypto, "createSecretKey");
    syncBuiltinESMExports();
    try {
      createRootKey();
      deriveKey(root, "seal", "emulated", UUID);
      deriveWorkerKeys(root, "emulated", UUID);
      readRootKey(writeRootKey());
      const bytes = made.mock.calls.map(([given]) => given as unknown as Uint8Array);
      expect(bytes.map(({ byteLength }) => byteLength)).toEqual([32, 32, 32, 32]);
      for (const one of bytes) expect(one.every((byte) => byte === 0)).toBe(true);
    } finally {
      made.mockRestore();
      syncBuiltinESMExports();
    }
  });

  it("[VR-SEAL-03] is bound to a device whose id has at most 255 bytes: its length is written in one", () => {
    const of = (workerId: string): string => toHex(deriveKey(root, "seal", "emulated", workerId).export());
    expect(of("a".repeat(255))).not.toBe(of("a".repeat(254)));
    expect(of("é")).not.toBe(of("è"));
    for (const workerId of ["a".repeat(256), "é".repeat(128)]) {
      const message = "assertion failed: a part of a key's info is shorter than 256 bytes";
      expect(thrownBy(() => of(workerId))).toMatchObject({ code: "INTERNAL", message });
    }
  });
});

describe("the seal of a set", () => {
  const key = deriveKey(root, "set", "emulated", "");
  const macs = ["aa".repeat(32), "bb".repeat(32)];

  it("[VR-SEAL-06] is frozen, and holds with and without a digest", () => {
    for (const digest of ["", "cc".repeat(32)]) {
      const set = createSetSeal(key, digest, macs);
      expect(Object.isFrozen(set) && Object.isFrozen(set.macs)).toBe(true);
      expect(checkSetSeal(key, JSON.parse(JSON.stringify(set)))).toEqual(set);
    }
  });

  it("[VR-SEAL-06] is malformed with any hash that is longer, shorter, or not lower-case hex", () => {
    const set = createSetSeal(key, "cc".repeat(32), macs);
    const [first = "", second = ""] = macs;
    for (const bad of [
      `${first}0`,
      `0${first}`,
      first.slice(1),
      first.toUpperCase(),
      `${first.slice(1)}g`,
      ` ${first}`,
      1,
    ]) {
      for (const changed of [{ mac: bad }, { digest: bad }, { macs: [first, bad] }, { macs: [bad, second] }]) {
        expect(checkSetSeal(key, { ...set, ...changed }), JSON.stringify(changed)).toBe("malformed");
      }
    }
    for (const changed of [{ version: 2 }, { totalShards: 0 }, { totalShards: 1.5 }, { macs: undefined }]) {
      expect(checkSetSeal(key, { ...set, ...changed }), JSON.stringify(changed)).toBe("malformed");
    }
  });
});
