/**
 * What a GPU in confidential-computing mode says of itself, beside a statement: an SPDM report that holds the SHA-256 of
 * the statement as its nonce. It is about the GPU's identity and firmware, not about the contents of VRAM, and it is
 * NVIDIA's verifier that judges it; here it is held against the statement that it came with, and that alone.
 */
import { z } from "zod";
import { fromBase64, toBase64 } from "../audit/note.ts";
import { constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { GpuEvidence } from "../cuda/monitor.ts";
import { sha256 } from "../hash/descriptor.ts";
import { LIMITS } from "../limits.ts";

const base64 = z.string().max(16_384);

export const evidenceSchema = z
  .strictObject({
    kind: z.literal("nvidia-confidential-computing"),
    nonce: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .meta({ description: "SHA-256 of the statement: of the payload of its envelope" }),
    report: base64,
    cecReport: base64.optional(),
    certificateChain: base64,
    attestationCertificateChain: base64,
  })
  .meta({ id: "Evidence", description: "of the GPU's own; about its identity and firmware, not about VRAM" });

export type Evidence = z.infer<typeof evidenceSchema>;

/** The nonce that binds evidence to a statement. 32 bytes. */
export const evidenceNonce = (payload: Uint8Array): Uint8Array => sha256(payload);

/** Evidence as it is handed out. */
export function encodeEvidence(evidence: GpuEvidence, nonce: Uint8Array): Evidence {
  const { report, cecReport, certificateChain, attestationCertificateChain } = evidence;
  return {
    kind: "nvidia-confidential-computing",
    nonce: toHex(nonce),
    report: toBase64(report),
    ...(cecReport === undefined ? {} : { cecReport: toBase64(cecReport) }),
    certificateChain: toBase64(certificateChain),
    attestationCertificateChain: toBase64(attestationCertificateChain),
  };
}

export type CheckedEvidence =
  | { readonly ok: true /** Of the report. */; readonly byteLength: number }
  | { readonly ok: false; readonly message: string };

function parse(bytes: Uint8Array): Evidence | undefined {
  if (bytes.byteLength > LIMITS.statementBytes) return undefined;
  try {
    return evidenceSchema.safeParse(JSON.parse(Buffer.from(bytes).toString("utf8"))).data;
  } catch {
    return undefined;
  }
}

/** Whether the evidence is about the statement with this payload. */
export function checkEvidence(bytes: Uint8Array, payload: Uint8Array): CheckedEvidence {
  const evidence = parse(bytes);
  const report = evidence === undefined ? undefined : fromBase64(evidence.report);
  if (evidence === undefined || report === undefined) {
    return { ok: false, message: "the evidence is not of the form that `vram attest` writes" };
  }
  const nonce = evidenceNonce(payload);
  const isBound =
    constantTimeEqual(fromHex(evidence.nonce, 32, "nonce"), nonce) && Buffer.from(report).includes(Buffer.from(nonce));
  if (!isBound) return { ok: false, message: "the evidence was made for another statement" };
  return { ok: true, byteLength: report.byteLength };
}
