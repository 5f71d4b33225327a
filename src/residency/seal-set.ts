/**
 * Sealing a model in several shards: the files of a directory or index, or one file cut at tensor boundaries, over one
 * or more devices. All members are sealed, or none stays; then one seal says that they are one model (VR-SEAL-06).
 */

import { present } from "../assert.ts";
import { firstOf } from "../clock.ts";
import { UndoStack } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import { type NamedDigest, parseDigest } from "../hash/descriptor.ts";
import { inWorker } from "../journal/scope.ts";
import type { Seal } from "../seal/encoding.ts";
import { cleanName, requireName } from "../seal/names.ts";
import { createSetSeal, type SetSeal } from "../seal/set.ts";
import { cutAtTensors } from "../source/cut.ts";
import type { FormatOptions, SourceSpec } from "../source/source.ts";
import { evict } from "./evict.ts";
import { type SealResult, sealModel } from "./seal-model.ts";
import type { SealRequest } from "./seal-request.ts";
import type { System, Worker } from "./worker.ts";

export interface SetRequest {
  /** The member files, in order; one when a file is cut. */
  readonly paths: readonly string[];
  /** What the set is called. */
  readonly name: string;
  /** Into how many shards a single file is cut; 1 leaves it whole. */
  readonly shards: number;
  /** What the file must be, when it is a single one and not cut. */
  readonly expected: NamedDigest | undefined;
  readonly format: FormatOptions;
  readonly sha256: boolean;
  readonly maxAgeMs: number;
  readonly signal: AbortSignal;
  /** Seals of an earlier start, in index order: ids and digests must be the same again. */
  readonly sealed?: readonly Seal[];
}

/** What `sealSet` returns: the seal of the whole, and each member in index order. */
export interface SetResult {
  /** To be kept, and handed to `verifySet` later. */
  readonly set: SetSeal;
  /** At least one. */
  readonly members: readonly SealResult[];
}

interface Member {
  readonly spec: SourceSpec;
  readonly name: string;
}

const numbered = (value: number): string => String(value).padStart(5, "0");

/** What a part of a single file is called. */
export const cutName = (name: string, index: number, total: number): string =>
  requireName(`${name}/${numbered(index + 1)}-of-${numbered(total)}`);

/** Where a single file is cut. */
async function planCut(system: System, worker: Worker, path: string, request: SetRequest): Promise<Member[]> {
  const whole: SourceSpec = { kind: "path", path, roots: system.modelRoots };
  const { sourceId, tensors, byteLength, identity, format } = await worker.device.openSource(
    whole,
    request.format,
    request.signal,
  );
  await worker.device.closeSource(sourceId);
  const file = { identity: present(identity, "the file's identity"), format };
  const parts = cutAtTensors(tensors, byteLength, request.shards).map((part) => ({ ...part, ...file }));
  return parts.map((part, index): Member => {
    return { spec: { ...whole, part }, name: cutName(request.name, index, parts.length) };
  });
}

function planMembers(system: System, worker: Worker, request: SetRequest): Promise<Member[]> | Member[] {
  const [only, second] = request.paths;
  const single = only !== undefined && second === undefined;
  if (request.shards > 1 && !single) throw invalid("only a single file can be cut into shards");
  // A digest of the whole from a reading of its own would say nothing about the bytes that were then uploaded.
  if (request.expected !== undefined && (!single || request.shards > 1)) {
    throw invalid("expected belongs to a single file that is not cut; each shard is witnessed as it is read");
  }
  if (single) return planCut(system, worker, only, request);
  return request.paths.map((path): Member => {
    const base = cleanName(path.slice(path.lastIndexOf("/") + 1));
    const spec: SourceSpec = { kind: "path", path, roots: system.modelRoots };
    return { spec, name: requireName(`${request.name}/${base}`) };
  });
}

const invalid = (why: string): VramError =>
  new VramError("INVALID_ARGUMENT", why, { details: { argument: "options" } });

function memberRequest(
  request: SetRequest,
  member: Member,
  index: number,
  total: number,
  signal: AbortSignal,
): SealRequest {
  const { format, sha256, maxAgeMs } = request;
  const before = request.sealed?.[index];
  const expected = before === undefined ? request.expected : parseDigest(before.digest);
  const place = { shardIndex: index, totalShards: total, shardId: before?.shardId };
  return { spec: member.spec, name: member.name, format, sha256, maxAgeMs, expected, signal, ...place };
}

/** Seals the members, device by device at the same time; the first failure stops the others, and none stays. */
async function sealMembers(
  system: System,
  workers: readonly Worker[],
  request: SetRequest,
  members: readonly Member[],
  undo: UndoStack,
): Promise<SealResult[]> {
  const stop = new AbortController();
  const signal = firstOf(request.signal, stop.signal);
  const sealed = new Map<number, SealResult>();
  let failure: VramError | undefined;
  const sealOn = async (worker: Worker, position: number): Promise<void> => {
    for (let index = position; index < members.length && failure === undefined; index += workers.length) {
      const member = present(members[index], "a member of the set");
      try {
        const single = memberRequest(request, member, index, members.length, signal);
        const { result, created } = await inWorker(worker.ref.uuid, () => sealModel(system, worker, single));
        sealed.set(index, result);
        if (created) undo.defer("a set's member", () => evictMember(system, worker, result));
      } catch (thrown) {
        failure ??= toVramError(thrown);
        stop.abort();
      }
    }
  };
  await Promise.all(workers.map(sealOn));
  if (failure !== undefined) throw failure;
  return members.map((_, index) => present(sealed.get(index), "a sealed member"));
}

/** Evicts what this set sealed, if nobody evicted it meanwhile. */
async function evictMember(system: System, worker: Worker, { seal }: SealResult): Promise<void> {
  const shard = system.registry.all().find((one) => one.seal.shardId === seal.shardId);
  if (shard !== undefined) await evict(system, worker, shard, "undone");
}

/** Every member must be resident still: a seal of the whole is never made over one that is gone. */
function requireResident(system: System, sealed: readonly SealResult[]): void {
  const resident = new Set(
    system.registry
      .all()
      .filter((shard) => shard.state === "sealed")
      .map((shard) => shard.seal.mac),
  );
  const missing = sealed.findIndex(({ seal }) => !resident.has(seal.mac));
  if (missing === -1) return;
  throw new VramError("SHARD_NOT_RESIDENT", `member ${missing} of the set was evicted while the others were sealed`);
}

/** Seals a set over `workers`, member i on worker i modulo their number. */
export async function sealSet(system: System, workers: readonly Worker[], request: SetRequest): Promise<SetResult> {
  const undo = new UndoStack(system.reportRelease);
  // One set of a name at a time: two would find, and undo, each other's members.
  const unclaim = system.registry.claim(`${request.name}/`);
  try {
    const members = await planMembers(system, present(workers[0], "a worker"), request);
    if (request.sealed !== undefined && request.sealed.length !== members.length) {
      throw new VramError(
        "DIGEST_MISMATCH",
        `${request.name} had ${request.sealed.length} members, and has ${members.length} now`,
      );
    }
    const sealed = await sealMembers(system, workers, request, members, undo);
    const macs = sealed.map(({ seal }) => seal.mac);
    // A file sealed whole has the digest that was measured; of one that was cut there is none.
    const [only] = sealed;
    const digest = request.paths.length === 1 && only !== undefined && sealed.length === 1 ? only.seal.digest : "";
    const set = createSetSeal(system.setKey, digest, macs);
    const { totalShards, mac } = set;
    await system.journal.append({ type: "set_sealed", name: request.name, totalShards, mac });
    requireResident(system, sealed);
    undo.disarm();
    return { set, members: sealed };
  } catch (error) {
    await undo.unwind();
    throw error;
  } finally {
    unclaim();
  }
}
