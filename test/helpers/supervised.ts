/** A supervisor of stand-ins for devices, under a clock of the test's. */
import { VramError } from "../../src/errors.ts";
import type { ProcessEnd } from "../../src/process/link.ts";
import type { ReadProc } from "../../src/process/orphans.ts";
import type { RemoteDevice } from "../../src/process/remote-device.ts";
import { type DeviceChange, superviseDevice } from "../../src/process/supervisor.ts";

const GONE: ProcessEnd = { wedged: false, exitCode: null, signal: "SIGKILL" };
export const LOST = new VramError("DEVICE_LOST", "the device's process ended");

/** A device that is lost when the test says so. */
export interface Fake extends RemoteDevice {
  readonly lose: (end?: ProcessEnd) => void;
  closed: boolean;
}

function fakeDevice(pid: number): Fake {
  const listeners: ((error: VramError) => void)[] = [];
  let end: (end: ProcessEnd) => void = () => undefined;
  const fake = {
    pid,
    ended: new Promise<ProcessEnd>((resolve) => {
      end = resolve;
    }),
    closed: false,
    onLost: (listener: (error: VramError) => void) => void listeners.push(listener),
    close: async () => {
      fake.closed = true;
    },
    lose: (how: ProcessEnd = GONE) => {
      for (const listener of listeners) listener(LOST);
      end(how);
    },
  };
  return fake as unknown as Fake;
}

/** A supervisor of stand-ins; `open` may fail or be awaited by the test. */
export function superviseFakes({
  open = async () => undefined,
  bind = async () => undefined,
  read = () => undefined,
}: Hooks = {}) {
  const devices: Fake[] = [];
  const changes: DeviceChange[] = [];
  const slept: number[] = [];
  const clock = {
    now: 0,
    monotonicMs: () => clock.now,
    sleep: async (ms: number) => {
      slept.push(ms);
      clock.now += ms;
    },
  };
  const start = () =>
    superviseDevice({
      open: async () => {
        await open(devices.length);
        const device = fakeDevice(100 + devices.length);
        devices.push(device);
        return device;
      },
      bind: async (device) => bind(device as Fake),
      onChange: (change) => void changes.push(change),
      clock,
      read,
    });
  const states = (): string => changes.map(({ state }) => state).join(" ");
  return { start, devices, changes, slept, clock, states };
}

export interface Hooks {
  readonly open?: (nth: number) => Promise<void>;
  readonly bind?: (device: Fake) => Promise<void>;
  readonly read?: ReadProc;
}
