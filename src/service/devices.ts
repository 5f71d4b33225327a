/**
 * The devices of a service: each in a process of its own, kept by a supervisor, with the worker that is bound to it now.
 * A process that is lost takes its worker with it; the next one gets a new worker, and what was wanted there is sealed
 * again. A device that does not come back stops its worker, durably, until somebody resumes it.
 */

import { present } from "../assert.ts";
import { type Clock, within } from "../clock.ts";
import { toVramError, VramError } from "../errors.ts";
import type { DeviceRef } from "../journal/entry.ts";
import { LIMITS } from "../limits.ts";
import type { RemoteDevice } from "../process/remote-device.ts";
import { type DeviceChange, type Supervisor, superviseDevice } from "../process/supervisor.ts";
import type { Capacity } from "../residency/ledger.ts";
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
  /** Bytes of a device that other processes may hold, of what an earlier worker had. */
  readonly heldOn: (uuid: string) => number;
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

/** The account of a device; undefined while it is lost, or does not answer soon. */
async function capacityOf(worker: Worker): Promise<Capacity | undefined> {
  let capacity: Capacity | undefined;
  const answer = readCapacity(worker).then((found) => {
    capacity = found;
  });
  await within(LIMITS.deviceAnswerMs, answer).catch(() => undefined);
  return capacity;
}

class OpenDevices implements KeptDevices {
  readonly workers: Worker[] = [];
  readonly #options: DevicesOptions;
  readonly #supervisors: Supervisor[] = [];
  #isOpen = false;

  constructor(options: DevicesOptions) {
    this.#options = options;
  }

  /** Opens every device; what was opened stays so if one cannot be. */
  async open(): Promise<void> {
    const { system, devices, headroomBytes, heldOn, clock } = this.#options;
    for (const [index, { open, ...ref }] of devices.entries()) {
      const bind = async (device: RemoteDevice): Promise<void> => {
        this.workers[index] = await openWorker(system, device, headroomBytes, () => heldOn(ref.uuid));
      };
      const onChange = (change: DeviceChange): void => this.#onChange(index, ref, change);
      this.#supervisors.push(await superviseDevice({ open, bind, onChange, clock }));
    }
    this.#isOpen = true;
  }

  #onChange(index: number, ref: DeviceRef, { state, pid, error, restarts }: DeviceChange): void {
    const { system, onUsable } = this.#options;
    system.journal.note({
      type: "device_process_changed",
      device: { ordinal: ref.ordinal, uuid: ref.uuid },
      state,
      restarts,
      ...(pid === undefined ? {} : { pid }),
      ...(error === undefined ? {} : { code: error.code }),
    });
    const [worker, reason] = [this.workers[index], GIVEN_UP[state]];
    if (worker !== undefined && reason !== undefined) void stopWorker(system, worker, reason);
    if (state === "running" && this.#isOpen) onUsable(ref.uuid);
  }

  states(): Promise<readonly DeviceState[]> {
    return Promise.all(this.workers.map((worker, index) => this.#stateOf(worker, index)));
  }

  async #stateOf(worker: Worker, index: number): Promise<DeviceState> {
    const supervisor = present(this.#supervisors[index], "the supervisor of a device");
    const { ordinal, uuid, name, backend, driverVersion, computeCapability } = worker.device.info;
    const capacity = await capacityOf(worker);
    const { pid } = supervisor;
    return {
      ...{ ordinal, uuid, name, backend, driverVersion, computeCapability },
      state: worker.stopped !== undefined ? "stopped" : worker.lost ? "lost" : "running",
      ...(worker.stopped === undefined ? {} : { reason: worker.stopped }),
      process: { state: supervisor.state, restarts: supervisor.restarts, ...(pid === undefined ? {} : { pid }) },
      ...(capacity === undefined ? {} : { capacity }),
    };
  }

  allRunning(): boolean {
    return (
      this.workers.every(({ stopped, lost }) => stopped === undefined && !lost) &&
      this.#supervisors.every(({ state }) => state === "running")
    );
  }

  async resume(worker: Worker, reason: string): Promise<void> {
    const index = this.workers.indexOf(worker);
    try {
      await present(this.#supervisors[index], "the supervisor of a device").resume();
    } catch (thrown) {
      const { message, fix, details } = toVramError(thrown);
      const what = `the device cannot be opened again: ${message}`;
      throw new VramError("DEVICE_LOST", what, { cause: thrown, fix, details });
    }
    // A process that was started meanwhile has a worker of its own, stopped for the same reason.
    await resumeWorker(this.#options.system, present(this.workers[index], "the worker of a device"), reason);
    this.#options.onUsable(worker.ref.uuid);
  }

  async close(): Promise<void> {
    await Promise.all(this.#supervisors.map((supervisor) => supervisor.close()));
  }
}

/** Opens every device. Rejects if one cannot be; then none stays open. */
export async function keepDevices(options: DevicesOptions): Promise<KeptDevices> {
  const kept = new OpenDevices(options);
  try {
    await kept.open();
    return kept;
  } catch (error) {
    await kept.close();
    throw error;
  }
}
