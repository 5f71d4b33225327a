/** What a caller asks to have sealed, and how what was read is held against what was expected. */
import { constantTimeEqual, toHex } from "../bytes.ts";
import type { OpenedSourceInfo } from "../device/device.ts";
import { VramError } from "../errors.ts";
import type { NamedDigest } from "../hash/descriptor.ts";
import type { ComparedWith } from "../seal/encoding.ts";
import type { FormatOptions, SourceSpec } from "../source/source.ts";

/** What to seal and how; checked at the edge already. */
export interface SealRequest {
  readonly spec: SourceSpec;
  readonly format: FormatOptions;
  /** Default: the source's base name, cleaned. */
  readonly name: string | undefined;
  /** Default: generated. */
  readonly shardId: string | undefined;
  readonly shardIndex: number;
  readonly totalShards: number;
  /** What the bytes must be. fs-verity: no host hashing. SHA-256: witnessed. */
  readonly expected: NamedDigest | undefined;
  /** Also compute the plain SHA-256; the seal is then witnessed. */
  readonly sha256: boolean;
  readonly maxAgeMs: number;
  readonly signal: AbortSignal | undefined;
}

/** An opened source under the name it will have. */
export interface NamedSource extends OpenedSourceInfo {
  readonly shardName: string;
  readonly shardId: string;
}

/** `expected` only when nothing on the host is hashed; everything else is witnessed. */
export function comparedWith(request: SealRequest): ComparedWith {
  return request.expected?.kind === "fsverity" && !request.sha256 ? "expected" : "witnessed";
}

/** Whether the plain SHA-256 is computed on the way. */
export const wantsSha256 = (request: SealRequest): boolean => request.sha256 || request.expected?.kind === "sha256";

/** The error for bytes that are not what they should be; names both digests. */
export function mismatch(
  name: string,
  what: string,
  kind: string,
  expected: Uint8Array,
  actual: Uint8Array,
  fix?: string,
): VramError {
  const [want, got] = [`${kind}:${toHex(expected)}`, `${kind}:${toHex(actual)}`];
  return new VramError("DIGEST_MISMATCH", `${name}: ${what}: expected ${want}, found ${got}`, {
    details: { expected: want, actual: got },
    ...(fix === undefined ? {} : { fix }),
  });
}

/** The host's digests against what the caller expects. */
export function requireExpected(
  request: { readonly expected: NamedDigest | undefined },
  name: string,
  host: { readonly digest?: Uint8Array; readonly sha256?: Uint8Array },
): void {
  const { expected } = request;
  if (expected === undefined) return;
  const actual = expected.kind === "sha256" ? host.sha256 : host.digest;
  if (actual !== undefined && !constantTimeEqual(actual, expected.bytes)) {
    throw mismatch(name, "the source is not what was expected", expected.kind, expected.bytes, actual);
  }
}
