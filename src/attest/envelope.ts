/**
 * DSSE v1 envelopes (https://github.com/secure-systems-lab/dsse), signed with ECDSA over P-256 and SHA-256, signatures in
 * DER: what `openssl dgst -sha256 -verify` and sigstore read. Signed is the pre-authentication encoding, which names the
 * type of the payload, so that no other kind of signed text passes for a statement. An envelope is JSON, however it is
 * spaced; it has one reading: no key twice, none unknown, one signature.
 */
import { type KeyObject, sign, verify } from "node:crypto";
import { z } from "zod";
import { fromBase64, toBase64 } from "../audit/note.ts";
import { LIMITS } from "../limits.ts";

/** What a statement says of itself in its envelope. */
export const PAYLOAD_TYPE = "application/vnd.in-toto+json";

/** As it is written down. `sig` and `payload` are base64 (standard, padded). */
export const envelopeSchema = z.strictObject({
  /** The in-toto statement, RFC 8785 JSON, in base64. */
  payload: z.string().min(1).meta({ description: "base64 of the in-toto statement, which is RFC 8785 JSON" }),
  /** Of in-toto, and of nothing else. */
  payloadType: z.literal(PAYLOAD_TYPE),
  /** Exactly one. */
  signatures: z.tuple([
    z.strictObject({
      /** SHA-256 of the SPKI of the key that signed, 64 hex digits. */
      keyid: z.string().regex(/^[0-9a-f]{64}$/),
      /** ECDSA over P-256 and SHA-256 of the pre-authentication encoding: DER, in base64. */
      sig: z.string().min(1).meta({ description: "base64 of an ECDSA signature in DER" }),
    }),
  ]),
});

export type Envelope = z.infer<typeof envelopeSchema>;

/** What was read from an envelope; nothing in it is believed yet. */
export interface OpenedEnvelope {
  readonly payload: Uint8Array;
  readonly keyId: string;
  readonly signature: Uint8Array;
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** PAE of the DSSE protocol: `DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload`. */
export function preAuthEncoding(payload: Uint8Array): Uint8Array {
  const head = `DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${payload.byteLength} `;
  return Buffer.concat([Buffer.from(head), payload]);
}

/** Signs a payload with a P-256 key, which `keyId` names. */
export function signEnvelope(payload: Uint8Array, privateKey: KeyObject, keyId: string): Envelope {
  const signature = sign("sha256", preAuthEncoding(payload), { key: privateKey, dsaEncoding: "der" });
  return {
    payload: toBase64(payload),
    payloadType: PAYLOAD_TYPE,
    signatures: [{ keyid: keyId, sig: toBase64(signature) }],
  };
}

/** Whether the envelope carries a signature of this key over its payload. */
export function checkEnvelope({ payload, signature }: OpenedEnvelope, publicKey: KeyObject): boolean {
  return verify("sha256", preAuthEncoding(payload), { key: publicKey, dsaEncoding: "der" }, signature);
}

/** Whether `text` is `value` as JSON with nothing but white space added: a key that stands twice would be lost. */
function isOneReading(text: string, value: unknown): boolean {
  const tight = text.replace(/("(?:[^"\\]|\\.)*")|[ \t\r\n]+/g, "$1");
  return tight === JSON.stringify(value);
}

/** What the JSON of a small file says; undefined if it is none, is too long, or could be read in two ways. */
export function parseOneReading(bytes: Uint8Array): unknown {
  if (bytes.byteLength > LIMITS.statementBytes) return undefined;
  try {
    const text = decoder.decode(bytes);
    const value: unknown = JSON.parse(text);
    return isOneReading(text, value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Reads an envelope; undefined if it is none, or more than one thing. */
export function openEnvelope(bytes: Uint8Array): OpenedEnvelope | undefined {
  const parsed = envelopeSchema.safeParse(parseOneReading(bytes));
  if (!parsed.success) return undefined;
  const [{ keyid, sig }] = parsed.data.signatures;
  const payload = fromBase64(parsed.data.payload);
  const signature = fromBase64(sig);
  return payload === undefined || signature === undefined ? undefined : { payload, keyId: keyid, signature };
}
