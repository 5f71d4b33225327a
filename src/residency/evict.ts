/** Ending residency. A shard somebody relies on is not evicted; one that is gone from the list is never relied on. */
import { VramError } from "../errors.ts";
import type { DurableBody } from "../journal/entry.ts";
import { freeAllocation } from "./free.ts";
import { recordOf, type Shard, type ShardRecord } from "./shard.ts";
import type { System, Worker } from "./worker.ts";

/** Why a shard goes: `lost`, because its device did. */
type Because = Extract<DurableBody, { type: "vram_deallocated" }>["because"];

/** What `evict` returns. */
export interface EvictResult {
  /** As the shard was last: its state is `evicted`. */
  readonly record: ShardRecord;
  /** False where another process may still map the memory, or where zeroing failed. */
  readonly zeroed: boolean;
  /** Why the memory was not zeroed, when it was not. */
  readonly reason?: string;
}

/** Memory that another process may be reading is not zeroed under it (design §7). */
function heldBy({ exports }: Shard): { heldBy?: string } {
  if (exports === 0) return {};
  return { heldBy: `${exports === 1 ? "another process" : `${exports} other processes`} may still map it` };
}

/**
 * Takes the shard off the list, then zeroes and frees its memory. `SHARD_BUSY` while it is leased, unless all are closed
 * or there is nothing left to rely on.
 */
export function evict(
  system: System,
  worker: Worker,
  shard: Shard,
  because: Because = "evicted",
): Promise<EvictResult> {
  return shard.use.run(async () => {
    const { name, byteLength, shardId } = shard.seal;
    if (shard.state === "evicted") throw new VramError("SHARD_NOT_FOUND", `${name} was evicted meanwhile`);
    if (shard.leases > 0 && (because === "evicted" || because === "undone")) {
      throw new VramError("SHARD_BUSY", `${name} is leased (${shard.leases})`, { details: { shardId } });
    }
    system.registry.remove(shard);
    shard.state = "evicted";
    const { allocationId, charge } = shard;
    const what = { name, shardId, allocationId, byteLength, charge, ...heldBy(shard) };
    const freed = await freeAllocation(system, worker, what, because);
    return { record: recordOf(shard), ...freed };
  });
}
