/** Starting a device again that was left alone: by somebody who has looked, and once. Devices are stand-ins. */
import { describe, expect, it } from "vitest";
import { VramError } from "../../src/errors.ts";
import type { Supervisor } from "../../src/process/supervisor.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { failureOf } from "../helpers/remote.ts";
import { type Hooks, superviseFakes } from "../helpers/supervised.ts";
import { codeOf } from "../helpers/vram.ts";

/** A supervisor whose device was lost until it was left alone. `hooks.open` is told how many devices there were. */
async function stopped(hooks: Hooks = {}) {
  const fakes = superviseFakes(hooks);
  const supervisor = await fakes.start();
  for (let crash = 1; crash <= 6; crash += 1) {
    await until("it runs", () => fakes.devices.length === crash && supervisor.state === "running");
    fakes.devices.at(-1)?.lose();
  }
  await until("it is left alone", () => supervisor.state === "stopped");
  fakes.changes.length = 0;
  return { ...fakes, supervisor };
}

const seen = ({ state, pid, restarts }: Supervisor) => ({ state, pid, restarts });

describe("a device that is stopped", () => {
  it("[VR-DEV-05] runs again when it is resumed, at once and with all its restarts", async () => {
    const { supervisor, devices, states, slept } = await stopped();
    expect(seen(supervisor)).toEqual({ state: "stopped", pid: undefined, restarts: 5 });
    slept.length = 0;
    await supervisor.resume();
    expect(slept).toEqual([]);
    expect(seen(supervisor)).toEqual({ state: "running", pid: 106, restarts: 0 });
    expect(supervisor.device).toBe(devices[6]);
    for (let crash = 7; crash <= 11; crash += 1) {
      devices.at(-1)?.lose();
      await until("it runs again", () => devices.length === crash + 1 && supervisor.state === "running");
    }
    devices.at(-1)?.lose();
    await until("it is left alone", () => supervisor.state === "stopped");
    expect(states()).toBe(`${"starting running lost ".repeat(6)}stopped`);
    await supervisor.close();
  });

  it("is started once, however many resume it; while it runs or starts that does nothing", async () => {
    const lets: (() => void)[] = [];
    const { supervisor, devices } = await stopped({
      open: (nth) => (nth < 6 ? Promise.resolve() : new Promise((resolve) => void lets.push(resolve))),
    });
    let done = 0;
    const calls = [1, 2, 3].map(async () => {
      await supervisor.resume();
      done += 1;
    });
    await until("it is opening", () => lets.length > 0);
    expect([supervisor.state, done]).toEqual(["starting", 0]);
    for (const go of lets) go();
    await Promise.all(calls);
    await supervisor.resume();
    expect([supervisor.state, devices.length, lets.length]).toEqual(["running", 7, 1]);
    // Lost, and about to be started by itself.
    devices.at(-1)?.lose();
    const resumed = supervisor.resume();
    expect(supervisor.state).toBe("lost");
    await resumed;
    await until("it is opening", () => lets.length > 1);
    for (const go of lets) go();
    await supervisor.close();
    expect(lets).toHaveLength(2);
  });

  it("stays stopped if it does not start, says why, and can be resumed again", async () => {
    let isBroken = true;
    const { supervisor, changes, states, devices } = await stopped({
      open: async (nth) => {
        if (nth === 6 && isBroken) throw new VramError("DEVICE_UNUSABLE", "no driver");
      },
    });
    const errors = await Promise.all([supervisor.resume(), supervisor.resume()].map(failureOf));
    expect(errors.map(({ code }) => code)).toEqual(["DEVICE_UNUSABLE", "DEVICE_UNUSABLE"]);
    expect(states()).toBe("starting stopped");
    expect(changes.at(-1)?.error).toBe(errors[0]);
    isBroken = false;
    await supervisor.resume();
    expect([supervisor.state, devices.length]).toEqual(["running", 7]);
    await supervisor.close();
  });

  it("is not resumed once closed; closing waits for a start that is under way, and leaves nothing of it", async () => {
    let letOpen: () => void = () => undefined;
    const { supervisor, devices } = await stopped({
      open: (nth) =>
        nth < 6
          ? Promise.resolve()
          : new Promise((resolve) => {
              letOpen = resolve;
            }),
    });
    const resuming = codeOf(supervisor.resume());
    let isClosed = false;
    const closing = supervisor.close().then(() => {
      isClosed = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(isClosed).toBe(false);
    letOpen();
    await closing;
    expect([await resuming, devices[6]?.closed]).toEqual(["CLOSED", true]);
    expect(await codeOf(supervisor.resume())).toBe("CLOSED");
    expect(devices).toHaveLength(7);
  });
});

describe("a device that is wedged", () => {
  const THERE = `100 (node) D ${[1, 1, 1, 0, -1, 0, 0, 0, 0, 0, 4, 1, 0, 0, 20, 0, 11].join(" ")}`;

  it("[VR-DEV-05] is not started beside its process, but when that is gone", async () => {
    let stat: string | undefined = THERE;
    const asked: number[] = [];
    const { start, devices, states } = superviseFakes({
      read: (pid) => {
        asked.push(pid);
        return stat;
      },
    });
    const supervisor = await start();
    devices[0]?.lose({ wedged: true });
    await until("it is wedged", () => supervisor.state === "wedged");
    expect(supervisor.pid).toBe(100);
    const error = await failureOf(supervisor.resume());
    expect([error.code, error.details]).toEqual(["DEVICE_LOST", { pid: 100 }]);
    expect([supervisor.state, devices.length]).toEqual(["wedged", 1]);
    stat = undefined;
    await supervisor.resume();
    expect(seen(supervisor)).toEqual({ state: "running", pid: 101, restarts: 0 });
    expect(states()).toBe("starting running lost wedged starting running");
    expect(new Set(asked)).toEqual(new Set([100]));
    await supervisor.close();
  });

  it("[VR-DEV-05] and so is one that was wedged in opening, also when it was resumed", async () => {
    const details = { wedged: true, pid: 7, wedgedPid: 600 };
    const asked: number[] = [];
    const { supervisor, devices } = await stopped({
      open: async (nth) => {
        if (nth === 6) throw new VramError("DEVICE_STALLED", "no answer", { details });
      },
      read: (pid) => {
        asked.push(pid);
        return THERE;
      },
    });
    expect(await codeOf(supervisor.resume())).toBe("DEVICE_STALLED");
    expect([supervisor.state, supervisor.pid]).toEqual(["wedged", 600]);
    expect(await codeOf(supervisor.resume())).toBe("DEVICE_LOST");
    expect([new Set(asked), devices.length]).toEqual([new Set([600]), 6]);
    await supervisor.close();
  });
});
