/**
 * The story of a seal, one stage a line: reserve → allocate → upload → facts → measure → compare → seal → record →
 * register. A seal that fails has done nothing: the undo stack unwinds, the account returns to what it was, nothing is
 * listed. `record` makes the entry durable; `register` is synchronous and cannot fail.
 */
import { UndoStack } from "../dispose.ts";
import { toVramError } from "../errors.ts";
import type { Seal } from "../seal/encoding.ts";
import * as place from "./seal-place.ts";
import * as prove from "./seal-prove.ts";
import type { SealRequest } from "./seal-request.ts";
import type { ShardRecord } from "./shard.ts";
import { requireRunning, type System, type Worker } from "./worker.ts";

/** What `seal` returns: the public record, and the seal as evidence for later. */
export interface SealResult {
  /** The shard as of now. */
  readonly record: ShardRecord;
  /** To be kept, and handed to `verify` later. */
  readonly seal: Seal;
}

/** The same, and whether this call made the shard: one that was resident already is nobody's to undo. */
export interface SealOutcome {
  readonly result: SealResult;
  readonly created: boolean;
}

/** Seals one source on one device. */
export async function sealModel(system: System, worker: Worker, request: SealRequest): Promise<SealOutcome> {
  requireRunning(worker);
  const undo = new UndoStack(system.reportRelease);
  const claims = new UndoStack(system.reportRelease);
  try {
    const source = await place.openAndClaim(system, worker, request, claims);
    const existing = await place.findExisting(system, worker, request, source);
    if (existing !== undefined) return { result: existing, created: false };

    const room = await place.reserve(system, worker, source, undo);
    const allocationId = await place.allocate(system, worker, source, room, undo);
    const uploaded = await place.upload(system, worker, request, source, allocationId);
    await prove.checkFacts(system, worker, source, allocationId);
    const measured = await prove.measure(system, worker, request, source, allocationId);
    await prove.compare(system, worker, request, source, uploaded, measured);
    const shard = prove.seal(system, worker, request, source, { room, allocationId, uploaded, measured });
    await prove.record(system, worker, request, shard);
    const result = prove.register(system, worker, shard);
    undo.disarm();
    return { result, created: true };
  } catch (thrown) {
    await undo.unwind();
    throw toVramError(thrown);
  } finally {
    await claims.unwind();
  }
}
