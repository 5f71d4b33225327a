/**
 * What callers may hand in, checked at the edge (VR-IN-01): types, ranges, and no unknown fields. Everything behind this
 * file may rely on the types. A refusal is `INVALID_ARGUMENT` and names the field.
 */
import { z } from "zod";
import { VramError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { parseSeal } from "./seal/encoding.ts";
import { requireName, requireShardId } from "./seal/names.ts";

const MAX_AGE_MS = 366 * 24 * 3600 * 1000;

const bytes = (min: number) => z.int().min(min).max(Number.MAX_SAFE_INTEGER);
const signal = z.instanceof(AbortSignal).optional();
const maxAgeMs = z.int().min(0).max(MAX_AGE_MS).optional();
const path = z
  .string()
  .min(1)
  .refine((text) => !text.includes("\0"), "must not contain a NUL byte");
const isIterable = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Symbol.asyncIterator in value;

const vramOptions = z.strictObject({
  backend: z.enum(["auto", "cuda", "emulated"]).optional(),
  requireGpu: z.boolean().optional(),
  stateDir: path.optional(),
  emulated: z
    .strictObject({
      devices: z.int().min(1).max(LIMITS.emulatedDevices).optional(),
      byteLength: z
        .int()
        .min(32 * LIMITS.granuleBytes)
        .max(2 ** 50)
        .optional(),
    })
    .optional(),
  allowMps: z.boolean().optional(),
  onMismatch: z.enum(["stop", "quarantine"]).optional(),
  maxModelBytes: bytes(1).optional(),
  headroomBytes: bytes(0).optional(),
  modelRoots: z.array(path).optional(),
  hashThreads: z.int().min(0).max(256).optional(),
  libraryPath: z.string().optional(),
  cudaLibrary: path.optional(),
  nvmlLibrary: path.optional(),
  audit: z
    .strictObject({
      mode: z.enum(["required", "best-effort", "off"]).optional(),
      retentionDays: z.int().min(1).max(36_500).optional(),
      maxBytes: bytes(LIMITS.auditSegmentBytes).optional(),
    })
    .optional(),
  readers: z.array(z.custom(isReader, "must be a journal reader")).optional(),
});

function isReader(value: unknown): boolean {
  if (typeof value !== "object" || value === null || !("accept" in value) || !("required" in value)) return false;
  return typeof value.accept === "function" && typeof value.required === "boolean";
}

const sealOptions = z.strictObject({
  name: z.string().optional(),
  shardId: z.string().optional(),
  device: z.union([z.int(), z.string()]).optional(),
  expected: z.string().optional(),
  sha256: z.boolean().optional(),
  maxAgeMs,
  format: z.enum(["auto", "safetensors", "gguf", "raw"]).optional(),
  maxHeaderBytes: z.int().min(2).max(LIMITS.safetensorsHeaderBytesMax).optional(),
  signal,
});

const sealSetOptions = sealOptions.omit({ shardId: true }).extend({
  shards: z.int().min(1).max(LIMITS.setMembers).optional(),
  devices: z
    .array(z.union([z.int(), z.string()]))
    .min(1)
    .max(LIMITS.setMembers)
    .optional(),
  // Parsed one by one below.
  sealed: z.array(z.unknown()).min(1).max(LIMITS.setMembers).optional(),
});

const verifyOptions = z.strictObject({
  // Judged by `checkPresented`, which tells whoever hands in a bad one nothing about why.
  seal: z.unknown().optional(),
  maxAgeMs,
  salt: z.string().optional(),
  signal,
});

const sealSource = z.union([
  path,
  z.instanceof(Uint8Array),
  z.strictObject({ path }),
  z.strictObject({ bytes: z.instanceof(Uint8Array), name: z.string().optional() }),
  z.strictObject({
    chunks: z.custom(isIterable, "must be an async iterable"),
    byteLength: bytes(0),
    name: z.string().optional(),
  }),
]);

/** Throws `INVALID_ARGUMENT` naming the first field that does not fit; returns what was given, untouched. */
function check<T>(schema: z.ZodType, given: T, what: string): T {
  const parsed = schema.safeParse(given);
  if (parsed.success) return given;
  const [issue] = parsed.error.issues;
  const field = [what, ...(issue?.path ?? [])].join(".");
  throw new VramError("INVALID_ARGUMENT", `${field}: ${issue?.message ?? "not what is accepted"}`, {
    details: { argument: field },
  });
}

const leaseOptions = z.strictObject({
  durationMs: z.int().min(1).max(MAX_AGE_MS),
  maxAgeMs,
  salt: z.string().optional(),
  holder: z.string().optional(),
  caller: z.string().optional(),
  signal,
});

/** Checks options of `acquire` and `renew`. */
export function checkLeaseOptions<T extends { readonly durationMs: number; readonly holder?: string }>(given: T): T {
  check(leaseOptions, given, "options");
  if (given.holder !== undefined) requireName(given.holder);
  return given;
}

/** Checks options of `openVram`. */
export const checkVramOptions = <T>(given: T): T => check(vramOptions, given, "options");
/** Checks options of `verify`. */
export const checkVerifyOptions = <T>(given: T): T => check(verifyOptions, given, "options");
/** Checks a source of `seal`. */
export const checkSource = <T>(given: T): T => check(sealSource, given, "source");
/** Checks a shard id or name somebody looks up by. */
export const checkIdOrName = <T>(given: T): T => check(z.string().min(1), given, "idOrName");

/** Checks options of `sealSet`, the name included. */
export function checkSealSetOptions<T extends { readonly name?: string; readonly sealed?: readonly unknown[] }>(
  given: T,
): T {
  check(sealSetOptions, given, "options");
  given.sealed?.forEach(parseSeal);
  if (given.name !== undefined) requireName(given.name);
  return given;
}

/** Checks options of `seal`, names and ids included. */
export function checkSealOptions<T extends { readonly name?: string; readonly shardId?: string }>(given: T): T {
  check(sealOptions, given, "options");
  if (given.name !== undefined) requireName(given.name);
  if (given.shardId !== undefined) requireShardId(given.shardId);
  return given;
}

/** Checks the reason of a resume: text like a name. */
export function checkReason(given: string): string {
  return requireName(check(z.string(), given, "reason"));
}
