/**
 * What crosses between the service and the process of a device (design §2, decision 7): the methods of `Device`, each
 * with its arguments as plain data, and what stands in for the parts of them that are not: an abort signal, a progress
 * callback, a stream of the caller's, the listener for the loss of the device. Ids, numbers, names and bytes go in and
 * out; pointers and keys do not, and the checks (`checks.ts`) let nothing through that could be one.
 */
import type { Backend } from "../cuda/driver.ts";
import type { Device, DeviceInfo, LocateRequest, UploadRequest } from "../device/device.ts";
import type { ErrorCode, ErrorDetails } from "../errors.ts";
import type { FormatOptions, SourceSpec } from "../source/source.ts";

/** Every asynchronous method of `Device`. What else it has crosses in its own way: `info`, `onLost`. */
export type Method = {
  [K in keyof Device]: Device[K] extends (...args: never[]) => Promise<unknown> ? K : never;
}[keyof Device];

export type CallResult<K extends Method> = Awaited<ReturnType<Device[K]>>;

/** What a method answers as it crosses. A descriptor means nothing in another process: it goes its own way. */
export type WireResult<K extends Method> = K extends "exportMemory"
  ? Omit<CallResult<"exportMemory">, "descriptor">
  : CallResult<K>;

/** A file, opened by the process that pumps it; or bytes that the caller has, which that process pulls. */
export type WireSource =
  | Extract<SourceSpec, { kind: "path" }>
  | {
      readonly kind: "stream";
      readonly streamId: number;
      readonly byteLength: number;
      readonly name: string;
    };

export interface WireLocateRequest extends Omit<LocateRequest, "source"> {
  readonly source?: Extract<SourceSpec, { kind: "path" }>;
}

/** The arguments of each method as they cross. A method that is missing here does not compile, below. */
export interface CallArguments {
  memory: readonly [];
  health: readonly [];
  evidence: readonly [nonce: Uint8Array];
  openSource: readonly [spec: WireSource, options: FormatOptions];
  closeSource: readonly [sourceId: number];
  allocate: readonly [byteLength: number];
  upload: readonly [request: UploadRequest];
  digestSource: readonly [sourceId: number, sha256: boolean];
  facts: readonly [allocationId: number];
  measure: readonly [allocationId: number, salt: Uint8Array | undefined];
  locate: readonly [request: WireLocateRequest];
  exportMemory: readonly [allocationId: number];
  free: readonly [allocationId: number, heldBy?: string | undefined];
  close: readonly [];
}

/** Calls that give something back. They are let in however many calls wait, and there is one for each thing held. */
export const RELEASES: ReadonlySet<Method> = new Set<Method>(["closeSource", "free", "close"]);

/** An error as it crosses. Its cause stays behind; the flags follow from the code. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly fix: string;
  readonly details: ErrorDetails;
}

/** Which device to open, and how. */
export interface OpenRequest {
  readonly backend: Backend;
  /** The driver library; absent for the emulated device. */
  readonly library?: string;
  readonly uuid: string;
  /** Where the lock of the GPU lies. */
  readonly runtimeDir: string;
  /** `LD_LIBRARY_PATH` of the process. */
  readonly libraryPath?: string;
  /** Of an emulated device. */
  readonly byteLength?: number;
  readonly hashThreads?: number;
}

/** Which driver to list the devices of; what an emulated machine has, the service decides. */
export interface ListRequest {
  readonly backend: Exclude<Backend, "emulated">;
  /** The driver library; default: the loader's. */
  readonly library?: string;
  /** `LD_LIBRARY_PATH` of the process. */
  readonly libraryPath?: string;
}

export type Call = {
  [K in Method]: { readonly kind: "call"; readonly id: number; readonly method: K; readonly args: CallArguments[K] };
}[Method];

/** To the process of a device. */
export type Request =
  | { readonly kind: "open"; readonly request: OpenRequest }
  /** In place of opening one. The process ends when it has answered. */
  | ({ readonly kind: "list" } & ListRequest)
  | Call
  | { readonly kind: "abort"; readonly id: number }
  | { readonly kind: "ping"; readonly id: number }
  /** The next bytes of a stream; none at its end. */
  | { readonly kind: "chunk"; readonly streamId: number; readonly bytes?: Uint8Array }
  /** The stream failed; without an error of ours the process says how far it got. */
  | { readonly kind: "broken"; readonly streamId: number; readonly error?: WireError };

/** From the process of a device. */
export type Reply =
  | { readonly kind: "opened"; readonly info: DeviceInfo }
  /** UUIDs in the order of the driver. */
  | { readonly kind: "listed"; readonly uuids: readonly string[] }
  | { readonly kind: "refused"; readonly error: WireError }
  /** `value` is judged by the method that was called. */
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "failure"; readonly id: number; readonly error: WireError }
  | { readonly kind: "progress"; readonly id: number; readonly bytesDone: number }
  | { readonly kind: "pong"; readonly id: number }
  | { readonly kind: "pull"; readonly streamId: number }
  | { readonly kind: "drop"; readonly streamId: number }
  /** The device is lost. The process ends when it has answered what it can. */
  | { readonly kind: "lost"; readonly error: WireError }
  | { readonly kind: "release_failed"; readonly what: string; readonly error: WireError };
