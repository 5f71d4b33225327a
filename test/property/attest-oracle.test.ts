/**
 * Statements judged three times: by our checker, by `openssl` and by sigstore's verifier, which share no code with it.
 * Some are whole, some are not: a bit of payload or signature, another key, another type, one byte more.
 */
import { spawnSync } from "node:child_process";
import { createPublicKey, randomInt } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "@noble/hashes/sha2.js";
import { bundleFromJSON } from "@sigstore/bundle";
import { toSignedEntity, Verifier } from "@sigstore/verify";
import fc from "fast-check";
import { afterAll, expect, it } from "vitest";
import { type Envelope, PAYLOAD_TYPE } from "../../src/attest/envelope.ts";
import { createStatementSigner } from "../../src/attest/keys.ts";
import { madeStatement, SIGNER } from "../helpers/statements.ts";

const CASES = 500;
const seed = Number(process.env["VRAM_TEST_SEED"] ?? randomInt(2 ** 31));
const folder = mkdtempSync(join(tmpdir(), "vram-oracle-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const OTHER = createStatementSigner();

/** What is done to an envelope after it was signed. */
const TAMPERING = {
  nothing: (envelope: Envelope) => envelope,
  payload: (envelope: Envelope, at: number) => ({ ...envelope, payload: flipped(envelope.payload, at) }),
  signature: (envelope: Envelope, at: number) => ({
    ...envelope,
    signatures: [{ ...envelope.signatures[0], sig: flipped(envelope.signatures[0].sig, at) }],
  }),
  longer: (envelope: Envelope) => ({
    ...envelope,
    payload: Buffer.concat([Buffer.from(envelope.payload, "base64"), Buffer.from(" ")]).toString("base64"),
  }),
  key: (envelope: Envelope) => envelope,
} as const;
type Tampering = keyof typeof TAMPERING;

function flipped(base64: string, at: number): string {
  const bytes = Buffer.from(base64, "base64");
  const bit = at % (bytes.byteLength * 8);
  bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return bytes.toString("base64");
}

/** PAE, from the text of the DSSE protocol. */
const signedBytes = (payload: Buffer): Buffer =>
  Buffer.concat([Buffer.from(`DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${payload.byteLength} `), payload]);

/** One process for all of them: a shell that runs openssl for each. */
function opensslVerdicts(count: number): boolean[] {
  const script = `i=0; while [ $i -lt ${count} ]; do
    openssl dgst -sha256 -verify pub.pem -signature $i.sig $i.pae >/dev/null 2>&1 && echo 1 || echo 0; i=$((i+1)); done`;
  const { stdout, status } = spawnSync("sh", ["-c", script], { cwd: folder, encoding: "utf8" });
  expect(status).toBe(0);
  return stdout
    .trim()
    .split("\n")
    .map((verdict) => verdict === "1");
}

const verifier = new Verifier(
  {
    ...{ certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] },
    publicKey: () => ({ publicKey: createPublicKey(SIGNER.publicPem), validFor: () => true }),
  },
  { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 },
);

function sigstoreVerdict(envelope: unknown): boolean {
  const bundle = {
    mediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
    verificationMaterial: { publicKey: { hint: SIGNER.keyId }, tlogEntries: [] },
    dsseEnvelope: envelope,
  };
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(bundle)));
    return true;
  } catch {
    return false;
  }
}

it(`[VR-ATT-01] ${CASES} statements: three verifiers agree on each signature`, async () => {
  const cases = fc.sample(
    fc.record({
      name: fc.string({ unit: "binary", minLength: 1, maxLength: 40 }).filter((name) => name.isWellFormed()),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 9000 }),
      nonce: fc.uint8Array({ minLength: 16, maxLength: 32 }),
      lines: fc.integer({ min: 1, max: 12 }),
      backend: fc.constantFrom("cuda" as const, "emulated" as const, "cuda-substituted" as const),
      how: fc.constantFrom(...(Object.keys(TAMPERING) as Tampering[])),
      at: fc.nat(),
    }),
    { numRuns: CASES, seed },
  );
  writeFileSync(join(folder, "pub.pem"), SIGNER.publicPem);
  const ours: boolean[] = [];
  const theirs: boolean[] = [];
  for (const [index, { name, bytes, nonce, lines, backend, how, at }] of cases.entries()) {
    const made = madeStatement({
      ...{ name, bytes, lines, backend, index: at % lines, nonce: Buffer.from(nonce).toString("hex") },
      envelope: (whole) => TAMPERING[how](whole, at),
      ...(how === "key" ? { signer: OTHER } : {}),
    });
    const envelope = JSON.parse(made.file.toString()) as Envelope;
    const payload = Buffer.from(envelope.payload, "base64");
    writeFileSync(join(folder, `${index}.pae`), signedBytes(payload));
    writeFileSync(join(folder, `${index}.sig`), Buffer.from(envelope.signatures[0].sig, "base64"));
    const checked = await made.check({ acceptBackends: ["emulated", "cuda-substituted"], logKey: made.logKey });
    ours.push(checked.ok);
    theirs.push(sigstoreVerdict(envelope));
    // What holds holds altogether, and what does not is refused for its signature before anything in it is looked at.
    expect(checked, JSON.stringify({ seed, index, how })).toMatchObject(
      how === "nothing" ? { ok: true } : { ok: false, fault: "signature" },
    );
    if (how === "nothing") expect(Buffer.from(sha256(payload)).equals(Buffer.from(sha256(made.payload)))).toBe(true);
  }
  const openssl = opensslVerdicts(CASES);
  expect(theirs).toEqual(ours);
  expect(openssl).toEqual(ours);
  const held = ours.filter(Boolean).length;
  console.log(`statements: ${CASES}, ${held} hold, ${CASES - held} do not; VRAM_TEST_SEED=${seed}`);
  expect(held).toBeGreaterThan(CASES / 10);
});
