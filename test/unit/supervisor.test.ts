/** Keeping a device running: states in order, waits that grow, and when it is left alone. Devices are stand-ins. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import type { ProcessEnd } from "../../src/process/link.ts";
import type { RemoteDevice } from "../../src/process/remote-device.ts";
import { type DeviceChange, superviseDevice } from "../../src/process/supervisor.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { codeOf } from "../helpers/vram.ts";

const GONE: ProcessEnd = { wedged: false, exitCode: null, signal: "SIGKILL" };
const LOST = new VramError("DEVICE_LOST", "the device's process ended");

interface Fake extends RemoteDevice {
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
function setUp({ open = async () => undefined, bind = async () => undefined }: Hooks = {}) {
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
    });
  const states = (): string => changes.map(({ state }) => state).join(" ");
  return { start, devices, changes, slept, clock, states };
}

interface Hooks {
  readonly open?: (nth: number) => Promise<void>;
  readonly bind?: (device: Fake) => Promise<void>;
}

describe("a supervisor", () => {
  it("rejects where the first start fails, and leaves nothing", async () => {
    const failing = async (): Promise<never> => {
      throw new VramError("DEVICE_BUSY", "taken");
    };
    expect(await codeOf(setUp({ open: failing }).start())).toBe("DEVICE_BUSY");
    const unbound = setUp({ bind: failing });
    expect(await codeOf(unbound.start())).toBe("DEVICE_BUSY");
    expect(unbound.devices.map(({ closed }) => closed)).toEqual([true]);
  });

  it("[VR-DEV-05] waits longer from crash to crash, and stops after the sixth", async () => {
    const { start, devices, changes, clock, states } = setUp();
    const supervisor = await start();
    const waits: number[] = [];
    for (let crash = 1; crash <= 5; crash += 1) {
      const before = clock.now;
      devices.at(-1)?.lose();
      await until("it runs again", () => devices.length === crash + 1 && supervisor.state === "running");
      waits.push(clock.now - before);
    }
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000]);
    devices.at(-1)?.lose();
    await until("it is left alone", () => supervisor.state === "stopped");
    expect(supervisor.device).toBeUndefined();
    expect(changes.at(-1)).toEqual({ state: "stopped", restarts: 5 });
    expect(changes[2]).toEqual({ state: "lost", restarts: 0, error: LOST });
    expect(changes[4]).toEqual({ state: "running", restarts: 1, pid: 101 });
    expect(states()).toBe(`${"starting running lost ".repeat(6)}stopped`);
    await supervisor.close();
  });

  it("counts starts that fail like crashes", async () => {
    const { start, devices, states } = setUp({
      open: async (nth) => {
        if (nth > 0) throw new Error("no driver");
      },
    });
    const supervisor = await start();
    devices[0]?.lose();
    await until("it is left alone", () => supervisor.state === "stopped");
    expect(states()).toBe(`starting running lost ${"starting lost ".repeat(5)}stopped`);
  });

  it("[VR-DEV-05] starts nothing beside a process that cannot be killed, running or opening", async () => {
    const running = setUp();
    const first = await running.start();
    running.devices[0]?.lose({ wedged: true });
    await until("it is wedged", () => first.state === "wedged");
    expect(running.devices).toHaveLength(1);

    const opening = setUp({
      open: async (nth) => {
        if (nth > 0) throw new VramError("DEVICE_STALLED", "no answer", { details: { wedged: true } });
      },
    });
    const second = await opening.start();
    opening.devices[0]?.lose();
    await until("it is wedged", () => second.state === "wedged");
    expect(opening.states()).toBe("starting running lost starting wedged");
  });

  it("a device lost while it is being bound is lost as soon as it runs", async () => {
    let isFirst = true;
    const { start, states } = setUp({
      bind: async (device) => {
        if (isFirst) device.lose();
        isFirst = false;
      },
    });
    const supervisor = await start();
    await until("it runs again", () => supervisor.state === "running");
    expect(states()).toBe("starting running lost starting running");
  });

  it("once closed starts nothing, whatever it was doing", async () => {
    const waiting = setUp();
    const first = await waiting.start();
    waiting.devices[0]?.lose();
    await first.close();
    expect(waiting.devices.length).toBe(1);

    let letOpen: () => void = () => undefined;
    const slow = setUp({
      open: (nth) =>
        nth === 0
          ? Promise.resolve()
          : new Promise((resolve) => {
              letOpen = resolve;
            }),
    });
    const second = await slow.start();
    slow.devices[0]?.lose();
    await until("it is opening", () => slow.states().endsWith("lost starting"));
    const closing = second.close();
    letOpen();
    await closing;
    expect(slow.devices.map(({ closed }) => closed)).toEqual([true, true]);
    expect(second.device).toBeUndefined();
  });
});
