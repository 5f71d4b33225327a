/**
 * One allocation of device memory (`cuMemCreate`: pinned type, device location; nothing else is ever allocated for
 * weights, VR-MEM-01) and its mappings. The main mapping gets its access once, at birth, and keeps it: `read` for a
 * shard, `readWrite` for our own scratch. All writes to a shard go through `withWritableAlias`: a second address range
 * on the same physical memory, synchronised and unmapped before it returns (design §2, decision 4).
 */

import { roundUp } from "../bytes.ts";
import { ACCESS, type Access, type AllocationProperties, type CudaDriver } from "../cuda/driver.ts";
import { closedError, countHandle } from "../dispose.ts";
import type { DeviceContext } from "./context.ts";
import { forgetAddress, type Mapped, setAddress } from "./mapped.ts";
import { type Stream, settled } from "./stream.ts";

/** What the driver says about an allocation and its main mapping, as numbers from cuda.h. */
export interface RawFacts {
  readonly allocationType: number;
  readonly locationType: number;
  readonly locationId: number;
  readonly memoryType: bigint | undefined;
  readonly isManaged: bigint | undefined;
  readonly hostPointerKnown: boolean;
  readonly deviceOrdinal: bigint | undefined;
  readonly rangeBytes: bigint | undefined;
  /** Access flags of the mapping by cuMemGetAccess and by the pointer's attribute: two witnesses. */
  readonly mappingAccess: number;
  readonly pointerAccess: bigint | undefined;
}

export interface Allocation extends Mapped {
  /** Bytes mapped: `byteLength` rounded up to granules. */
  readonly mappedBytes: number;
  /** Asks the driver, every time. */
  facts(): RawFacts;
  /** Runs `task` with a writable range on the same memory; `stream` is settled and the range unmapped afterwards. */
  withWritableAlias<T>(stream: Stream, task: (alias: Mapped) => Promise<T>): Promise<T>;
  /**
   * A descriptor of the memory as a whole, for another process; the caller closes it. `stream` zeroes what lies behind
   * `byteLength` first: what was there before us is nobody's to read.
   */
  exportMemory(stream: Stream): Promise<number>;
  /** Unmaps and frees. Never throws; may be called twice. */
  close(): void;
}

type Step = readonly [what: string, undo: (driver: CudaDriver) => void];

/** Maps `cuHandle` at a fresh address range. On failure nothing stays behind. Returns the address and how to undo it. */
function mapHandle(context: DeviceContext, cuHandle: bigint, byteLength: number, access: Access): [bigint, Step[]] {
  const { cuDevice } = context;
  const undo: Step[] = [];
  try {
    const cuPointer = context.run((driver) => driver.memory.reserveAddress(byteLength));
    undo.unshift(["address range", (driver) => driver.memory.freeAddress(cuPointer, byteLength)]);
    context.run((driver) => driver.memory.map(cuPointer, byteLength, cuHandle));
    undo.unshift(["mapping", (driver) => driver.memory.unmap(cuPointer, byteLength)]);
    context.run((driver) => driver.memory.setAccess(cuPointer, byteLength, cuDevice, access));
    return [cuPointer, undo];
  } catch (error) {
    releaseAll(context, undo);
    throw error;
  }
}

function releaseAll(context: DeviceContext, steps: readonly Step[]): void {
  for (const [what, undo] of steps) context.release(what, undo);
}

/** The properties of whatever stands behind the address now, not of the handle that we believe does. */
function propertiesAt(context: DeviceContext, cuPointer: bigint): AllocationProperties {
  const cuHandle = context.run(({ memory }) => memory.retainHandle(cuPointer));
  try {
    return context.run(({ memory }) => memory.properties(cuHandle));
  } finally {
    context.release("retained handle", ({ memory }) => memory.release(cuHandle));
  }
}

function readFacts(context: DeviceContext, cuPointer: bigint): RawFacts {
  const properties = propertiesAt(context, cuPointer);
  return context.run(({ memory }) => ({
    ...properties,
    memoryType: memory.pointerAttribute(cuPointer, "memoryType"),
    isManaged: memory.pointerAttribute(cuPointer, "isManaged"),
    hostPointerKnown: memory.pointerAttribute(cuPointer, "hostPointer") !== undefined,
    deviceOrdinal: memory.pointerAttribute(cuPointer, "deviceOrdinal"),
    rangeBytes: memory.pointerAttribute(cuPointer, "rangeSize"),
    mappingAccess: memory.getAccess(cuPointer, context.cuDevice),
    pointerAccess: memory.pointerAttribute(cuPointer, "accessFlags"),
  }));
}

/** Allocates `byteLength` bytes and maps them with `access`. Contents are whatever was there before. */
export function openAllocation(context: DeviceContext, byteLength: number, access: "read" | "readWrite"): Allocation {
  const granule = context.run((driver) => driver.memory.granularity(context.cuDevice));
  const mappedBytes = roundUp(byteLength, granule);
  const cuHandle = context.run((driver) => driver.memory.create(mappedBytes, context.cuDevice));
  const steps: Step[] = [["memory handle", (driver) => driver.memory.release(cuHandle)]];
  let cuPointer: bigint;
  try {
    const [cuMain, undo] = mapHandle(context, cuHandle, mappedBytes, access);
    cuPointer = cuMain;
    steps.unshift(...undo);
  } catch (error) {
    releaseAll(context, steps);
    throw error;
  }
  context.driver.lint?.setExtent(cuPointer, byteLength);
  const gone = countHandle("allocation");
  let open = true;

  const withAlias = async <T>(stream: Stream, length: number, task: (alias: Mapped) => Promise<T>): Promise<T> => {
    if (!open) throw closedError("the allocation");
    const [cuAlias, undo] = mapHandle(context, cuHandle, mappedBytes, "readWrite");
    const aliasGone = countHandle("writable-alias");
    const alias: Mapped = { byteLength: length };
    setAddress(alias, cuAlias);
    try {
      return await settled(stream, length, () => task(alias));
    } finally {
      forgetAddress(alias);
      releaseAll(context, undo);
      aliasGone();
    }
  };

  const allocation: Allocation = {
    byteLength,
    mappedBytes,
    facts: () => {
      if (!open) throw closedError("the allocation");
      return readFacts(context, cuPointer);
    },
    withWritableAlias: (stream, task) => withAlias(stream, byteLength, task),
    exportMemory: async (stream) => {
      const slack = mappedBytes - byteLength;
      if (slack > 0) {
        context.driver.lint?.setExtent(cuPointer, mappedBytes);
        await withAlias(stream, mappedBytes, async (alias) => stream.fill(alias, byteLength, 0, slack));
      }
      if (!open) throw closedError("the allocation");
      return context.run((driver) => driver.memory.exportFd(cuHandle));
    },
    close: () => {
      if (!open) return;
      open = false;
      forgetAddress(allocation);
      releaseAll(context, steps);
      gone();
    },
  };
  setAddress(allocation, cuPointer);
  return allocation;
}

/** Name of numeric access flags, or `unknown`. */
export function accessName(flags: number | bigint | undefined): Access | "unknown" {
  if (flags === undefined) return "unknown";
  const found = (Object.keys(ACCESS) as Access[]).find((name) => BigInt(ACCESS[name]) === BigInt(flags));
  return found ?? "unknown";
}
