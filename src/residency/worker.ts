/**
 * A worker is one device with its keys, its account and its state. A system is the workers of one process with what
 * they share. `stopped` is durable: it survives a restart and ends only with `resume(reason)` (VR-VER-06).
 */
import type { KeyObject } from "node:crypto";
import { present } from "../assert.ts";
import type { Clock } from "../clock.ts";
import type { Device } from "../device/device.ts";
import { Mutex, type ReleaseFailureReporter } from "../dispose.ts";
import { toVramError, VramError } from "../errors.ts";
import type { DeviceRef } from "../journal/entry.ts";
import type { Journal } from "../journal/journal.ts";
import { deriveWorkerKeys, type WorkerKeys } from "../seal/key.ts";
import { type Capacity, createLedger, defaultHeadroom, type Ledger } from "./ledger.ts";
import { checkDevice, type Policy, policyError } from "./policy.ts";
import type { Registry } from "./registry.ts";
import type { Shard } from "./shard.ts";
import type { StateStore } from "./state.ts";

/** What a mismatch stops: the whole worker, or the shard alone. */
export type OnMismatch = "stop" | "quarantine";

/** What all workers of a process share. */
export interface System {
  readonly journal: Journal;
  readonly clock: Clock;
  readonly registry: Registry;
  readonly state: StateStore;
  readonly policy: Policy;
  readonly policyDigest: string;
  /** Key of the seals of sets; of no device. */
  readonly setKey: KeyObject;
  /** 16 random bytes, hex: this start of the program. */
  readonly instanceId: string;
  /** The next seal's number: 1, 2, … */
  nextSequence(): number;
  readonly onMismatch: OnMismatch;
  readonly maxModelBytes: number;
  readonly modelRoots: readonly string[];
  readonly reportRelease: ReleaseFailureReporter;
  /** Told at once when what was relied on does not hold any more. Given at composition; must not throw. */
  readonly onUnreliable: (what: Unreliable) => void;
}

/** All that a worker holds, or one shard of it, and why it can no longer be relied on. */
export interface Unreliable {
  readonly worker: Worker;
  readonly shard?: Shard;
  readonly because: "unreliable" | "stopped" | "lost";
}

export interface Worker {
  readonly device: Device;
  readonly ref: DeviceRef;
  readonly keys: WorkerKeys;
  readonly ledger: Ledger;
  /** Held while capacity is observed, reserved, allocated or freed. */
  readonly accounts: Mutex;
  /** Why it is stopped, if it is. */
  stopped: string | undefined;
  /** A reason to stop it that came while it was stopped: resuming it for an earlier one does not lift this one. */
  stoppedAgain: string | undefined;
  /** Whether the stop is on record; changed under `standing`. */
  stopRecorded: boolean;
  /** Held while a stop or a resume is put on record. */
  readonly standing: Mutex;
  /** Whether a fatal error ended this device for this process. */
  lost: boolean;
}

/** Checks the device against the policy, binds keys and account to it; `heldBytes` says how many others may hold, since before. A violation is journalled and thrown. */
export async function openWorker(
  system: System,
  device: Device,
  headroomBytes?: number,
  heldBytes?: () => number,
): Promise<Worker> {
  const { ordinal, uuid, bytesTotal, backend } = device.info;
  const ref: DeviceRef = Object.freeze({ ordinal, uuid });
  const broken = checkDevice(system.policy, device.info.facts);
  for (const violation of broken) {
    const { rule, expected, actual } = violation;
    await system.journal.appendAnyway({ type: "policy_violation", device: ref, rule, expected, actual });
  }
  if (broken.length > 0) throw policyError(broken);
  system.journal.note({ type: "device_opened", device: ref, name: device.info.name, backend, bytesTotal });
  const stopped = system.state.stopped(uuid)?.reason;
  const worker: Worker = {
    device,
    ref,
    keys: deriveWorkerKeys(system.state.rootKey, backend, uuid),
    ledger: await openLedger(device, headroomBytes, heldBytes),
    accounts: new Mutex(),
    stopped,
    stoppedAgain: undefined,
    stopRecorded: stopped !== undefined,
    standing: new Mutex(),
    lost: false,
  };
  device.onLost((error) => loseWorker(system, worker, error));
  return worker;
}

/** The account of a device. Its figure is read before it is asked who holds something: whoever lets go later is seen. */
async function openLedger(device: Device, headroomBytes?: number, heldBytes?: () => number): Promise<Ledger> {
  const { bytesTotal, granuleBytes } = device.info;
  const headroom = headroomBytes ?? defaultHeadroom(bytesTotal, granuleBytes);
  if (heldBytes === undefined) return createLedger(bytesTotal, granuleBytes, headroom);
  const { bytesFree } = await device.memory();
  const ledger = createLedger(bytesTotal, granuleBytes, headroom, heldBytes());
  ledger.capacity(bytesFree);
  return ledger;
}

/** After a fatal error nothing on this device can be relied on any more (VR-DEV-05). */
function loseWorker(system: System, worker: Worker, error: VramError): void {
  worker.lost = true;
  for (const shard of system.registry.all()) {
    // A mismatch found before stays one.
    if (shard.worker === worker && shard.state === "sealed") shard.state = "lost";
  }
  system.onUnreliable({ worker, because: "lost" });
  system.journal.note({ type: "device_lost", device: worker.ref, code: error.code });
}

/** Throws `WORKER_STOPPED` or `DEVICE_LOST` if this worker may not seal. Of a stop somebody has to know, whatever else is. */
export function requireRunning(worker: Worker): void {
  if (worker.stopped !== undefined) {
    throw new VramError("WORKER_STOPPED", `the worker of device ${worker.ref.ordinal} is stopped: ${worker.stopped}`, {
      details: { device: worker.ref, reason: worker.stopped },
    });
  }
  if (worker.lost) throw new VramError("DEVICE_LOST", `device ${worker.ref.ordinal} is lost to this process`);
}

/** Stops a worker, at once in memory and then durably. Stopping a stopped worker keeps the first reason. */
export async function stopWorker(system: System, worker: Worker, reason: string): Promise<void> {
  if (worker.stopped === undefined) worker.stopped = reason;
  else worker.stoppedAgain = reason;
  system.onUnreliable({ worker, because: "stopped" });
  await worker.standing.run(async () => {
    if (worker.stopRecorded) return;
    const why = worker.stopped ?? reason;
    // A state directory that cannot be written must not hide the mismatch that is being reported.
    try {
      await system.state.setStopped(worker.ref.uuid, { reason: why, stoppedAtMs: system.clock.wallMs() });
      worker.stopRecorded = true;
    } catch (error) {
      const { message } = toVramError(error);
      system.journal.note({ type: "entry_unrecorded", lost: "the worker's stop in the state directory", message });
    }
    await system.journal.appendAnyway({ type: "worker_stopped", device: worker.ref, reason: why });
  });
}

/** Lets a stopped worker run again. The reason is on record before it does. */
export async function resumeWorker(system: System, worker: Worker, reason: string): Promise<void> {
  await worker.standing.run(async () => {
    if (worker.stopped === undefined) return;
    const { stopped } = worker;
    worker.stoppedAgain = undefined;
    try {
      await system.journal.append({ type: "worker_resumed", device: worker.ref, reason });
      await system.state.setStopped(worker.ref.uuid, undefined);
    } catch (error) {
      // It may be on record by now, or will be, that it runs again; it does not.
      await system.journal.appendAnyway({ type: "worker_stopped", device: worker.ref, reason: stopped });
      throw error;
    }
    worker.stopRecorded = false;
    // A mismatch found meanwhile keeps it stopped; whoever found it waits to put that on record.
    worker.stopped = worker.stoppedAgain;
  });
}

/** Tells the journal of a changed account, as far as it is known without asking the driver again. */
export function noteCapacity(system: System, worker: Worker): void {
  const capacity = worker.ledger.lastCapacity();
  if (capacity !== undefined) system.journal.note({ type: "capacity_changed", device: worker.ref, capacity });
}

/** The device's account as of now. */
export function readCapacity(worker: Worker): Promise<Capacity> {
  return worker.accounts.run(async () => worker.ledger.capacity((await worker.device.memory()).bytesFree));
}

/** The worker that is meant: by ordinal, by UUID, or the first. `DEVICE_NOT_FOUND` otherwise. */
export function findWorker(workers: readonly Worker[], device: number | string | undefined): Worker {
  if (device === undefined) return present(workers[0], "the first worker");
  const found = workers.find((worker) => worker.ref.ordinal === device || worker.ref.uuid === device);
  if (found === undefined) {
    throw new VramError("DEVICE_NOT_FOUND", "no device has this ordinal or UUID", {
      details: { devices: workers.map((worker) => worker.ref) },
    });
  }
  return found;
}
