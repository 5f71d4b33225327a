/**
 * docs/formats.md against our code: whatever is under a key. Derived keys, seals, the wanted set, tokens, envelopes,
 * evidence and key files have the values here that tools of others print in formats-doc.test.ts.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { checkEnvelope, openEnvelope, preAuthEncoding } from "../../src/attest/envelope.ts";
import { checkEvidence } from "../../src/attest/evidence.ts";
import { encodeStatementKey, keyIdOf, parsePublicKey, readStatementKey } from "../../src/attest/keys.ts";
import { encodePrivateKey } from "../../src/audit/key-files.ts";
import { encodeVkey, keyHashOf, noteKeyOf, readNoteSigner } from "../../src/audit/note.ts";
import { toHex } from "../../src/bytes.ts";
import { sha256 } from "../../src/hash/descriptor.ts";
import { encodeSeal, parseSeal } from "../../src/seal/encoding.ts";
import { deriveKey, deriveWorkerKeys, type KeyPurpose, readRootKey } from "../../src/seal/key.ts";
import { checkMac } from "../../src/seal/seal.ts";
import { checkSetSeal, createSetSeal } from "../../src/seal/set.ts";
import { openTokens } from "../../src/service/tokens.ts";
import { decodeWanted, encodeWanted } from "../../src/service/wanted-rows.ts";
import { bytesOf, commandsOf, fileOf, quotedIn, rowsOf, sectionOf, shown } from "../helpers/formats-page.ts";

const ROOT = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const UUID = "EMU-6f1c9a52-0b7e-4d38-9c41-5e2a8f70d3b6";
const root = () => readRootKey(Buffer.from(ROOT));
const keyOf = (purpose: KeyPurpose): string => {
  const worker = purpose.startsWith("seal") ? UUID : "";
  return toHex(deriveKey(root(), purpose, "emulated", worker).export());
};

describe("derived keys", () => {
  it("[VR-SEAL-03] are those that we derive, for every purpose", () => {
    const purposes: Readonly<Record<KeyPurpose, true>> = { seal: true, "seal-id": true, set: true, wanted: true };
    const lines = shown("Keys from the root key").map((line) => line.split(" "));
    expect(lines.map(([purpose]) => purpose)).toEqual(Object.keys(purposes));
    for (const [purpose, ...words] of lines) expect(words.at(-1)).toBe(keyOf(purpose as KeyPurpose));
    const [, info = ""] = lines.at(-1) ?? [];
    expect(info).toBe(Buffer.from("\u0006wanted\u0008emulated\u0000").toString("hex"));
    const { keyId } = deriveWorkerKeys(root(), "emulated", UUID);
    expect(sectionOf("Keys from the root key")).toContain(`The key id of this device is \`${toHex(keyId)}\``);
    expect(quotedIn(rowsOf("Keys from the root key", "info: offset").map((row) => row[3] ?? ""))).toEqual([
      ...Object.keys(purposes),
      ...["cuda", "cuda-substituted", "emulated", "seal", "seal-id", "set", "wanted"],
    ]);
  });

  it("[VR-SEAL-03] come from 64 digits in either case, and nothing else", () => {
    const upper = ROOT.toUpperCase();
    expect(readRootKey(Buffer.from(upper)).equals(root())).toBe(true);
    for (const text of [`${ROOT}\n`, `0x${ROOT.slice(2)}`, ROOT.slice(2), ""]) {
      expect(() => readRootKey(Buffer.from(text))).toThrow("exactly 64 hex digits");
    }
  });
});

describe("seals", () => {
  const seal = parseSeal(JSON.parse(fileOf("seal.json").toString()));
  const [told = "", ...json] = shown("Seals");

  it("[VR-SEAL-02] have the bytes and the mac that we compute", () => {
    expect(checkMac(deriveWorkerKeys(root(), "emulated", UUID), seal)).toBe("valid");
    expect(told).toBe(`${encodeSeal(seal).byteLength} ${seal.mac} True`);
    expect(commandsOf("Seals")).toContain(`"${keyOf("seal")}"  # seal`);
  });

  it("[VR-SEAL-06] are sealed as a set with the mac that we compute", () => {
    const key = deriveKey(root(), "set", "emulated", "");
    const set: unknown = JSON.parse(json.join("\n"));
    expect(createSetSeal(key, seal.digest, [seal.mac])).toEqual(set);
    expect(checkSetSeal(key, set)).toEqual(set);
  });

  it("[VR-API-04] are in the wanted set, whose mac we take and write", () => {
    const key = deriveKey(root(), "wanted", "emulated", "");
    const document = fileOf("wanted.json");
    const rows = decodeWanted(key, document, "emulated", "wanted.json");
    expect(rows).toEqual([{ kind: "shard", seal, path: "/models/tiny.bin", format: {} }]);
    expect(Buffer.from(encodeWanted(key, rows)).equals(document)).toBe(true);
    const mac = document.toString().slice(-67, -3);
    expect(shown("Wanted set")).toEqual([mac, document.subarray(-75, -1).toString(), "the same seal"]);
    const edited = Buffer.from(document.toString().replace("/models/tiny", "/models/tinz"));
    expect(() => decodeWanted(key, edited, "emulated", "wanted.json")).toThrow("does not carry the mac");
  });
});

describe("API tokens", () => {
  it("[VR-API-02] are found in the file of the page, and called as it calls them", async () => {
    const [token = "", ...lines] = shown("API tokens");
    const folder = mkdtempSync(join(tmpdir(), "formats-tokens-"));
    try {
      writeFileSync(join(folder, "tokens.json"), lines.slice(0, -1).join("\n"), { mode: 0o600 });
      const store = openTokens(folder, () => 1);
      const found = { name: "ci", scope: "use", fingerprint: "eebe7f", createdAtMs: 1767225600000 };
      await expect(store.check(token)).resolves.toEqual(found);
      await expect(store.check(token.replace("use", "operate"))).resolves.toBeUndefined();
      expect(lines.at(-1)).toBe(`token ${found.fingerprint}`);
      const made = (await store.add("another", "operate")).token;
      expect(made).toMatch(/^vram_operate_[\w-]{43}$/);
      expect([token.indexOf("_", 5), made.indexOf("_", 5)]).toEqual([8, 12]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("envelopes", () => {
  const opened = openEnvelope(fileOf("envelope.json")) ?? expect.fail("no envelope");
  const publicKey = parsePublicKey(fileOf("statement.pub.pem").toString());

  it("[VR-ATT-01] have the bytes under the signature, the signature and the key id that we take", () => {
    const lines = shown("Statements");
    expect(toHex(preAuthEncoding(opened.payload))).toBe(toHex(bytesOf(lines.slice(0, -2))));
    expect(checkEnvelope(opened, publicKey)).toBe(true);
    expect(lines.slice(-2)).toEqual(["Verified OK", `${opened.keyId}  -`]);
    expect(keyIdOf(publicKey)).toBe(opened.keyId);
    expect(checkEnvelope({ ...opened, payload: Buffer.from("{}") }, publicKey)).toBe(false);
  });

  it("have evidence beside them that we take, with their hash as its nonce", () => {
    const lines = shown("Evidence of a GPU");
    const evidence = Buffer.from(lines.slice(0, -1).join("\n"));
    expect(checkEvidence(evidence, opened.payload)).toEqual({ ok: true, byteLength: 41 });
    expect(checkEvidence(evidence, Buffer.from("{}"))).toMatchObject({ ok: false });
    expect(lines.at(-1)).toBe(toHex(sha256(opened.payload)));
  });
});

describe("key files", () => {
  const word = (name: string): string =>
    new RegExp(`^${name} = "([0-9a-f]+)"`, "m").exec(commandsOf("Signing keys"))?.[1] ?? "";
  const pemOf = (hex: string): Buffer => {
    const lines =
      Buffer.from(hex, "hex")
        .toString("base64")
        .match(/.{1,64}/g) ?? [];
    return Buffer.from(["-----BEGIN PRIVATE KEY-----", ...lines, "-----END PRIVATE KEY-----", ""].join("\n"));
  };
  const [edHead = ""] = quotedIn(rowsOf("Signing keys", "Ed25519: offset").map((row) => row[2] ?? ""));
  const [p256Head = "", p256Middle = ""] = quotedIn(rowsOf("Signing keys", "P-256: offset").map((row) => row[2] ?? ""));
  const [edLine, p256Line, ...printed] = shown("Signing keys");
  const name = "vram-residency/0123456789abcdef";

  it("of a log are those that we write and read", () => {
    const hex = `${edHead}${word("seed")}`;
    const signer = readNoteSigner(name, pemOf(hex));
    const written = encodePrivateKey(signer.privateKey);
    expect(edLine).toBe(`audit-log.key ${hex.length / 2} ${written.byteLength} ${toHex(sha256(written))}`);
    const pem = noteKeyOf(signer).publicKey.export({ format: "pem", type: "spki" }).toString();
    expect(printed.slice(0, 3)).toEqual(pem.trimEnd().split("\n"));
    const [vkey = ""] = shown("Audit log", 1);
    expect(encodeVkey(noteKeyOf(signer))).toBe(vkey);
    expect(vkey).toContain(`+${toHex(keyHashOf(noteKeyOf(signer)))}+`);
  });

  it("of statements are those that we write and read", () => {
    const hex = `${p256Head}${word("number")}${p256Middle}${word("x")}${word("y")}`;
    const signer = readStatementKey(pemOf(hex), "statement.key");
    const written = encodeStatementKey(signer);
    expect(p256Line).toBe(`statement.key ${hex.length / 2} ${written.byteLength} ${toHex(sha256(written))}`);
    expect(printed.slice(3)).toEqual([...signer.publicPem.trimEnd().split("\n"), `${signer.keyId}  -`]);
    expect(signer.publicPem).toBe(fileOf("statement.pub.pem").toString());
  });

  it("have the sizes and offsets of the tables", () => {
    const sizes = rowsOf("Signing keys", "file").map((row) => [row[3], row[4]]);
    expect(sizes).toEqual([
      ["48 bytes", "119 bytes"],
      ["138 bytes", "241 bytes"],
    ]);
    const ends = ["Ed25519: offset", "P-256: offset"].map((title) =>
      rowsOf("Signing keys", title).reduce((end, [offset, length]) => {
        expect(Number(offset)).toBe(end);
        return end + Number(length);
      }, 0),
    );
    expect(ends).toEqual([48, 138]);
    expect([edHead.length, p256Head.length, p256Middle.length]).toEqual([32, 72, 12]);
  });
});
