/** The first stages of `seal-model.ts`: from a source to its bytes in VRAM. Each says how to undo what it did. */
import { toHex } from "../bytes.ts";
import type { AllocationId, UploadResult } from "../device/device.ts";
import type { UndoStack } from "../dispose.ts";
import { throwIfAborted, toVramError, VramError } from "../errors.ts";
import { cleanName } from "../seal/names.ts";
import { freeAllocation } from "./free.ts";
import type { Reservation } from "./ledger.ts";
import type { SealResult } from "./seal-model.ts";
import { comparedWith, type NamedSource, requireExpected, type SealRequest, wantsSha256 } from "./seal-request.ts";
import { recordOf } from "./shard.ts";
import type { System, Worker } from "./worker.ts";

/** Opens and checks the source; claims its name and id, so that registering cannot fail later. */
export async function openAndClaim(
  system: System,
  worker: Worker,
  request: SealRequest,
  claims: UndoStack,
): Promise<NamedSource> {
  throwIfAborted(request.signal);
  const source = await worker.device.openSource(request.spec, request.format);
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
  claims.defer("id", system.registry.claimId(request.shardId));
  system.journal.note({ type: "source_opened", name: shardName, format, byteLength, tensorCount: tensors.length });
  return { ...source, shardName };
}

/**
 * A name that is resident already: the same digest on this device is the same shard, another digest is a conflict.
 * Without a given fs-verity digest the source is digested, not uploaded, to know which.
 */
export async function findExisting(
  system: System,
  worker: Worker,
  request: SealRequest,
  source: NamedSource,
): Promise<SealResult | undefined> {
  const named = system.registry.named(source.shardName);
  if (named.length === 0) return undefined;
  const given = request.expected?.kind === "fsverity" && !request.sha256 ? request.expected.bytes : undefined;
  const watch = request.signal === undefined ? {} : { signal: request.signal };
  const digested =
    given === undefined
      ? await worker.device.digestSource(source.sourceId, wantsSha256(request), watch)
      : { digest: given };
  if (given === undefined) requireExpected(request, source, digested);
  const digest = toHex(digested.digest ?? new Uint8Array(0));
  if (named.some((shard) => shard.seal.digest !== digest)) {
    throw new VramError("NAME_CONFLICT", `the name ${source.shardName} belongs to a shard with another digest`, {
      details: { name: source.shardName, resident: named.map((shard) => shard.seal.digest), offered: digest },
    });
  }
  const here = named.find((shard) => shard.device.uuid === worker.ref.uuid);
  if (here === undefined) {
    if (given !== undefined) return undefined;
    throw new VramError(
      "NAME_CONFLICT",
      `${source.shardName} is resident on another device; give its digest to copy it`,
    );
  }
  if (here.state !== "sealed") {
    throw new VramError("SHARD_NOT_RESIDENT", `${source.shardName} is ${here.state}; evict it first`);
  }
  return { record: recordOf(here), seal: here.seal };
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
      const { bytesFree, tenants } = await worker.device.memory();
      const room = worker.ledger.reserve(byteLength, bytesFree, tenants);
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
      return id;
    });
  } catch (thrown) {
    throw await allocationFailed(system, worker, source, thrown);
  }
  undo.defer("allocation", async () => {
    await freeAllocation(system, worker, { name, allocationId, byteLength, charge: room }, "undone");
  });
  await system.journal.append({ type: "vram_allocated", device: worker.ref, name, byteLength });
  return allocationId;
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
    bytesAvailable: typeof available === "number" ? available : 0,
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
