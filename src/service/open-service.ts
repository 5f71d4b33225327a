/**
 * Composition of a service: from a configuration to something that answers calls. It has keys, policy, registry and
 * audit log; CUDA and NVML are in processes of their own. What is opened here is closed here, in reverse, and on failure
 * nothing stays open. The server in front of it is `http/server.ts`.
 */
import { createProver } from "../audit/prove-line.ts";
import { toHex } from "../bytes.ts";
import { configDigest } from "../config/config.ts";
import { VramError } from "../errors.ts";
import { createExports } from "../exports/exports.ts";
import { sha256 } from "../hash/descriptor.ts";
import type { Journal } from "../journal/journal.ts";
import { onNobodysBehalf } from "../journal/scope.ts";
import type { Leases } from "../lease/leases.ts";
import { LIMITS } from "../limits.ts";
import { createSystem, type OpenCore } from "../open.ts";
import { recordEnd, recordStart } from "../recording.ts";
import type { System } from "../residency/worker.ts";
import { createVram } from "../vram.ts";
import type { Attesting } from "./attesting.ts";
import { createCalls } from "./calls.ts";
import { keepDevices } from "./devices.ts";
import { type Ground, type ServiceOptions, withGround } from "./ground.ts";
import { createKeeper } from "./keeper.ts";
import { findOrphans, type Orphans } from "./orphans.ts";
import type { Parts } from "./parts.ts";
import { requireOnRecord } from "./requirements.ts";
import { sealAgain } from "./sealing.ts";
import type { Service } from "./service.ts";
import { type ServiceView, viewsOf } from "./views.ts";
import { sealsOf } from "./wanted-rows.ts";

export interface OpenService {
  readonly service: Service;
  readonly open: OpenCore;
  /** What is wanted and was resident before is sealed again. Does not wait. */
  restore(): void;
  /** Resolves when nothing is being restored. */
  settled(): Promise<void>;
  /** Nothing new begins any more. Waits for leases to end, until `signal` fires, then revokes them. */
  drain(signal: AbortSignal): Promise<void>;
  /** Evicts everything, and closes. What is wanted stays so. */
  close(): Promise<void>;
  /** Closes without giving anything back: the memory goes with the processes, unzeroed, and the record says so. */
  abandon(): Promise<void>;
}

/** Opens a service. Nothing is restored, and nobody can reach it yet. */
export function openService(options: ServiceOptions): Promise<OpenService> {
  // Whoever started it is nobody on whose behalf it works.
  return onNobodysBehalf(() => withGround(options, compose));
}

/** Opens the devices, and puts what stands on them together. */
async function compose(ground: Ground): Promise<OpenService> {
  const { values, options, clock, journal, instanceId, state, log, found, wanted, operations, undo } = ground;
  const { backend } = found.decision;
  const maxLeases = values["limits.leases"];
  const { system, leases } = createSystem(options, { clock, journal, state, instanceId, backend, maxLeases });
  const orphans = await findOrphans(ground.logFolder);
  const exports = createExports(system, () => orphans.held());
  const devices = await keepDevices({
    ...{ system, clock, devices: found.devices, headroomBytes: options.headroomBytes },
    heldOn: (uuid) => exports.heldOn(uuid),
    onUsable: (uuid) => keeper.restore(uuid),
  });
  undo.defer("devices", () => devices.close());
  const { workers } = devices;
  const view: ServiceView = { phase: "starting", startedAtMs: clock.wallMs(), isAbandoned: false };
  const open: OpenCore = {
    ...{ system, leases, workers, decision: found.decision },
    ...(log === undefined ? {} : { logKey: log.vkey }),
    close: async () => {
      if (view.isAbandoned) return;
      await recordEnd(journal);
      await undo.unwind();
    },
  };
  const vram = createVram(open);
  const keeper = createKeeper({
    ...{ system, workers, wanted, operations },
    requireOnRecord: (row) => requireOnRecord(ground.logFolder, row),
    sealAgain: (row, signal) => sealAgain(vram, row, signal),
  });
  const kernelImage = await kernelImageOf(found.decision.backend);
  const attesting = attestingOf(ground, kernelImage);
  await recordServiceStart(ground, open, orphans, kernelImage);
  await ground.statementKeys?.record();
  const requireAccepting = (): void => {
    if (view.phase === "stopping") throw new VramError("SERVICE_STOPPING", "the service is about to end");
  };
  const parts: Parts = {
    vram,
    open,
    exports,
    attesting,
    devices,
    keeper,
    wanted,
    operations,
    values,
    requireAccepting,
  };
  return openServiceOf(ground, parts, leases, view);
}

function openServiceOf(ground: Ground, parts: Parts, leases: Leases, view: ServiceView): OpenService {
  const { instanceId, feed, metrics, journal, log, state } = ground;
  const { open, keeper, vram } = parts;
  return {
    service: {
      ...{ instanceId, feed },
      ...createCalls(parts),
      ...viewsOf(parts, view, ground.logFolder),
      metrics: () => metrics.text(),
      note: recordOfRequests(journal),
    },
    open,
    restore: () => {
      view.phase = "running";
      keeper.restore();
    },
    settled: () => keeper.settled(),
    drain: async (signal) => {
      view.phase = "stopping";
      await leases.ended(signal);
      await leases.close();
      await keeper.close();
    },
    close: () =>
      onNobodysBehalf(async () => {
        await parts.exports.close();
        await vram.close();
      }),
    abandon: async () => {
      view.isAbandoned = true;
      await recordAbandoned(open.system);
      await recordEnd(journal, undefined, "interrupted");
      await log?.close();
      await state.close();
    },
  };
}

/** What statements are made with; only what is on record can be told to others. */
function attestingOf({ log, logFolder, statementKeys }: Ground, kernelImage: Uint8Array): Attesting | undefined {
  if (log === undefined || logFolder === undefined || statementKeys === undefined) return undefined;
  const kernel = kernelImage.byteLength === 0 ? undefined : toHex(sha256(kernelImage));
  return { log, logFolder, prover: createProver(logFolder), keys: statementKeys, kernel };
}

/** Puts the start on record, with what was resident before it and is not any more. */
async function recordServiceStart(
  { values, wanted, journal, statementKeys }: Ground,
  { system, workers }: OpenCore,
  orphans: Orphans,
  kernelImage: Uint8Array,
): Promise<void> {
  await orphans.record(journal);
  const held = orphans.held();
  const lost = wanted.rows().flatMap(sealsOf);
  await recordStart(system, workers, kernelImage, {
    configDigest: configDigest(values),
    lost: lost.slice(0, LIMITS.entryRanges).map(({ shardId, name, digest }) => ({ shardId, name, digest })),
    lostTotal: lost.length,
    ...(statementKeys === undefined ? {} : { statementKeyId: statementKeys.signer.keyId }),
    ...(held.length === 0 ? {} : { orphans: held.slice(0, LIMITS.entryRanges), orphansTotal: held.length }),
  });
}

/**
 * Memory that nobody gives back: its processes are killed with this one. A close that is under way finds nothing left to
 * evict, and tells of what it is evicting itself, if there is time.
 */
async function recordAbandoned({ registry, journal }: System): Promise<void> {
  const entries = registry.all().map((shard) => {
    registry.remove(shard);
    shard.state = "evicted";
    const { name, shardId, byteLength } = shard.seal;
    return journal.appendAnyway({
      ...{ type: "vram_deallocated", device: shard.device, name, shardId, byteLength },
      ...{ because: "closed", zeroed: false, reason: "the service was stopped at once" },
    });
  });
  await Promise.all(entries);
}

/** What runs on a GPU, for the record. */
async function kernelImageOf(backend: string): Promise<Uint8Array> {
  if (backend === "emulated") return new Uint8Array(0);
  return (await import("../cuda/native/kernel-image.ts")).readKernelImage();
}

const recordOfRequests = (journal: Journal): Service["note"] => ({
  authFailed: (entry) => void journal.appendAnyway({ type: "auth_failed", ...entry }),
  requestRefused: (entry) => void journal.appendAnyway({ type: "request_refused", ...entry }),
  requestServed: (entry) => journal.note({ type: "request_served", ...entry }),
});
