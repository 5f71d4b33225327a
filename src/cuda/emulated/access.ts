/**
 * What stands between an address and the bytes behind it, when work is enqueued and again when it executes. As on
 * hardware, an address that is not mapped or a mapping without the access needed is a fault of the context at
 * execution (700), and memory with an uncorrectable error fails whoever reads it (214). Beyond hardware, a step past
 * the bytes in use is a lint.
 */
import { ACCESS } from "../driver.ts";
import { STATUS } from "../status.ts";
import type { AddressSpace, Mapping } from "./address-space.ts";
import { flagsOf } from "./address-space.ts";
import type { EmulatedFaults } from "./faults.ts";
import { EmulatorLint, ExecutionFault, type LintBook } from "./lint.ts";
import type { PhysicalMemory } from "./physical.ts";

/** A range of physical memory that may be accessed. */
export interface Reach {
  readonly mapping: Mapping;
  readonly physical: PhysicalMemory;
  /** Within the physical memory. */
  readonly offset: number;
}

export interface Accessor {
  /** Enqueue time: the mapping that is to be kept until the work is done, if there is one by now. */
  expect(cuPointer: bigint, byteLength: number, call: string): Mapping | undefined;
  /** Execution time: `ordinal` is the device that accesses the range. */
  reach(cuPointer: bigint, byteLength: number, ordinal: number, need: "read" | "readWrite"): Reach;
  /** Execution time: a copy of the range. */
  fetch(cuPointer: bigint, byteLength: number, ordinal: number): Uint8Array;
}

const overruns = (mapping: Mapping, offset: number, byteLength: number): boolean =>
  offset + byteLength > mapping.allocation.extent;

/** Counts a reference to each; the function returned gives them back. */
export function holdReferences(targets: readonly ({ references: number } | undefined)[]): () => void {
  for (const target of targets) if (target !== undefined) target.references += 1;
  return () => {
    for (const target of targets) if (target !== undefined) target.references -= 1;
  };
}

export function openAccessor(space: AddressSpace, faults: EmulatedFaults, lints: LintBook): Accessor {
  const locate = (cuPointer: bigint, byteLength: number): { mapping: Mapping; offset: number } | undefined => {
    const mapping = space.find(cuPointer);
    if (mapping === undefined) return undefined;
    const offset = Number(cuPointer - mapping.start);
    return offset + byteLength <= mapping.byteLength ? { mapping, offset } : undefined;
  };
  const overrun = (byteLength: number): EmulatorLint =>
    new EmulatorLint(`an access of ${byteLength} bytes overruns the bytes in use of its allocation`);
  const isUnreadable = ({ allocation }: Mapping, offset: number, byteLength: number): boolean =>
    (faults.uncorrectable?.() ?? []).some(
      (bad) =>
        bad.allocation === allocation.serial &&
        bad.offset < offset + byteLength &&
        offset < bad.offset + bad.byteLength,
    );

  const reach: Accessor["reach"] = (cuPointer, byteLength, ordinal, need) => {
    const found = locate(cuPointer, byteLength);
    if (found === undefined) throw new ExecutionFault(STATUS.ILLEGAL_ADDRESS);
    const { mapping, offset } = found;
    const needed = ACCESS[need];
    if ((flagsOf(mapping, ordinal) & needed) !== needed) throw new ExecutionFault(STATUS.ILLEGAL_ADDRESS);
    if (overruns(mapping, offset, byteLength)) lints.remember(overrun(byteLength));
    if (need === "read" && isUnreadable(mapping, offset, byteLength)) {
      throw new ExecutionFault(STATUS.ECC_UNCORRECTABLE);
    }
    return { mapping, physical: mapping.allocation.physical, offset };
  };

  return {
    expect: (cuPointer, byteLength, call) => {
      const found = locate(cuPointer, byteLength);
      if (found !== undefined && overruns(found.mapping, found.offset, byteLength)) {
        throw new EmulatorLint(`${call}: ${overrun(byteLength).message}`);
      }
      return found?.mapping;
    },
    reach,
    fetch: (cuPointer, byteLength, ordinal) => {
      const { physical, offset } = reach(cuPointer, byteLength, ordinal, "read");
      const bytes = new Uint8Array(byteLength);
      physical.read(offset, bytes);
      return bytes;
    },
  };
}
