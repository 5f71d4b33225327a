/** The checks of what a device's process says of its GPU beside CUDA: part of `checks.ts`, and as strict. */
import { z } from "zod";
import { EVIDENCE_BYTES } from "../cuda/monitor.ts";
import { LIMITS } from "../limits.ts";
import type { CallResult } from "./protocol.ts";

const count = z.int().min(0);
const flag = z.boolean();
const text = z.string();
const eccCounts = z.strictObject({ corrected: count, uncorrected: count });

export const health: z.ZodType<CallResult<"health">> = z.strictObject({
  driverVersion: text.exactOptional(),
  processes: z
    .array(z.strictObject({ pid: count, name: text, byteLength: count }))
    .max(LIMITS.nvmlProcesses)
    .exactOptional(),
  memory: z
    .strictObject({ bytesTotal: count, bytesReserved: count, bytesFree: count, bytesUsed: count })
    .exactOptional(),
  ecc: z.strictObject({ volatile: eccCounts, aggregate: eccCounts }).exactOptional(),
  remappedRows: z.strictObject({ corrected: count, uncorrected: count, pending: flag, failed: flag }).exactOptional(),
  recoveryAction: z
    .enum(["none", "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset", "unknown"])
    .exactOptional(),
  xids: z.array(count).max(LIMITS.nvmlXids).exactOptional(),
});

/** A part of the evidence, no longer than NVML has room for. */
const part = (maxBytes: number) => z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= maxBytes);

export const evidence: z.ZodType<CallResult<"evidence">> = z.union([
  z.strictObject({
    report: part(EVIDENCE_BYTES.report),
    cecReport: part(EVIDENCE_BYTES.cecReport).exactOptional(),
    certificateChain: part(EVIDENCE_BYTES.certificateChain),
    attestationCertificateChain: part(EVIDENCE_BYTES.attestationCertificateChain),
  }),
  z.undefined(),
]);
