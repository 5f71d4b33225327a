/**
 * Sealing a model in several shards: the files of a directory or index, or one file cut at tensor boundaries, over one
 * or more devices. All members are sealed, or none stays; then one seal says that they are one model (VR-SEAL-06).
 */

import { present } from "../assert.ts";
import { toHex } from "../bytes.ts";
import { toVramError, VramError } from "../errors.ts";
import type { NamedDigest } from "../hash/descriptor.ts";
import { cleanName } from "../seal/names.ts";
import { createSetSeal, type SetSeal } from "../seal/set.ts";
import { cutAtTensors } from "../source/cut.ts";
import type { FormatOptions, SourceSpec } from "../source/source.ts";
import { evict } from "./evict.ts";
import { type SealResult, sealModel } from "./seal-model.ts";
import { requireExpected, type SealRequest } from "./seal-request.ts";
import type { System, Worker } from "./worker.ts";

export interface SetRequest {
  /** The member files, in order; one when a file is cut. */
  readonly paths: readonly string[];
  /** What the set is called. */
  readonly name: string;
  /** Into how many shards a single file is cut; 1 leaves it whole. */
  readonly shards: number;
  /** What the whole file must be, when a single file is cut. */
  readonly expected: NamedDigest | undefined;
  readonly format: FormatOptions;
  readonly sha256: boolean;
  readonly maxAgeMs: number;
  readonly signal: AbortSignal;
}

/** What `sealSet` returns: the seal of the whole, and each member in index order. */
export interface SetResult {
  readonly set: SetSeal;
  readonly members: readonly SealResult[];
}

interface Member {
  readonly spec: SourceSpec;
  readonly name: string;
}

/** Where a file is cut, and its digest as a whole if that was asked for. */
async function planCut(system: System, worker: Worker, path: string, request: SetRequest) {
  const whole: SourceSpec = { kind: "path", path, roots: system.modelRoots };
  const { sourceId, tensors, byteLength, identity, format } = await worker.device.openSource(
    whole,
    request.format,
    request.signal,
  );
  try {
    let digest = "";
    if (request.expected !== undefined) {
      const wantsSha256 = request.expected.kind === "sha256";
      const digested = await worker.device.digestSource(sourceId, wantsSha256, { signal: request.signal });
      requireExpected(request, request.name, digested);
      digest = toHex(present(digested.digest, "the digest of the whole file"));
    }
    const file = { identity: present(identity, "the file's identity"), format };
    const parts = cutAtTensors(tensors, byteLength, request.shards).map((part) => ({ ...part, ...file }));
    const members = parts.map((part, index): Member => {
      const place = `${String(index + 1).padStart(5, "0")}-of-${String(parts.length).padStart(5, "0")}`;
      return { spec: { ...whole, part }, name: `${request.name}/${place}` };
    });
    return { digest, members };
  } finally {
    await worker.device.closeSource(sourceId);
  }
}

async function planMembers(system: System, worker: Worker, request: SetRequest) {
  const [only, second] = request.paths;
  if (only !== undefined && second === undefined) return planCut(system, worker, only, request);
  if (request.shards > 1 || request.expected !== undefined) {
    throw new VramError("INVALID_ARGUMENT", "shards and expected belong to a single file, not to a set of files");
  }
  const members = request.paths.map((path): Member => {
    const base = cleanName(path.slice(path.lastIndexOf("/") + 1));
    return { spec: { kind: "path", path, roots: system.modelRoots }, name: `${request.name}/${base}` };
  });
  return { digest: "", members };
}

function memberRequest(
  request: SetRequest,
  member: Member,
  index: number,
  total: number,
  signal: AbortSignal,
): SealRequest {
  const { format, sha256, maxAgeMs } = request;
  const place = { shardIndex: index, totalShards: total, shardId: undefined, expected: undefined };
  return { spec: member.spec, name: member.name, format, sha256, maxAgeMs, signal, ...place };
}

/** Seals the members, device by device at the same time; the first failure stops the others. */
async function sealMembers(
  system: System,
  workers: readonly Worker[],
  request: SetRequest,
  members: readonly Member[],
): Promise<SealResult[]> {
  const stop = new AbortController();
  const signal = AbortSignal.any([request.signal, stop.signal]);
  const sealed = new Map<number, SealResult>();
  let failure: VramError | undefined;
  const sealOn = async (worker: Worker, position: number): Promise<void> => {
    for (let index = position; index < members.length && failure === undefined; index += workers.length) {
      const member = present(members[index], "a member of the set");
      try {
        sealed.set(
          index,
          await sealModel(system, worker, memberRequest(request, member, index, members.length, signal)),
        );
      } catch (thrown) {
        failure ??= toVramError(thrown);
        stop.abort();
      }
    }
  };
  const before = new Set(system.registry.all());
  await Promise.all(workers.map(sealOn));
  if (failure === undefined) return members.map((_, index) => present(sealed.get(index), "a sealed member"));
  await evictNew(system, workers, before, [...sealed.values()]);
  throw failure;
}

/** Evicts those of `sealed` that were not resident `before`. */
async function evictNew(
  system: System,
  workers: readonly Worker[],
  before: ReadonlySet<unknown>,
  sealed: readonly SealResult[],
): Promise<void> {
  for (const { record } of sealed) {
    const shard = system.registry.all().find((one) => one.seal.shardId === record.shardId);
    const worker = workers.find((one) => one.ref.uuid === record.device.uuid);
    if (shard === undefined || worker === undefined || before.has(shard)) continue;
    await evict(system, worker, shard).catch((error: unknown) => system.reportRelease("a set's member", error));
  }
}

/** Seals a set over `workers`, member i on worker i modulo their number. */
export async function sealSet(system: System, workers: readonly Worker[], request: SetRequest): Promise<SetResult> {
  const before = new Set(system.registry.all());
  const { digest, members } = await planMembers(system, present(workers[0], "a worker"), request);
  const sealed = await sealMembers(system, workers, request, members);
  const set = createSetSeal(
    system.setKey,
    digest,
    sealed.map(({ seal }) => seal.mac),
  );
  try {
    await system.journal.append({
      type: "set_sealed",
      name: request.name,
      totalShards: set.totalShards,
      mac: set.mac,
    });
  } catch (error) {
    await evictNew(system, workers, before, sealed);
    throw error;
  }
  return { set, members: sealed };
}
