/** Devices in processes of their own, as tests have them: the real process of `dist`, or its logic in this one. */
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { closeSync, existsSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, expect } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { systemClock } from "../../src/clock.ts";
import type { FaultPlan } from "../../src/cuda/emulated/faults.ts";
import type { Device } from "../../src/device/device.ts";
import type { VramError } from "../../src/errors.ts";
import { socketPair as descriptorPair } from "../../src/ffi/passing.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { createJournal } from "../../src/journal/journal.ts";
import { type OpenDevice, serveSocket } from "../../src/process/device-run.ts";
import type { ServedDevice } from "../../src/process/device-server.ts";
import { listProcessDevices, openProcessDevice, type ProcessTestOptions } from "../../src/process/open-device.ts";
import { openRemoteDevice, type RemoteDevice, type RemoteDeviceOptions } from "../../src/process/remote-device.ts";
import { type DeviceProcess, type Exit, type StartProcess, startFrom } from "../../src/process/start-process.ts";
import { policyDigest, VRAM_ONLY_POLICY } from "../../src/residency/policy.ts";
import { createRegistry } from "../../src/residency/registry.ts";
import type { SealRequest } from "../../src/residency/seal-request.ts";
import { createMemoryState } from "../../src/residency/state.ts";
import { openWorker, type System, type Worker } from "../../src/residency/worker.ts";
import { deriveKey } from "../../src/seal/key.ts";
import { isRunning, until } from "./nvml-monitor.ts";
import { socketPair } from "./socket-pair.ts";
import { MIB, temporaryFolder } from "./vram.ts";

const ENTRY = new URL("./device-process.mjs", import.meta.url);
export const SIZES = { ringSlots: 3, ringSlotBytes: MIB / 2, measureWindowBytes: 4 * MIB };

const opened: RemoteDevice[] = [];
/** What a process would have taken with it. */
const served: ServedDevice[] = [];

/** What a device of 128 MiB is opened with: a UUID and a folder of its own, no threads. */
export async function remoteOptions(given: Partial<RemoteDeviceOptions> = {}): Promise<RemoteDeviceOptions> {
  return {
    backend: "emulated",
    uuid: `EMU-${randomUUID()}`,
    runtimeDir: await temporaryFolder(),
    byteLength: 128 * MIB,
    hashThreads: 0,
    report: () => undefined,
    ...given,
  };
}

/** Opens a device, which is closed after the test. */
export async function openRemote(options: RemoteDeviceOptions): Promise<RemoteDevice> {
  const device = await openRemoteDevice(options);
  opened.push(device);
  return device;
}

afterEach(async () => {
  for (const device of opened.splice(0)) {
    await device.close();
    expect(isRunning(device.pid), "a process after the test").toBe(false);
  }
  for (const { close } of served.splice(0)) await close();
});

/** A device in a real process of `dist`, and what it can be told beside its interface. */
export async function openProcess(given: Partial<RemoteDeviceOptions> = {}) {
  const options = await remoteOptions(given);
  const control = join(options.runtimeDir, "control");
  const stalled = join(options.runtimeDir, "stalled");
  const env = { VRAM_TEST_DEVICE: JSON.stringify({ control, stalled, sizes: SIZES }) };
  const all = { env, start: startFrom(ENTRY), ...options };
  const device = await openRemote(all);
  return {
    device,
    options: all,
    tell: async (...command: readonly unknown[]): Promise<unknown> => {
      const socket = connect(control);
      socket.write(JSON.stringify(command));
      const [line] = (await once(socket, "data")) as [Buffer];
      socket.destroy();
      return JSON.parse(line.toString());
    },
    /** Waits until some work on the device has stalled. */
    untilStalled: async (): Promise<void> => {
      await until("the device stalls", () => existsSync(stalled));
      rmSync(stalled);
    },
  };
}

/** A "process" whose logic runs in this one: coverage follows it. `exit` ends it. */
export interface InProcess {
  readonly start: StartProcess;
  readonly exit: (exit: Exit) => void;
  kills: number;
}

/** `stubborn`: it cannot be killed. */
export function inProcess(open: OpenDevice, { stubborn = false } = {}): InProcess {
  let exit: (exit: Exit) => void = () => undefined;
  const made: InProcess = {
    kills: 0,
    exit: (how) => exit(how),
    start: (): DeviceProcess => {
      const [ours, its] = socketPair();
      const [descriptors, itsDescriptors] = descriptorPair();
      const ended = new Promise<Exit>((resolve) => {
        exit = (how) => {
          its.end();
          resolve(how);
        };
      });
      void ended.then(() => closeSync(itsDescriptors));
      const openKept: OpenDevice = async (request, report) => {
        const device = await open(request, report);
        served.push(device);
        return device;
      };
      const tasks = { open: openKept, list: listProcessDevices };
      serveSocket({ socket: its, descriptors: itsDescriptors }, tasks, {
        exit: () => exit({ exitCode: 0, signal: null }),
        kill: () => exit({ exitCode: null, signal: "SIGKILL" }),
      });
      return {
        pid: 2 ** 22 + 1,
        socket: ours,
        descriptors,
        kill: () => {
          made.kills += 1;
          if (!stubborn) exit({ exitCode: null, signal: "SIGKILL" });
        },
        onExit: (listener) => void ended.then(listener),
      };
    },
  };
  return made;
}

/** The device's own logic behind a channel, in this process. */
export const emulatedInProcess = (faults?: FaultPlan): InProcess => {
  const test: ProcessTestOptions = { sizes: SIZES, ...(faults === undefined ? {} : { faults }) };
  return inProcess((request, report) => openProcessDevice(request, report, test));
};

/** The error that `task` ends with. */
export const failureOf = async (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("no error"),
    (thrown: unknown) => thrown as VramError,
  );

export interface Bench {
  readonly system: System;
  readonly worker: Worker;
  readonly entries: readonly Entry[];
}

/** A system with one worker on `device`; `state` may be that of another bench. */
export async function openBench(device: Device, state = createMemoryState()): Promise<Bench> {
  const { backend, uuid } = device.info;
  const journal = createJournal(systemClock);
  const entries: Entry[] = [];
  journal.attach({ required: true, accept: (entry) => void entries.push(entry) });
  await state.bind(backend, [uuid]);
  let sequence = 0;
  const system: System = {
    journal,
    clock: systemClock,
    registry: createRegistry(),
    state,
    policy: VRAM_ONLY_POLICY,
    policyDigest: policyDigest(VRAM_ONLY_POLICY),
    setKey: deriveKey(state.rootKey, "set", backend, ""),
    instanceId: toHex(randomBytes(16)),
    nextSequence: () => {
      sequence += 1;
      return sequence;
    },
    onMismatch: "stop",
    maxModelBytes: 2 ** 30,
    modelRoots: ["/"],
    onUnreliable: () => undefined,
    reportRelease: (what, error) => journal.note({ type: "release_failed", what, message: String(error) }),
  };
  return { system, entries, worker: await openWorker(system, device, 0) };
}

/** A request to seal the file at `path`. */
export const sealRequest = (path: string, given: Partial<SealRequest> = {}): SealRequest => ({
  spec: { kind: "path", path },
  format: {},
  name: undefined,
  shardId: undefined,
  shardIndex: 0,
  totalShards: 1,
  expected: undefined,
  sha256: false,
  maxAgeMs: 0,
  signal: undefined,
  ...given,
});
