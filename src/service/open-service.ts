/**
 * Composition of a service: from a configuration to something that answers calls. It has keys, policy, registry and
 * audit log; CUDA and NVML are in processes of their own. What is opened here is closed here, in reverse, and on failure
 * nothing stays open. The server in front of it is `http/server.ts`.
 */
import { randomBytes } from "node:crypto";
import { dirname } from "node:path";
import { auditFolder } from "../audit/key-files.ts";
import { toHex } from "../bytes.ts";
import { type Clock, systemClock } from "../clock.ts";
import { type Config, configDigest } from "../config/config.ts";
import { defaultSocket, type Place } from "../config/places.ts";
import { readHostTraces } from "../device/detect.ts";
import { UndoStack } from "../dispose.ts";
import { optionsFromConfig } from "../environment.ts";
import { toVramError, VramError } from "../errors.ts";
import { createJournal, type Journal, type JournalReader } from "../journal/journal.ts";
import { onNobodysBehalf } from "../journal/scope.ts";
import { LIMITS } from "../limits.ts";
import { createMetrics } from "../metrics/metrics.ts";
import { createSystem, type OpenCore, releaseReporter } from "../open.ts";
import type { StartProcess } from "../process/start-process.ts";
import { attachAuditLog, recordEnd, recordStart } from "../recording.ts";
import { openStateDirectory } from "../residency/state.ts";
import type { System } from "../residency/worker.ts";
import { createVram } from "../vram.ts";
import { type DevicesPlace, findDevices } from "./backend.ts";
import { createCalls } from "./calls.ts";
import { keepDevices } from "./devices.ts";
import { createFeed } from "./feed.ts";
import { createKeeper } from "./keeper.ts";
import { createOperations } from "./operations.ts";
import { requireOnRecord } from "./requirements.ts";
import { requireRuntimeDirectory } from "./runtime-dir.ts";
import { sealAgain } from "./sealing.ts";
import type { Service } from "./service.ts";
import { type ServiceView, viewsOf } from "./views.ts";
import { openWanted } from "./wanted.ts";
import { sealsOf } from "./wanted-rows.ts";

export interface ServiceOptions {
  readonly config: Config;
  readonly place: Place;
  /** Readers of the journal from its first entry on. */
  readonly readers?: readonly JournalReader[];
  /** Only tests have others. */
  readonly clock?: Clock;
  readonly start?: StartProcess;
  readonly openDevice?: NonNullable<DevicesPlace["openDevice"]>;
}

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
  return onNobodysBehalf(() => openAll(options));
}

async function openAll({
  config,
  place,
  readers = [],
  clock = systemClock,
  ...hooks
}: ServiceOptions): Promise<OpenService> {
  const { values } = config;
  const { stateDir } = values;
  if (stateDir === undefined) {
    throw new VramError("INVALID_ARGUMENT", "neither XDG_STATE_HOME nor HOME says where the state is", {
      fix: "name it with --state-dir",
    });
  }
  const options = { ...optionsFromConfig(values, place.env), stateDir };
  const journal = createJournal(clock);
  const report = releaseReporter(journal);
  const undo = new UndoStack(report);
  const instanceId = toHex(randomBytes(16));
  try {
    const runtimeDir = dirname(defaultSocket(place));
    await requireRuntimeDirectory(runtimeDir);
    const state = await openStateDirectory(stateDir);
    undo.defer("state directory", () => state.close());
    const [metrics, feed, operations] = [await createMetrics(), createFeed(), createOperations(() => clock.wallMs())];
    for (const reader of [metrics.reader, feed.reader, operations.reader, ...readers]) journal.attach(reader);
    const log = await attachAuditLog(journal, { stateDir, audit: options.audit, clock, instanceId }, undo);
    const traces = readHostTraces(options.libraryPath);
    const found = await findDevices(
      {
        values,
        options,
        traces,
        env: place.env,
        runtimeDir,
        state,
        clock,
        report,
        ...hooks,
      },
      undo,
    );
    const { backend } = found.decision;
    await state.bind(
      backend,
      found.devices.map(({ uuid }) => uuid),
    );
    const wanted = await openWanted({ stateDir, rootKey: state.rootKey, backend });
    const { system, leases } = createSystem(options, { clock, journal, state, instanceId, backend });
    const devices = await keepDevices({
      ...{ system, clock, devices: found.devices, headroomBytes: options.headroomBytes },
      onUsable: (uuid) => keeper.restore(uuid),
    });
    undo.defer("devices", () => devices.close());
    const { workers } = devices;
    const open: OpenCore = {
      ...{ system, leases, workers, decision: found.decision },
      ...(log === undefined ? {} : { logKey: log.vkey }),
      close: async () => {
        await recordEnd(journal);
        await undo.unwind();
      },
    };
    const vram = createVram(open);
    const keeper = createKeeper({
      ...{ system, workers, wanted, operations },
      requireOnRecord: (row) => requireOnRecord(log === undefined ? undefined : auditFolder(stateDir), row),
      sealAgain: (row, signal) => sealAgain(vram, row, signal),
    });
    const lost = wanted.rows().flatMap(sealsOf);
    await recordStart(system, workers, await kernelImageOf(backend), {
      configDigest: configDigest(values),
      lost: lost.slice(0, LIMITS.entryRanges).map(({ shardId, name, digest }) => ({ shardId, name, digest })),
      lostTotal: lost.length,
    });
    const view: ServiceView = { phase: "starting", startedAtMs: clock.wallMs() };
    const requireAccepting = (): void => {
      if (view.phase === "stopping") throw new VramError("SERVICE_STOPPING", "the service is about to end");
    };
    const parts = { vram, open, devices, keeper, wanted, operations, values, requireAccepting };
    const folder = log === undefined ? undefined : auditFolder(stateDir);
    const service: Service = {
      ...{ instanceId, feed },
      ...createCalls(parts),
      ...viewsOf(parts, view, folder),
      metrics: () => metrics.text(),
      note: recordOfRequests(journal),
    };
    return {
      ...{ service, open },
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
      close: () => onNobodysBehalf(() => vram.close()),
      abandon: async () => {
        await recordAbandoned(system);
        await recordEnd(journal, undefined, "interrupted");
        await log?.close();
        await state.close();
      },
    };
  } catch (error) {
    await recordEnd(journal, toVramError(error));
    await undo.unwind();
    throw error;
  }
}

/** Memory that nobody gives back: its processes are killed with this one. */
async function recordAbandoned({ registry, journal }: System): Promise<void> {
  const entries = registry.all().map(({ device, seal: { name, byteLength } }) =>
    journal.appendAnyway({
      ...{ type: "vram_deallocated", device, name, byteLength },
      ...{ because: "closed", zeroed: false, reason: "the service was stopped at once" },
    }),
  );
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
