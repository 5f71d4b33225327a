/** Giving memory back: zeroed on the device if that is possible, freed, credited, and on record either way. */
import type { AllocationId, FreeResult } from "../device/device.ts";
import type { Reservation } from "./ledger.ts";
import { noteCapacity, type System, type Worker } from "./worker.ts";

export interface Freeable {
  readonly name: string;
  /** Of what was sealed there, if it was. */
  readonly shardId?: string;
  readonly allocationId: AllocationId;
  readonly byteLength: number;
  readonly charge: Reservation;
  /** Who else may be reading it, in words: then it is not zeroed. */
  readonly heldBy?: string;
}

/** Frees; never throws. Holds the worker's account, so that the driver's figures before and after belong to this. */
export async function freeAllocation(
  system: System,
  worker: Worker,
  what: Freeable,
  because: "evicted" | "undone" | "closed" | "lost",
): Promise<FreeResult> {
  const driverFree = (): Promise<number | undefined> =>
    worker.device.memory().then(
      (memory) => memory.bytesFree,
      () => undefined,
    );
  const result = await worker.accounts.run(async () => {
    const before = await driverFree();
    const freed = await worker.device.free(what.allocationId, what.heldBy);
    const after = await driverFree();
    what.charge.release();
    if (before !== undefined && after !== undefined) worker.ledger.noteFreed(what.byteLength, before, after);
    noteCapacity(system, worker);
    return freed;
  });
  await system.journal.appendAnyway({
    type: "vram_deallocated",
    device: worker.ref,
    name: what.name,
    ...(what.shardId === undefined ? {} : { shardId: what.shardId }),
    byteLength: what.byteLength,
    because,
    ...result,
  });
  return result;
}
