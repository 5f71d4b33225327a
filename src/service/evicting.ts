/**
 * Evicting in a service: a shard, or a set as a whole, is freed and not wanted any more. Nothing is answered as evicted
 * that comes back: not a row that was made while it was freed, nor what was restored meanwhile, nor, because the log has
 * the eviction, a row that could not be taken out of the file.
 */
import { toVramError, VramError } from "../errors.ts";
import type { EvictResult } from "../residency/evict.ts";
import type { Shard } from "../residency/shard.ts";
import { isOfRow, type Parts, shardOf, shardsOf } from "./parts.ts";
import type { Service } from "./service.ts";
import { nameOf, type WantedRow } from "./wanted-rows.ts";

/** A set is one thing: its members are evicted together. */
function requireWhole(row: WantedRow | undefined, idOrName: string): void {
  if (row === undefined || row.kind === "shard" || nameOf(row) === idOrName) return;
  throw new VramError("INVALID_ARGUMENT", `${idOrName} is a member of the set ${nameOf(row)}; evict the set`, {
    details: { argument: "shard", set: nameOf(row) },
  });
}

/** Evicts what is still there; others may be evicting it, too. */
async function evictEach(parts: Parts, shards: readonly Shard[]): Promise<EvictResult[]> {
  const evicted: EvictResult[] = [];
  for (const shard of shards) {
    if (shard.state === "evicted") continue;
    const result = await parts.vram.evict(shard.seal.shardId).catch((thrown: unknown) => {
      if (toVramError(thrown).code !== "SHARD_NOT_FOUND") throw thrown;
    });
    if (result !== undefined) evicted.push(result);
  }
  return evicted;
}

/**
 * Forgets every row of these shards, also one that was made while they were evicted, and what was restored of it
 * meanwhile. What was evicted is on record as that, so that a wanted set that cannot be written brings nothing back.
 */
async function forgetRows(parts: Parts, ids: readonly string[], hasEvicted: boolean): Promise<WantedRow | undefined> {
  const { keeper, open } = parts;
  let forgotten: WantedRow | undefined;
  for (const id of ids) {
    const row = keeper.rowOf(id);
    if (row === undefined) continue;
    forgotten = row;
    try {
      await keeper.forget(row);
    } catch (thrown) {
      if (!hasEvicted) throw thrown;
      const { message } = toVramError(thrown);
      open.system.journal.note({ type: "entry_unrecorded", lost: "what is wanted no more", message });
    }
    await evictEach(
      parts,
      open.system.registry.all().filter((shard) => isOfRow(row, shard)),
    );
  }
  return forgotten;
}

/** Evicts what is called so. `SHARD_BUSY` while any of it is leased, unless its leases are revoked with it. */
export async function evictNamed(parts: Parts, idOrName: string, revoke: boolean): ReturnType<Service["evict"]> {
  const { open, keeper } = parts;
  const row = keeper.rowOf(idOrName);
  const shards = shardsOf(parts, idOrName);
  if (row === undefined && shards.length === 0) shardOf(parts, idOrName);
  requireWhole(row, idOrName);
  const revoking = revoke ? open.leases.revoke((shard) => shards.includes(shard), "evicted") : undefined;
  const unbar = open.leases.bar(shards);
  try {
    await revoking;
    const evicted = await evictEach(parts, shards);
    const ids = [...shards.map(({ seal }) => seal.shardId), ...(row === undefined ? [] : [nameOf(row)])];
    const forgotten = await forgetRows(parts, ids, shards.length > 0);
    return {
      name: forgotten === undefined ? idOrName : nameOf(forgotten),
      shards: evicted,
      wanted: forgotten !== undefined,
    };
  } finally {
    unbar();
  }
}
