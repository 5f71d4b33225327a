/** Listing devices in a process of its own: the answer, and every way in which there is none. Processes are of this one. */
import { describe, expect, it, vi } from "vitest";
import { LIMITS } from "../../src/limits.ts";
import type { Channel } from "../../src/process/channel.ts";
import { listDevices } from "../../src/process/list-devices.ts";
import { openRemoteDevice } from "../../src/process/remote-device.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { emulatedInProcess, failureOf, remoteOptions } from "../helpers/remote.ts";
import { infoOf, LISTED, type Script, scripted } from "../helpers/scripted.ts";
import { codeOf } from "../helpers/vram.ts";

const WANTED = { backend: "cuda-substituted", library: "/nowhere/libcuda.so.1", env: {} } as const;

const list = (script: Script, startMs?: number) => {
  const process = scripted(script);
  const { start } = process;
  return { process, listed: listDevices({ ...WANTED, start, ...(startMs === undefined ? {} : { startMs }) }) };
};
const sending =
  (message: unknown): NonNullable<Script["onList"]> =>
  (channel: Channel) =>
    channel.send(message);

describe("listing devices", () => {
  it("gives their UUIDs in order; the process is not killed for ending after that", async () => {
    const { process, listed } = list({});
    expect(await listed).toEqual({ uuids: LISTED });
    expect(process.kills).toBe(0);
  });

  it("[VR-DEV-05] kills a process that does not end when it has answered", async () => {
    const { process, listed } = list({ stubborn: true });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await until("it is waited for", () => vi.getTimerCount() > 0);
    vi.advanceTimersByTime(LIMITS.deviceEndMs);
    expect(process.kills).toBe(1);
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    vi.useRealTimers();
    expect(await listed).toEqual({ uuids: LISTED });
  });

  it("hands the environment over, and what the driver needs to know", async () => {
    const seen: unknown[] = [];
    const start = (...args: unknown[]) => {
      seen.push(...args);
      return scripted({}).start();
    };
    const env = { CUDA_VISIBLE_DEVICES: "1" };
    await listDevices({ backend: "cuda", libraryPath: "/lib", env, start });
    expect(seen).toEqual([{ backend: "cuda", libraryPath: "/lib" }, env]);
  });

  it("rejects as the driver does, with code, fix and details", async () => {
    const error = await failureOf(listDevices({ ...WANTED, start: emulatedInProcess().start }));
    expect([error.code, error.details]).toMatchObject(["DEVICE_UNUSABLE", { library: WANTED.library, missing: true }]);
    expect(error.fix).not.toBe("");
  });

  it("[VR-DEV-05] a process that ends instead, or cannot be started, is lost", async () => {
    const { process, listed } = list({ onList: () => process.exit({ exitCode: null, signal: "SIGSEGV" }) });
    const error = await failureOf(listed);
    expect([error.code, error.details["signal"]]).toEqual(["DEVICE_LOST", "SIGSEGV"]);
    const start = (): never => {
      throw new Error("EMFILE");
    };
    expect(await codeOf(listDevices({ ...WANTED, start }))).toBe("DEVICE_LOST");
  });

  it("[VR-DEV-05] one that does not answer is killed; one that cannot be is wedged", async () => {
    const deaf = list({ onList: () => undefined }, 20);
    const late = await failureOf(deaf.listed);
    expect([late.code, late.message, deaf.process.kills]).toEqual([
      ...["DEVICE_STALLED", "the device's process did not answer in time: listing the devices", 1],
    ]);
    const stubborn = list({ onList: () => undefined, stubborn: true }, 20);
    const failed = failureOf(stubborn.listed);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await until("it is killed", () => stubborn.process.kills > 0);
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    vi.useRealTimers();
    const { code, details } = await failed;
    expect([code, details["wedged"], details["wedgedPid"]]).toEqual(["DEVICE_STALLED", true, 2 ** 22 + 2]);
  });

  const LIES: Record<string, unknown> = {
    "no device": { kind: "listed", uuids: [] },
    "two of one UUID": { kind: "listed", uuids: [LISTED[0], LISTED[0]] },
    "what is no UUID": { kind: "listed", uuids: ["../../etc/passwd"] },
    "more than there may be": {
      kind: "listed",
      uuids: Array.from({ length: LIMITS.devicesListed + 1 }, (_, n) => `${LISTED[0]?.slice(0, -3)}${100 + n}`),
    },
    "a device": { kind: "opened", info: infoOf(LISTED[0] ?? "") },
  };
  it.each(Object.keys(LIES))("[VR-DEV-05] takes nothing that was not agreed: %s", async (lie) => {
    const { process, listed } = list({ onList: sending(LIES[lie]) });
    const error = await failureOf(listed);
    expect([error.code, error.message]).toEqual(["DEVICE_LOST", "the device's process sent what was not agreed"]);
    expect(process.kills).toBe(1);
  });

  it("[VR-DEV-05] a list is no answer to an opening", async () => {
    const { start } = scripted({ onOpen: sending({ kind: "listed", uuids: LISTED }) });
    expect(await codeOf(openRemoteDevice(await remoteOptions({ start })))).toBe("DEVICE_LOST");
  });
});
