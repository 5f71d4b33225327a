/**
 * For tests of programs that use this library: a system on the emulated device with faults to inject, sealed bytes to
 * change, and a count of live handles. Nothing here is reachable from the library's main entry.
 *
 * @module vram-residency/testing
 */
import type { Vram } from "./api.ts";
import { assert, present } from "./assert.ts";
import type { EmulatedDriver } from "./cuda/emulated/options.ts";
import type { LocalDevice } from "./device/local.ts";
import { type OpenSystem, openSystem, type TestOptions, type VramOptions } from "./open.ts";
import { openProcessDevice } from "./process/open-device.ts";
import type { RemoteDevice, RemoteDeviceOptions } from "./process/remote-device.ts";
import { flipShardBit } from "./tamper.ts";
import { createVram } from "./vram.ts";

export type { OpenFile } from "./audit/durable.ts";
export type { Clock } from "./clock.ts";
export type { Access, AllocationProperties, Backend, DeviceAttribute, PointerAttribute } from "./cuda/driver.ts";
export {
  createFaultPlan,
  type EmulatedFaults,
  type ExecutionPoint,
  type ExecutionVerdict,
  type FaultPlan,
  type OperationKind,
  type UnreadableRange,
} from "./cuda/emulated/faults.ts";
export { EmulatorLint } from "./cuda/emulated/lint.ts";
export type { EmulatedDeviceSpec } from "./cuda/emulated/options.ts";
export type { HostTraces } from "./device/detect.ts";
export { liveHandles } from "./dispose.ts";
export type { TestOptions, VramOptions } from "./open.ts";
export type { FileDescriptor, FileSystem } from "./source/file.ts";
export type { Vram };

/** What `openTestVram` hands out. Closing `vram` closes everything behind it. */
export interface TestVram {
  /** The library, as `openVram` hands it out. */
  readonly vram: Vram;
  /** What stands behind it. */
  readonly open: OpenSystem & {
    /** The emulated one, with what only it can be asked. */
    readonly driver: EmulatedDriver;
  };
  /** Flips one bit of a sealed shard in VRAM through a writable alias. Offset in bytes, bit 0–7. */
  readonly flipBit: (idOrName: string, offset: number, bit: number) => Promise<void>;
}

/** What a service under test can be told, beside what anybody can ask it. */
export interface TamperedService {
  /** Flips one bit of a sealed shard in the memory of its emulated device. Offset in bytes, bit 0–7. */
  readonly flipBit: (idOrName: string, offset: number, bit: number) => Promise<void>;
}

/** An emulated device in this process, where the service would have one in a process of its own. */
async function openHere(options: RemoteDeviceOptions, devices: Map<string, LocalDevice>): Promise<RemoteDevice> {
  assert(options.backend === "emulated", "only an emulated device is tampered with");
  const { device, close } = await openProcessDevice(options, options.report);
  devices.set(device.info.uuid, device);
  const more: Pick<RemoteDevice, "info" | "pid" | "ended" | "close"> = {
    // Every process calls its one device the first.
    info: { ...device.info, ordinal: options.ordinal ?? device.info.ordinal },
    pid: process.pid,
    ended: new Promise(() => undefined),
    close,
  };
  const isMore = (key: PropertyKey): key is keyof typeof more => Object.hasOwn(more, key);
  return new Proxy(device as unknown as RemoteDevice, {
    get: (target, key) => {
      if (isMore(key)) return more[key];
      const value: unknown = Reflect.get(target, key, target);
      // Methods with private fields need the device itself.
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/**
 * Runs `vram serve` with these arguments, on emulated devices in this process whose bytes can be changed. Resolves to
 * the exit code. The shipped command has no such way in.
 */
export async function serveForTests(
  argv: readonly string[],
  onOpen: (service: TamperedService) => void,
): Promise<number> {
  // Loaded here: who tests against the library needs no command line.
  const [{ processHost }, { main }] = await Promise.all([import("./cli/host.ts"), import("./cli/main.ts")]);
  const devices = new Map<string, LocalDevice>();
  const host = processHost();
  return main(["serve", "--backend", "emulated", ...argv], {
    ...host,
    signal: host.signal,
    service: {
      openDevice: (options) => openHere(options, devices),
      onOpen: ({ open }) =>
        onOpen({
          flipBit: async (idOrName, offset, bit) => {
            const shard = open.system.registry.find(idOrName);
            await present(devices.get(shard.device.uuid), "the shard's device").flipBit(
              shard.allocationId,
              offset,
              bit,
            );
          },
        }),
    },
  });
}

const onEmulation = (open: OpenSystem): open is TestVram["open"] => "emulation" in open.driver;

/**
 * A system on whatever device there is, and a way to change what it has sealed: for tests of a GPU of one's own. It takes
 * the options of `openVram`, and throws what that throws.
 */
export async function openTamperedVram(options: VramOptions = {}): Promise<Pick<TestVram, "vram" | "flipBit">> {
  const open = await openSystem(options, {});
  return { vram: createVram(open), flipBit: (...args) => flipShardBit(open, ...args) };
}

/** Opens a system on the emulated device. */
export async function openTestVram(options: VramOptions = {}, test: TestOptions = {}): Promise<TestVram> {
  const open = await openSystem({ backend: "emulated", ...options }, test);
  assert(onEmulation(open), "the emulated backend has the emulated driver");
  return { vram: createVram(open), open, flipBit: (...args) => flipShardBit(open, ...args) };
}
