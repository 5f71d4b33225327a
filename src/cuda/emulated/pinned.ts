/**
 * Page-locked host memory. Its bytes are shared memory, so that hashing threads read a slot where it lies. Freed
 * bytes are overwritten: a reader that held on to its view sees it at once. It belongs to the context it was made in
 * and goes with it at the latest.
 */
import type { PinnedMemory } from "../driver.ts";
import { cudaError, STATUS } from "../status.ts";
import { giveBacking, takeBacking } from "./backing.ts";
import type { Context } from "./context.ts";
import { EmulatorLint } from "./lint.ts";
import { type Range, rangeList } from "./ranges.ts";

export interface PinnedBlock extends Range {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly context: Context;
  /** Enqueued operations that refer to it. */
  references: number;
}

export interface PinnedBlocks {
  allocate(byteLength: number, context: Context): PinnedMemory;
  free(cuPointer: bigint): void;
  /** Frees what belongs to `context`, which is gone. */
  freeOf(context: Context): void;
  find(cuPointer: bigint): PinnedBlock | undefined;
  /** The block that holds the whole range, or a lint. */
  require(cuPointer: bigint, byteLength: number, call: string): PinnedBlock;
  readonly size: number;
}

const BASE = 0x00ab_0000_0000_0000n;
/** What freed bytes become; the first of them, since a reader of a slot starts there and touching all would cost. */
const POISON = 0xdd;
const POISON_BYTES = 64 * 1024;

export function openPinnedBlocks(): PinnedBlocks {
  const ranges = rangeList<PinnedBlock>(BASE);
  const drop = (block: PinnedBlock): void => {
    block.bytes.subarray(0, POISON_BYTES).fill(POISON);
    ranges.remove(block);
    giveBacking(block.bytes.buffer);
  };

  return {
    allocate: (byteLength, context) => {
      if (!Number.isSafeInteger(byteLength) || byteLength <= 0) {
        throw cudaError("memory.allocatePinned", STATUS.INVALID_VALUE);
      }
      const bytes = new Uint8Array(takeBacking(byteLength));
      const start = ranges.next();
      ranges.add({ start, byteLength, bytes, context, references: 0 });
      return { cuPointer: start, bytes };
    },
    free: (cuPointer) => {
      const block = ranges.at(cuPointer);
      if (block === undefined) {
        const stale = ranges.wasIssued(cuPointer) && ranges.containing(cuPointer) === undefined;
        if (stale) throw new EmulatorLint("memory.freePinned: the pinned memory was freed already");
        throw cudaError("memory.freePinned", STATUS.INVALID_VALUE);
      }
      if (block.references > 0) throw new EmulatorLint("memory.freePinned: enqueued work refers to the memory");
      drop(block);
    },
    freeOf: (context) => {
      for (const block of ranges.values().filter((candidate) => candidate.context === context)) drop(block);
    },
    find: (cuPointer) => ranges.containing(cuPointer),
    require: (cuPointer, byteLength, call) => {
      const block = ranges.containing(cuPointer);
      if (block === undefined) {
        const what = ranges.wasIssued(cuPointer) ? "pinned memory that was freed" : "host memory that is not pinned";
        throw new EmulatorLint(`${call}: ${what}`);
      }
      if (cuPointer + BigInt(byteLength) > block.start + BigInt(block.byteLength)) {
        throw new EmulatorLint(`${call}: ${byteLength} bytes overrun the pinned memory`);
      }
      return block;
    },
    get size() {
      return ranges.size;
    },
  };
}
