/**
 * Verifying a set: its seal, that every member is resident in its place, then each member where it lies. A set seal
 * that does not hold is refused like any seal; a member that is missing makes the set not resident.
 */
import { toVramError, VramError } from "../errors.ts";
import type { Shard } from "../residency/shard.ts";
import { findWorker, type System, type Worker } from "../residency/worker.ts";
import { sealRefused } from "../seal/seal.ts";
import { checkSetSeal, type SetSeal } from "../seal/set.ts";
import type { VerificationReport } from "./report.ts";
import { type VerifyRequest, verify } from "./verify.ts";

/** A verification of a whole set that passed. */
export interface SetReport {
  /** As many as `members`. */
  readonly totalShards: number;
  /** fs-verity digest of a file that was sealed whole, hex; empty for a cut one and for several. */
  readonly digest: string;
  /** Each member's report, in index order. */
  readonly members: readonly VerificationReport[];
  /** Age of the oldest measurement relied on, in ms. */
  readonly ageMs: number;
}

async function requireSet(system: System, worker: Worker, presented: unknown): Promise<SetSeal> {
  const set = checkSetSeal(system.setKey, presented);
  if (typeof set !== "string") return set;
  await system.journal.appendAnyway({ type: "seal_refused", device: worker.ref, shardId: "set", reason: set });
  throw sealRefused();
}

function requireMembers(system: System, set: SetSeal): Shard[] {
  const byMac = new Map(system.registry.all().map((shard) => [shard.seal.mac, shard]));
  return set.macs.map((mac, index) => {
    const shard = byMac.get(mac);
    // Index and total are under the member's own mac; a set seal that disagrees with them was not made by us.
    if (shard?.seal.shardIndex === index && shard.seal.totalShards === set.totalShards) return shard;
    throw new VramError("SHARD_NOT_RESIDENT", `member ${index} of ${set.totalShards} of the set is not resident`, {
      details: { shardIndex: index, totalShards: set.totalShards },
    });
  });
}

/** Verifies every member; the error of the lowest index is thrown, with how the others fared. */
export async function verifySet(
  system: System,
  workers: readonly Worker[],
  presented: unknown,
  request: Omit<VerifyRequest, "presented">,
): Promise<SetReport> {
  const set = await requireSet(system, findWorker(workers, undefined), presented);
  const shards = requireMembers(system, set);
  const outcomes = await Promise.allSettled(
    shards.map((shard) => verify(system, shard.worker, shard, { ...request, presented: shard.seal })),
  );
  const members: VerificationReport[] = [];
  for (const [index, outcome] of outcomes.entries()) {
    if (outcome.status === "fulfilled") members.push(outcome.value);
    else throw memberError(outcome.reason, index, outcomes);
  }
  const ageMs = Math.max(...members.map((member) => member.ageMs));
  return { totalShards: set.totalShards, digest: set.digest, members, ageMs };
}

function memberError(reason: unknown, index: number, outcomes: readonly PromiseSettledResult<unknown>[]): VramError {
  const { code, message, fix, details } = toVramError(reason);
  const members = outcomes.map((outcome) => (outcome.status === "fulfilled" ? "ok" : toVramError(outcome.reason).code));
  return new VramError(code, message, { cause: reason, fix, details: { ...details, shardIndex: index, members } });
}
