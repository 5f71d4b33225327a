/**
 * The worked example of docs/audit.md: recomputed with our code and with `openssl`, and compared with the page.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { checkCheckpoint, signCheckpoint } from "../../src/audit/checkpoint.ts";
import { boundedData } from "../../src/audit/data.ts";
import { type EpochKey, epochKeyFrom, macKeyOf, nextEpochKey } from "../../src/audit/epochs.ts";
import { checkLineMac, dataOfLine, encodeLine } from "../../src/audit/line.ts";
import { encodeVkey, noteKeyOf, parseVkey, readNoteSigner } from "../../src/audit/note.ts";
import { type AuditLine, parseLine } from "../../src/audit/parse-line.ts";
import { proveConsistency, proveInclusion } from "../../src/audit/proofs.ts";
import { checkTlogProof, encodeProofFile, parseProofFile } from "../../src/audit/tlog-proof.ts";
import { createLogTree, createRangeRoot, leafHash } from "../../src/audit/tree.ts";
import { toHex } from "../../src/bytes.ts";

interface Vector {
  readonly k0: string;
  readonly k1: string;
  readonly k2: string;
  readonly macKey1: string;
  readonly macKey2: string;
  readonly lines: readonly string[];
  readonly leaves: readonly string[];
  readonly root: string;
  readonly inclusionOf1: readonly string[];
  readonly consistencyOf2: readonly string[];
  readonly signingKeySeed: string;
  readonly signingKey: string;
  readonly vkey: string;
  readonly note: string;
}

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const VECTOR = JSON.parse(read("test/vectors/audit-v1.json")) as Vector;
const PAGE = read("docs/audit.md");
const PREFIX = "vram-residency/audit/v1\n";

const fromHex = (text: string): Uint8Array => Buffer.from(text, "hex");
const k0 = (): EpochKey => epochKeyFrom(0, fromHex(VECTOR.k0));
const lineOf = (text: string): AuditLine => {
  const parsed = parseLine(Buffer.from(text));
  if (!parsed.ok) throw new Error(`${parsed.fault} at ${parsed.offset}`);
  return parsed.line;
};
const LINES = VECTOR.lines.map(lineOf);
const signer = readNoteSigner("vram-residency/0123456789abcdef", Buffer.from(VECTOR.signingKey));

const openssl = spawnSync("openssl", ["version"], { encoding: "utf8" });
const hasOpenssl = openssl.status === 0 && /^OpenSSL 3/.test(openssl.stdout);
const why = hasOpenssl ? "" : " (skipped: no OpenSSL 3 here)";
if (!hasOpenssl) process.stderr.write("audit-vector: skipped what needs openssl: there is no OpenSSL 3 here\n");

const kdfArguments = (key: string, info: string): string[] => [
  ...["kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", `hexkey:${key}`],
  ...["-kdfopt", `info:${info}`, "HKDF"],
];
const macArguments = (key: string): string[] => ["dgst", "-sha256", "-mac", "HMAC", "-macopt", `hexkey:${key}`];
const signatureArguments = ["pkeyutl", "-verify", "-pubin", "-inkey", "log.pem", "-rawin", "-in", "text"];

const kdf = (key: string, info: string): string =>
  execFileSync("openssl", kdfArguments(key, info), { encoding: "utf8" }).trim().replaceAll(":", "").toLowerCase();
const digest = (args: readonly string[], ...parts: readonly (string | Uint8Array)[]): string => {
  const input = Buffer.concat(parts.map((part) => Buffer.from(part as Uint8Array)));
  return (
    execFileSync("openssl", [...args], { input, encoding: "utf8" })
      .trim()
      .split(" ")
      .at(-1) ?? ""
  );
};

const folder = mkdtempSync(join(tmpdir(), "audit-vector-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the worked example", () => {
  it("[VR-AUD-02] has the keys that this package derives", () => {
    const k1 = nextEpochKey(k0());
    const k2 = nextEpochKey(k1);
    expect([k1, k2].map(({ key }) => toHex(key))).toEqual([VECTOR.k1, VECTOR.k2]);
    expect(toHex(macKeyOf(k1).export())).toBe(VECTOR.macKey1);
    expect(toHex(macKeyOf(k2).export())).toBe(VECTOR.macKey2);
  });

  it("[VR-AUD-02] has the lines that this package writes and reads", () => {
    const k1 = nextEpochKey(k0());
    const macKeys = [undefined, macKeyOf(k1), macKeyOf(nextEpochKey(k1))];
    for (const [index, line] of LINES.entries()) {
      const macKey = macKeys[line.epoch];
      if (macKey === undefined) throw new Error("an epoch without a key");
      expect(checkLineMac(line, macKey)).toBe("valid");
      const data = boundedData({ type: line.type, ...dataOfLine(line) });
      const written = encodeLine({ ...line, data }, macKey);
      expect(Buffer.from(written).toString()).toBe(`${VECTOR.lines[index] ?? ""}\n`);
    }
    expect(LINES.map(({ type }) => type)).toEqual(["epoch_started", "vram_sealed", "epoch_started"]);
  });

  it("[VR-AUD-02] has the tree, the proofs and the log checkpoint of this package", () => {
    const leaves = LINES.map(({ bytes }) => leafHash(bytes));
    const tree = createLogTree();
    for (const leaf of leaves) tree.append(leaf);
    expect(leaves.map(toHex)).toEqual(VECTOR.leaves);
    expect(LINES.map(({ prev }) => toHex(prev))).toEqual(["00".repeat(32), ...VECTOR.leaves.slice(0, 2)]);
    expect(toHex(tree.root())).toBe(VECTOR.root);
    const rangeRoot = createRangeRoot((start, end) => Buffer.concat(leaves.slice(start, end)));
    expect(proveInclusion(rangeRoot, 1, 3).map(toHex)).toEqual(VECTOR.inclusionOf1);
    expect(proveConsistency(rangeRoot, 2, 3).map(toHex)).toEqual(VECTOR.consistencyOf2);
    expect(Buffer.from(signCheckpoint(3, tree.root(), signer)).toString()).toBe(VECTOR.note);
    expect(encodeVkey(noteKeyOf(signer))).toBe(VECTOR.vkey);
    expect(checkCheckpoint(Buffer.from(VECTOR.note), parseVkey(VECTOR.vkey))).toMatchObject({ ok: true });
  });

  it.skipIf(!hasOpenssl)(`[VR-AUD-02] has the keys that openssl derives${why}`, () => {
    expect(kdf(VECTOR.k0, "audit/evolve/v1")).toBe(VECTOR.k1);
    expect(kdf(VECTOR.k1, "audit/evolve/v1")).toBe(VECTOR.k2);
    expect(kdf(VECTOR.k1, "audit/mac/v1")).toBe(VECTOR.macKey1);
    expect(kdf(VECTOR.k2, "audit/mac/v1")).toBe(VECTOR.macKey2);
  });

  it.skipIf(!hasOpenssl)(`[VR-AUD-02] has the macs and hashes that openssl computes${why}`, () => {
    for (const [index, text] of VECTOR.lines.entries()) {
      const line = Buffer.from(text);
      const macKey = index < 2 ? VECTOR.macKey1 : VECTOR.macKey2;
      expect(digest(macArguments(macKey), PREFIX, line.subarray(0, -74))).toBe(/"mac":"(\w+)"/.exec(text)?.[1]);
      expect(digest(["dgst", "-sha256"], "\0", line)).toBe(VECTOR.leaves[index]);
    }
    const [leaf0 = "", leaf1 = "", leaf2 = ""] = VECTOR.leaves;
    const node = digest(["dgst", "-sha256"], "\u0001", fromHex(leaf0), fromHex(leaf1));
    expect(digest(["dgst", "-sha256"], "\u0001", fromHex(node), fromHex(leaf2))).toBe(VECTOR.root);
  });

  it.skipIf(!hasOpenssl)(`[VR-AUD-02] has a signature that openssl verifies${why}`, () => {
    const [text = "", signatures = ""] = VECTOR.note.split("\n\n");
    const blob = Buffer.from(signatures.trim().split(" ").at(-1) ?? "", "base64");
    writeFileSync(join(folder, "log.pem"), noteKeyOf(signer).publicKey.export({ format: "pem", type: "spki" }));
    writeFileSync(join(folder, "text"), `${text}\n`);
    writeFileSync(join(folder, "signature"), blob.subarray(4));
    const verify = (): string =>
      spawnSync("openssl", [...signatureArguments, "-sigfile", "signature"], { cwd: folder, encoding: "utf8" }).stdout;
    expect(verify()).toContain("Signature Verified Successfully");
    writeFileSync(join(folder, "text"), text);
    expect(verify()).not.toContain("Successfully");
  });
});

describe("docs/audit.md", () => {
  it("[VR-AUD-02] shows the lines, keys, hashes and the note of the example", () => {
    expect(PAGE).toContain(`\n${VECTOR.lines.join("\n")}\n`);
    expect(PAGE).toContain(`\n${VECTOR.note}`);
    expect(PAGE).toContain(`\n${VECTOR.vkey}\n`);
    const { k0, k1, k2, macKey1, macKey2, root, leaves } = VECTOR;
    for (const hex of [k0, k1, k2, macKey1, macKey2, root, ...leaves]) {
      expect(PAGE).toMatch(new RegExp(`\\b${hex}\\b`));
    }
  });

  /** The proof of line 1, as the page shows it. */
  const proof = (): Uint8Array => {
    const hashes = VECTOR.inclusionOf1.map(fromHex);
    const made = { extra: Buffer.from(VECTOR.lines[1] ?? ""), index: 1, hashes, checkpoint: Buffer.from(VECTOR.note) };
    return encodeProofFile({ proof: made, continuation: undefined });
  };

  it("[VR-AUD-02] shows the proof of line 1, which holds", () => {
    expect(PAGE).toContain(`\n\`\`\`text file="proof"\n${Buffer.from(proof()).toString()}\`\`\`\n`);
    const read = parseProofFile(proof())?.proof;
    expect(read && checkTlogProof(read, fromHex(VECTOR.leaves[1] ?? ""), parseVkey(VECTOR.vkey))).toMatchObject({
      ok: true,
    });
  });

  it.skipIf(!hasOpenssl)(`takes that proof apart without this package${why}`, () => {
    const [, script = ""] = /```sh\n(sed -n 's\/\^extra [\s\S]*?)```/.exec(PAGE) ?? [];
    writeFileSync(join(folder, "proof"), proof());
    const out = execFileSync("bash", ["-c", script], { cwd: folder, encoding: "utf8" });
    expect(out).toContain(`${VECTOR.leaves[1] ?? ""} *stdin\n${VECTOR.inclusionOf1.join("\n")}\n`);
    expect(out.endsWith(`${VECTOR.note.split("\n\n")[0] ?? ""}\n`)).toBe(true);
    expect(readFileSync(join(folder, "line"), "utf8")).toBe(VECTOR.lines[1]);
  });

  it("shows the commands that are run here", () => {
    expect(PAGE).toContain(`openssl ${kdfArguments("$K0", "audit/evolve/v1").join(" ")}\n`);
    expect(PAGE).toContain(`openssl ${kdfArguments("$K2", "audit/mac/v1").join(" ")}\n`);
    expect(PAGE).toContain(`openssl ${macArguments("$MAC1").join(" ")}\n`);
    expect(PAGE).toContain(`openssl ${signatureArguments.join(" ")} -sigfile signature\n`);
  });

  it("lists the keys of a line in their order", () => {
    const listed = [...PAGE.matchAll(/^\| (\d+) \| `(\w+)` \|/gm)].map(([, number, key]) => [Number(number), key]);
    const keys = Object.keys(JSON.parse(VECTOR.lines[0] ?? "") as object);
    expect(listed).toEqual(keys.map((key, index) => [index + 1, key]));
  });
});
