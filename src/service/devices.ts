/**
 * The devices of a service: each in a process of its own, kept by a supervisor, with the worker that is bound to it now.
 * A process that is lost takes its worker with it; the next one gets a new worker, and what was wanted there is sealed
 * again. A device that does not come back stops its worker, durably, until somebody resumes it.
 */

import { present } from "../assert.ts";
import type { Clock } from "../clock.ts";
import { toVramError, VramError } from "../errors.ts";
import type { DeviceRef } from "../journal/entry.ts";
import type { RemoteDevice } from "../process/remote-device.ts";
import { type DeviceChange, type Supervisor, superviseDevice } from "../process/supervisor.ts";
import { openWorker, readCapacity, resumeWorker, type System, stopWorker, type Worker } from "../residency/worker.ts";
import type { DeviceState } from "./replies.ts";

/** A device that the service uses. */
export interface ServedDevice extends DeviceRef {
  readonly open: () => Promise<RemoteDevice>;
}

export interface DevicesOptions {
  readonly system: System;
  readonly clock: Clock;
  readonly devices: readonly ServedDevice[];
  readonly headroomBytes: number | undefined;
  /** A device was opened again, or its worker resumed: what is wanted there may be sealed. */
  readonly onUsable: (uuid: string) => void;
}

export interface KeptDevices {
  /** The worker of each device that is bound now, in the order of the devices. */
  readonly workers: readonly Worker[];
  /** Every device, with its account if it answers. */
  states(): Promise<readonly DeviceState[]>;
  /** Whether each has its process and a worker that runs. */
  allRunning(): boolean;
  resume(worker: Worker, reason: string): Promise<void>;
  /** Closes the devices; what they hold is zeroed and freed before. */
  close(): Promise<void>;
}

/** What a supervisor that gave up means for the worker. */
const GIVEN_UP: Partial<Record<DeviceChange["state"], string>> = {
  stopped: "the process of the device ended again and again, and is not started any more",
  wedged: "the process of the device cannot be killed, and still has it",
};

/** Opens every device. Rejects if one cannot be; then none stays open. */
export async function keepDevices(options: DevicesOptions): Promise<KeptDevices> {
  const { system, clock, devices, headroomBytes } = options;
  const workers: Worker[] = [];
  const supervisors: Supervisor[] = [];
  let isOpen = false;

  const onChange = (index: number, ref: DeviceRef, { state, pid, error, restarts }: DeviceChange): void => {
    system.journal.note({
      type: "device_process_changed",
      device: { ordinal: ref.ordinal, uuid: ref.uuid },
      state,
      restarts,
      ...(pid === undefined ? {} : { pid }),
      ...(error === undefined ? {} : { code: error.code }),
    });
    const [worker, reason] = [workers[index], GIVEN_UP[state]];
    if (worker !== undefined && reason !== undefined) void stopWorker(system, worker, reason);
    if (state === "running" && isOpen) options.onUsable(ref.uuid);
  };

  const close = async (): Promise<void> => {
    await Promise.all(supervisors.map((supervisor) => supervisor.close()));
  };

  const stateOf = async (worker: Worker, index: number): Promise<DeviceState> => {
    const supervisor = present(supervisors[index], "the supervisor of a device");
    const { ordinal, uuid, name, backend, driverVersion, computeCapability } = worker.device.info;
    const capacity = await readCapacity(worker).catch(() => undefined);
    const { pid } = supervisor;
    return {
      ...{ ordinal, uuid, name, backend, driverVersion, computeCapability },
      state: worker.stopped !== undefined ? "stopped" : worker.lost ? "lost" : "running",
      ...(worker.stopped === undefined ? {} : { reason: worker.stopped }),
      process: { state: supervisor.state, restarts: supervisor.restarts, ...(pid === undefined ? {} : { pid }) },
      ...(capacity === undefined ? {} : { capacity }),
    };
  };

  try {
    for (const [index, { open, ...ref }] of devices.entries()) {
      const bind = async (device: RemoteDevice): Promise<void> => {
        workers[index] = await openWorker(system, device, headroomBytes);
      };
      supervisors.push(
        await superviseDevice({ open, bind, onChange: (change) => onChange(index, ref, change), clock }),
      );
    }
    isOpen = true;
  } catch (error) {
    await close();
    throw error;
  }

  return {
    workers,
    states: () => Promise.all(workers.map(stateOf)),
    allRunning: () =>
      workers.every(({ stopped, lost }) => stopped === undefined && !lost) &&
      supervisors.every(({ state }) => state === "running"),
    resume: async (worker, reason) => {
      const index = workers.indexOf(worker);
      const supervisor = present(supervisors[index], "the supervisor of a device");
      try {
        await supervisor.resume();
      } catch (thrown) {
        const { message, fix, details } = toVramError(thrown);
        throw new VramError("DEVICE_LOST", `the device cannot be opened again: ${message}`, {
          cause: thrown,
          fix,
          details,
        });
      }
      // A process that was started meanwhile has a worker of its own, stopped for the same reason.
      await resumeWorker(system, present(workers[index], "the worker of a device"), reason);
      options.onUsable(worker.ref.uuid);
    },
    close,
  };
}
