/**
 * `client.attach`: an engine reads sealed weights where they lie, without a copy. Asks over the socket beside the one for
 * HTTP, judges what it is handed, maps it. The connection is presence: while it is there, the service counts an export and
 * renews the lease that it granted for it; closing ends both. Whatever fails leaves no descriptor and no mapping.
 *
 * Loaded by the first `attach`, and native code with it: clients that never attach have none.
 */
import { closeSync } from "node:fs";
import { resolve } from "node:path";
import { emitWarning } from "node:process";
import { present } from "../assert.ts";
import { UndoStack } from "../dispose.ts";
import { throwIfAborted, toVramError, VramError } from "../errors.ts";
import { ATTACH_SUFFIX, type AttachGranted, encodeMessage } from "../service/attach/protocol.ts";
import type { LeaseReply, ShardRecordReply, Verification } from "../service/replies.ts";
import { type AttachChannel, openChannel } from "./attach-channel.ts";
import { type EndedLease, readLeaseEnd, readRequest, requireGranted } from "./attach-checks.ts";
import { openHostMemory } from "./attach-memory.ts";

/** What is asked for besides the shard. */
export interface AttachTerms {
  /** `fsverity:HEX`, `sha256:HEX` or 64 hex digits, which are fs-verity: anything else is refused. `null`: any weights. */
  readonly expect: string | null;
  /** A lease of the caller's on this shard; without, one is granted for as long as the connection is there. */
  readonly lease?: string | undefined;
  /** Settle for a measurement no older than this; 0 = measure now. */
  readonly maxAgeMs?: number | undefined;
  /** 1 to 32 bytes, hex, for the measurement. */
  readonly salt?: string | undefined;
  /** What the caller calls itself; for the record. */
  readonly holder?: string | undefined;
  /** Another `libcuda` than the loader's `libcuda.so.1`. */
  readonly library?: string | undefined;
}

/** Where a tensor lies. Bytes from the start of the shard. */
export interface AttachedTensor {
  /** As the file has it. */
  readonly name: string;
  /** The format's own name: `F32`, `BF16`, `Q4_K`, … */
  readonly dtype: string;
  /** Extents in the order the file lists them. */
  readonly shape: readonly number[];
  /** Of its first byte. */
  readonly offset: number;
  /** May be 0. */
  readonly byteLength: number;
}

interface Attached extends AsyncDisposable {
  /** The shard as of the grant. */
  readonly record: ShardRecordReply;
  /** Its seal, as docs/seal.md has it. */
  readonly seal: Readonly<Record<string, unknown>>;
  /** What vouches for the weights; renewed by the service where it granted it for the connection. */
  readonly lease: LeaseReply;
  /** Absent if a lease was presented and no measurement was asked for. */
  readonly verification?: Verification;
  /** What the export is called on record. */
  readonly exportId: string;
  /** By name; empty for what is sealed as it is. */
  readonly tensors: ReadonlyMap<string, AttachedTensor>;
  /** Calls `listener` when nobody vouches for the weights any more, also if that was before. Returns how to call it off. */
  onLeaseEnded(listener: (lease: EndedLease) => void): () => void;
  /** Resolves when the connection is over: with what ended it, or nothing after `close`. Mappings stay until `close`. */
  readonly ended: Promise<VramError | undefined>;
  /** Takes mappings and views away and ends the export. May be called twice; never throws. */
  close(): Promise<void>;
}

/**
 * Host memory of an emulated device. Views are copy-on-write: what is written to one stays in this process, is seen
 * through no other view, and never reaches the sealed bytes. After `close` they are empty.
 */
export interface HostAttachment extends Attached {
  /** Tells it from memory of a GPU. */
  readonly kind: "memfd";
  /** The bytes of a tensor, mapped when they are first asked for. `INVALID_ARGUMENT` if there is none of this name. */
  tensor(name: string): Uint8Array;
  /** A range of the shard. `OUT_OF_BOUNDS` if it is not within it. */
  bytes(offset: number, byteLength: number): Uint8Array;
}

/** Memory of a GPU, mapped as a whole and for reading. Nothing may be reading there when it is closed. */
export interface DeviceAttachment extends Attached {
  /** Tells it from memory of an emulated device. */
  readonly kind: "cuda-vmm";
  /** The address of a tensor, or of the shard, on this GPU and in this process. */
  devicePointer(name?: string): bigint;
}

/** What `attach` hands out; `kind` tells which. */
export type Attachment = HostAttachment | DeviceAttachment;

/** Without a measurement there is nothing to wait for but a place in the service's queue. */
const ASK_MS = 60_000;

/** A release that fails is owned up to where nobody has to ask. */
function noteRelease(what: string, error: unknown): void {
  emitWarning(`${what} could not be released: ${toVramError(error).message}`, { type: "VramWarning" });
}

/** Follows the connection behind its reply. */
function watchLease(channel: AttachChannel, leaseId: string, where: string): Attached["onLeaseEnded"] {
  const listeners = new Set<(lease: EndedLease) => void>();
  let ended: EndedLease | undefined;
  const tell = (listener: (lease: EndedLease) => void, lease: EndedLease): void =>
    queueMicrotask(() => {
      // It may have been called off in the meantime.
      if (listeners.delete(listener)) listener(lease);
    });
  channel.follow((message) => {
    ended ??= readLeaseEnd(message, leaseId, where);
    if (ended !== undefined) for (const listener of listeners) tell(listener, ended);
  });
  return (listener) => {
    const own = (lease: EndedLease): void => listener(lease);
    listeners.add(own);
    if (ended !== undefined) tell(own, ended);
    return () => void listeners.delete(own);
  };
}

type Reach = Pick<HostAttachment, "kind" | "tensor" | "bytes"> | Pick<DeviceAttachment, "kind" | "devicePointer">;

interface Handed {
  readonly granted: AttachGranted;
  readonly tensors: ReadonlyMap<string, AttachedTensor>;
  readonly fd: number;
  readonly library: string | undefined;
  readonly where: string;
}

/** Maps what was handed over, or makes ready to; `releases` is told how to undo it. */
async function reach({ granted, tensors, fd, library, where }: Handed, releases: UndoStack): Promise<Reach> {
  const { memory, record } = granted;
  const find = (name: string): AttachedTensor => {
    const tensor = tensors.get(name);
    if (tensor !== undefined) return tensor;
    const message = `${record.name} has no tensor ${JSON.stringify(name)}`;
    throw new VramError("INVALID_ARGUMENT", message, { details: { argument: "name" } });
  };
  if (memory.kind === "memfd") {
    releases.defer("descriptor of the weights", () => closeSync(fd));
    const host = openHostMemory(fd, memory.byteLength, record.byteLength, where);
    releases.defer("mappings of the weights", () => host.close());
    return {
      kind: "memfd",
      bytes: (offset, byteLength) => host.view(offset, byteLength),
      tensor: (name) => {
        const { offset, byteLength } = find(name);
        return host.view(offset, byteLength);
      },
    };
  }
  try {
    const { openDeviceMemory } = await import("./attach-cuda.ts");
    const source = { fd, byteLength: memory.byteLength, deviceUuid: memory.deviceUuid, backend: record.backend };
    const device = openDeviceMemory(source, noteRelease, library);
    releases.defer("mapping of the weights", () => device.close());
    return {
      kind: "cuda-vmm",
      devicePointer: (name) => device.addressOf(name === undefined ? 0 : find(name).offset),
    };
  } finally {
    // The driver has a reference of its own.
    closeSync(fd);
  }
}

/**
 * Attaches to a shard, by its id or name, of the service on this socket. `options.signal` ends the waiting. Rejects with
 * what the service refuses; `DIGEST_MISMATCH` also where it grants what was not expected, `SERVICE_UNREACHABLE` for what
 * no service of ours hands over, `DEVICE_NOT_FOUND` if the GPU is not visible here.
 */
export async function attach(
  socket: string,
  shard: string,
  { library, ...terms }: AttachTerms,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<Attachment> {
  const asked = readRequest(shard, terms);
  throwIfAborted(signal);
  const where = `${resolve(socket)}${ATTACH_SUFFIX}`;
  const releases = new UndoStack(noteRelease);
  try {
    const channel = openChannel(where, where);
    releases.defer("connection to the service", () => channel.close());
    const deadlineMs = asked.measures ? undefined : ASK_MS;
    const reply = await channel.ask(encodeMessage(asked.request), { signal, deadlineMs });
    const granted = takeGranted(reply, () => requireGranted(reply, asked, where));
    const tensors = new Map(granted.tensors.map((tensor) => [tensor.name, tensor]));
    const fd = present(reply.descriptors[0], "the descriptor of a grant");
    const reached = await reach({ granted, tensors, fd, library, where }, releases);
    throwIfAborted(signal);
    return attachmentOf({ granted, tensors, channel, where, reached, close: () => releases.unwind() });
  } catch (error) {
    await releases.unwind();
    throw error;
  }
}

/** Judges a reply; what is not taken is closed. */
function takeGranted({ descriptors }: { readonly descriptors: readonly number[] }, judge: () => AttachGranted) {
  try {
    return judge();
  } catch (error) {
    for (const fd of descriptors) closeSync(fd);
    throw error;
  }
}

function attachmentOf({
  granted,
  tensors,
  channel,
  where,
  reached,
  close,
}: Pick<Handed, "granted" | "tensors" | "where"> & {
  readonly channel: AttachChannel;
  readonly reached: Reach;
  readonly close: () => Promise<void>;
}): Attachment {
  const { record, seal, lease, verification, exportId } = granted;
  return {
    ...{ record, seal, lease, exportId, tensors, close, ...reached },
    ...(verification === undefined ? {} : { verification }),
    ended: channel.ended,
    onLeaseEnded: watchLease(channel, lease.leaseId, where),
    [Symbol.asyncDispose]: close,
  };
}
