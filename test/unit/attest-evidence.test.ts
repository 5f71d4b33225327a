/** What came with a statement of the GPU's own: of which it is only seen whether it was made for this statement. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { encodeEvidence } from "../../src/attest/evidence.ts";
import { madeStatement } from "../helpers/statements.ts";

const made = madeStatement();
const nonce = createHash("sha256").update(made.payload).digest();
/** DSP0274, GET_MEASUREMENTS: version 1.1, code 0xE0, two parameters, the nonce, a slot; and some of an answer. */
const report = Buffer.concat([Buffer.from([0x11, 0xe0, 1, 0xff]), nonce, Buffer.from([0, 0x11, 0x60])]);
const parts = { report, certificateChain: Buffer.from("chain"), attestationCertificateChain: Buffer.from("other") };
const whole = JSON.stringify(encodeEvidence(parts, nonce));
const hardware = async (text: string) => {
  const checked = await made.check({ evidence: Buffer.from(text) });
  return checked.ok ? checked.findings.find(({ property }) => property === "hardware") : checked;
};

it("[VR-ATT-01] evidence that holds the statement's hash is told of as that, and shows nothing", async () => {
  const found = await hardware(whole);
  const words = "a report of 39 bytes with this statement's hash where its nonce stands; who made it is not verified";
  expect(found).toMatchObject({ shown: false, words: expect.stringContaining(words) as string });
  expect(await hardware(JSON.stringify(JSON.parse(whole), null, 2))).toEqual(found);
});

const withReport = (bytes: Uint8Array): string => JSON.stringify(encodeEvidence({ ...parts, report: bytes }, nonce));

it.each<[string, string]>([
  ["of another statement", JSON.stringify(encodeEvidence(parts, Buffer.alloc(32)))],
  ["whose report is for another statement", withReport(Buffer.concat([Buffer.alloc(4), Buffer.alloc(32), report]))],
  ["whose report is the hash alone", withReport(nonce)],
  ["whose report is a request without an answer", withReport(report.subarray(0, 37))],
  ["whose report has the hash elsewhere", withReport(Buffer.concat([Buffer.from([0]), report]))],
  ["whose report is no base64", whole.replace(/("report":")./, "$1!")],
  ["whose chain is no base64", whole.replace(/("certificateChain":")./, "$1!")],
  ["with a nonce that stands twice", whole.replace("{", `{"nonce":"${"0".repeat(64)}",`)],
  ["with more in it", whole.replace("{", '{"more":1,')],
  ["of another kind", whole.replace("nvidia", "other")],
  ["that is no JSON", "evidence"],
])("[VR-ATT-01] evidence %s is refused", async (_what, text) => {
  expect(text).not.toBe(whole);
  expect(await hardware(text)).toMatchObject({ ok: false, fault: "evidence" });
});
