/**
 * Weights in shared host memory, as a process reads them that attached to an emulated device. The memory is looked at
 * before any of it is mapped: nobody may be able to change or shrink it, or a read here could find something else, or end
 * the process. Mappings are copy-on-write, page by page, so a write stays in this process.
 */
import { fstatSync } from "node:fs";
import { requireRange } from "../assert.ts";
import { closedError } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { MAPPING_BYTES_MAX, MEMFD_SEALS, mapPrivate, sealsOf, unmapPrivate } from "../ffi/memory.ts";
import { LIMITS } from "../limits.ts";
import { notOurs } from "./transport.ts";

/** A mapping begins at a page; the largest that Linux has anywhere are of 64 KiB. */
const PAGE_BYTES_MAX = 64 * 1024;

export interface HostMemory {
  /** A view of this range of the shard: the same one each time. Empty when it is closed. */
  view(offset: number, byteLength: number): Uint8Array;
  /** Takes every mapping away. May be called twice. */
  close(): void;
}

function requireSealed(fd: number, byteLength: number, where: string): void {
  let seals: number;
  try {
    seals = sealsOf(fd);
  } catch (thrown) {
    throw notOurs(where, "a descriptor that is no sealed memory", thrown);
  }
  if ((seals & MEMFD_SEALS) !== MEMFD_SEALS)
    throw notOurs(where, `memory with the seals ${seals}, ${MEMFD_SEALS} needed`);
  const { size } = fstatSync(fd);
  if (size !== byteLength) throw notOurs(where, `memory of ${size} bytes, and it says ${byteLength}`);
}

function mapRange(fd: number, offset: number, byteLength: number): Uint8Array<ArrayBuffer> {
  const skip = offset % PAGE_BYTES_MAX;
  if (skip + byteLength > MAPPING_BYTES_MAX) {
    throw new VramError("INVALID_ARGUMENT", `${byteLength} bytes are more than one view can have`, {
      fix: "take the range in parts, with `bytes(offset, byteLength)`",
      details: { argument: "byteLength", byteLength },
    });
  }
  try {
    return new Uint8Array(mapPrivate(fd, offset - skip, skip + byteLength), skip, byteLength);
  } catch (thrown) {
    throw toVramError(thrown);
  }
}

const tooMany = (): VramError =>
  new VramError(
    "INVALID_ARGUMENT",
    `an attachment has at most ${LIMITS.attachViews} views, each a mapping of its own`,
    {
      fix: "take a larger range with `bytes(offset, byteLength)`, and cut it with `subarray`",
      details: { argument: "byteLength" },
    },
  );

/** Takes all of them away; throws what the first that could not be said. */
function unmapAll(buffers: readonly ArrayBuffer[]): void {
  const failures: unknown[] = [];
  for (const buffer of buffers) {
    try {
      unmapPrivate(buffer);
    } catch (thrown) {
      failures.push(thrown);
    }
  }
  if (failures.length > 0) throw toVramError(failures[0]);
}

/**
 * Memory of `byteLength` bytes behind `fd`, which stays the caller's and open; the shard is the first `usedBytes` of it.
 * `SERVICE_UNREACHABLE` for memory that others could change.
 */
export function openHostMemory(fd: number, byteLength: number, usedBytes: number, where: string): HostMemory {
  requireSealed(fd, byteLength, where);
  const views = new Map<string, Uint8Array<ArrayBuffer>>();
  let open = true;
  return {
    view: (offset, length) => {
      if (!open) throw closedError("the attachment");
      if (length === 0 && offset >= 0 && offset <= usedBytes) return new Uint8Array(0);
      requireRange(offset, length, usedBytes, "the shard");
      const range = `${offset}+${length}`;
      const known = views.get(range);
      if (known === undefined && views.size >= LIMITS.attachViews) throw tooMany();
      const view = known ?? mapRange(fd, offset, length);
      views.set(range, view);
      return view;
    },
    close: () => {
      open = false;
      const buffers = [...views.values()].map(({ buffer }) => buffer);
      views.clear();
      unmapAll(buffers);
    },
  };
}
