/**
 * Virtual memory: reservations of address space and the mappings in them. One reservation holds at most one mapping,
 * of a whole allocation, at its start. Several mappings may show the same allocation (aliases), each with its own
 * access, which is `none` until it is set.
 *
 * Stricter than hardware: no partial maps, and a mapping that enqueued work refers to cannot be unmapped.
 */
import { ACCESS, type Access } from "../driver.ts";
import { cudaError, STATUS } from "../status.ts";
import { EmulatorLint } from "./lint.ts";
import type { Allocation, Allocations } from "./memory.ts";
import { GRANULE_BYTES } from "./physical.ts";
import { type Range, rangeList } from "./ranges.ts";

export interface Mapping extends Range {
  readonly allocation: Allocation;
  /** Flags by device ordinal. */
  readonly access: Map<number, number>;
  /** Enqueued operations that refer to it. */
  references: number;
}

interface Reservation extends Range {
  mapping: Mapping | undefined;
}

export interface AddressSpace {
  reserve(byteLength: number): bigint;
  free(cuPointer: bigint, byteLength: number): void;
  map(cuPointer: bigint, byteLength: number, cuHandle: bigint): void;
  unmap(cuPointer: bigint, byteLength: number): void;
  setAccess(cuPointer: bigint, byteLength: number, ordinal: number, access: Access): void;
  getAccess(cuPointer: bigint, ordinal: number): number;
  /** The mapping that contains the address. */
  find(cuPointer: bigint): Mapping | undefined;
  readonly reservations: number;
  mappings(): readonly Mapping[];
}

const BASE = 0x00ed_0000_0000_0000n;

export const flagsOf = (mapping: Mapping, ordinal: number): number => mapping.access.get(ordinal) ?? ACCESS.none;

export function openAddressSpace(allocations: Allocations): AddressSpace {
  const ranges = rangeList<Reservation>(BASE);

  const refuse = (call: string): never => {
    throw cudaError(call, STATUS.INVALID_VALUE);
  };
  const reservationAt = (cuPointer: bigint, call: string): Reservation => {
    const reservation = ranges.at(cuPointer);
    if (reservation !== undefined) return reservation;
    const stale = ranges.wasIssued(cuPointer) && ranges.containing(cuPointer) === undefined;
    if (stale) throw new EmulatorLint(`${call}: the address range was freed`);
    return refuse(call);
  };
  /** The mapping at exactly this range. */
  const mappingAt = (cuPointer: bigint, byteLength: number, call: string): Mapping => {
    const { mapping } = reservationAt(cuPointer, call);
    return mapping?.byteLength === byteLength ? mapping : refuse(call);
  };
  const find = (cuPointer: bigint): Mapping | undefined => {
    const mapping = ranges.containing(cuPointer)?.mapping;
    return mapping !== undefined && cuPointer < mapping.start + BigInt(mapping.byteLength) ? mapping : undefined;
  };

  return {
    reserve: (byteLength) => {
      const valid = Number.isSafeInteger(byteLength) && byteLength > 0 && byteLength % GRANULE_BYTES === 0;
      if (!valid) refuse("memory.reserveAddress");
      const start = ranges.next();
      ranges.add({ start, byteLength, mapping: undefined });
      return start;
    },
    free: (cuPointer, byteLength) => {
      const reservation = reservationAt(cuPointer, "memory.freeAddress");
      if (reservation.byteLength !== byteLength || reservation.mapping !== undefined) refuse("memory.freeAddress");
      ranges.remove(reservation);
    },
    map: (cuPointer, byteLength, cuHandle) => {
      const allocation = allocations.get(cuHandle, "memory.map");
      const reservation = reservationAt(cuPointer, "memory.map");
      const fits = byteLength === allocation.physical.byteLength && byteLength <= reservation.byteLength;
      if (!fits || reservation.mapping !== undefined) refuse("memory.map");
      reservation.mapping = { start: cuPointer, byteLength, allocation, access: new Map(), references: 0 };
      allocations.countMappings(allocation, 1);
    },
    unmap: (cuPointer, byteLength) => {
      const mapping = mappingAt(cuPointer, byteLength, "memory.unmap");
      if (mapping.references > 0) throw new EmulatorLint("memory.unmap: enqueued work refers to the mapping");
      reservationAt(cuPointer, "memory.unmap").mapping = undefined;
      allocations.countMappings(mapping.allocation, -1);
    },
    setAccess: (cuPointer, byteLength, ordinal, access) => {
      mappingAt(cuPointer, byteLength, "memory.setAccess").access.set(ordinal, ACCESS[access]);
    },
    getAccess: (cuPointer, ordinal) => flagsOf(find(cuPointer) ?? refuse("memory.getAccess"), ordinal),
    find,
    get reservations() {
      return ranges.size;
    },
    mappings: () => ranges.values().flatMap(({ mapping }) => mapping ?? []),
  };
}
