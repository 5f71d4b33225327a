/**
 * The evidence of a GPU in confidential-computing mode, as NVML hands it out. The library says how long each part is:
 * one that would not fit where it is written makes the evidence absent, rather than be read past its end.
 * Source of layouts and values: nvml.h, as in `nvml-calls.ts`.
 */
import { toHex } from "../bytes.ts";
import { EVIDENCE_BYTES, type GpuEvidence } from "./monitor.ts";
import { type NvmlCalls, room, succeeds } from "./nvml-calls.ts";

/** `nvmlConfComputeSystemState_t`: environment, ccFeature at 4, devToolsMode. `NVML_CC_SYSTEM_FEATURE_ENABLED`. */
const STATE_BYTES = 12;
const FEATURE_AT = 4;
const FEATURE_ENABLED = 1;
/** `nvmlConfComputeGpuCertificate_t`: the sizes of both chains at 0 and 4, and the chains. */
const CERTIFICATE_BYTES = 9224;
const CHAIN_AT = 8;
const ATTESTATION_CHAIN_AT = CHAIN_AT + EVIDENCE_BYTES.certificateChain;
/** `nvmlConfComputeGpuAttestationReport_t`: whether there is a CEC, both sizes at 4 and 8, the nonce, both reports. */
const REPORT_BYTES = 12_332;
const NONCE_AT = 12;
const REPORT_AT = NONCE_AT + EVIDENCE_BYTES.nonce;
const CEC_REPORT_AT = REPORT_AT + EVIDENCE_BYTES.report;

/** A copy of the part whose size is at `sizeAt`; undefined if that is more than its field has. */
function partOf(
  { bytes, view }: ReturnType<typeof room>,
  sizeAt: number,
  at: number,
  maxBytes: number,
): Uint8Array | undefined {
  const byteLength = view.getUint32(sizeAt, true);
  return byteLength <= maxBytes ? bytes.slice(at, at + byteLength) : undefined;
}

/** Whether this machine is in confidential-computing mode: elsewhere nothing else is asked. */
function isEnabled(calls: NvmlCalls): boolean {
  const { bytes, view } = room(STATE_BYTES);
  return succeeds(calls.confComputeState, bytes) && view.getUint32(FEATURE_AT, true) === FEATURE_ENABLED;
}

function readChains(
  calls: NvmlCalls,
  device: bigint,
): Pick<GpuEvidence, "certificateChain" | "attestationCertificateChain"> | undefined {
  const answer = room(CERTIFICATE_BYTES);
  if (!succeeds(calls.confComputeCertificate, device, answer.bytes)) return undefined;
  const certificateChain = partOf(answer, 0, CHAIN_AT, EVIDENCE_BYTES.certificateChain);
  const attestationCertificateChain = partOf(
    answer,
    4,
    ATTESTATION_CHAIN_AT,
    EVIDENCE_BYTES.attestationCertificateChain,
  );
  const known = certificateChain !== undefined && attestationCertificateChain !== undefined;
  return known ? { certificateChain, attestationCertificateChain } : undefined;
}

function readReports(
  calls: NvmlCalls,
  device: bigint,
  nonce: Uint8Array,
): Pick<GpuEvidence, "report" | "cecReport"> | undefined {
  const answer = room(REPORT_BYTES);
  answer.bytes.set(nonce, NONCE_AT);
  if (!succeeds(calls.confComputeReport, device, answer.bytes)) return undefined;
  const report = partOf(answer, 4, REPORT_AT, EVIDENCE_BYTES.report);
  // One of no bytes holds no nonce.
  if (report === undefined || report.byteLength === 0) return undefined;
  if (answer.view.getUint32(0, true) === 0) return { report };
  const cecReport = partOf(answer, 8, CEC_REPORT_AT, EVIDENCE_BYTES.cecReport);
  return cecReport === undefined ? undefined : { report, cecReport };
}

/**
 * Evidence over a nonce of 32 bytes: all of it, or undefined where a function is missing, answers anything but success,
 * or says what cannot be. The report comes last: the GPU signs nothing that is then thrown away for want of a chain.
 */
export function readEvidence(calls: NvmlCalls, device: bigint, nonce: Uint8Array): GpuEvidence | undefined {
  const chains = isEnabled(calls) ? readChains(calls, device) : undefined;
  const reports = chains === undefined ? undefined : readReports(calls, device, nonce);
  return chains === undefined || reports === undefined ? undefined : { ...reports, ...chains };
}

/** Evidence as it crosses between processes in JSON: hex, lower case. */
export type EvidenceInHex = { readonly [Part in keyof GpuEvidence]: string };

export const evidenceInHex = (evidence: GpuEvidence): EvidenceInHex => ({
  report: toHex(evidence.report),
  ...(evidence.cecReport === undefined ? {} : { cecReport: toHex(evidence.cecReport) }),
  certificateChain: toHex(evidence.certificateChain),
  attestationCertificateChain: toHex(evidence.attestationCertificateChain),
});
