/** From what a caller hands in, checked, to what the journey works on. */
import type { SealOptions, SealSource } from "./api.ts";
import { type NamedDigest, parseDigest } from "./hash/descriptor.ts";
import { checkSealOptions, checkSource } from "./options.ts";
import type { SealRequest } from "./residency/seal-request.ts";
import type { FormatOptions, SourceSpec } from "./source/source.ts";

function toSpec(source: SealSource, roots: readonly string[]): SourceSpec {
  if (typeof source === "string") return { kind: "path", path: source, roots };
  if (source instanceof Uint8Array) return { kind: "bytes", bytes: source };
  if ("path" in source) return { kind: "path", path: source.path, roots };
  if ("bytes" in source) return { kind: "bytes", ...source };
  return { kind: "chunks", ...source };
}

export function toFormat({ format, maxHeaderBytes }: Pick<SealOptions, "format" | "maxHeaderBytes">): FormatOptions {
  return {
    ...(format === undefined ? {} : { format }),
    ...(maxHeaderBytes === undefined ? {} : { maxSafetensorsHeaderBytes: maxHeaderBytes }),
  };
}

export function toRequest(source: SealSource, given: SealOptions, roots: readonly string[]): SealRequest {
  const options = checkSealOptions(given);
  const expected: NamedDigest | undefined = options.expected === undefined ? undefined : parseDigest(options.expected);
  return {
    spec: toSpec(checkSource(source), roots),
    format: toFormat(options),
    name: options.name,
    shardId: options.shardId,
    shardIndex: 0,
    totalShards: 1,
    expected,
    sha256: options.sha256 ?? false,
    maxAgeMs: options.maxAgeMs ?? 0,
    signal: options.signal,
  };
}
