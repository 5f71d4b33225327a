/**
 * Signed notes (https://c2sp.org/signed-note) with Ed25519: a text, an empty line, and signature lines
 * `— NAME base64(key hash ‖ signature)`. The signature is over the text with its last line feed. The key hash is the
 * first 4 bytes of SHA-256(name ‖ LF ‖ 0x01 ‖ public key): a name, not a proof. Signatures of keys we do not know are
 * passed over, as the specification has it (witnesses add theirs); one of a known key that does not hold refuses the
 * whole note. Private keys are `KeyObject`s and come from PKCS#8.
 */
import { isUtf8 } from "node:buffer";
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign as signBytes,
  verify as verifyBytes,
} from "node:crypto";
import { constantTimeEqual, toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** The public half of a key that signs notes. */
export interface NoteKey {
  /** As it stands in signature lines; for a log its origin. */
  readonly name: string;
  /** Ed25519. */
  readonly publicKey: KeyObject;
}

/** A key that signs notes. */
export interface NoteSigner {
  readonly name: string;
  readonly privateKey: KeyObject;
}

/** A note that was read; nothing in it is checked yet. */
export interface Note {
  /** With its last line feed: what is signed. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
}

interface NoteSignature {
  readonly name: string;
  readonly keyHash: Uint8Array;
  readonly signature: Uint8Array;
}

/** Signature type of Ed25519. */
const ED25519 = 0x01;
const PUBLIC_KEY_BYTES = 32;
const KEY_HASH_BYTES = 4;
const SIGNATURE_LINE = /^\u2014 ([^ ]+) ([A-Za-z0-9+/]+={0,2})$/u;
/** No Unicode space (JavaScript's `\s` lacks U+0085) and no plus. */
const NAME = /^[^\s\u0085+]+$/u;

/** The bytes of standard base64 in its one form; undefined for any other. */
export function fromBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}

/** Standard base64 of `bytes`. */
export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

const isName = (name: string): boolean => NAME.test(name) && name.isWellFormed() && !hasControls(name);

/** Whether `text` holds a control character below U+0020 other than a line feed. */
function hasControls(text: string): boolean {
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    if (code < 0x20 && code !== 0x0a) return true;
  }
  return false;
}

/** The 32 bytes of an Ed25519 public key; `INVALID_ARGUMENT` for any other kind of key. */
function rawPublicKey(publicKey: KeyObject): Uint8Array {
  const { x } = publicKey.asymmetricKeyType === "ed25519" ? publicKey.export({ format: "jwk" }) : {};
  if (x === undefined) throw new VramError("INVALID_ARGUMENT", "the key must be an Ed25519 key");
  return Buffer.from(x, "base64url");
}

/** SHA-256(name ‖ LF ‖ 0x01 ‖ public key), its first 4 bytes. */
export function keyHashOf({ name, publicKey }: NoteKey): Uint8Array {
  const hashed = createHash("sha256")
    .update(`${name}\n`)
    .update(Uint8Array.of(ED25519))
    .update(rawPublicKey(publicKey))
    .digest();
  return hashed.subarray(0, KEY_HASH_BYTES);
}

/** A fresh key for notes under `name`. */
export function createNoteSigner(name: string): NoteSigner {
  return noteSigner(name, generateKeyPairSync("ed25519").privateKey);
}

/** A signer from the PEM text of a PKCS#8 file; `INVALID_ARGUMENT` if it holds anything but an Ed25519 private key. */
export function readNoteSigner(name: string, pem: Uint8Array): NoteSigner {
  let privateKey: KeyObject;
  try {
    // A view: a copy would be one more to overwrite.
    const key = Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength);
    privateKey = createPrivateKey({ key, format: "pem", type: "pkcs8" });
  } catch {
    // The cause could quote the key file.
    throw new VramError("INVALID_ARGUMENT", "the signing key must be a PKCS#8 file in PEM");
  }
  return noteSigner(name, privateKey);
}

function noteSigner(name: string, privateKey: KeyObject): NoteSigner {
  const isEd25519 = privateKey.asymmetricKeyType === "ed25519";
  if (!isName(name) || !isEd25519) {
    throw new VramError("INVALID_ARGUMENT", "a note is signed by an Ed25519 key under a name without spaces or +");
  }
  return { name, privateKey };
}

/** The public half of a signer. */
export function noteKeyOf({ name, privateKey }: NoteSigner): NoteKey {
  return { name, publicKey: createPublicKey(privateKey) };
}

/** `NAME+HASH+KEY`: the text form of a public key (golang.org/x/mod/sumdb/note). */
export function encodeVkey(key: NoteKey): string {
  const typed = Buffer.concat([Uint8Array.of(ED25519), rawPublicKey(key.publicKey)]);
  return `${key.name}+${toHex(keyHashOf(key))}+${toBase64(typed)}`;
}

/** Reads `NAME+HASH+KEY`; `INVALID_ARGUMENT` unless all of it fits together. */
export function parseVkey(text: string): NoteKey {
  const [, name = "", hash = "", encoded = ""] = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(text) ?? [];
  const typed = fromBase64(encoded);
  if (isName(name) && typed?.byteLength === 1 + PUBLIC_KEY_BYTES && typed[0] === ED25519) {
    const x = Buffer.from(typed.subarray(1)).toString("base64url");
    const publicKey = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    if (toHex(keyHashOf({ name, publicKey })) === hash) return { name, publicKey };
  }
  throw new VramError("INVALID_ARGUMENT", "a log key is NAME+HASH+KEY with an Ed25519 key and its hash", {
    details: { argument: "logKey" },
  });
}

/** The signed note over `text`, which ends in a line feed. */
export function signNote(text: string, signer: NoteSigner): Uint8Array {
  const signature = signBytes(null, Buffer.from(text), signer.privateKey);
  const blob = Buffer.concat([keyHashOf(noteKeyOf(signer)), signature]);
  const note = Buffer.from(`${text}\n\u2014 ${signer.name} ${toBase64(blob)}\n`);
  if (parseNote(note)?.text === text) return note;
  throw new VramError("INVALID_ARGUMENT", "the text of a note is lines of UTF-8 without control characters");
}

function parseSignature(line: string): NoteSignature | undefined {
  const [, name = "", encoded = ""] = SIGNATURE_LINE.exec(line) ?? [];
  const blob = fromBase64(encoded);
  if (!isName(name) || blob === undefined || blob.byteLength <= KEY_HASH_BYTES) return undefined;
  return { name, keyHash: blob.subarray(0, KEY_HASH_BYTES), signature: blob.subarray(KEY_HASH_BYTES) };
}

/** Reads a note; undefined if it is not well-formed or has more than 16 signatures or 128 KiB. */
export function parseNote(bytes: Uint8Array): Note | undefined {
  if (bytes.byteLength > LIMITS.noteBytes || !isUtf8(bytes)) return undefined;
  const whole = Buffer.from(bytes).toString("utf8");
  const border = whole.lastIndexOf("\n\n");
  if (border === -1 || !whole.endsWith("\n") || hasControls(whole)) return undefined;
  const lines = whole.slice(border + 2, -1).split("\n");
  if (lines.length > LIMITS.noteSignatures) return undefined;
  const signatures = lines.map(parseSignature).filter((signature) => signature !== undefined);
  return signatures.length === lines.length ? { text: whole.slice(0, border + 1), signatures } : undefined;
}

/**
 * Whether `key` signed the note: `unsigned` if no signature is under its name and hash, `signature` if one of those
 * does not hold.
 */
export function checkNote(note: Note, key: NoteKey): "valid" | "unsigned" | "signature" {
  const keyHash = keyHashOf(key);
  const own = note.signatures.filter(
    (signature) => signature.name === key.name && constantTimeEqual(signature.keyHash, keyHash),
  );
  if (own.length === 0) return "unsigned";
  const text = Buffer.from(note.text);
  return own.every(({ signature }) => verifyBytes(null, text, key.publicKey, signature)) ? "valid" : "signature";
}
