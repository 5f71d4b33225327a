/**
 * The keys of the audit log, in the state directory and not in the log's own folder, which may be copied and given away:
 *
 *     STATE/audit-epoch.key   K of the epoch that runs: `EPOCH SPACE 64 hex digits LF`, 0600; replaced when it ends
 *     STATE/audit-log.key     the Ed25519 key that signs log checkpoints: PKCS#8 in PEM, 0600
 *
 * An escrow file is a copy of the first one with epoch 0. Digits of keys never become JavaScript text. When K is replaced
 * the old file is overwritten before it is let go; a disk that writes elsewhere (flash, copy-on-write) may keep it.
 */
import type { KeyObject } from "node:crypto";
import { constants, promises } from "node:fs";
import { join } from "node:path";
import { fromHexDigits, toBase64Digits, toHexDigits } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { createFile, readPrivate, replaceFile } from "../files.ts";
import { createOrigin } from "./checkpoint.ts";
import { createEpochKey, EPOCH_KEY_BYTES, type EpochKey, wipeEpochKey } from "./epochs.ts";
import { createNoteSigner, type NoteSigner, readNoteSigner } from "./note.ts";

export const EPOCH_KEY_FILE = "audit-epoch.key";
export const SIGNING_KEY_FILE = "audit-log.key";
/** The log's own folder within the state directory. */
export const AUDIT_FOLDER = "audit";

/** 16 digits, a space, 64 digits, a line feed. */
const EPOCH_FILE_BYTES_MAX = 16 + 1 + 2 * EPOCH_KEY_BYTES + 1;
/** A PEM file of Ed25519 has about 120 bytes; what is larger is none. */
const SIGNING_FILE_BYTES_MAX = 4096;
const SPACE = 0x20;
const LF = 0x0a;

/** The file of an epoch key. The caller zeroes it. */
function encodeEpochFile({ epoch, key }: EpochKey): Uint8Array {
  const digits = toHexDigits(key);
  try {
    const head = Buffer.from(`${epoch} `);
    const file = new Uint8Array(head.byteLength + digits.byteLength + 1);
    file.set(head);
    file.set(digits, head.byteLength);
    file[file.byteLength - 1] = LF;
    return file;
  } finally {
    digits.fill(0);
  }
}

/** Reads the file of an epoch key, or an escrow file; `bytes` are zeroed. `STATE_INVALID` for anything else. */
export function parseEpochFile(bytes: Uint8Array, path: string): EpochKey {
  try {
    const space = bytes.indexOf(SPACE);
    const head = Buffer.from(bytes.subarray(0, Math.max(space, 0))).toString("latin1");
    const key = fromHexDigits(bytes.subarray(space + 1, -1), EPOCH_KEY_BYTES);
    const epoch = Number(head);
    const isValid = /^(0|[1-9][0-9]{0,15})$/.test(head) && Number.isSafeInteger(epoch) && bytes.at(-1) === LF;
    if (isValid && key !== undefined) return { epoch, key };
    key?.fill(0);
    throw new VramError("STATE_INVALID", `${path}: not an epoch key, which is EPOCH, a space and 64 hex digits`);
  } finally {
    bytes.fill(0);
  }
}

/** The epoch key in a file, or undefined if there is no such file. */
export async function readEpochFile(path: string): Promise<EpochKey | undefined> {
  const bytes = await readPrivate(path, EPOCH_FILE_BYTES_MAX);
  return bytes === undefined ? undefined : parseEpochFile(bytes, path);
}

/** Writes an epoch key to a file that must be new. */
async function createEpochFile(path: string, key: EpochKey): Promise<"created" | "exists"> {
  const bytes = encodeEpochFile(key);
  try {
    return await createFile(path, bytes);
  } finally {
    bytes.fill(0);
  }
}

/** The epoch key of this state; K(0) is made where there is none. */
export async function ensureEpochKey(stateDir: string): Promise<EpochKey> {
  const path = join(stateDir, EPOCH_KEY_FILE);
  const kept = await readEpochFile(path);
  if (kept !== undefined) return kept;
  const fresh = createEpochKey();
  if ((await createEpochFile(path, fresh)) === "created") return fresh;
  wipeEpochKey(fresh);
  throw new VramError("STATE_INVALID", `${path}: somebody else made it just now`);
}

/**
 * Keeps K of the next epoch in the place of the one before, which is overwritten. On disk when it returns; after a
 * crash one of both is there.
 */
export async function replaceEpochKey(stateDir: string, next: EpochKey): Promise<void> {
  const path = join(stateDir, EPOCH_KEY_FILE);
  const bytes = encodeEpochFile(next);
  // Held open, the old content can still be written to after its name went to the new one.
  const old = await promises.open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    await replaceFile(path, bytes);
    const { size } = await old.stat();
    await old.write(new Uint8Array(size), 0, size, 0);
    await old.datasync();
  } finally {
    bytes.fill(0);
    await old.close();
  }
}

/**
 * Makes K(0) before there is a log, and writes a copy to `escrowPath`, which must be new. Refused once there is a key:
 * a copy of a later one would say less, and nobody could tell who else has it.
 */
export async function escrowEpochKey(stateDir: string, escrowPath: string): Promise<void> {
  const path = join(stateDir, EPOCH_KEY_FILE);
  const refused = (what: string, fix: string): VramError => new VramError("STATE_INVALID", what, { fix });
  const kept = await readEpochFile(path);
  if (kept !== undefined) {
    wipeEpochKey(kept);
    throw refused(
      `${path}: the audit log of this state has its key already, and K(0) cannot be had any more`,
      "escrow belongs before the first start: use a new state directory",
    );
  }
  const fresh = createEpochKey();
  try {
    // First the copy: a K(0) without one is the normal case, a copy of no log's key harms nobody.
    if ((await createEpochFile(escrowPath, fresh)) === "exists") {
      throw refused(`${escrowPath}: exists; escrow does not overwrite`, "name a file that is new");
    }
    if ((await createEpochFile(path, fresh)) === "created") return;
    await promises.rm(escrowPath);
    throw refused(`${path}: somebody else made it just now`, "escrow belongs before the first start");
  } finally {
    wipeEpochKey(fresh);
  }
}

/** The signing key of this state, or undefined if it has none. `origin` is the name it signs under. */
export async function readSigningKey(stateDir: string, origin: string): Promise<NoteSigner | undefined> {
  const pem = await readPrivate(join(stateDir, SIGNING_KEY_FILE), SIGNING_FILE_BYTES_MAX);
  if (pem === undefined) return undefined;
  try {
    return readNoteSigner(origin, pem);
  } finally {
    pem.fill(0);
  }
}

/** A signing key for a new log under a new origin; kept on disk when it returns. */
export async function createSigningKey(stateDir: string): Promise<NoteSigner> {
  const signer = createNoteSigner(createOrigin());
  const pem = encodePrivateKey(signer.privateKey);
  try {
    await replaceFile(join(stateDir, SIGNING_KEY_FILE), pem);
  } finally {
    pem.fill(0);
  }
  return signer;
}

const PEM_COLUMNS = 64;
const LF_BYTE = Uint8Array.of(LF);

/**
 * A private key as a PKCS#8 file in PEM (RFC 7468), without its digits becoming text. Ed25519 has 48 bytes (RFC 8410 §7),
 * P-256 138: whole groups of base64 both. The caller zeroes what comes back.
 */
export function encodePrivateKey(privateKey: KeyObject): Uint8Array {
  const der = privateKey.export({ format: "der", type: "pkcs8" });
  const digits = toBase64Digits(der);
  try {
    const lines = Array.from({ length: Math.ceil(digits.byteLength / PEM_COLUMNS) }, (_, line) =>
      digits.subarray(line * PEM_COLUMNS, (line + 1) * PEM_COLUMNS),
    );
    const parts = [
      Buffer.from("-----BEGIN PRIVATE KEY-----\n"),
      ...lines.flatMap((line) => [line, LF_BYTE]),
      Buffer.from("-----END PRIVATE KEY-----\n"),
    ];
    // Not `Buffer.concat`, which takes its memory from a pool.
    const file = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0));
    let at = 0;
    for (const part of parts) {
      file.set(part, at);
      at += part.byteLength;
    }
    return file;
  } finally {
    der.fill(0);
    digits.fill(0);
  }
}

/** Where the log of a state lies. */
export const auditFolder = (stateDir: string): string => join(stateDir, AUDIT_FOLDER);
