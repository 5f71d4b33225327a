/**
 * The capacity account of one device. What can still be promised is what the driver has free, less the headroom, less
 * what is reserved but not yet allocated. The account is exact only because observing, reserving, allocating and
 * freeing happen one at a time: callers hold the worker's `accounts` mutex (VR-MEM-04).
 *
 * All figures are bytes; reserved and used ones are whole granules.
 */
import { assert } from "../assert.ts";
import { roundUp } from "../bytes.ts";
import type { Tenant } from "../cuda/monitor.ts";
import { VramError } from "../errors.ts";
import { LIMITS } from "../limits.ts";

/** The account of one device, in bytes. */
export interface Capacity {
  /** All of its memory, whoever holds it. */
  readonly bytesTotal: number;
  /** Allocated for shards. */
  readonly bytesUsed: number;
  /** A shard of exactly this many bytes fits. */
  readonly bytesFree: number;
  /** Promised to seals in flight, not yet allocated. */
  readonly bytesReserved: number;
  /** Never promised to anyone. */
  readonly bytesHeadroom: number;
  /** Freed by us, not yet given back by the driver: somebody else still maps it. An estimate. */
  readonly bytesUnreclaimed: number;
}

/** A promise of room. Exactly one of charge-then-credit or release ends it. */
export interface Reservation {
  /** The room is allocated now: from reserved to used. */
  charge(): void;
  /** Gives up the promise, or what was charged. May be called twice. */
  release(): void;
}

export interface Ledger {
  /** The account, given what the driver has free now. */
  capacity(driverBytesFree: number): Capacity;
  /** The account by the driver's figure that was last seen; undefined before there was one. */
  lastCapacity(): Capacity | undefined;
  /** Promises room for `byteLength` bytes, or throws `OUT_OF_VRAM`. */
  reserve(byteLength: number, driverBytesFree: number, tenants: readonly Tenant[]): Reservation;
  /** Notes that a free of `byteLength` bytes moved the driver's figure from `before` to `after`. */
  noteFreed(byteLength: number, before: number, after: number): void;
}

/** The default headroom of a device of this size: 64 MiB, or 1/32 of a small one, in granules. */
export function defaultHeadroom(bytesTotal: number, granuleBytes: number): number {
  return Math.min(LIMITS.headroomBytes, Math.floor(bytesTotal / 32 / granuleBytes) * granuleBytes);
}

/** The refusal of a shard for which there is no room. */
export function outOfVram(needed: number, capacity: Capacity, tenants: readonly Tenant[]): VramError {
  const holders = tenants.map((tenant) => `${tenant.name} (pid ${tenant.pid}): ${tenant.byteLength} bytes`);
  const others = holders.length === 0 ? "" : `; others on this device: ${holders.join(", ")}`;
  return new VramError(
    "OUT_OF_VRAM",
    `not enough VRAM: ${needed} bytes needed, ${capacity.bytesFree} available${others}`,
    { details: { bytesNeeded: needed, bytesAvailable: capacity.bytesFree, capacity, tenants } },
  );
}

/** A new account. `bytesHeld`: of what an earlier process allocated, and others may still hold. */
export function createLedger(
  bytesTotal: number,
  granuleBytes: number,
  bytesHeadroom: number,
  bytesHeld: number = 0,
): Ledger {
  let used = 0;
  let reserved = 0;
  let unreclaimed = bytesHeld;
  let lastFree: number | undefined;

  const capacity = (driverBytesFree: number): Capacity => {
    // What the driver gives back without a free of ours is memory somebody else held on to until now.
    if (lastFree !== undefined) unreclaimed = Math.max(0, unreclaimed - Math.max(0, driverBytesFree - lastFree));
    lastFree = driverBytesFree;
    // What the driver has free, or we have, nobody else holds.
    unreclaimed = Math.min(unreclaimed, Math.max(0, bytesTotal - driverBytesFree - used));
    const promisable = driverBytesFree - bytesHeadroom - reserved;
    return {
      bytesTotal,
      bytesUsed: used,
      bytesFree: Math.max(0, Math.floor(promisable / granuleBytes) * granuleBytes),
      bytesReserved: reserved,
      bytesHeadroom,
      bytesUnreclaimed: unreclaimed,
    };
  };

  const reserve: Ledger["reserve"] = (byteLength, driverBytesFree, tenants) => {
    const now = capacity(driverBytesFree);
    if (byteLength > now.bytesFree) throw outOfVram(byteLength, now, tenants);
    const bytes = roundUp(byteLength, granuleBytes);
    reserved += bytes;
    let state: "reserved" | "charged" | "released" = "reserved";
    return {
      charge: () => {
        assert(state === "reserved", "a reservation is charged once");
        state = "charged";
        reserved -= bytes;
        used += bytes;
        if (lastFree !== undefined) lastFree -= bytes;
      },
      release: () => {
        if (state === "reserved") reserved -= bytes;
        if (state === "charged") used -= bytes;
        state = "released";
        assert(reserved >= 0 && used >= 0, "the ledger is never negative");
      },
    };
  };

  return {
    capacity,
    lastCapacity: () => (lastFree === undefined ? undefined : capacity(lastFree)),
    reserve,
    noteFreed: (byteLength, before, after) => {
      const freed = roundUp(byteLength, granuleBytes);
      unreclaimed += Math.max(0, freed - Math.max(0, after - before));
      lastFree = after;
    },
  };
}
