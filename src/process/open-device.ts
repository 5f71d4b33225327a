/**
 * From what a device's process is told to the one device it has: the lock of the GPU, then the driver, then the device.
 * Composition, and therefore behind `backend` in the order of imports.
 */
import { join } from "node:path";
import { type EmulatedMachine, openBackend, openNativeDevices } from "../backend.ts";
import { systemClock } from "../clock.ts";
import { CUDA_LIBRARY } from "../cuda/driver.ts";
import { readHostTraces, requireRealDriver } from "../device/detect.ts";
import { type LocalDevice, openLocalDevice } from "../device/local.ts";
import type { LocalDeviceOptions } from "../device/local-parts.ts";
import { type ReleaseFailureReporter, UndoStack } from "../dispose.ts";
import { systemReason, VramError } from "../errors.ts";
import { openHashPool } from "../hash/pool.ts";
import { takeLock } from "../residency/lock.ts";
import { nodeFileSystem } from "../source/file.ts";
import type { ServedDevice } from "./device-server.ts";
import type { ListRequest, OpenRequest } from "./protocol.ts";

/** What only tests supply, from an entry file of their own. */
export interface ProcessTestOptions extends Pick<EmulatedMachine, "faults" | "overrides"> {
  readonly sizes?: Pick<LocalDeviceOptions, "ringSlots" | "ringSlotBytes" | "measureWindowBytes">;
}

/** A device, and how to end it with all that was opened for it. */
export interface OpenedDevice extends ServedDevice {
  readonly device: LocalDevice;
}

/** One process at a time serves a GPU. `DEVICE_BUSY` names the other. */
async function lockGpu(runtimeDir: string, uuid: string, undo: UndoStack): Promise<void> {
  const path = join(runtimeDir, `gpu-${uuid}.lock`);
  const lock = await takeLock(path).catch((cause: unknown) => {
    throw new VramError("STATE_INVALID", `${path}: cannot be made or written: ${systemReason(cause) ?? "unknown"}`, {
      cause,
    });
  });
  if (!lock.taken) {
    throw new VramError("DEVICE_BUSY", `process ${lock.holder} has the device ${uuid}`, {
      details: { pid: lock.holder },
    });
  }
  undo.defer("lock of the GPU", () => lock.file.close());
}

/** Opens the device that was asked for, in this process. On failure nothing stays behind. */
export async function openProcessDevice(
  request: OpenRequest,
  report: ReleaseFailureReporter,
  { sizes, overrides, ...emulation }: ProcessTestOptions = {},
): Promise<OpenedDevice> {
  const { backend, library, uuid, runtimeDir, libraryPath, byteLength, hashThreads } = request;
  const undo = new UndoStack(report);
  try {
    await lockGpu(runtimeDir, uuid, undo);
    const pool = openHashPool(hashThreads);
    undo.defer("hash pool", () => pool.close());
    const decision = { backend, because: "the service decided", ...(library === undefined ? {} : { library }) };
    // Loaded here: who imports this needs no native code.
    const { openShareable } = await import("../cuda/emulated/shareable.ts");
    const machine: EmulatedMachine = {
      devices: 1,
      remembered: [uuid],
      ...(byteLength === undefined ? {} : { byteLength }),
      ...emulation,
      // As a GPU's memory: another process may be handed it, and then has it for as long as it likes.
      overrides: { shareable: openShareable, ...overrides },
    };
    // Without NVML: this process starts no other. The service asks NVML itself.
    const { driver, monitor, kernelImage, uuids } = await openBackend(decision, machine, undefined, pool, undo);
    if (backend === "cuda") requireRealDriver(libraryPath);
    const ordinal = uuids.indexOf(uuid);
    if (ordinal === -1) {
      throw new VramError("DEVICE_NOT_FOUND", `the driver shows no device ${uuid}`, { details: { uuids } });
    }
    const device = await openLocalDevice({
      driver,
      ordinal,
      clock: systemClock,
      pool,
      report,
      monitor,
      kernelImage,
      fs: nodeFileSystem,
      wddm: backend !== "emulated" && readHostTraces(libraryPath).wddm,
      ...sizes,
    });
    undo.defer("device", () => device.close());
    return { device, close: () => undo.unwind() };
  } catch (error) {
    await undo.unwind();
    throw error;
  }
}

/** UUIDs of the devices that the driver shows, at least one. Opens no device, takes no lock. */
export async function listProcessDevices(
  { backend, library = CUDA_LIBRARY, libraryPath }: ListRequest,
  report: ReleaseFailureReporter,
): Promise<readonly string[]> {
  const undo = new UndoStack(report);
  try {
    const { uuids } = await openNativeDevices(library, undo);
    if (backend === "cuda") requireRealDriver(libraryPath);
    return uuids;
  } finally {
    await undo.unwind();
  }
}
