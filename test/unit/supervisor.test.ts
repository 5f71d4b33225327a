/** Keeping a device running: states in order, waits that grow, and when it is left alone. Devices are stand-ins. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { LOST, superviseFakes as setUp } from "../helpers/supervised.ts";
import { codeOf } from "../helpers/vram.ts";

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

  it("[VR-DEV-05] one that is lost while it is bound again is started once, not by two at a time", async () => {
    const { start, devices, states } = setUp({
      bind: async (device) => {
        if (device.pid === 101) device.lose();
      },
    });
    const supervisor = await start();
    devices[0]?.lose();
    await until("it runs again", () => devices.length > 2 && supervisor.state === "running");
    expect(states()).toBe("starting running lost starting running lost starting running");
    expect(supervisor.restarts).toBe(2);
    await supervisor.close();
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
