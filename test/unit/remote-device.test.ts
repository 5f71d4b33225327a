/** A device behind a channel: what each failure of its process looks like from here. The processes are of this one. */
import { describe, expect, it, vi } from "vitest";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { openCalls } from "../../src/process/calls.ts";
import { openRemoteDevice } from "../../src/process/remote-device.ts";
import { deviceEnvironment, startFrom } from "../../src/process/start-process.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { emulatedInProcess, failureOf, openRemote, remoteOptions } from "../helpers/remote.ts";
import { calls, infoOf, LISTED, openScripted, type Script, scripted } from "../helpers/scripted.ts";
import { codeOf, MIB } from "../helpers/vram.ts";

/** As much as a header may take, and then nothing any more. */
async function* never(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(256 * 1024);
  await new Promise(() => undefined);
}

describe("a fatal error in the process", () => {
  it("[VR-DEV-05] is the error of its call; others learn that the device was lost, and it ends by itself", async () => {
    const faults = createFaultPlan();
    const process = emulatedInProcess(faults);
    const device = await openRemote(await remoteOptions({ start: process.start }));
    const allocationId = await device.allocate(2 * MIB);
    const waits = await device.openSource({ kind: "chunks", chunks: never(), byteLength: MIB }, { format: "raw" });
    faults.reset();
    faults.breakExecution("launch", 1, STATUS.ECC_UNCORRECTABLE);
    const order: string[] = [];
    const note = (what: string) => (error: VramError) => void order.push(`${what}: ${error.code}`);
    device.onLost(note("lost"));
    const calls = [
      device.measure(allocationId).catch(note("measure")),
      device.digestSource(waits.sourceId, false, {}).catch(note("digest")),
    ];
    await Promise.all(calls);
    expect(order).toEqual(["lost: VRAM_UNREADABLE", "measure: VRAM_UNREADABLE", "digest: DEVICE_LOST"]);
    expect(await device.ended).toEqual({ wedged: false, exitCode: null, signal: "SIGKILL" });
    expect(process.kills).toBe(0);
    expect(await device.free(allocationId)).toEqual({ zeroed: false, reason: "the device was lost earlier" });
    const later: string[] = [];
    device.onLost(({ code }) => later.push(code));
    expect(later).toEqual(["VRAM_UNREADABLE"]);
  });

  it("[VR-DEV-05] one that tells of it and does not end is killed", async () => {
    const { device, process } = await openScripted({});
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const call = failureOf(device.memory());
    process.send({ kind: "lost", error: { code: "DEVICE_LOST", message: "gone", fix: "", details: { status: 700 } } });
    const told = new Promise<VramError>((resolve) => device.onLost(resolve));
    expect((await told).details).toEqual({ status: 700 });
    vi.advanceTimersByTime(LIMITS.deviceEndMs);
    vi.useRealTimers();
    expect((await call).message).toBe("the device was lost earlier");
    expect(process.kills).toBe(1);
  });
});

describe("what was not agreed", () => {
  const LIES: Record<string, unknown> = {
    "no message at all": 7,
    "of no known kind": { kind: "hello" },
    "with one field too many": { kind: "pong", id: 1, more: true },
    "an answer to no call": { kind: "result", id: 99, value: undefined },
    "a failure of no call": { kind: "failure", id: 99, error: { code: "CLOSED", message: "", fix: "", details: {} } },
    "an error of no known code": { kind: "failure", id: 1, error: { code: "X", message: "", fix: "", details: {} } },
    "progress of no call": { kind: "progress", id: 99, bytesDone: 0 },
    "a sign of life nobody asked for": { kind: "pong", id: 99 },
    "a list nobody asked for": { kind: "listed", uuids: LISTED },
    "a second opening": { kind: "opened", info: infoOf("EMU-00000000-0000-4000-8000-000000000001") },
    "a pull of no stream": { kind: "pull", streamId: 1 },
    "an address": { kind: "result", id: 1, value: { bytesTotal: 0x7f00n, bytesFree: 1 } },
    "a wrong answer": { kind: "result", id: 1, value: { bytesTotal: 1 } },
  };

  it.each(Object.keys(LIES))("[VR-DEV-05] %s: the process is killed, the call under way is answered", async (lie) => {
    const { device, process } = await openScripted({ onRequest: (_request, channel) => channel.send(LIES[lie]) });
    const error = await failureOf(device.memory());
    expect([error.code, error.message]).toEqual(["DEVICE_LOST", "the device's process sent what was not agreed"]);
    expect(process.kills).toBe(1);
  });

  it("[VR-DEV-04] another device than the one that was asked for is not opened", async () => {
    for (const lie of [{ uuid: "EMU-00000000-0000-4000-8000-000000000001" }, { backend: "cuda" }]) {
      const onOpen: Script["onOpen"] = (channel, uuid) =>
        channel.send({ kind: "opened", info: { ...infoOf(uuid), ...lie } });
      const { start } = scripted({ onOpen });
      expect(await codeOf(openRemoteDevice(await remoteOptions({ start })))).toBe("INTERNAL");
    }
  });
});

describe("opening", () => {
  it("[VR-DEV-05] a process that ends instead, or cannot be started", async () => {
    for (const exit of [
      { exitCode: 1, signal: null },
      { exitCode: null, signal: "SIGSEGV" },
      { exitCode: null, signal: null },
    ]) {
      const process = scripted({ onOpen: () => process.exit(exit) });
      const error = await failureOf(openRemoteDevice(await remoteOptions({ start: process.start })));
      const { pid: _, ...details } = error.details;
      expect(error.code).toBe("DEVICE_LOST");
      expect(details).toEqual(Object.fromEntries(Object.entries(exit).filter(([, value]) => value !== null)));
    }
    const start = (): never => {
      throw new Error("EMFILE");
    };
    expect(await codeOf(openRemoteDevice(await remoteOptions({ start })))).toBe("DEVICE_LOST");
    const nothing = startFrom(new URL("file:///nowhere/process.js"));
    expect(await codeOf(openRemoteDevice(await remoteOptions({ start: nothing })))).toBe("DEVICE_LOST");
  });

  it("refusals are those of opening it here, with code, fix and details", async () => {
    const runtimeDir = "/nowhere/at/all";
    const { start } = emulatedInProcess();
    const error = await failureOf(openRemoteDevice(await remoteOptions({ start, runtimeDir })));
    expect([error.code, error.message]).toEqual(["STATE_INVALID", expect.stringContaining("/nowhere/at/all/gpu-EMU-")]);
    const missing = { backend: "cuda", library: "/nowhere/libcuda.so.1" } as const;
    const options = { ...missing, uuid: "GPU-00000000-0000-4000-8000-000000000001" };
    expect(await codeOf(openRemoteDevice(await remoteOptions({ start, ...options })))).toBe("DEVICE_UNUSABLE");
  });

  it("[VR-DEV-04] the process sees one GPU, by UUID, and the ordinal is that of the machine", async () => {
    const { device } = await openScripted({}, { ordinal: 5 });
    expect(device.info.ordinal).toBe(5);
    const request = await remoteOptions({ backend: "cuda", uuid: "GPU-1", libraryPath: "/lib" });
    expect(deviceEnvironment(request, { CUDA_VISIBLE_DEVICES: "all", A: "1" })).toEqual({
      ...{ A: "1", LD_LIBRARY_PATH: "/lib", CUDA_VISIBLE_DEVICES: "GPU-1" },
      ...{ CUDA_CACHE_DISABLE: "1", CUDA_MODULE_LOADING: "EAGER" },
    });
    expect(deviceEnvironment(await remoteOptions(), {})).not.toHaveProperty("CUDA_VISIBLE_DEVICES");
    // One that lists them sees what the service may see.
    const lists = deviceEnvironment({ backend: "cuda" }, { CUDA_VISIBLE_DEVICES: "1" });
    expect(lists).toEqual({ CUDA_VISIBLE_DEVICES: "1", CUDA_CACHE_DISABLE: "1", CUDA_MODULE_LOADING: "EAGER" });
  });
});

describe("deadlines", () => {
  it("[VR-DEV-05] a call that is not answered is a stall, and so is a silence while a file is waited for", async () => {
    for (const [call, what] of [
      ["memory", "memory"],
      ["digestSource", "a sign of life"],
    ] as const) {
      const { device, process } = await openScripted({}, { floorMs: 40 });
      const error = await failureOf(call === "memory" ? device.memory() : device.digestSource(1, false, {}));
      expect([error.code, error.message]).toEqual([
        "DEVICE_STALLED",
        `the device's process did not answer in time: ${what}`,
      ]);
      expect(process.kills).toBe(1);
    }
  });

  it("[VR-DEV-05] an idle process is asked each 10 seconds; one that does not answer is a stall", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const clock = { now: 0, monotonicMs: () => clock.now };
    let answers = true;
    const onRequest: Script["onRequest"] = (request, channel) => {
      if (request.kind === "ping" && answers) channel.send({ kind: "pong", id: request.id });
    };
    const { device, process } = await openScripted({ onRequest }, { clock, floorMs: 4000 });
    const pass = async (seconds: number): Promise<void> => {
      for (let second = 1; second <= seconds; second += 1) {
        clock.now += 1000;
        vi.advanceTimersByTime(1000);
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    await pass(35);
    expect(process.requests.map(({ kind }) => kind)).toEqual(["ping", "ping", "ping"]);
    answers = false;
    await pass(5 + 3);
    expect([process.requests.length, process.kills]).toEqual([4, 0]);
    const lost = new Promise<VramError>((resolve) => device.onLost(resolve));
    await pass(1);
    const { code, message } = await lost;
    expect([code, message]).toEqual(["DEVICE_STALLED", "the device's process did not answer in time: a sign of life"]);
    expect(process.kills).toBe(1);
    await pass(30);
    expect(process.requests).toHaveLength(4);
    vi.useRealTimers();
  });

  it("keep a program alive while a call is under way, and not for a sign of life of an idle process", async () => {
    const intervals = vi.spyOn(globalThis, "setInterval");
    const keepAlive = (): number =>
      intervals.mock.results.filter(({ value }) => (value as NodeJS.Timeout).hasRef()).length;
    let asked = 0;
    const calls = openCalls({
      ...{ clock: undefined, floorMs: 30_000, idlePingMs: 1 },
      sendPing: () => {
        asked += 1;
      },
      onStall: () => expect.fail("late"),
    });
    expect(keepAlive()).toBe(0);
    await until("it is asked", () => asked === 1);
    expect([intervals.mock.results.length, keepAlive()]).toEqual([2, 0]);
    const call = failureOf(calls.add(1, "memory", 30_000, (value) => value));
    expect(keepAlive()).toBe(1);
    calls.get(1).settle({ error: new VramError("ABORTED", "enough") });
    expect([(await call).code, keepAlive()]).toEqual(["ABORTED", 0]);
    const endless = failureOf(calls.add(2, "upload", undefined, (value) => value));
    expect(keepAlive()).toBe(1);
    calls.settleAll(new VramError("CLOSED", "closed"));
    expect([(await endless).code, keepAlive()]).toEqual(["CLOSED", 0]);
    intervals.mockRestore();
  });

  it("end with the device: one that was closed is not asked, and not lost afterwards", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const { device } = await openScripted({}, { floorMs: 400 });
    await device.close();
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  it("count the time between looks: a service that was stopped itself loses nothing", async () => {
    const clock = { now: 0, monotonicMs: () => clock.now };
    const { device, process } = await openScripted({}, { clock, floorMs: 4000 });
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const call = failureOf(device.memory());
    await until("it is asked", () => calls(process.requests, "memory") === 1);
    for (let look = 1; look <= 3; look += 1) {
      clock.now += 1_000_000;
      vi.advanceTimersByTime(1000);
    }
    expect(device.ended).toBeInstanceOf(Promise);
    expect(process.kills).toBe(0);
    clock.now += 1000;
    vi.advanceTimersByTime(1000);
    vi.useRealTimers();
    expect((await call).code).toBe("DEVICE_STALLED");
  });

  it("[VR-DEV-05] a process that cannot be killed is wedged, and is not waited for longer", async () => {
    const { device, process } = await openScripted({ stubborn: true });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    process.send("not agreed");
    await new Promise((resolve) => device.onLost(resolve));
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    expect(await device.ended).toEqual({ wedged: true });
    await device.close();
    vi.useRealTimers();

    const deaf = scripted({ stubborn: true, onOpen: () => undefined });
    const opening = openRemoteDevice(await remoteOptions({ start: deaf.start, startMs: 0, floorMs: 40 }));
    const refused = failureOf(opening);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await until("it is killed", () => deaf.kills > 0);
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    vi.useRealTimers();
    expect([(await refused).code, (await refused).details["wedged"]]).toEqual(["DEVICE_STALLED", true]);
  });
});
