/** The worked vector of a set in docs/seal.md: recomputed with our code and with `openssl`, compared with the page. */
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { deriveKey, readRootKey } from "../../src/seal/key.ts";
import { checkSetSeal, createSetSeal, encodeSet } from "../../src/seal/set.ts";

interface Vector {
  readonly rootKey: string;
  readonly setInfo: string;
  readonly setKey: string;
  readonly digest: string;
  readonly macs: readonly string[];
  readonly bytes: string;
  readonly mac: string;
}

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const VECTOR = JSON.parse(read("test/vectors/set-v1.json")) as Vector;
const { rootKey, setInfo, setKey, digest, macs, bytes, mac } = VECTOR;
const key = () => deriveKey(readRootKey(Buffer.from(rootKey)), "set", "emulated", "");

const hasOpenssl = /^OpenSSL 3/.test(spawnSync("openssl", ["version"], { encoding: "utf8" }).stdout);
if (!hasOpenssl) console.log("set-vector: skipped what needs openssl: there is no OpenSSL 3 here");

describe("the worked vector of a set", () => {
  it("[VR-SEAL-06] is what our code computes, and what the page shows", () => {
    expect(key().export().toString("hex")).toBe(setKey);
    expect(toHex(encodeSet(digest, macs))).toBe(bytes);
    expect(createSetSeal(key(), digest, macs)).toEqual({ version: 1, totalShards: 2, digest, macs, mac });
    const page = read("docs/seal.md");
    for (const hex of [setInfo, setKey, digest, ...macs, mac]) expect(page).toContain(hex);
    const shown = /unhex > set\.bytes <<'END'\n([0-9a-f\s]+)END/.exec(page)?.[1] ?? "";
    expect(shown.replaceAll(/\s/g, "")).toBe(bytes);
  });

  it.skipIf(!hasOpenssl)("[VR-SEAL-06] is what openssl computes (needs openssl)", () => {
    const options = ["digest:SHA256", `hexkey:${rootKey}`, "salt:vram-residency/v1", `hexinfo:${setInfo}`];
    const kdf = ["kdf", "-keylen", "32", ...options.flatMap((option) => ["-kdfopt", option]), "HKDF"];
    const derived = execFileSync("openssl", kdf, { encoding: "utf8" }).trim().replaceAll(":", "").toLowerCase();
    expect(derived).toBe(setKey);
    const dgst = ["dgst", "-sha256", "-mac", "HMAC", "-macopt", `hexkey:${setKey}`];
    const input = Buffer.from(bytes, "hex");
    expect(execFileSync("openssl", dgst, { input, encoding: "utf8" })).toContain(mac);
  });

  it("[VR-SEAL-06] changes with every part, and is refused when any part is changed", () => {
    const seal = createSetSeal(key(), digest, macs);
    expect(checkSetSeal(key(), seal)).toEqual(seal);
    const [first = "", second = ""] = macs;
    const changed = [
      { ...seal, digest: "" },
      { ...seal, digest: first },
      { ...seal, macs: [second, first] },
      { ...seal, macs: [first, first] },
      { ...seal, macs: [first], totalShards: 1 },
      { ...seal, mac: first },
    ];
    for (const one of changed) expect(checkSetSeal(key(), one)).toBe("mac");
    expect(new Set(changed.map((one) => toHex(encodeSet(one.digest, one.macs)))).size).toBe(6);
    for (const one of [{ ...seal, totalShards: 3 }, { ...seal, extra: 1 }, { ...seal, macs: [] }, "seal", undefined]) {
      expect(checkSetSeal(key(), one)).toBe("malformed");
    }
    const foreign = deriveKey(readRootKey(Buffer.from(rootKey)), "set", "cuda", "");
    expect(checkSetSeal(foreign, seal)).toBe("mac");
  });
});
