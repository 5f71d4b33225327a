/**
 * Naming damage. The measurement already says which 512 KiB ranges differ. If the source can be read again and a range
 * of it still hashes to the sealed level-1 hash, the range's 4 KiB blocks are compared by their hashes, and the bytes
 * of the damaged blocks (at most 4 KiB each, for this purpose only) with the source's.
 */
import { constantTimeEqual } from "../bytes.ts";
import { toVramError } from "../errors.ts";
import type { Mapped, Pinned } from "../handles/mapped.ts";
import { type Stream, settled } from "../handles/stream.ts";
import { hashBlocks } from "../hash/blocks.ts";
import { BLOCK_BYTES, blockCount, HASH_BYTES, RANGE_BYTES } from "../hash/geometry.ts";
import { LIMITS } from "../limits.ts";
import { type FileSystem, openFile, type ReadableFile } from "../source/file.ts";
import type { DamagedBlock, Located, LocateRequest } from "./device.ts";
import type { Meter } from "./measure.ts";

export interface LocateTools {
  readonly meter: Meter;
  readonly stream: Stream;
  /** One block of pinned memory. */
  readonly pinned: Pinned;
  readonly fs: FileSystem;
}

/** A range of the source, its leaf hashes, and whether they still add up to the sealed hash of the range. */
async function rereadRange(
  file: ReadableFile,
  at: { readonly offset: number; readonly byteLength: number },
  memoryLength: number,
  sealed: Uint8Array,
) {
  const { offset, byteLength } = at;
  const bytes = new Uint8Array(byteLength);
  await file.readAt(bytes, offset);
  const leaves = new Uint8Array(blockCount(byteLength) * HASH_BYTES);
  hashBlocks(bytes, leaves);
  let range = leaves;
  if (memoryLength > BLOCK_BYTES) {
    range = new Uint8Array(HASH_BYTES);
    hashBlocks(leaves, range);
  }
  return constantTimeEqual(range, sealed) ? { bytes, leaves } : undefined;
}

/** Copies one damaged block to the host and lists where it differs from the source. */
async function compareBlock(
  memory: Mapped,
  offset: number,
  source: Uint8Array,
  tools: LocateTools,
): Promise<DamagedBlock> {
  const { stream, pinned } = tools;
  await settled(stream, source.byteLength, () => stream.copyToHost(pinned, 0, memory, offset, source.byteLength));
  const differing: number[] = [];
  source.forEach((byte, index) => {
    if (pinned.bytes[index] !== byte) differing.push(offset + index);
  });
  return {
    offset,
    byteLength: source.byteLength,
    differing: differing.length,
    byteOffsets: differing.slice(0, LIMITS.reportedOffsets),
  };
}

async function locateInFile(
  file: ReadableFile,
  memory: Mapped,
  request: LocateRequest,
  tools: LocateTools,
): Promise<Located> {
  const base = request.source?.kind === "path" ? (request.source.part?.offset ?? 0) : 0;
  const blocks: DamagedBlock[] = [];
  let found = 0;
  for (const offset of request.rangeOffsets.slice(0, LIMITS.locatedRanges)) {
    const byteLength = Math.min(RANGE_BYTES, memory.byteLength - offset);
    const index = offset / RANGE_BYTES;
    const sealed = request.kept.subarray(index * HASH_BYTES, (index + 1) * HASH_BYTES);
    const original = await rereadRange(file, { offset: base + offset, byteLength }, memory.byteLength, sealed);
    if (original === undefined)
      return { precision: "range", because: "the source file no longer has the sealed bytes" };
    const measured = await tools.meter.leaves(memory, offset, byteLength);
    for (let block = 0; block < blockCount(byteLength); block += 1) {
      const at = block * HASH_BYTES;
      if (constantTimeEqual(measured.subarray(at, at + HASH_BYTES), original.leaves.subarray(at, at + HASH_BYTES)))
        continue;
      found += 1;
      if (blocks.length >= LIMITS.locatedRanges) continue;
      const from = block * BLOCK_BYTES;
      blocks.push(await compareBlock(memory, offset + from, original.bytes.subarray(from, from + BLOCK_BYTES), tools));
    }
  }
  return { precision: "block", blocks, blockCount: found };
}

/** Locates damage in `memory` as closely as the source allows. A source that cannot be read only costs precision. */
export async function locateDamage(memory: Mapped, request: LocateRequest, tools: LocateTools): Promise<Located> {
  const { source } = request;
  if (source?.kind !== "path") return { precision: "range", because: "the source cannot be read again" };
  let file: ReadableFile;
  try {
    file = await openFile(source.path, source.roots ?? ["/"], tools.fs);
  } catch (error) {
    return { precision: "range", because: `the source cannot be read again (${toVramError(error).code})` };
  }
  try {
    const expected = source.part === undefined ? memory.byteLength : Number(source.part.identity.size);
    if (file.byteLength !== expected) {
      return { precision: "range", because: "the source file has another size now" };
    }
    return await locateInFile(file, memory, request, tools);
  } catch (error) {
    const { code, fatal } = toVramError(error);
    if (fatal) throw error;
    return { precision: "range", because: `comparing with the source failed (${code})` };
  } finally {
    await file.close();
  }
}

/** Offsets of the ranges whose kept hashes differ. Both levels belong to `byteLength` bytes. */
export function differingRanges(sealed: Uint8Array, measured: Uint8Array): number[] {
  const offsets: number[] = [];
  for (let at = 0; at < sealed.byteLength; at += HASH_BYTES) {
    if (!constantTimeEqual(sealed.subarray(at, at + HASH_BYTES), measured.subarray(at, at + HASH_BYTES))) {
      offsets.push((at / HASH_BYTES) * RANGE_BYTES);
    }
  }
  return offsets;
}
