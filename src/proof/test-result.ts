/**
 * The signed result of a run: an in-toto Statement v1 with the predicate "test result" v0.1
 * (https://github.com/in-toto/attestation, spec/predicates/test-result.md), in the same envelope as statements about
 * weights. Its subjects are the commit that was tested, if nothing was changed on top of it, and `SHA256SUMS`, and
 * through that every other file of the bundle.
 */
import { z } from "zod";
import { type OpenedEnvelope, openEnvelope, PAYLOAD_TYPE, signEnvelope } from "../attest/envelope.ts";
import type { StatementSigner } from "../attest/keys.ts";
import { STATEMENT_TYPE } from "../attest/statement.ts";
import { toBase64 } from "../audit/note.ts";
import { canonicalJson, toHex } from "../bytes.ts";
import { LIMITS } from "../limits.ts";
import type { Outcome } from "./results.ts";

export const TEST_RESULT_TYPE = "https://in-toto.io/attestation/test-result/v0.1";
export const SUMS_FILE = "SHA256SUMS";
export const STATEMENT_FILE = "statement.dsse.json";
export const PUBLIC_KEY_FILE = "statement.pub.pem";
export const COMMIT_SUBJECT = "vram-residency";

const sha256 = z.strictObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/) });
const gitCommit = z.strictObject({ gitCommit: z.string().regex(/^[0-9a-f]{40}$/) });
const names = z.array(z.string().min(1)).max(LIMITS.proofNames);

const schema = z.strictObject({
  _type: z.literal(STATEMENT_TYPE),
  subject: z.union([
    z.tuple([z.strictObject({ name: z.literal(SUMS_FILE), digest: sha256 })]),
    z.tuple([
      z.strictObject({ name: z.literal(SUMS_FILE), digest: sha256 }),
      z.strictObject({ name: z.literal(COMMIT_SUBJECT), digest: gitCommit }),
    ]),
  ]),
  predicateType: z.literal(TEST_RESULT_TYPE),
  predicate: z.strictObject({
    /** `WARNED`: nothing failed, but not everything ran; without a GPU the GPU suite does not. */
    result: z.enum(["PASSED", "WARNED", "FAILED"]),
    configuration: z.array(z.strictObject({ name: z.string().min(1), digest: sha256 })).min(1),
    /** Names of tests that were skipped, the first of them if there are many. */
    warnedTests: names,
    failedTests: names,
  }),
});

export type TestResult = z.infer<typeof schema>;

/** The beginning of a name, of at most `LIMITS.proofNameBytes` bytes as JSON in UTF-8. */
function short(name: string): string {
  const tooLong = (): number => Buffer.byteLength(JSON.stringify(chars.join(""))) - 2 - LIMITS.proofNameBytes;
  const chars = Array.from(name).slice(0, LIMITS.proofNameBytes);
  // No character has more than six bytes there.
  for (let surplus = tooLong(); surplus > 0; surplus = tooLong()) chars.splice(-Math.ceil(surplus / 6));
  return chars.join("");
}

/** What the statement says of an outcome; lists are cut at `LIMITS.proofNames`. */
export function verdictOf({ whole, failed, skipped }: Outcome): Omit<TestResult["predicate"], "configuration"> {
  const cut = (all: readonly string[]): string[] => all.slice(0, LIMITS.proofNames).map(short);
  const result = failed.length > 0 ? "FAILED" : skipped.length > 0 || !whole ? "WARNED" : "PASSED";
  return { result, warnedTests: cut(skipped), failedTests: cut(failed) };
}

/** What a run is signed with. */
export interface TestResultParts {
  readonly sumsSha256: string;
  /** 40 hex digits; undefined if files were changed on top of a commit, or there is none. */
  readonly commit: string | undefined;
  /** Files that say how it was run, with their SHA-256. */
  readonly configuration: readonly { readonly name: string; readonly sha256: string }[];
  readonly outcome: Outcome;
}

/** The payload that is signed: RFC 8785 JSON. */
export function encodeTestResult({ sumsSha256, commit, configuration, outcome }: TestResultParts): Uint8Array {
  const sums = { name: SUMS_FILE, digest: { sha256: sumsSha256 } };
  const source = commit === undefined ? [] : [{ name: COMMIT_SUBJECT, digest: { gitCommit: commit } }];
  const statement = {
    _type: STATEMENT_TYPE,
    subject: [sums, ...source],
    predicateType: TEST_RESULT_TYPE,
    predicate: {
      ...verdictOf(outcome),
      configuration: configuration.map(({ name, sha256: hex }) => ({ name, digest: { sha256: hex } })),
    },
  };
  return Buffer.from(canonicalJson(schema.parse(statement)), "utf8");
}

/** n/2 of P-256 (SEC 2, 2.4.2). (r, s) and (r, n − s) are as valid; of these two the one with the smaller s is taken. */
const HALF_ORDER = 0x7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8n;

/** Whether s of a signature in DER (SEQUENCE of two INTEGER, RFC 3279) is the smaller one. */
function hasSmallS(signature: Uint8Array): boolean {
  const at = 4 + (signature[3] ?? 0);
  const s = signature.subarray(at + 2, at + 2 + (signature[at + 1] ?? 0));
  return BigInt(`0x${toHex(s) || "0"}`) <= HALF_ORDER;
}

const format = (envelope: unknown): string => `${JSON.stringify(envelope, null, 2)}\n`;

/** The text of `statement.dsse.json`: a signed payload in its one form. */
export function formatSigned(payload: Uint8Array, signer: StatementSigner): string {
  const signed = () => signEnvelope(payload, signer.privateKey, signer.keyId);
  // Each signature is made with a number of its own, and every second one has the smaller s.
  let envelope = signed();
  while (!hasSmallS(Buffer.from(envelope.signatures[0].sig, "base64"))) envelope = signed();
  return format(envelope);
}

/** Reads such a text, undefined unless it is in that form: nobody can change a byte of it who has not the key. */
export function openSigned(bytes: Uint8Array): OpenedEnvelope | undefined {
  const opened = openEnvelope(bytes);
  if (opened === undefined || !hasSmallS(opened.signature)) return undefined;
  const { payload, keyId: keyid, signature } = opened;
  const again = {
    payload: toBase64(payload),
    payloadType: PAYLOAD_TYPE,
    signatures: [{ keyid, sig: toBase64(signature) }],
  };
  return Buffer.from(bytes).equals(Buffer.from(format(again))) ? opened : undefined;
}

/** Reads a payload; undefined if it is anything else than what `encodeTestResult` writes. */
export function decodeTestResult(payload: Uint8Array): TestResult | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(payload);
    const parsed = schema.safeParse(JSON.parse(text));
    return parsed.success && canonicalJson(parsed.data) === text ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}
