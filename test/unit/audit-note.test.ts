/**
 * Signed notes and log checkpoints. The vectors are those of golang.org/x/mod/sumdb/note (note_test.go), the first
 * implementation of what became c2sp.org/signed-note: key, note, and its tables of notes and keys that are refused.
 */
import { generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  checkCheckpoint,
  createOrigin,
  encodeCheckpoint,
  parseCheckpoint,
  signCheckpoint,
} from "../../src/audit/checkpoint.ts";
import {
  checkNote,
  createNoteSigner,
  encodeVkey,
  fromBase64,
  keyHashOf,
  noteKeyOf,
  parseNote,
  parseVkey,
  readNoteSigner,
  signNote,
} from "../../src/audit/note.ts";
import { toHex } from "../../src/bytes.ts";
import { bytesOf, testSigner } from "../helpers/audit-log.ts";

const VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
/** The seed of `PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz`, behind its type. */
const SEED = Buffer.from("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz", "base64").subarray(1);
const TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const SIGNATURE =
  "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const ENOCH =
  "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

const pemOf = (seed: Uint8Array): Buffer => {
  const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  return Buffer.from(`-----BEGIN PRIVATE KEY-----\n${der.toString("base64")}\n-----END PRIVATE KEY-----\n`);
};
const key = parseVkey(VKEY);
const noteOf = (text: string) => {
  const note = parseNote(Buffer.from(text));
  if (note === undefined) throw new Error("not a note");
  return note;
};
const checked = (text: string) => checkNote(noteOf(text), key);
const whole = `${TEXT}\n${SIGNATURE}`;

describe("the note of golang.org/x/mod/sumdb/note", () => {
  it("[VR-AUD-02] is read and holds", () => {
    expect(noteOf(whole)).toMatchObject({ text: TEXT, signatures: [{ name: "PeterNeumann" }] });
    expect(checked(whole)).toBe("valid");
    expect(toHex(keyHashOf(key))).toBe("c74f20a3");
  });

  it("[VR-AUD-02] is what we sign, byte for byte", () => {
    const signer = readNoteSigner("PeterNeumann", pemOf(SEED));
    expect(Buffer.from(signNote(TEXT, signer)).toString()).toBe(whole);
    expect(encodeVkey(noteKeyOf(signer))).toBe(VKEY);
  });

  it("passes over signatures of keys it does not know, and needs one it knows", () => {
    expect(checked(`${TEXT}\n${ENOCH}${SIGNATURE}`)).toBe("valid");
    expect(checked(`${TEXT}\n${ENOCH}`)).toBe("unsigned");
    // The name of a known key with another hash is an unknown key, and so is the hash under another name.
    const [, , blob = ""] = ENOCH.trim().split(" ");
    expect(checked(`${TEXT}\n— PeterNeumann ${blob}\n`)).toBe("unsigned");
    expect(checked(`${TEXT}\n${SIGNATURE.replace("PeterNeumann", "Peter")}`)).toBe("unsigned");
  });

  it("holds for the other key of those tests as well", () => {
    const enoch = parseVkey("EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop");
    expect(checkNote(noteOf(`${TEXT}\n${SIGNATURE}${ENOCH}`), enoch)).toBe("valid");
  });

  it("does not hold with another text, or if one of several signatures of the key does not", () => {
    const broken = SIGNATURE.replace("wJnAM=", "wJnBM=");
    expect(checked(`${TEXT.replace("know", "knew")}\n${SIGNATURE}`)).toBe("signature");
    expect(checked(`${TEXT}\n${SIGNATURE}${broken}`)).toBe("signature");
    expect(checked(`${TEXT}\n${broken}${SIGNATURE}`)).toBe("signature");
    expect(checked(`${TEXT}\n${SIGNATURE}${SIGNATURE}`)).toBe("valid");
  });

  it.each([
    ["no signature", TEXT],
    ["an empty list of signatures", `${TEXT}\n`],
    ["a signature without its line feed", `${TEXT}\n${SIGNATURE.slice(0, -1)}`],
    ["a control character", `\u0001${TEXT}\n${SIGNATURE}`],
    ["a carriage return", `${TEXT}\r\n${SIGNATURE}`],
    ["a name with a space", `${TEXT}\n${SIGNATURE.replace("PeterNeumann", "Bad Name")}`],
    ["a name with a wide space", `${TEXT}\n${SIGNATURE.replace("PeterNeumann", "Bad\u3000Name")}`],
    ["a name with a plus", `${TEXT}\n${SIGNATURE.replace("PeterNeumann", "Bad+Name")}`],
    ["another line", `${TEXT}\n${SIGNATURE}Unexpected line.\n`],
    ["a hyphen for the dash", `${TEXT}\n${SIGNATURE.replace("—", "-")}`],
    ["a blob of four bytes", `${TEXT}\n— PeterNeumann x08gow==\n`],
    ["base64 that is not canonical", `${TEXT}\n${SIGNATURE.replace("AM=", "AN=")}`],
    ["base64 without padding", `${TEXT}\n${SIGNATURE.replace("AM=", "AM")}`],
    ["17 signatures", `${TEXT}\n${SIGNATURE.repeat(17)}`],
    ["more than 128 KiB", `${"x".repeat(131_072)}\n\n${SIGNATURE}`],
  ])("is refused with %s", (_what, text) => {
    expect(parseNote(Buffer.from(text))).toBeUndefined();
  });

  it("is refused with bytes that are not UTF-8, and read with 16 signatures and with empty lines", () => {
    expect(parseNote(Buffer.concat([Buffer.from([0xff]), Buffer.from(whole)]))).toBeUndefined();
    expect(checked(`${TEXT}\n${SIGNATURE.repeat(16)}`)).toBe("valid");
    expect(noteOf(`a\n\nb\n\n${SIGNATURE}`).text).toBe("a\n\nb\n");
  });
});

describe("keys of notes", () => {
  it("[VR-AUD-02] refuses every part of a key, and a key with any character changed", () => {
    for (let start = 0; start <= VKEY.length; start += 1) {
      for (let end = start; end <= VKEY.length; end += 1) {
        if (end - start < VKEY.length) expect(() => parseVkey(VKEY.slice(start, end))).toThrow("log key");
      }
    }
    for (let at = 0; at < VKEY.length; at += 1) {
      const changed = String.fromCharCode(VKEY.charCodeAt(at) + 1);
      expect(() => parseVkey(`${VKEY.slice(0, at)}${changed}${VKEY.slice(at + 1)}`)).toThrow("log key");
    }
  });

  it.each([
    ["longer than 32 bytes", "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY=="],
    ["of another algorithm", "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"],
    ["with a hash in capitals", VKEY.replace("c74f20a3", "C74F20A3")],
    ["with a line feed", `${VKEY}\n`],
  ])("refuses one %s", (_what, text) => {
    expect(() => parseVkey(text)).toThrow("log key");
  });

  it("signs with Ed25519 only, from PKCS#8 only, and never quotes the file", () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const pem = Buffer.from(privateKey.export({ format: "pem", type: "pkcs8" }));
    expect(() => readNoteSigner("log", pem)).toThrow("Ed25519");
    expect(() => readNoteSigner("two words", pemOf(SEED))).toThrow("Ed25519");
    const junk = Buffer.from("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    expect(() => readNoteSigner("log", junk)).toThrow(/^the signing key must be a PKCS#8 file in PEM$/);
    expect(() => encodeVkey({ name: "log", publicKey: privateKey })).toThrow("Ed25519");
    const fresh = createNoteSigner(createOrigin());
    expect(parseVkey(encodeVkey(noteKeyOf(fresh))).name).toBe(fresh.name);
    expect(fresh.name).toMatch(/^vram-residency\/[0-9a-f]{16}$/);
  });

  it("does not sign what is no text of a note", () => {
    const signer = testSigner();
    for (const text of ["no line feed", "a\tb\n", "lone \ud800\n"]) {
      expect(() => signNote(text, signer), text).toThrow("lines of UTF-8");
    }
  });
});

describe("log checkpoints", () => {
  const signer = testSigner();
  const logKey = noteKeyOf(signer);
  const root = bytesOf("root");
  const text = encodeCheckpoint({ origin: signer.name, size: 4711, root });

  it("[VR-AUD-02] are signed, and read as they were", () => {
    const note = signCheckpoint(4711, root, signer);
    const read = checkCheckpoint(note, logKey);
    expect(read).toEqual({ ok: true, checkpoint: { origin: signer.name, size: 4711, root: Buffer.from(root) } });
    // The example of c2sp.org/tlog-checkpoint.
    const example = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    expect(parseCheckpoint(example)).toMatchObject({ origin: "example.com/behind-the-sofa", size: 20_852_163 });
    const { origin, size, root: exampleRoot } = parseCheckpoint(example) ?? { origin: "", size: 0, root };
    expect(encodeCheckpoint({ origin, size, root: exampleRoot })).toBe(example);
  });

  it("are refused from another log, under another key, without a signature of the key, and changed", () => {
    const note = Buffer.from(signCheckpoint(4711, root, signer)).toString();
    const judge = (given: string) => checkCheckpoint(Buffer.from(given), logKey);
    const other = testSigner("vram-residency/fedcba9876543210");
    const sameName = testSigner(signer.name, "another seed");
    expect(judge(Buffer.from(signCheckpoint(4711, root, other)).toString())).toEqual({ ok: false, fault: "origin" });
    expect(judge(Buffer.from(signCheckpoint(4711, root, sameName)).toString())).toEqual({
      ok: false,
      fault: "unsigned",
    });
    expect(judge(note.replace("4711", "4712"))).toEqual({ ok: false, fault: "signature" });
    expect(judge(note.slice(0, -1))).toEqual({ ok: false, fault: "malformed" });
    expect(judge(Buffer.from(signNote("another text\n", signer)).toString())).toEqual({
      ok: false,
      fault: "malformed",
    });
  });

  it.each([
    ["a leading zero", text.replace("4711", "04711")],
    ["a sign", text.replace("4711", "+4711")],
    ["a size beyond 2^53 − 1", text.replace("4711", "9007199254740992")],
    ["an extension line", `${text}extension\n`],
    ["an empty line", `${text}\n`],
    ["no origin", text.replace(signer.name, "")],
    ["no last line feed", text.slice(0, -1)],
    ["a root of 31 bytes", `${signer.name}\n1\n${Buffer.alloc(31).toString("base64")}\n`],
    ["base64 that is not canonical", text.replace(/=\n$/, "\n")],
  ])("are refused with %s", (_what, changed) => {
    expect(parseCheckpoint(changed)).toBeUndefined();
    expect(parseCheckpoint(text)?.size).toBe(4711);
  });

  it("has one base64 for each value", () => {
    expect(fromBase64("TQ==")).toEqual(Buffer.from("M"));
    for (const bad of ["TR==", "TQ=", "TQ", "T Q==", "TQ==\n", "_-8="]) expect(fromBase64(bad), bad).toBeUndefined();
  });
});
