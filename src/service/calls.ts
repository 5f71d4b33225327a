/**
 * What a service does when it is asked: the calls of the routes, in terms of the library, the keeper and the operations.
 * Nothing is answered as sealed that is not wanted, and nothing is answered as evicted that still is.
 */
import { basename, relative } from "node:path";
import { evidenceOf } from "../device/detect.ts";
import { VramError } from "../errors.ts";
import { evict } from "../residency/evict.ts";
import { recordOf, type Shard } from "../residency/shard.ts";
import { findWorker } from "../residency/worker.ts";
import { parseSeal } from "../seal/encoding.ts";
import { cleanName, requireName } from "../seal/names.ts";
import { nodeFileSystem } from "../source/file.ts";
import { expandSource } from "../source/sets.ts";
import { attach } from "./attach/attaching.ts";
import { attest, rotateKey, showKeys } from "./attesting.ts";
import { evictNamed } from "./evicting.ts";
import { given } from "./given.ts";
import { durationOf, requireHolder } from "./holding.ts";
import type { Operations } from "./operations.ts";
import { isOfRow, missingOf, type Parts, shardOf, shardsOf } from "./parts.ts";
import type { Listing } from "./replies.ts";
import type { PlanRequest, SealRequestBody } from "./requests.ts";
import { sealRequested } from "./sealing.ts";
import type { Caller, Service } from "./service.ts";
import { nameOf, sealsOf, type WantedRow } from "./wanted-rows.ts";

export type Calls = Omit<
  Service,
  "instanceId" | "feed" | "ready" | "isReady" | "logCheckpoint" | "logLines" | "logProof" | "metrics" | "note"
>;

/** Of two ages at most the smaller one; 0 is none. */
const strictestAge = (configured: number, asked: number): number =>
  configured === 0 || asked === 0 ? Math.max(configured, asked) : Math.min(configured, asked);

/**
 * Only the service's own user, and root, may name any file: they could read it themselves. Others get what lies under
 * configured roots. Judged by the path alone first, so that nobody learns what there is elsewhere; links are judged where
 * it is opened.
 */
function requireRoots({ values }: Parts, { transport, scope }: Caller, path: string): void {
  if (transport === "socket" && scope === "operate") return;
  const { modelRoots } = values;
  const isUnder = (root: string): boolean => !/^\.\.(?:\/|$)/.test(relative(root, path));
  if (modelRoots?.some(isUnder) === true) return;
  if (modelRoots !== undefined) throw new VramError("SOURCE_REFUSED", `${path}: not under a model root`);
  throw new VramError("SOURCE_REFUSED", "nothing is read for this caller: no modelRoots are configured", {
    fix: "set modelRoots in the configuration of the service, or ask on its socket",
  });
}

/** What it will be called. `.` and `..` are no names: no path of a request could lead to them. */
function nameFor({ name, path }: Pick<PlanRequest, "name" | "path">): string {
  const chosen = name === undefined ? cleanName(basename(path)) : requireName(name);
  if (chosen !== "." && chosen !== "..") return chosen;
  throw new VramError("INVALID_ARGUMENT", `${chosen} is no name of a shard`, { details: { argument: "name" } });
}

/** The wanted set holds a name once: the same name on two devices is not kept. */
function requireNameFree({ keeper, open }: Parts, name: string, device: number | string | undefined): void {
  const row = keeper.rowOf(name);
  if (row === undefined) return;
  if (nameOf(row) !== name) {
    throw new VramError("NAME_CONFLICT", `${name} is a member of ${nameOf(row)}, which is wanted`);
  }
  const { uuid } = findWorker(open.workers, device).ref;
  if (row.kind === "set" || row.seal.deviceUuid === uuid) return;
  throw new VramError("NAME_CONFLICT", `${name} is wanted on another device`, {
    fix: "give the copy another name, or evict the other one first",
  });
}

/** Seals, and wants it: either both or none. */
async function sealAndWant(
  parts: Parts,
  request: SealRequestBody & { readonly name: string },
  signal: AbortSignal,
): ReturnType<Parameters<Operations["begin"]>[2]> {
  const { vram, open, wanted, values } = parts;
  const maxAgeMs = strictestAge(values["seal.maxAgeMs"], request.maxAgeMs ?? 0);
  const before = new Set(open.system.registry.all());
  const { row, result } = await sealRequested(vram, open.system.modelRoots, { ...request, maxAgeMs }, signal);
  try {
    requireRoom(parts, row);
    await wanted.put(row);
    const gone = sealsOf(row).find(({ mac }) => !open.system.registry.all().some(({ seal }) => seal.mac === mac));
    if (gone !== undefined) {
      await wanted.remove(nameOf(row));
      throw new VramError(
        "SHARD_NOT_FOUND",
        `${gone.name} was evicted before anybody could be told that it was sealed`,
      );
    }
  } catch (error) {
    const isNew = (shard: Shard): boolean => !before.has(shard);
    const made = open.system.registry.all().filter((shard) => isOfRow(row, shard) && isNew(shard));
    // Not "evicted", which on record means that nobody wants it any more.
    for (const shard of made) await evict(open.system, shard.worker, shard, "undone").catch(() => undefined);
    throw error;
  }
  return result;
}

/** As many seals run at once as there may be requests at work. */
function requireTurn({ operations, values }: Parts): void {
  const running = operations.listed().filter(({ kind, state }) => kind === "seal" && state === "running").length;
  if (running < values["limits.requests"]) return;
  throw new VramError("SERVICE_BUSY", `${running} seals are under way, and that is the most`);
}

/** The configuration bounds how many shards there are. */
function requireRoom({ wanted, values }: Parts, row: WantedRow): void {
  const others = wanted.rows().filter((one) => nameOf(one) !== nameOf(row));
  const count = [...others, row].reduce((sum, one) => sum + sealsOf(one).length, 0);
  const most = values["limits.shards"];
  if (count <= most) return;
  throw new VramError("SERVICE_BUSY", `${count} shards would be wanted, and ${most} are the most`, {
    fix: "evict something, or raise limits.shards",
  });
}

/** What comes to sealing and evicting. */
const residencyCalls = (parts: Parts): Pick<Calls, "plan" | "seal" | "operation" | "cancel" | "evict" | "resume"> => ({
  plan: async ({ path, ...request }, caller) => {
    requireRoots(parts, caller, path);
    const planned = await parts.vram.plan(path, given(request));
    return { ...planned, members: [...planned.members] };
  },
  seal: async (request, caller) => {
    parts.requireAccepting();
    requireRoots(parts, caller, request.path);
    const name = nameFor(request);
    findWorker(parts.open.workers, request.device);
    requireNameFree(parts, name, request.device);
    // What is wrong with the path is said at once, whether somebody waits or not.
    await expandSource(request.path, parts.open.system.modelRoots, nodeFileSystem);
    requireTurn(parts);
    const { operation, ended } = parts.operations.begin("seal", name, (signal) =>
      sealAndWant(parts, { ...request, name }, signal),
    );
    return { operation, ended: ended.then((end) => end.operation) };
  },
  operation: (operationId) => parts.operations.find(operationId),
  cancel: (operationId) => parts.operations.cancel(operationId),
  evict: (idOrName, { revoke }) => evictNamed(parts, idOrName, revoke),
  resume: async ({ reason, device }) => {
    const stopped = parts.open.workers.filter((worker) => worker.stopped !== undefined);
    const meant = device === undefined ? stopped : [findWorker(parts.open.workers, device)];
    for (const worker of meant) await parts.devices.resume(worker, requireName(reason));
    return parts.devices.states();
  },
});

/** What comes to relying on what is resident. */
const relianceCalls = (
  parts: Parts,
): Pick<
  Calls,
  | "verify"
  | "grant"
  | "lease"
  | "leases"
  | "renew"
  | "release"
  | "attach"
  | "attest"
  | "statementKeys"
  | "rotateStatementKey"
> => ({
  attest: (request, caller, signal) => attest(parts, request, caller, signal),
  statementKeys: () => showKeys(parts),
  rotateStatementKey: ({ reason }) => rotateKey(parts, requireName(reason)),
  attach: (request, caller, peer, signal) => attach(parts, request, caller, peer, signal),
  verify: async (idOrName, { maxAgeMs = parts.values["verify.maxAgeMs"], salt, seal }, signal) => {
    const presented = seal === undefined ? {} : { seal: parseSeal(seal) };
    const { shardId } = shardOf(parts, idOrName).seal;
    return parts.vram.verify(shardId, { maxAgeMs, signal, ...given({ salt }), ...presented });
  },
  grant: async (request, caller, signal) => {
    parts.requireAccepting();
    const { shard, maxAgeMs = parts.values["verify.maxAgeMs"], salt, holder = caller.name } = request;
    const durationMs = durationOf(parts, request.durationMs);
    const options = { durationMs, maxAgeMs, holder, caller: caller.name, signal, ...given({ salt }) };
    return parts.vram.acquire(shardOf(parts, shard).seal.shardId, options);
  },
  lease: (leaseId) => parts.open.leases.find(leaseId),
  leases: () => parts.vram.leases(),
  renew: async (leaseId, { durationMs, maxAgeMs }, caller, signal) => {
    requireHolder(parts, leaseId, caller);
    const options = { durationMs: durationOf(parts, durationMs), signal, ...given({ maxAgeMs }) };
    return parts.vram.renew(leaseId, options);
  },
  release: async (leaseId, caller) => {
    requireHolder(parts, leaseId, caller);
    return parts.vram.release(leaseId);
  },
});

/** The calls of a service. */
export function createCalls(parts: Parts): Calls {
  const { open, keeper, operations, devices } = parts;
  const list = (): Listing => ({
    backend: open.decision.backend,
    evidence: evidenceOf(open.decision.backend),
    shards: open.system.registry.all().map(recordOf),
    missing: [...keeper.missing()],
    operations: [...operations.listed()],
  });
  return {
    ...residencyCalls(parts),
    ...relianceCalls(parts),
    list,
    show: (idOrName) => {
      const shards = shardsOf(parts, idOrName).map(recordOf);
      const missing = missingOf(parts, idOrName);
      if (shards.length === 0 && missing.length === 0) shardOf(parts, idOrName);
      return { shards, missing };
    },
    devices: () => devices.states(),
  };
}
