/**
 * The checks of everything that crosses, on both sides: the service does not trust the process of a device, whose memory
 * a driver writes to, and that process does not trust what it is told to do. Strict: an unknown field is an error.
 */
import { z } from "zod";
import { ERROR_TABLE, type ErrorCode, VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { deviceUuid } from "../residency/state.ts";
import type { FileIdentity } from "../source/file.ts";
import type { SourceSpec } from "../source/source.ts";
import type { SourceFormat, Tensor } from "../source/tensors.ts";
import { evidence, health } from "./check-gpu.ts";
import type {
  CallArguments,
  CallResult,
  Method,
  OpenRequest,
  Reply,
  Request,
  WireError,
  WireResult,
  WireSource,
} from "./protocol.ts";

const count = z.int().min(0);
const positive = z.int().min(1);
const id = positive;
const ms = z.number().min(0);
const flag = z.boolean();
/** A digest, or a nonce. */
const hash = z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength === 32);
/** Level 1 of a tree. */
const hashes = z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength % 32 === 0);
/** Of any length: paths are the caller's, and a message has a limit of its own. */
const text = z.string();
const orUnknown = <T extends z.ZodType>(schema: T) => z.union([schema, z.literal("unknown")]);

const wireError = z.strictObject({
  code: z.enum(Object.keys(ERROR_TABLE) as [ErrorCode, ...ErrorCode[]]),
  message: text,
  fix: text,
  details: z.record(z.string(), z.unknown()),
}) satisfies z.ZodType<WireError>;

const tensor: z.ZodType<Tensor> = z.strictObject({
  name: z.string(),
  dtype: z.string(),
  shape: z.array(z.number()),
  offset: count,
  byteLength: count,
});
const tensors = z.array(tensor).max(LIMITS.tensorCount);
const format: z.ZodType<SourceFormat> = z.enum(["safetensors", "gguf", "raw"]);
const identity: z.ZodType<FileIdentity> = z.strictObject({
  dev: text,
  ino: text,
  size: text,
  mtimeNs: text,
  ctimeNs: text,
});

const pathSource: z.ZodType<Extract<SourceSpec, { kind: "path" }>> = z.strictObject({
  kind: z.literal("path"),
  path: text,
  roots: z.array(text).exactOptional(),
  part: z.strictObject({ offset: count, byteLength: count, tensors, identity, format }).exactOptional(),
});
const streamSource = z.strictObject({ kind: z.literal("stream"), streamId: id, byteLength: count, name: text });
const wireSource: z.ZodType<WireSource> = z.union([pathSource, streamSource]);

/** The arguments of each method. */
const ARGUMENTS: { readonly [K in Method]: z.ZodType<CallArguments[K]> } = {
  memory: z.tuple([]),
  health: z.tuple([]),
  evidence: z.tuple([hash]),
  openSource: z.tuple([
    wireSource,
    z.strictObject({
      format: z.enum(["auto", "safetensors", "gguf", "raw"]).exactOptional(),
      maxSafetensorsHeaderBytes: count.exactOptional(),
    }),
  ]),
  closeSource: z.tuple([id]),
  allocate: z.tuple([positive]),
  upload: z.tuple([z.strictObject({ sourceId: id, allocationId: id, witness: flag, sha256: flag })]),
  digestSource: z.tuple([id, flag]),
  facts: z.tuple([id]),
  measure: z.tuple([id, z.union([z.instanceof(Uint8Array), z.undefined()])]),
  locate: z.tuple([
    z.strictObject({
      allocationId: id,
      rangeOffsets: z.array(count),
      kept: hashes,
      source: pathSource.exactOptional(),
    }),
  ]),
  exportMemory: z.tuple([id]),
  free: z.tuple([id, text.optional()]),
  close: z.tuple([]),
};

const uploaded: z.ZodType<CallResult<"upload">> = z.strictObject({
  byteLength: count,
  durationMs: ms,
  digest: hash.exactOptional(),
  sha256: hash.exactOptional(),
});

const allocationFacts: z.ZodType<CallResult<"facts">> = z.strictObject({
  allocationType: z.enum(["pinned", "managed", "unknown"]),
  locationType: z.enum(["device", "host", "unknown"]),
  memoryType: z.enum(["device", "host", "unified", "unknown"]),
  managed: orUnknown(flag),
  ordinalMatches: flag,
  mainAccess: z.enum(["none", "read", "readWrite", "unknown"]),
  accessConfirmed: flag,
  sizeMatches: flag,
  hostPointerKnown: flag,
  properties: z.strictObject({ allocationType: z.int(), locationType: z.int(), locationId: z.int() }),
});

const damagedBlock = z.strictObject({
  offset: count,
  byteLength: count,
  differing: count,
  byteOffsets: z.array(count).max(LIMITS.reportedOffsets),
});

/** What each method answers. */
const RESULTS: { readonly [K in Method]: z.ZodType<WireResult<K>> } = {
  memory: z.strictObject({ bytesTotal: count, bytesFree: count }),
  health,
  evidence,
  openSource: z.strictObject({
    sourceId: id,
    name: text,
    format,
    byteLength: count,
    tensors,
    identity: identity.exactOptional(),
  }),
  closeSource: z.undefined(),
  allocate: id,
  upload: uploaded,
  digestSource: uploaded,
  facts: allocationFacts,
  measure: z.strictObject({ digest: hash, kept: hashes, bytesCovered: count, durationMs: ms, windows: count }),
  locate: z.discriminatedUnion("precision", [
    z.strictObject({ precision: z.literal("range"), because: text }),
    z.strictObject({
      precision: z.literal("block"),
      blocks: z.array(damagedBlock).max(LIMITS.locatedRanges),
      blockCount: count,
    }),
  ]),
  exportMemory: z.strictObject({ byteLength: positive }),
  free: z.discriminatedUnion("zeroed", [
    z.strictObject({ zeroed: z.literal(true) }),
    z.strictObject({ zeroed: z.literal(false), reason: text }),
  ]),
  close: z.undefined(),
};

const openRequest: z.ZodType<OpenRequest> = z.strictObject({
  backend: z.enum(["cuda", "cuda-substituted", "emulated"]),
  library: text.exactOptional(),
  uuid: deviceUuid,
  runtimeDir: text,
  libraryPath: text.exactOptional(),
  byteLength: count.exactOptional(),
  hashThreads: count.exactOptional(),
});

const request = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("open"), request: openRequest }),
  z.strictObject({
    kind: z.literal("list"),
    backend: z.enum(["cuda", "cuda-substituted"]),
    library: text.exactOptional(),
    libraryPath: text.exactOptional(),
  }),
  z.strictObject({
    kind: z.literal("call"),
    id,
    method: z.enum(Object.keys(ARGUMENTS) as [Method, ...Method[]]),
    args: z.unknown(),
  }),
  z.strictObject({ kind: z.literal("abort"), id }),
  z.strictObject({ kind: z.literal("ping"), id }),
  z.strictObject({ kind: z.literal("chunk"), streamId: id, bytes: z.instanceof(Uint8Array).exactOptional() }),
  z.strictObject({ kind: z.literal("broken"), streamId: id, error: wireError.exactOptional() }),
]);

const deviceInfo: z.ZodType<Extract<Reply, { kind: "opened" }>["info"]> = z.strictObject({
  ordinal: count,
  uuid: deviceUuid,
  name: text,
  backend: z.enum(["cuda", "cuda-substituted", "emulated"]),
  driverVersion: count,
  computeCapability: text,
  bytesTotal: count,
  granuleBytes: positive,
  l2CacheBytes: count,
  facts: z.strictObject({
    integrated: flag,
    wddm: flag,
    virtualMemoryManagement: flag,
    mps: flag,
    pageableMemoryAccess: flag,
    unifiedAddressing: flag,
    managedMemory: flag,
    posixFileDescriptorHandles: flag,
    eccEnabled: flag,
  }),
});

/** Two devices of one UUID would share a lock, a key and a state. */
const uuids = z
  .array(deviceUuid)
  .min(1)
  .max(LIMITS.devicesListed)
  .refine((all) => new Set(all).size === all.length);

const reply: z.ZodType<Reply> = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("opened"), info: deviceInfo }),
  z.strictObject({ kind: z.literal("listed"), uuids }),
  z.strictObject({ kind: z.literal("refused"), error: wireError }),
  z.strictObject({ kind: z.literal("result"), id, value: z.unknown() }),
  z.strictObject({ kind: z.literal("failure"), id, error: wireError }),
  z.strictObject({ kind: z.literal("progress"), id, bytesDone: count }),
  z.strictObject({ kind: z.literal("pong"), id }),
  z.strictObject({ kind: z.literal("pull"), streamId: id }),
  z.strictObject({ kind: z.literal("drop"), streamId: id }),
  z.strictObject({ kind: z.literal("lost"), error: wireError }),
  z.strictObject({ kind: z.literal("release_failed"), what: text, error: wireError }),
]);

/** Not in the message: what a process sent that is not to be trusted. */
const malformedMessage = (what: string, cause: unknown): VramError =>
  new VramError("INTERNAL", `${what} is not what was agreed`, { cause });

/**
 * A call before it is sent: what its process would not take must not end that process. Throws `INVALID_ARGUMENT`.
 */
export function checkCall<K extends Method>(method: K, args: CallArguments[K]): void {
  const parsed = ARGUMENTS[method].safeParse(args);
  if (parsed.success) return;
  throw new VramError("INVALID_ARGUMENT", `an argument of ${method} cannot be handed to the device's process`, {
    cause: parsed.error,
    details: { argument: method },
  });
}

/** A message to a device's process. Throws `INTERNAL`. */
export function checkRequest(message: unknown): Request {
  const parsed = request.safeParse(message);
  if (!parsed.success) throw malformedMessage("a request to the device's process", parsed.error);
  if (parsed.data.kind !== "call") return parsed.data;
  const args = ARGUMENTS[parsed.data.method].safeParse(parsed.data.args);
  if (!args.success) throw malformedMessage(`an argument of ${parsed.data.method}`, args.error);
  // One of the union: the method and the check of its arguments were looked up together.
  return { ...parsed.data, args: args.data } as Request;
}

/** A message from a device's process. Throws `INTERNAL`. */
export function checkReply(message: unknown): Reply {
  const parsed = reply.safeParse(message);
  if (!parsed.success) throw malformedMessage("what the device's process sent", parsed.error);
  return parsed.data;
}

/** The answer to a call of `method`. Throws `INTERNAL`. */
export function checkResult<K extends Method>(method: K, value: unknown): WireResult<K> {
  const parsed = RESULTS[method].safeParse(value);
  if (!parsed.success) throw malformedMessage(`the answer to ${method}`, parsed.error);
  // The row of `method`, which TypeScript does not follow through an index.
  return parsed.data as WireResult<K>;
}

/** An error as it crosses. */
export const toWire = ({ code, message, fix, details }: VramError): WireError => ({ code, message, fix, details });

/** The error that crossed. */
export const fromWire = ({ code, message, fix, details }: WireError, cause?: unknown): VramError =>
  new VramError(code, message, { fix, details, ...(cause === undefined ? {} : { cause }) });
