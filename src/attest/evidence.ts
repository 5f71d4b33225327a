/**
 * What a GPU in confidential-computing mode says of itself, beside a statement: an SPDM report that holds the SHA-256 of
 * the statement as its nonce. It is about the GPU's identity and firmware, not about the contents of VRAM, and it is
 * NVIDIA's verifier that judges it; here it is only seen whether the nonce is the statement's. Anybody could write that.
 */
import { z } from "zod";
import { fromBase64, toBase64 } from "../audit/note.ts";
import { constantTimeEqual, toHex } from "../bytes.ts";
import type { GpuEvidence } from "../cuda/monitor.ts";
import { sha256 } from "../hash/descriptor.ts";
import { parseOneReading } from "./envelope.ts";

const base64 = z
  .string()
  .max(16_384)
  .refine((text) => fromBase64(text) !== undefined, "is no base64");

/**
 * A report is the request and the answer to it. Source: DMTF DSP0274 1.1, GET_MEASUREMENTS: version, code and two
 * parameters, the nonce, a slot. NVIDIA's own verifier (nvtrust) reads it so; not yet seen on hardware.
 */
const REQUEST_BYTES = 37;
const NONCE_AT = 4;

export const evidenceSchema = z
  .strictObject({
    /** The only kind there is. */
    kind: z.literal("nvidia-confidential-computing"),
    /** SHA-256 of the statement, the payload of its envelope: 64 hex digits. */
    nonce: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .meta({ description: "SHA-256 of the statement: of the payload of its envelope" }),
    /** SPDM report of the GPU, in base64, as NVML handed it out; not judged here. */
    report: base64,
    /** Report of the GPU's CEC firmware, in base64; absent where there is none. */
    cecReport: base64.optional(),
    /** Certificates of the GPU, in base64, as NVML handed them out. */
    certificateChain: base64,
    /** Certificates that the report is judged by, in base64, as NVML handed them out. */
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

/** Whether the report has the nonce of the statement with this payload. */
export function checkEvidence(bytes: Uint8Array, payload: Uint8Array): CheckedEvidence {
  const evidence = evidenceSchema.safeParse(parseOneReading(bytes)).data;
  const report = fromBase64(evidence?.report ?? "");
  if (evidence === undefined || report === undefined) {
    return { ok: false, message: "the evidence is not of the form that `vram attest` writes" };
  }
  const nonce = evidenceNonce(payload);
  const isBound =
    report.byteLength > REQUEST_BYTES &&
    constantTimeEqual(report.subarray(NONCE_AT, NONCE_AT + nonce.byteLength), nonce) &&
    evidence.nonce === toHex(nonce);
  if (!isBound) return { ok: false, message: "the evidence does not hold this statement's hash as its nonce" };
  return { ok: true, byteLength: report.byteLength };
}
