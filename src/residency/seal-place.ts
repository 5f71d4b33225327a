/** The first stages of `seal-model.ts`: from a source to its bytes in VRAM. Each says how to undo what it did. */
import { constantTimeEqual, fromHex, toHex } from "../bytes.ts";
import type { AllocationId, UploadResult } from "../device/device.ts";
import type { UndoStack } from "../dispose.ts";
import { throwIfAborted, toVramError, VramError } from "../errors.ts";
import { cleanName, createShardId } from "../seal/names.ts";
import { freeAllocation } from "./free.ts";
import { outOfVram, type Reservation } from "./ledger.ts";
import type { SealResult } from "./seal-model.ts";
import { comparedWith, type NamedSource, requireExpected, type SealRequest, wantsSha256 } from "./seal-request.ts";
import { recordOf, type Shard } from "./shard.ts";
import { noteCapacity, readCapacity, type System, type Worker } from "./worker.ts";

/** Opens and checks the source; claims its name and id, so that registering cannot fail later. */
export async function openAndClaim(
  system: System,
  worker: Worker,
  request: SealRequest,
  claims: UndoStack,
): Promise<NamedSource> {
  throwIfAborted(request.signal);
  const source = await worker.device.openSource(request.spec, request.format, request.signal);
  claims.defer("source", () => worker.device.closeSource(source.sourceId));
  const { byteLength, format, tensors } = source;
  const shardName = request.name ?? cleanName(source.name);
  if (byteLength === 0) throw new VramError("SOURCE_EMPTY", `${shardName}: a source of zero bytes cannot be sealed`);
  if (byteLength > system.maxModelBytes) {
    throw new VramError("SOURCE_TOO_LARGE", `${shardName}: ${byteLength} bytes, the limit is ${system.maxModelBytes}`, {
      details: { byteLength, limit: system.maxModelBytes },
    });
  }
  claims.defer("name", system.registry.claim(shardName));
  const shardId = request.shardId ?? createShardId();
  claims.defer("id", system.registry.claimId(shardId, shardName, worker.ref.uuid));
  system.journal.note({ type: "source_opened", name: shardName, format, byteLength, tensorCount: tensors.length });
  return { ...source, shardName, shardId };
}

/**
 * A name that is resident already: the same digest on this device is the same shard, another digest is a conflict.
 * The source is digested on the host, not uploaded, to know which; what the caller expects is held against it as ever.
 */
export async function findExisting(
  system: System,
  worker: Worker,
  request: SealRequest,
  source: NamedSource,
): Promise<SealResult | undefined> {
  const named = system.registry.named(source.shardName);
  const here = named.find((shard) => shard.device.uuid === worker.ref.uuid);
  if (named.length === 0) return undefined;
  if (here === undefined && request.expected?.kind === "fsverity") {
    requireOneDigest(named, source, toHex(request.expected.bytes));
    return undefined;
  }
  const watch = request.signal === undefined ? {} : { signal: request.signal };
  const digested = await worker.device.digestSource(source.sourceId, wantsSha256(request), watch);
  try {
    requireExpected(request, source.shardName, digested);
  } catch (thrown) {
    throw await refusedSeal(system, worker, here?.seal.shardId ?? source.shardId, thrown);
  }
  requireOneDigest(named, source, toHex(digested.digest ?? new Uint8Array(0)));
  if (here === undefined) {
    throw new VramError(
      "NAME_CONFLICT",
      `${source.shardName} is resident on another device; give its digest to copy it`,
    );
  }
  if (here.state === "evicted") {
    throw new VramError("SEAL_IN_PROGRESS", `${source.shardName} was evicted while it was compared; try again`);
  }
  if (here.state !== "sealed") {
    throw new VramError("SHARD_NOT_RESIDENT", `${source.shardName} is ${here.state}; evict it first`);
  }
  requireSameTerms(request, here);
  return { record: recordOf(here), seal: here.seal };
}

/** Bytes that are not the expected ones: the refusal is on record before the error, which this gives back, is thrown. */
export async function refusedSeal(
  system: System,
  worker: Worker,
  shardId: string,
  thrown: unknown,
): Promise<VramError> {
  const error = toVramError(thrown);
  await system.journal.appendAnyway({ type: "seal_refused", device: worker.ref, shardId, reason: error.message });
  return error;
}

function requireOneDigest(named: readonly Shard[], source: NamedSource, digest: string): void {
  const offered = fromHex(digest, 32, "digest");
  if (named.every((shard) => constantTimeEqual(fromHex(shard.seal.digest, 32, "digest"), offered))) return;
  throw new VramError("NAME_CONFLICT", `the name ${source.shardName} belongs to a shard with another digest`, {
    details: { name: source.shardName, resident: named.map((shard) => shard.seal.digest), offered: digest },
  });
}

/** What was asked for beyond the bytes must be what the resident shard was sealed with. */
function requireSameTerms(request: SealRequest, { seal }: Shard): void {
  const differing = [
    ...(request.shardId !== undefined && request.shardId !== seal.shardId ? ["shardId"] : []),
    ...(wantsSha256(request) && seal.sha256 === "" ? ["sha256"] : []),
    ...(request.maxAgeMs !== seal.maxAgeMs ? ["maxAgeMs"] : []),
    ...(request.shardIndex !== seal.shardIndex || request.totalShards !== seal.totalShards ? ["place in its set"] : []),
  ];
  if (differing.length === 0) return;
  const what = differing.join(", ");
  throw new VramError(
    "NAME_CONFLICT",
    `${seal.name} is resident, but was sealed with another ${what}; evict it first`,
    {
      details: { shardId: seal.shardId, differing },
    },
  );
}

/** Promises room in VRAM. */
export async function reserve(
  system: System,
  worker: Worker,
  source: NamedSource,
  undo: UndoStack,
): Promise<Reservation> {
  const { byteLength, shardName: name } = source;
  try {
    return await worker.accounts.run(async () => {
      const { bytesFree } = await worker.device.memory();
      // Asked only when it matters: on a sick GPU the answer takes until its deadline.
      const fits = byteLength <= worker.ledger.capacity(bytesFree).bytesFree;
      const { processes = [] } = fits ? {} : await worker.device.health();
      const room = worker.ledger.reserve(byteLength, bytesFree, processes);
      undo.defer("reservation", () => room.release());
      const after = worker.ledger.capacity(bytesFree).bytesFree;
      system.journal.note({ type: "capacity_reserved", device: worker.ref, name, byteLength, bytesFree: after });
      return room;
    });
  } catch (thrown) {
    throw await allocationFailed(system, worker, source, thrown);
  }
}

/** Allocates and maps, read-only for good. The capacity goes from reserved to used in the same breath. */
export async function allocate(
  system: System,
  worker: Worker,
  source: NamedSource,
  room: Reservation,
  undo: UndoStack,
): Promise<AllocationId> {
  const { byteLength, shardName: name } = source;
  let allocationId: AllocationId;
  try {
    allocationId = await worker.accounts.run(async () => {
      const id = await worker.device.allocate(byteLength);
      room.charge();
      noteCapacity(system, worker);
      return id;
    });
  } catch (thrown) {
    room.release();
    throw await allocationFailed(system, worker, source, await withFigures(worker, source, thrown));
  }
  undo.defer("allocation", async () => {
    await freeAllocation(system, worker, { name, allocationId, byteLength, charge: room }, "undone");
  });
  await system.journal.append({ type: "vram_allocated", device: worker.ref, name, byteLength });
  return allocationId;
}

/** The driver refused what it said it had, because somebody else was quicker: with the figures of now (VR-MEM-05). */
async function withFigures(worker: Worker, source: NamedSource, thrown: unknown): Promise<VramError> {
  const error = toVramError(thrown);
  if (error.code !== "OUT_OF_VRAM") return error;
  try {
    const { processes = [] } = await worker.device.health();
    const { details } = outOfVram(source.byteLength, await readCapacity(worker), processes);
    const others = processes.map(({ name, pid, byteLength }) => `${name} (pid ${pid}): ${byteLength} bytes`);
    const message = `${error.message}: the driver refused ${source.byteLength} bytes, and says that more are free`;
    return new VramError("OUT_OF_VRAM", others.length === 0 ? message : `${message}; ${others.join(", ")}`, {
      details: { ...error.details, ...details },
      cause: error,
    });
  } catch {
    return error;
  }
}

async function allocationFailed(
  system: System,
  worker: Worker,
  source: NamedSource,
  thrown: unknown,
): Promise<VramError> {
  const error = toVramError(thrown);
  const available = error.details["bytesAvailable"];
  await system.journal.appendAnyway({
    type: "vram_allocation_failed",
    device: worker.ref,
    name: source.shardName,
    bytesNeeded: source.byteLength,
    // Where the driver failed for another reason than want of room, what there was when it was last asked.
    bytesAvailable: typeof available === "number" ? available : (worker.ledger.lastCapacity()?.bytesFree ?? 0),
    code: error.code,
  });
  return error;
}

/** Reads the source, once, into VRAM. */
export async function upload(
  system: System,
  worker: Worker,
  request: SealRequest,
  source: NamedSource,
  allocationId: AllocationId,
): Promise<UploadResult> {
  const { sourceId, shardName: name, byteLength } = source;
  const compared = comparedWith(request);
  const result = await worker.device.upload(
    { sourceId, allocationId, witness: compared === "witnessed", sha256: wantsSha256(request) },
    {
      ...(request.signal === undefined ? {} : { signal: request.signal }),
      onProgress: (bytesDone) =>
        system.journal.note({ type: "upload_progressed", name, bytesDone, bytesTotal: byteLength }),
    },
  );
  const { durationMs } = result;
  system.journal.note({ type: "uploaded", name, byteLength, durationMs, comparedWith: compared });
  return result;
}
