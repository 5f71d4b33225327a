/** What the process that talks to NVML does: answers requests, one at a time. */
import { fromHex } from "../bytes.ts";
import { EVIDENCE_BYTES, type GpuHealth } from "./monitor.ts";
import { type Nvml, openNvml } from "./nvml.ts";
import { type EvidenceInHex, evidenceInHex } from "./nvml-evidence.ts";

/** What is asked of a GPU. The nonce is in hex: requests and replies travel as JSON. */
export type NvmlQuestion =
  | { readonly kind: "health"; readonly uuid: string }
  | { readonly kind: "evidence"; readonly uuid: string; readonly nonce: string };

/** `id` comes back with the answer. */
export type NvmlRequest = NvmlQuestion & { readonly id: number };

export type NvmlReply =
  | { readonly id: number; readonly kind: "health"; readonly health: GpuHealth }
  /** Absent where there is none. */
  | { readonly id: number; readonly kind: "evidence"; readonly evidence?: EvidenceInHex };

/** Throws where NVML cannot be opened. */
function answerOf(nvml: () => Nvml, request: NvmlRequest): NvmlReply {
  const { id, uuid } = request;
  if (request.kind === "health") return { id, kind: "health", health: nvml().read(uuid) };
  const evidence = nvml().evidence(uuid, fromHex(request.nonce, EVIDENCE_BYTES.nonce, "nonce"));
  return { id, kind: "evidence", ...(evidence === undefined ? {} : { evidence: evidenceInHex(evidence) }) };
}

/**
 * Answers requests with what the NVML at `library` knows. It is opened by the first request; if it cannot be, nothing is
 * known and the next request tries again, for a driver may be loaded later. Never throws.
 */
export function nvmlServer(library: string): (request: NvmlRequest) => NvmlReply {
  let nvml: Nvml | undefined;
  const opened = (): Nvml => {
    nvml ??= openNvml(library);
    return nvml;
  };
  return (request) => {
    try {
      return answerOf(opened, request);
    } catch {
      const { id, kind } = request;
      return kind === "health" ? { id, kind, health: {} } : { id, kind };
    }
  };
}
