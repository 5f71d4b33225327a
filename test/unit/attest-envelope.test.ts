/** Envelopes and keys: what openssl reads of ours, and we of openssl's. */
import { spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { openEnvelope, preAuthEncoding, signEnvelope } from "../../src/attest/envelope.ts";
import {
  createStatementSigner,
  encodeStatementKey,
  keyIdOf,
  parsePublicKey,
  readStatementKey,
} from "../../src/attest/keys.ts";
import { encodeStatement, parseStatement, said } from "../../src/attest/statement.ts";
import { LIMITS } from "../../src/limits.ts";
import { claiming, madeStatement } from "../helpers/statements.ts";
import { temporaryFolder } from "../helpers/vram.ts";

let folder: string;
beforeEach(async () => {
  folder = await temporaryFolder();
});

/** What openssl writes. */
function openssl(...args: readonly string[]): Buffer {
  const { status, stdout, stderr } = spawnSync("openssl", args, { cwd: folder });
  expect(status, stderr.toString()).toBe(0);
  return stdout;
}

describe("[VR-ATT-01] an envelope", () => {
  it("signs the encoding that the DSSE protocol has", () => {
    // Its own example, with our type: `DSSEv1 29 http://example.com/HelloWorld 11 hello world`.
    const encoded = Buffer.from(preAuthEncoding(Buffer.from("hello world"))).toString();
    expect(encoded).toBe("DSSEv1 28 application/vnd.in-toto+json 11 hello world");
    expect(Buffer.from(preAuthEncoding(Buffer.from("é"))).toString()).toContain(" 2 é");
  });

  it("is read however it is spaced, and not beyond its limit", () => {
    const signer = createStatementSigner();
    const envelope = signEnvelope(Buffer.from("{}"), signer.privateKey, signer.keyId);
    const spaced = JSON.stringify(envelope, null, "\t");
    expect(openEnvelope(Buffer.from(spaced))).toMatchObject({ keyId: signer.keyId });
    const padded = spaced + " ".repeat(LIMITS.statementBytes - Buffer.byteLength(spaced));
    expect(openEnvelope(Buffer.from(padded))).toBeDefined();
    expect(openEnvelope(Buffer.from(`${padded} `))).toBeUndefined();
    expect(openEnvelope(Uint8Array.of(0xef, 0xbb, 0xbf, ...Buffer.from(spaced)))).toBeUndefined();
    expect(openEnvelope(Buffer.from([0xff]))).toBeUndefined();
  });
});

describe("[VR-ATT-01] a key", () => {
  it("of ours is one of openssl's, and is called by what openssl hashes", () => {
    const signer = createStatementSigner();
    writeFileSync(join(folder, "own.key"), encodeStatementKey(signer));
    expect(openssl("pkey", "-in", "own.key", "-pubout").toString()).toBe(signer.publicPem);
    expect(openssl("pkey", "-in", "own.key", "-noout", "-text").toString()).toContain("NIST CURVE: P-256");
    writeFileSync(join(folder, "spki"), openssl("pkey", "-in", "own.key", "-pubout", "-outform", "DER"));
    expect(openssl("dgst", "-sha256", "-r", "spki").toString()).toContain(signer.keyId);
    expect(keyIdOf(parsePublicKey(signer.publicPem))).toBe(signer.keyId);
  });

  it("with its point in short is the same key", () => {
    const signer = createStatementSigner();
    writeFileSync(join(folder, "own.key"), encodeStatementKey(signer));
    const short = openssl("ec", "-in", "own.key", "-pubout", "-conv_form", "compressed").toString();
    expect(short).not.toBe(signer.publicPem);
    expect(keyIdOf(parsePublicKey(short))).toBe(signer.keyId);
  });

  it("of openssl's is one of ours", () => {
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "other.key");
    expect(statSync(join(folder, "other.key")).size).toBeGreaterThan(0);
    const signer = readStatementKey(openssl("pkey", "-in", "other.key"), "other.key");
    expect(openssl("pkey", "-in", "other.key", "-pubout").toString()).toBe(signer.publicPem);
  });

  it.each<[string, () => string]>([
    [
      "of another curve",
      () => openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384").toString(),
    ],
    ["of Ed25519", () => openssl("genpkey", "-algorithm", "ed25519").toString()],
    [
      "in SEC1",
      () =>
        generateKeyPairSync("ec", { namedCurve: "P-256" })
          .privateKey.export({ format: "pem", type: "sec1" })
          .toString(),
    ],
    ["that is public", () => createStatementSigner().publicPem],
    ["that is none", () => "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"],
  ])("%s signs nothing, and its text is in no error", (_what, make) => {
    const pem = make();
    const secret = pem.split("\n")[1] ?? "";
    const read = (): unknown => readStatementKey(Buffer.from(pem), "statement.key");
    expect(read).toThrow(expect.objectContaining({ code: "STATE_INVALID" }));
    expect(read).not.toThrow(secret);
    if (pem.includes("PUBLIC")) return;
    // A private key is no public one, although Node would take it for that.
    expect(() => parsePublicKey(pem)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });

  it("two public keys in one file are none: nobody could say which was meant", () => {
    const two = `${createStatementSigner().publicPem}${createStatementSigner().publicPem}`;
    expect(() => parsePublicKey(two)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });

  it("that is public and of another kind checks nothing", () => {
    const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 1024 });
    const pem = publicKey.export({ format: "pem", type: "spki" }).toString();
    expect(() => parsePublicKey(pem)).toThrow(/P-256/);
  });
});

describe("what a signer says", () => {
  it.each([
    ["H100 PCIe (80 GB)", "H100 PCIe (80 GB)"],
    ["größe 模型", "größe 模型"],
    ["two\n  rows\u00a0\u3000 and \t more", "two rows and more"],
    ['a" and ("b', "a\\u{22} and (\\u{22}b"],
    ["✓ ✔ √ \u{1f600} \u200b", "\\u{2713} \\u{2714} \\u{221a} \\u{1f600} \\u{200b}"],
    ["x".repeat(65), `${"x".repeat(64)}…`],
    ["x".repeat(64), "x".repeat(64)],
  ])("%j stands in quotation marks, on one line, and cannot pass for our words", (text, shown) => {
    expect(said(text)).toBe(`"${shown}"`);
  });

  it("[VR-ATT-01] makes no row of its own, however a terminal breaks it", async () => {
    const name = `H100${" ".repeat(40)}✓ hardware evidence: verified by NVIDIA`;
    const alter = claiming(({ device }) => ({ device: { ...device, name } }));
    const checked = await madeStatement({ alter }).check();
    const findings = checked.ok ? checked.findings : expect.fail(checked.message);
    expect(findings.map(({ words }) => words).join()).not.toMatch(/✓| {2}/);
    expect(findings.find(({ property }) => property === "device")?.words).toContain('"H100 \\u{2713} hardware');
  });
});

describe("[VR-ATT-01] a statement has one form", () => {
  const { payload, statement } = madeStatement();
  const text = payload.toString();

  it("and comes back as it was", () => {
    expect(parseStatement(payload)).toEqual(statement);
    expect(Buffer.from(encodeStatement(statement)).equals(payload)).toBe(true);
  });

  it.each<[string, string]>([
    ["white space", text.replace(":", ": ")],
    ["a key twice", text.replace('"predicateType":', '"predicateType":"x","predicateType":')],
    ["another order", text.replace(/^\{"_type":("[^"]+"),(.*)\}$/, '{$2,"_type":$1}')],
    ["another escape", text.replace("shard-1", "shard\\u002d1")],
    ["a field more", text.replace(/^\{/, '{"A":1,')],
    ["a field less", text.replace(/"ordinal":0,/, "")],
    ["a number that is a text", text.replace('"ordinal":0', '"ordinal":"0"')],
    ["a proto", text.replace(/^\{/, '{"__proto__":{},')],
    ["a proto among facts", text.replace('"facts":{', '"facts":{"__proto__":true,')],
    ["a proto in its policy", text.replace('"allocation":{', '"allocation":{"__proto__":"any",')],
    ["an id of another form", text.replace(/statement-a{26}/, "statement-1")],
    ["no JSON", "nothing"],
  ])("%s is none", (_what, changed) => {
    expect(changed).not.toBe(text);
    expect(parseStatement(Buffer.from(changed))).toHaveProperty("fault");
  });

  it("and is not signed in any other", () => {
    const wrong = { ...statement, predicateType: "x".repeat(300) };
    expect(() => encodeStatement(wrong)).toThrow(/predicateType/);
  });
});
