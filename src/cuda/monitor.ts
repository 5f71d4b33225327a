/**
 * What NVML knows of a GPU beside CUDA: who else uses it, and how healthy it is. Evidence, never a condition: every
 * field is absent where the GPU, the driver or the permission has no answer, and its absence says nothing.
 */

import { VramError } from "../errors.ts";

/** NVML as the loader finds it. */
export const NVML_LIBRARY = "libnvidia-ml.so.1";

/** Another process with memory on the device, as NVML lists it. */
export interface Tenant {
  readonly pid: number;
  /** Of its program, without the folder; "unknown" when the driver does not say. */
  readonly name: string;
  /** 0 when the driver does not say. */
  readonly byteLength: number;
}

/** ECC errors since the driver was loaded (`volatile`) or over the life of the GPU (`aggregate`). */
export interface EccCounts {
  readonly corrected: number;
  readonly uncorrected: number;
}

/** What the driver advises (NVML field 230); "unknown" is advice newer than this list. */
export type RecoveryAction = "none" | "gpu-reset" | "node-reboot" | "drain-p2p" | "drain-and-reset" | "unknown";

export interface GpuHealth {
  /** Of the NVIDIA driver, for example "580.95.05". */
  readonly driverVersion?: string;
  readonly processes?: readonly Tenant[];
  /** Bytes; `reserved` is the driver's own. */
  readonly memory?: {
    readonly bytesTotal: number;
    readonly bytesReserved: number;
    readonly bytesFree: number;
    readonly bytesUsed: number;
  };
  readonly ecc?: { readonly volatile: EccCounts; readonly aggregate: EccCounts };
  readonly remappedRows?: {
    readonly corrected: number;
    readonly uncorrected: number;
    readonly pending: boolean;
    readonly failed: boolean;
  };
  readonly recoveryAction?: RecoveryAction;
  /**
   * Xid events since the monitor's first look at this GPU, oldest first, the newest 256 of them; 45 (a process that
   * ended) left out.
   */
  readonly xids?: readonly number[];
}

/**
 * What a GPU in confidential-computing mode says of itself, signed by NVIDIA's chain; of identity and firmware, not of
 * the contents of VRAM. Handed on as it is: nothing here has checked a signature.
 */
export interface GpuEvidence {
  /** SPDM measurement report that holds the nonce. */
  readonly report: Uint8Array;
  /** Of the CEC, where there is one. */
  readonly cecReport?: Uint8Array;
  /** PEM chains, as NVML gives them. */
  readonly certificateChain: Uint8Array;
  readonly attestationCertificateChain: Uint8Array;
}

/** Bytes of each part: of the nonce exactly, of the others what nvml.h has room for. */
export const EVIDENCE_BYTES = {
  nonce: 32,
  report: 8192,
  cecReport: 4096,
  certificateChain: 4096,
  attestationCertificateChain: 5120,
} as const;

/** Throws `INVALID_ARGUMENT` unless the nonce has 32 bytes. Returns it. */
export function requireNonce(nonce: Uint8Array): Uint8Array {
  if (nonce.byteLength === EVIDENCE_BYTES.nonce) return nonce;
  throw new VramError("INVALID_ARGUMENT", `the nonce must have ${EVIDENCE_BYTES.nonce} bytes`, {
    details: { argument: "nonce" },
  });
}

/** Asks about GPUs by UUID. */
export interface GpuMonitor {
  /** Never rejects: what cannot be known in time is absent. */
  read(uuid: string): Promise<GpuHealth>;
  /**
   * Evidence that holds this nonce of 32 bytes. Never rejects: undefined where the GPU, the driver or the permission has
   * none, for a nonce of another length, and where nothing came in time.
   */
  evidence(uuid: string, nonce: Uint8Array): Promise<GpuEvidence | undefined>;
  /** Never throws; may be called twice. */
  close(): Promise<void>;
}

/** For whoever must not start NVML's process. */
export const NO_MONITOR: GpuMonitor = {
  read: async () => ({}),
  evidence: async () => undefined,
  close: async () => undefined,
};
