/** What the process that talks to NVML does: answers requests, one at a time. */
import type { GpuHealth } from "./monitor.ts";
import { type Nvml, openNvml } from "./nvml.ts";

/** `id` comes back with the answer. */
export interface NvmlRequest {
  readonly id: number;
  readonly uuid: string;
}

export interface NvmlReply {
  readonly id: number;
  readonly health: GpuHealth;
}

/**
 * Answers requests with what the NVML at `library` knows. It is opened by the first request; if it cannot be, the
 * answer is `{}` and the next request tries again, for a driver may be loaded later. Never throws.
 */
export function nvmlServer(library: string): (request: NvmlRequest) => NvmlReply {
  let nvml: Nvml | undefined;
  return ({ id, uuid }) => {
    try {
      nvml ??= openNvml(library);
      return { id, health: nvml.read(uuid) };
    } catch {
      return { id, health: {} };
    }
  };
}
