/**
 * Keys that sign statements: ECDSA over P-256, one to a state directory, PKCS#8 in PEM in `STATE/statement.key` (0600).
 * A key is called by the SHA-256 of its public half (SPKI, DER), in hex. What is given to auditors is that half, as PEM.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { encodePrivateKey } from "../audit/key-files.ts";
import { toHex } from "../bytes.ts";
import { VramError } from "../errors.ts";

export const STATEMENT_KEY_FILE = "statement.key";
/** Of what could be a key file: PEM of P-256 has 241 bytes. */
export const STATEMENT_KEY_BYTES_MAX = 4096;

const PKCS8_HEAD = "-----BEGIN PRIVATE KEY-----";
const CURVE = "prime256v1";

/** A key that signs statements, with the public half as it is handed out. */
export interface StatementSigner {
  readonly keyId: string;
  readonly privateKey: KeyObject;
  /** SPKI in PEM. */
  readonly publicPem: string;
}

const isP256 = (key: KeyObject): boolean =>
  key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === CURVE;

/** What a public key is called: SHA-256 of its SPKI in DER, hex. */
export function keyIdOf(publicKey: KeyObject): string {
  return toHex(
    createHash("sha256")
      .update(publicKey.export({ format: "der", type: "spki" }))
      .digest(),
  );
}

function signerOf(privateKey: KeyObject): StatementSigner {
  const publicKey = createPublicKey(privateKey);
  const publicPem = publicKey.export({ format: "pem", type: "spki" }).toString();
  return { keyId: keyIdOf(publicKey), privateKey, publicPem };
}

/** A fresh key. */
export function createStatementSigner(): StatementSigner {
  return signerOf(generateKeyPairSync("ec", { namedCurve: CURVE }).privateKey);
}

/** The bytes of a key file. The caller zeroes them. */
export const encodeStatementKey = ({ privateKey }: StatementSigner): Uint8Array => encodePrivateKey(privateKey);

/** A signer from the bytes of a key file; `STATE_INVALID` if they hold anything but a P-256 private key. */
export function readStatementKey(pem: Uint8Array, path: string): StatementSigner {
  let privateKey: KeyObject | undefined;
  try {
    // A view: a copy would be one more to overwrite.
    const key = Buffer.from(pem.buffer, pem.byteOffset, pem.byteLength);
    // Node reads any kind of PEM, whatever type it is told.
    if (key.indexOf(PKCS8_HEAD) === 0) privateKey = createPrivateKey({ key, format: "pem", type: "pkcs8" });
  } catch {
    // The cause could quote the key file.
  }
  if (privateKey !== undefined && isP256(privateKey)) return signerOf(privateKey);
  throw new VramError("STATE_INVALID", `${path}: not a key for statements, which is P-256 in a PKCS#8 file in PEM`);
}

/** One public key, and nothing else. */
const ONE_KEY = /^\s*-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----\s*$/;

/** A public key as `vram attest keys` writes it: SPKI of P-256 in PEM. `INVALID_ARGUMENT` for anything else. */
export function parsePublicKey(pem: string): KeyObject {
  let publicKey: KeyObject | undefined;
  try {
    // A private key would be taken for its public half, and has no business here; of two keys the first would be taken.
    if (ONE_KEY.test(pem)) publicKey = createPublicKey({ key: pem, format: "pem" });
  } catch {
    // Said below.
  }
  // A point may be written in short; the key is called by the form in which it is handed out, which is the long one.
  if (publicKey !== undefined && isP256(publicKey)) {
    return createPublicKey({ key: publicKey.export({ format: "jwk" }), format: "jwk" });
  }
  throw new VramError("INVALID_ARGUMENT", "the key of a statement is a P-256 public key in PEM (BEGIN PUBLIC KEY)", {
    fix: "`vram attest keys --out DIR` writes it as statement.pub.pem",
    details: { argument: "publicKey" },
  });
}
