/**
 * The process boundary (design §2, decision 7): asynchronous methods, plain data in and out, ids instead of handles.
 * Here a device is local; in the service it will be one child process per GPU behind this same interface. Keys,
 * policy and registry never live behind it.
 */
import type { Access, AllocationProperties, Backend } from "../cuda/driver.ts";
import type { GpuEvidence, GpuHealth } from "../cuda/monitor.ts";
import type { VramError } from "../errors.ts";
import type { FormatOptions, SourceInfo, SourceSpec } from "../source/source.ts";

/** What the driver says of a device; asked once, at open. */
export interface DeviceFacts {
  /** Shares the host's memory: the policy refuses it. */
  readonly integrated: boolean;
  /** `/dev/dxg` is there: WDDM pages VRAM while every attribute reads clean. */
  readonly wddm: boolean;
  /** Has `cuMemCreate` and mappings with access of their own: the policy demands it. */
  readonly virtualMemoryManagement: boolean;
  /** Shared through MPS, whose clients share one context: refused unless `allowMps`. */
  readonly mps: boolean;
  /** Reported, never refused on: 1 on ordinary Linux with HMM. */
  readonly pageableMemoryAccess: boolean;
  /** Host and device share one range of addresses. Reported, never refused on. */
  readonly unifiedAddressing: boolean;
  /** Has memory that migrates. Reported, never refused on: what counts is the kind of an allocation. */
  readonly managedMemory: boolean;
  /** An allocation can be exported as a file descriptor, which attaching needs. Reported, never refused on. */
  readonly posixFileDescriptorHandles: boolean;
  /** Reported, never refused on. */
  readonly eccEnabled: boolean;
}

/** A device as it was found when it was opened. Sizes in bytes. */
export interface DeviceInfo {
  /** The driver's number, from 0; another start may count otherwise. */
  readonly ordinal: number;
  /** `GPU-…`, `MIG-…`, emulated `EMU-…`: names the device for good. */
  readonly uuid: string;
  /** The driver's words; those of an emulated device say so. */
  readonly name: string;
  /** Which implementation answers for it. */
  readonly backend: Backend;
  /** 13000 is CUDA 13.0. */
  readonly driverVersion: number;
  /** MAJOR.MINOR: `9.0`; `0.0` for an emulated device. */
  readonly computeCapability: string;
  /** All of its memory, whoever holds it. */
  readonly bytesTotal: number;
  /** Allocations are whole multiples of it. */
  readonly granuleBytes: number;
  /** 0 for an emulated device. A shard under twice this size may be answered for by the cache. */
  readonly l2CacheBytes: number;
  /** What the policy judges. */
  readonly facts: DeviceFacts;
}

export interface DeviceMemory {
  readonly bytesTotal: number;
  readonly bytesFree: number;
}

/** What the driver says of one allocation and its main mapping; asked every time. */
export interface AllocationFacts {
  /** `pinned` is physical memory that stays where it is. */
  readonly allocationType: "pinned" | "managed" | "unknown";
  /** Where the driver says that the memory is. */
  readonly locationType: "device" | "host" | "unknown";
  /** What the driver says of the address. */
  readonly memoryType: "device" | "host" | "unified" | "unknown";
  /** Whether it may migrate between host and device. */
  readonly managed: boolean | "unknown";
  /** Whether both answers name the device that it was allocated on. */
  readonly ordinalMatches: boolean;
  /** Of the mapping that is measured; `read`, unless it was changed behind our back. */
  readonly mainAccess: Access | "unknown";
  /** Whether a second question gave the same answer. Reported, never refused on: a driver may have none. */
  readonly accessConfirmed: boolean;
  /** Whether the driver has the range with the size that was allocated. */
  readonly sizeMatches: boolean;
  /** Reported, never refused on: true on coherent machines. */
  readonly hostPointerKnown: boolean;
  /** The driver's own numbers, as they came. */
  readonly properties: AllocationProperties;
}

export type AllocationId = number;
export type SourceId = number;

export interface OpenedSourceInfo extends SourceInfo {
  readonly sourceId: SourceId;
}

export interface UploadRequest {
  readonly sourceId: SourceId;
  readonly allocationId: AllocationId;
  /** Digest the bytes that go into the ring (the `witnessed` way). */
  readonly witness: boolean;
  /** Also compute their plain SHA-256. */
  readonly sha256: boolean;
}

/** What only a caller in the same process can give; a process boundary turns it into messages. */
export interface UploadWatch {
  readonly signal?: AbortSignal;
  readonly onProgress?: (bytesDone: number) => void;
}

export interface UploadResult {
  readonly byteLength: number;
  readonly durationMs: number;
  /** fs-verity digest of the bytes that were read, if witnessed. */
  readonly digest?: Uint8Array;
  readonly sha256?: Uint8Array;
}

/** A tree measured from the bytes in VRAM. */
export interface Measurement {
  readonly digest: Uint8Array;
  /** Level 1, 32 bytes per 512 KiB. */
  readonly kept: Uint8Array;
  readonly bytesCovered: number;
  readonly durationMs: number;
  /** Launch windows, each with its own poison and canaries. */
  readonly windows: number;
}

export interface LocateRequest {
  readonly allocationId: AllocationId;
  /** Offsets of damaged 512 KiB ranges, in bytes. */
  readonly rangeOffsets: readonly number[];
  /** The sealed level 1, already checked against the sealed digest. */
  readonly kept: Uint8Array;
  /** Where the bytes came from, if that can be read again. */
  readonly source?: SourceSpec;
}

/** One damaged 4 KiB block. Offsets count from the start of the shard, in bytes. */
export interface DamagedBlock {
  /** A multiple of 4096. */
  readonly offset: number;
  /** 4096, or less at the end of the shard. */
  readonly byteLength: number;
  /** How many bytes differ, and the first of them. */
  readonly differing: number;
  /** Within the block, from 0. */
  readonly byteOffsets: readonly number[];
}

export type Located =
  | { readonly precision: "range"; readonly because: string }
  | { readonly precision: "block"; readonly blocks: readonly DamagedBlock[]; readonly blockCount: number };

/** An allocation's memory as another process may map it. */
export interface ExportedMemory {
  /** The caller's, to pass on and to close; closed on exec. It gives no address and no key, but the memory itself. */
  readonly descriptor: number;
  /** What has to be mapped: the allocation, rounded up to granules. */
  readonly byteLength: number;
}

export type FreeResult = { readonly zeroed: true } | { readonly zeroed: false; readonly reason: string };

/** One device. Errors are `VramError`s; after one that is `fatal` every call is refused with it. */
export interface Device {
  readonly info: DeviceInfo;
  /** Calls `listener` once, when a fatal error ends the device, before any caller learns of it. */
  onLost(listener: (error: VramError) => void): void;
  memory(): Promise<DeviceMemory>;
  /** What NVML knows of the GPU. Never rejects; `{}` where there is no NVML. */
  health(): Promise<GpuHealth>;
  /**
   * What the GPU says of itself in confidential-computing mode, over a nonce of 32 bytes; undefined where it says nothing.
   * Rejects with `INVALID_ARGUMENT` for another nonce, and else never.
   */
  evidence(nonce: Uint8Array): Promise<GpuEvidence | undefined>;
  /** Opens and checks a source, in the process that will pump it. */
  openSource(spec: SourceSpec, options: FormatOptions, signal?: AbortSignal): Promise<OpenedSourceInfo>;
  closeSource(sourceId: SourceId): Promise<void>;
  /** Allocates and maps read-only. Contents are undefined until uploaded. */
  allocate(byteLength: number): Promise<AllocationId>;
  /** Reads the source to its end into the allocation. On failure the allocation's contents are undefined. */
  upload(request: UploadRequest, watch: UploadWatch): Promise<UploadResult>;
  /** Digests a source on the host without uploading it. */
  digestSource(sourceId: SourceId, sha256: boolean, watch: UploadWatch): Promise<UploadResult>;
  facts(allocationId: AllocationId): Promise<AllocationFacts>;
  /** Measures the whole allocation where it lies; with `salt` (1–32 bytes) the salted tree. */
  measure(allocationId: AllocationId, salt?: Uint8Array): Promise<Measurement>;
  /** Names damage as closely as it can. */
  locate(request: LocateRequest): Promise<Located>;
  /** Gives the memory a descriptor, for another process to map. What lies behind the allocation's end is zeroed before. */
  exportMemory(allocationId: AllocationId): Promise<ExportedMemory>;
  /**
   * Zeroes and frees; with `heldBy`, which says who else may be reading it, only drops our references. Never throws; a
   * second call says it was gone.
   */
  free(allocationId: AllocationId, heldBy?: string): Promise<FreeResult>;
  close(): Promise<void>;
}
