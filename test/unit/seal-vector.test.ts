/**
 * The worked vector of docs/seal.md: recomputed with our code and with `openssl`, compared with the page, and changed in
 * every way that must show.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { frame, toHex } from "../../src/bytes.ts";
import { fsverityDigest, sha256 } from "../../src/hash/descriptor.ts";
import { policyDigest, VRAM_ONLY_POLICY } from "../../src/residency/policy.ts";
import { encodeSeal, parseSeal, type Seal, type SealFields } from "../../src/seal/encoding.ts";
import { deriveKey, deriveWorkerKeys, readRootKey, type WorkerKeys } from "../../src/seal/key.ts";
import { checkMac, createSeal } from "../../src/seal/seal.ts";

interface Vector {
  readonly content: string;
  readonly rootKey: string;
  readonly sealInfo: string;
  readonly sealKey: string;
  readonly sealIdInfo: string;
  readonly sealId: string;
  readonly fields: SealFields;
  readonly bytes: string;
  readonly mac: string;
}

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const VECTOR = JSON.parse(read("test/vectors/seal-v1.json")) as Vector;
/** The page with the continued lines of its commands joined. */
const PAGE = read("docs/seal.md").replaceAll(/\\\n\s*/g, "");
const PREFIX = "vram-residency/seal/v1\n";
const { fields } = VECTOR;

const rootKey = () => readRootKey(Buffer.from(VECTOR.rootKey));
const workerKeys = (): WorkerKeys => deriveWorkerKeys(rootKey(), fields.backend, fields.deviceUuid);
const sealOf = (changed: Partial<SealFields> = {}): Seal => createSeal(workerKeys(), { ...fields, ...changed });

const openssl = spawnSync("openssl", ["version"], { encoding: "utf8" });
const hasOpenssl = openssl.status === 0 && /^OpenSSL 3/.test(openssl.stdout);
const why = hasOpenssl ? "" : " (skipped: no OpenSSL 3 here)";
if (!hasOpenssl) process.stderr.write("seal-vector: skipped what needs openssl: there is no OpenSSL 3 here\n");

/** The arguments of the documented HKDF command; `info` is hex. */
const kdfArguments = (key: string, info: string): string[] => [
  ...["kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", `hexkey:${key}`],
  ...["-kdfopt", "salt:vram-residency/v1", "-kdfopt", `hexinfo:${info}`, "HKDF"],
];
const macArguments = (key: string): string[] => ["dgst", "-sha256", "-mac", "HMAC", "-macopt", `hexkey:${key}`];

const opensslKdf = (info: string): string =>
  execFileSync("openssl", kdfArguments(VECTOR.rootKey, info), { encoding: "utf8" })
    .trim()
    .replaceAll(":", "")
    .toLowerCase();

/** The fields of framed bytes: a second reader, written from the page. */
function partsOf(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts: Uint8Array[] = [];
  for (let at = PREFIX.length; at < bytes.byteLength; ) {
    const end = at + 4 + view.getUint32(at, true);
    parts.push(bytes.subarray(at + 4, end));
    at = end;
  }
  return parts;
}

/** Another valid value for every field. */
const CHANGES: { readonly [Field in keyof SealFields]: SealFields[Field] } = {
  keyId: "00".repeat(16),
  instanceId: "01".repeat(16),
  sequence: fields.sequence + 1,
  shardId: `${fields.shardId}x`,
  name: "modele.bin",
  shardIndex: fields.shardIndex + 1,
  totalShards: fields.totalShards + 1,
  sourceOffset: 1,
  byteLength: fields.byteLength + 1,
  // The type has one value only; what is under the mac has to change with any other one.
  digestAlgorithm: "fsverity-sha512-4096" as SealFields["digestAlgorithm"],
  digest: "02".repeat(32),
  sha256: "",
  comparedWith: "expected",
  backend: "cuda",
  deviceUuid: "GPU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6",
  policyDigest: "03".repeat(32),
  sealedAtMs: fields.sealedAtMs + 1,
  maxAgeMs: 0,
};

describe("the worked vector", () => {
  it("[VR-SEAL-02] is what this package computes", () => {
    const bytes = encodeSeal(fields);
    expect(toHex(bytes)).toBe(VECTOR.bytes);
    expect(sealOf()).toEqual({ version: 1, ...fields, mac: VECTOR.mac });
    expect(checkMac(workerKeys(), parseSeal(sealOf()))).toBe("valid");
  });

  it("[VR-SEAL-03] has the keys that this package derives", () => {
    const { backend, deviceUuid } = fields;
    expect(toHex(deriveKey(rootKey(), "seal", backend, deviceUuid).export())).toBe(VECTOR.sealKey);
    expect(toHex(deriveKey(rootKey(), "seal-id", backend, deviceUuid).export())).toBe(VECTOR.sealId);
    expect(toHex(workerKeys().keyId)).toBe(VECTOR.sealId.slice(0, 32));
    expect(fields.keyId).toBe(VECTOR.sealId.slice(0, 32));
  });

  it("has the digests of its content and the policy in force", () => {
    const content = Buffer.from(VECTOR.content, "hex");
    const block = Buffer.alloc(4096);
    content.copy(block);
    expect(toHex(fsverityDigest(sha256(block), content.byteLength))).toBe(fields.digest);
    expect(createHash("sha256").update(content).digest("hex")).toBe(fields.sha256);
    expect(policyDigest(VRAM_ONLY_POLICY)).toBe(fields.policyDigest);
  });

  it.skipIf(!hasOpenssl)(`[VR-SEAL-03] has the keys that openssl derives${why}`, () => {
    expect(opensslKdf(VECTOR.sealInfo)).toBe(VECTOR.sealKey);
    expect(opensslKdf(VECTOR.sealIdInfo)).toBe(VECTOR.sealId);
  });

  it.skipIf(!hasOpenssl)(`[VR-SEAL-02] has the mac that openssl computes over the bytes${why}`, () => {
    const input = Buffer.from(VECTOR.bytes, "hex");
    const printed = execFileSync("openssl", macArguments(VECTOR.sealKey), { input, encoding: "utf8" });
    expect(printed.trim().split(" ").at(-1)).toBe(VECTOR.mac);
  });
});

describe("docs/seal.md", () => {
  it("[VR-SEAL-02] shows the bytes, keys and mac of the vector", () => {
    const framed = /<<'END'\n([0-9a-f\s]+)\nEND\n/.exec(PAGE)?.[1] ?? "";
    expect(framed.replaceAll(/\s/g, "")).toBe(VECTOR.bytes);
    const { rootKey: root, sealInfo, sealIdInfo, sealKey, sealId, mac } = VECTOR;
    for (const hex of [root, sealInfo, sealIdInfo, sealKey, sealId, mac, fields.digest, fields.sha256]) {
      expect(PAGE).toMatch(new RegExp(`\\b${hex}\\b`));
    }
    expect(PAGE).toContain(`printf '${Buffer.from(VECTOR.content, "hex").toString().trimEnd()}\\n'`);
  });

  it("shows the commands that are run here", () => {
    expect(PAGE).toContain(`openssl ${kdfArguments("$ROOT", "$INFO").join(" ")}\n`);
    expect(PAGE).toContain(`openssl ${macArguments("$KEY").join(" ")} seal.bytes\n`);
  });

  it("lists the fields in their order", () => {
    const listed = [...PAGE.matchAll(/^\| (\d+) \| `(\w+)` \|/gm)].map(([, number, field]) => [Number(number), field]);
    expect(listed).toEqual(Object.keys(fields).map((field, index) => [index + 1, field]));
  });

  it("shows the policy that its digest belongs to", () => {
    const policy = /```json\n([^`]+)```/.exec(PAGE)?.[1] ?? "";
    expect(toHex(sha256(Buffer.from(policy.replaceAll("\n", ""))))).toBe(fields.policyDigest);
    expect(JSON.parse(policy)).toEqual(VRAM_ONLY_POLICY);
  });
});

describe("the framing", () => {
  it.each(Object.keys(CHANGES) as (keyof SealFields)[])("[VR-SEAL-02] puts %s under the mac", (field) => {
    const changed = { ...sealOf(), [field]: CHANGES[field] };
    // Not through createSeal, which makes no seal that it would not accept (another algorithm, for one).
    const bytes = encodeSeal({ ...fields, [field]: CHANGES[field] });
    expect(createHmac("sha256", workerKeys().seal).update(bytes).digest("hex")).not.toBe(VECTOR.mac);
    expect(checkMac(workerKeys(), changed)).toBe(field === "keyId" ? "key" : "mac");
  });

  it("[VR-SEAL-02] tells apart bytes that moved across any border between fields", () => {
    const bytes = encodeSeal(fields);
    const parts = partsOf(bytes);
    expect(parts).toHaveLength(Object.keys(fields).length);
    const joined = toHex(Buffer.concat(parts));
    const seen = new Set([toHex(bytes)]);
    for (const [border, right] of parts.slice(1).entries()) {
      const left = parts[border] ?? right;
      const moved = parts
        .with(border, left.subarray(0, -1))
        .with(border + 1, Buffer.concat([left.subarray(-1), right]));
      expect(toHex(Buffer.concat(moved))).toBe(joined);
      const framed = Buffer.concat([Buffer.from(PREFIX), frame(moved)]);
      expect(partsOf(framed).map(toHex)).toEqual(moved.map(toHex));
      seen.add(toHex(framed));
    }
    expect(seen.size).toBe(parts.length);
  });

  it("[VR-SEAL-02] tells an id and a name apart that read the same together", () => {
    const one = sealOf({ shardId: "shard-ab", name: "c" });
    const other = sealOf({ shardId: "shard-a", name: "bc" });
    expect(one.mac).not.toBe(other.mac);
  });

  it("[VR-SEAL-03] has another key for another device, backend, purpose or root", () => {
    const { backend, deviceUuid } = fields;
    const otherRoot = readRootKey(Buffer.from("ff".repeat(32)));
    const keys = [
      deriveKey(rootKey(), "seal", backend, deviceUuid),
      deriveKey(rootKey(), "seal", backend, `${deviceUuid}0`),
      deriveKey(rootKey(), "seal", "cuda", deviceUuid),
      deriveKey(rootKey(), "seal", "cuda-substituted", deviceUuid),
      deriveKey(rootKey(), "set", backend, deviceUuid),
      deriveKey(otherRoot, "seal", backend, deviceUuid),
    ];
    expect(new Set(keys.map((key) => toHex(key.export()))).size).toBe(keys.length);
  });
});
