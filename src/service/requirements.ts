/** What must hold before a row of an earlier start is sealed again (VR-API-04). */
import { VramError } from "../errors.ts";
import type { Seal } from "../seal/encoding.ts";
import { findOnRecord, type OnRecord } from "./on-record.ts";
import { nameOf, sealsOf, type WantedRow } from "./wanted-rows.ts";

const isSame = (seal: Seal, found: OnRecord): boolean =>
  seal.name === found.name &&
  seal.digest === found.digest &&
  seal.byteLength === found.byteLength &&
  seal.deviceUuid === found.deviceUuid;

/**
 * `evicted` if the log says that it was, after it was sealed: then whoever evicted it was answered, or was about to be.
 * Throws `STATE_INVALID` unless the last seal of every shard on record is the row's. Without a log (`folder`) the mac of
 * the wanted set is all there is.
 */
export async function requireOnRecord(folder: string | undefined, row: WantedRow): Promise<"wanted" | "evicted"> {
  if (folder === undefined) return "wanted";
  const seals = sealsOf(row);
  const found = await findOnRecord(folder, seals);
  for (const seal of seals) {
    const one = found.get(seal.shardId);
    if (one !== undefined && isSame(seal, one)) continue;
    const what = one === undefined ? "the audit log has no seal of it" : "the audit log has another seal of it";
    throw new VramError("STATE_INVALID", `${nameOf(row)} is not sealed again: ${what}`, {
      fix: "the wanted set is not the newest one, or not ours: evict it, find out why, and seal the model again",
      details: { shardId: seal.shardId },
    });
  }
  return seals.some(({ shardId }) => found.get(shardId)?.evicted === true) ? "evicted" : "wanted";
}
