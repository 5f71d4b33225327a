/** The keys of the log as files: one form, nothing else is read, and what was read or made is overwritten. */
import { createPrivateKey } from "node:crypto";
import { existsSync, linkSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createEpochKey, epochKeyFrom } from "../../src/audit/epochs.ts";
import {
  auditFolder,
  createSigningKey,
  EPOCH_KEY_FILE,
  encodePrivateKey,
  ensureEpochKey,
  escrowEpochKey,
  parseEpochFile,
  readEpochFile,
  readSigningKey,
  replaceEpochKey,
  SIGNING_KEY_FILE,
} from "../../src/audit/key-files.ts";
import { createNoteSigner, encodeVkey, noteKeyOf } from "../../src/audit/note.ts";
import { VramError } from "../../src/errors.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const DIGITS = "0123456789abcdef".repeat(4);
const KEY = Uint8Array.from(Buffer.from(DIGITS, "hex"));

const refusal = async (act: () => unknown): Promise<readonly unknown[]> => {
  try {
    await act();
    return ["nothing was refused"];
  } catch (error) {
    return error instanceof VramError ? [error.code, error.message, error.fix] : [error];
  }
};

describe("[VR-SEAL-03] the file of an epoch key", () => {
  it.each([
    ["0", 0],
    ["7", 7],
    ["10", 10],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ])("of epoch %s is read, and what was read is overwritten", (digits, epoch) => {
    const bytes = Buffer.from(`${digits} ${DIGITS}\n`);
    expect(parseEpochFile(bytes, "/k")).toEqual({ epoch, key: KEY });
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  it.each([
    ["nothing", ""],
    ["no epoch", ` ${DIGITS}\n`],
    ["no space", `7${DIGITS}\n`],
    ["two spaces", `7  ${DIGITS}\n`],
    ["no line feed", `7 ${DIGITS}`],
    ["another end", `7 ${DIGITS}\r`],
    ["two line feeds", `7 ${DIGITS}\n\n`],
    ["a digit less", `7 ${DIGITS.slice(1)}\n`],
    ["a digit more", `7 ${DIGITS}0\n`],
    ["another letter", `7 ${DIGITS.slice(1)}g\n`],
    ["a zero in front", `07 ${DIGITS}\n`],
    ["a sign", `+7 ${DIGITS}\n`],
    ["17 digits", `11111111111111111 ${DIGITS}\n`],
    ["an epoch beyond 2^53", `9007199254740992 ${DIGITS}\n`],
    ["something in front", `x7 ${DIGITS}\n`],
  ])("is not read with %s, which is overwritten all the same", async (_what, text) => {
    const bytes = Buffer.from(text);
    const [code, message] = await refusal(() => parseEpochFile(bytes, "/k"));
    expect([code, message]).toEqual([
      "STATE_INVALID",
      "/k: not an epoch key, which is EPOCH, a space and 64 hex digits",
    ]);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  it("is made where there is none, for its owner only, and found again", async () => {
    const stateDir = await temporaryFolder();
    const path = join(stateDir, EPOCH_KEY_FILE);
    expect(await readEpochFile(path)).toBeUndefined();
    const made = await ensureEpochKey(stateDir);
    expect(readFileSync(path, "latin1")).toBe(`0 ${Buffer.from(made.key).toString("hex")}\n`);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(await ensureEpochKey(stateDir)).toEqual(made);
    expect(await readEpochFile(path)).toEqual(made);
  });

  it("is replaced, and the bytes of the one before are overwritten where they lie", async () => {
    const stateDir = await temporaryFolder();
    const path = join(stateDir, EPOCH_KEY_FILE);
    await ensureEpochKey(stateDir);
    const { size } = statSync(path);
    linkSync(path, join(stateDir, "old"));
    await replaceEpochKey(stateDir, epochKeyFrom(12, KEY));
    expect(readFileSync(path, "latin1")).toBe(`12 ${DIGITS}\n`);
    expect(readFileSync(join(stateDir, "old"))).toEqual(Buffer.alloc(size));
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it("is not replaced where there is none", async () => {
    const stateDir = await temporaryFolder();
    await expect(replaceEpochKey(stateDir, createEpochKey())).rejects.toMatchObject({ code: "ENOENT" });
    expect(existsSync(join(stateDir, EPOCH_KEY_FILE))).toBe(false);
  });
});

describe("[VR-SEAL-03] escrow", () => {
  it("is a copy of the key that the log begins with", async () => {
    const stateDir = await temporaryFolder();
    const copy = join(await temporaryFolder(), "escrow");
    await escrowEpochKey(stateDir, copy);
    expect(readFileSync(copy, "latin1")).toMatch(/^0 [0-9a-f]{64}\n$/);
    expect(readFileSync(join(stateDir, EPOCH_KEY_FILE))).toEqual(readFileSync(copy));
    expect(statSync(copy).mode & 0o777).toBe(0o600);
  });

  it("comes before the first start, or not at all", async () => {
    const stateDir = await temporaryFolder();
    const copy = join(await temporaryFolder(), "escrow");
    await ensureEpochKey(stateDir);
    const path = join(stateDir, EPOCH_KEY_FILE);
    expect(await refusal(() => escrowEpochKey(stateDir, copy))).toEqual([
      "STATE_INVALID",
      `${path}: the audit log of this state has its key already, and K(0) cannot be had any more`,
      "escrow belongs before the first start: use a new state directory",
    ]);
    expect(existsSync(copy)).toBe(false);
  });

  it("overwrites nothing, and leaves no key then", async () => {
    const stateDir = await temporaryFolder();
    const copy = join(await temporaryFolder(), "escrow");
    writeFileSync(copy, "mine");
    expect(await refusal(() => escrowEpochKey(stateDir, copy))).toEqual([
      ...["STATE_INVALID", `${copy}: exists; escrow does not overwrite`, "name a file that is new"],
    ]);
    expect(readFileSync(copy, "latin1")).toBe("mine");
    expect(existsSync(join(stateDir, EPOCH_KEY_FILE))).toBe(false);
  });
});

describe("the file of a signing key", () => {
  it("is PKCS#8 in PEM that others read, and is read back under the name of the log", async () => {
    const stateDir = await temporaryFolder();
    expect(await readSigningKey(stateDir, "vram-residency/a")).toBeUndefined();
    const signer = await createSigningKey(stateDir);
    expect(signer.name).toMatch(/^vram-residency\/[0-9a-f]{16}$/);
    const file = join(stateDir, SIGNING_KEY_FILE);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const pem = readFileSync(file, "latin1");
    expect(pem).toBe(signer.privateKey.export({ format: "pem", type: "pkcs8" }));
    const read = await readSigningKey(stateDir, signer.name);
    expect(read?.name).toBe(signer.name);
    expect(encodeVkey(noteKeyOf(read ?? signer))).toBe(encodeVkey(noteKeyOf(signer)));
  });

  it("has lines of 64 letters", () => {
    const { privateKey } = createNoteSigner("a");
    const pem = Buffer.from(encodePrivateKey(privateKey)).toString("latin1");
    const [head, body, tail, end] = pem.split("\n");
    expect([head, body?.length, tail, end]).toEqual([
      ...["-----BEGIN PRIVATE KEY-----", 64, "-----END PRIVATE KEY-----", ""],
    ]);
    expect(createPrivateKey(pem).equals(privateKey)).toBe(true);
  });

  it("that is none is refused", async () => {
    const stateDir = await temporaryFolder();
    writeFileSync(join(stateDir, SIGNING_KEY_FILE), "junk", { mode: 0o600 });
    const [code] = await refusal(() => readSigningKey(stateDir, "a"));
    expect(code).toBe("INVALID_ARGUMENT");
  });

  it("lies beside the log's folder, not in it", () => {
    expect(auditFolder("/state")).toBe("/state/audit");
  });
});
