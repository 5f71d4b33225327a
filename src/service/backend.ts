/**
 * What stands behind the devices of a service, found out without opening a driver: the backend, the UUIDs of its devices,
 * which of them are used, and how each is opened in a process of its own.
 */
import { randomUUID } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { ConfigValues } from "../config/table.ts";
import { type GpuMonitor, NVML_LIBRARY } from "../cuda/monitor.ts";
import { type BackendDecision, chooseBackend, type HostTraces } from "../device/detect.ts";
import type { ReleaseFailureReporter, UndoStack } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { type VramOptions, wishOf } from "../open.ts";
import { listDevices } from "../process/list-devices.ts";
import { openWhenFree } from "../process/orphans.ts";
import { openRemoteDevice, type RemoteDevice, type RemoteDeviceOptions } from "../process/remote-device.ts";
import type { StartProcess } from "../process/start-process.ts";
import type { StateStore } from "../residency/state.ts";
import type { ServedDevice } from "./devices.ts";

/** Where devices are opened. */
export interface DevicesPlace {
  readonly values: ConfigValues;
  /** The configuration as options of the library. */
  readonly options: VramOptions;
  readonly traces: HostTraces;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Where the locks of GPUs are. */
  readonly runtimeDir: string;
  readonly state: StateStore;
  readonly clock: Clock;
  readonly report: ReleaseFailureReporter;
  /** How processes are started, or devices opened; only tests have another way. */
  readonly start?: StartProcess;
  readonly openDevice?: (options: RemoteDeviceOptions) => Promise<RemoteDevice>;
}

export interface FoundDevices {
  readonly decision: BackendDecision;
  readonly devices: readonly ServedDevice[];
}

/** UUIDs of all devices, in the order of their ordinals. */
async function listUuids(decision: BackendDecision, place: DevicesPlace): Promise<readonly string[]> {
  const { backend, library } = decision;
  if (backend === "emulated" || library === undefined) {
    const remembered = place.state.backend === "emulated" ? place.state.devices : [];
    const count = place.values["emulated.devices"];
    return Array.from({ length: count }, (_, index) => remembered[index] ?? `EMU-${randomUUID()}`);
  }
  const visible = place.env["CUDA_VISIBLE_DEVICES"];
  const { libraryPath } = place.options;
  const { uuids } = await listDevices({
    ...{ backend, library, report: place.report },
    ...(libraryPath === undefined ? {} : { libraryPath }),
    env: visible === undefined ? {} : { CUDA_VISIBLE_DEVICES: visible },
    ...(place.start === undefined ? {} : { start: place.start }),
  });
  return uuids;
}

interface Chosen {
  readonly ordinal: number;
  readonly uuid: string;
}

/** The devices that the configuration names. */
function choose(uuids: readonly string[], wanted: ConfigValues["devices"]): readonly Chosen[] {
  const all = uuids.map((uuid, ordinal) => ({ ordinal, uuid }));
  if (wanted === "all") return all;
  const missing = wanted.find((name) => !all.some(({ ordinal, uuid }) => name === ordinal || name === uuid));
  if (missing !== undefined) {
    throw new VramError("DEVICE_NOT_FOUND", `the configuration names the device ${missing}, and there is none`, {
      details: { devices: all },
    });
  }
  return all.filter(({ ordinal, uuid }) => wanted.includes(ordinal) || wanted.includes(uuid));
}

async function openMonitor(
  decision: BackendDecision,
  place: DevicesPlace,
  undo: UndoStack,
): Promise<GpuMonitor | undefined> {
  if (decision.backend === "emulated") return undefined;
  const { openNvmlMonitor } = await import("../cuda/nvml-monitor.ts");
  const { nvmlLibrary = NVML_LIBRARY, libraryPath } = place.options;
  const env = libraryPath === undefined ? {} : { LD_LIBRARY_PATH: libraryPath };
  const monitor = openNvmlMonitor({ library: nvmlLibrary, env });
  undo.defer("monitor", () => monitor.close());
  return monitor;
}

/** Finds the devices; none is opened. What it starts to watch them is ended by `undo`. */
export async function findDevices(place: DevicesPlace, undo: UndoStack): Promise<FoundDevices> {
  const { options, values, runtimeDir, clock, report } = place;
  const decision = chooseBackend(wishOf(options), place.traces);
  const chosen = choose(await listUuids(decision, place), values.devices);
  const monitor = await openMonitor(decision, place, undo);
  const devices = chosen.map(({ ordinal, uuid }): ServedDevice => {
    let lastId = 0;
    const remote: RemoteDeviceOptions = {
      ...{ backend: decision.backend, uuid, ordinal, runtimeDir, clock, report },
      byteLength: values["emulated.bytes"],
      // The same for all processes of one device: an id is never used again.
      nextId: () => {
        lastId += 1;
        return lastId;
      },
      ...(decision.library === undefined ? {} : { library: decision.library }),
      ...(options.libraryPath === undefined ? {} : { libraryPath: options.libraryPath }),
      ...(options.hashThreads === undefined ? {} : { hashThreads: options.hashThreads }),
      ...(monitor === undefined ? {} : { monitor }),
      ...(place.start === undefined ? {} : { start: place.start }),
    };
    const open = place.openDevice ?? openRemoteDevice;
    return { ordinal, uuid, open: () => openWhenFree(() => open(remote), { clock }) };
  });
  return { decision, devices };
}
