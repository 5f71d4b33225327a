/** A device behind a channel: what each failure of its process looks like from here. The processes are of this one. */
import { describe, expect, it, vi } from "vitest";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import type { GpuHealth } from "../../src/cuda/monitor.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Method, Request } from "../../src/service/protocol.ts";
import { openRemoteDevice, type RemoteDeviceOptions } from "../../src/service/remote-device.ts";
import { deviceEnvironment, startFrom } from "../../src/service/start-process.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { emulatedInProcess, openRemote, remoteOptions } from "../helpers/remote.ts";
import { infoOf, type Script, scripted } from "../helpers/scripted.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

/** As much as a header may take, and then nothing any more. */
async function* never(): AsyncGenerator<Uint8Array> {
  yield new Uint8Array(256 * 1024);
  await new Promise(() => undefined);
}

const errorOf = async (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("no error"),
    (thrown: unknown) => thrown as VramError,
  );

async function openScripted(script: Script, given: Partial<RemoteDeviceOptions> = {}) {
  const process = scripted(script);
  const device = await openRemote(await remoteOptions({ start: process.start, ...given }));
  return { device, process };
}

/** Answers calls of one method. */
const answering =
  (method: Method, value: unknown): NonNullable<Script["onRequest"]> =>
  (request, channel) => {
    if (request.kind === "call" && request.method === method) {
      channel.send({ kind: "result", id: request.id, value });
    }
  };

const calls = (requests: readonly Request[], method: Method): number =>
  requests.filter((request) => request.kind === "call" && request.method === method).length;

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
    const call = errorOf(device.memory());
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
    "a second opening": { kind: "opened", info: infoOf("EMU-00000000-0000-4000-8000-000000000001") },
    "a pull of no stream": { kind: "pull", streamId: 1 },
    "an address": { kind: "result", id: 1, value: { bytesTotal: 0x7f00n, bytesFree: 1 } },
    "a wrong answer": { kind: "result", id: 1, value: { bytesTotal: 1 } },
  };

  it.each(Object.keys(LIES))("[VR-DEV-05] %s: the process is killed, the call under way is answered", async (lie) => {
    const { device, process } = await openScripted({ onRequest: (_request, channel) => channel.send(LIES[lie]) });
    const error = await errorOf(device.memory());
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
      const error = await errorOf(openRemoteDevice(await remoteOptions({ start: process.start })));
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
    const error = await errorOf(openRemoteDevice(await remoteOptions({ start, runtimeDir })));
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
  });
});

describe("deadlines", () => {
  it("[VR-DEV-05] a call that is not answered is a stall, and so is a silence while a file is waited for", async () => {
    for (const [call, what] of [
      ["memory", "memory"],
      ["digestSource", "a sign of life"],
    ] as const) {
      const { device, process } = await openScripted({}, { floorMs: 40 });
      const error = await errorOf(call === "memory" ? device.memory() : device.digestSource(1, false, {}));
      expect([error.code, error.message]).toEqual([
        "DEVICE_STALLED",
        `the device's process did not answer in time: ${what}`,
      ]);
      expect(process.kills).toBe(1);
    }
  });

  it("count the time between looks: a service that was stopped itself loses nothing", async () => {
    const clock = { now: 0, monotonicMs: () => clock.now };
    const { device, process } = await openScripted({}, { clock, floorMs: 4000 });
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const call = errorOf(device.memory());
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
    const refused = errorOf(opening);
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    await until("it is killed", () => deaf.kills > 0);
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    vi.useRealTimers();
    expect([(await refused).code, (await refused).details["wedged"]]).toEqual(["DEVICE_STALLED", true]);
  });
});

describe("calls", () => {
  it("are bounded; what gives something back is let in all the same", async () => {
    const { device, process } = await openScripted({ onRequest: answering("allocate", 7) });
    const allocationId = await device.allocate(MIB);
    const waiting = Array.from({ length: LIMITS.deviceCallsInFlight }, () => codeOf(device.memory()));
    expect(await codeOf(device.memory())).toBe("DEVICE_BUSY");
    const freed = device.free(allocationId);
    await until("it is sent", () => calls(process.requests, "free") === 1);
    await device.close();
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(["CLOSED"]));
    expect(await freed).toEqual({ zeroed: false, reason: "the device is closed" });
  });

  it("wait here for their turn, and not in the process", async () => {
    const { device, process } = await openScripted({ onRequest: answering("allocate", 7) });
    const allocationId = await device.allocate(MIB);
    const request = { sourceId: 1, allocationId, witness: true, sha256: false };
    const lanes = [1, 2].flatMap(() => [
      device.upload(request, {}),
      device.measure(allocationId),
      device.locate({ allocationId, rangeOffsets: [], kept: new Uint8Array(32) }),
    ]);
    const codes = Promise.all(lanes.map(codeOf));
    await until("they are sent", () => calls(process.requests, "upload") === 1);
    expect(["upload", "measure", "locate"].map((name) => calls(process.requests, name as Method))).toEqual([1, 1, 0]);
    process.exit({ exitCode: null, signal: "SIGKILL" });
    expect(await codes).toEqual(lanes.map(() => "DEVICE_LOST"));
  });

  it("with arguments that cannot be sent end themselves, not the process", async () => {
    const device = await openRemote(await remoteOptions({ start: emulatedInProcess().start }));
    const roots = [7] as unknown as string[];
    expect(await codeOf(device.openSource({ kind: "path", path: "/", roots }, {}))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(device.allocate(0))).toBe("INVALID_ARGUMENT");
    expect(await codeOf(device.facts(99))).toBe("INTERNAL");
    expect((await device.memory()).bytesTotal).toBe(128 * MIB);
  });

  it("report releases that fail in the process", async () => {
    const reports: string[] = [];
    const faults = createFaultPlan();
    const report = (what: string, error: unknown) => void reports.push(`${what}: ${(error as VramError).code}`);
    const device = await openRemote(await remoteOptions({ start: emulatedInProcess(faults).start, report }));
    faults.failCall("stream.destroy", 1, STATUS.INVALID_VALUE);
    await device.close();
    expect(reports).toHaveLength(1);
  });
});

describe("an upload", () => {
  const setUp = async () => {
    const device = await openRemote(await remoteOptions({ start: emulatedInProcess().start }));
    const { path } = await randomFile(4 * MIB);
    const { sourceId, byteLength } = await device.openSource({ kind: "path", path }, {});
    const allocationId = await device.allocate(byteLength);
    return { device, request: { sourceId, allocationId, witness: true, sha256: false }, byteLength };
  };

  it("tells how far it is, and ends with an abort and its reason", async () => {
    const { device, request, byteLength } = await setUp();
    const told: number[] = [];
    const upload = await device.upload(request, { onProgress: (bytesDone) => told.push(bytesDone) });
    expect(upload.byteLength).toBe(byteLength);
    expect(told.at(-1)).toBe(byteLength);
    expect(told.length).toBe(8);

    const stop = new AbortController();
    const never = { kind: "chunks", chunks: forEver(), byteLength: 100 * MIB } as const;
    const { sourceId } = await device.openSource(never, { format: "raw" });
    const digesting = errorOf(
      device.digestSource(sourceId, false, { signal: stop.signal, onProgress: () => stop.abort("enough") }),
    );
    expect([(await digesting).code, (await digesting).cause]).toEqual(["ABORTED", "enough"]);
    expect(await codeOf(device.openSource(never, {}, stop.signal))).toBe("ABORTED");
    expect(await codeOf(device.upload(request, { signal: stop.signal }))).toBe("ABORTED");
    expect(await codeOf(device.digestSource(sourceId, false, { signal: stop.signal }))).toBe("ABORTED");
    await device.closeSource(sourceId);
    expect((await device.memory()).bytesTotal).toBe(128 * MIB);
  });

  it("ends with what its progress callback throws, and nothing else does", async () => {
    const { device, request } = await setUp();
    const onProgress = (): never => {
      throw new Error("the caller's own");
    };
    expect((await errorOf(device.upload(request, { onProgress }))).message).toContain("the caller's own");
    expect((await device.memory()).bytesTotal).toBe(128 * MIB);
  });
});

async function* forEver(): AsyncGenerator<Uint8Array> {
  for (;;) yield new Uint8Array(MIB);
}

describe("streams of the caller's", () => {
  const cases: [string, () => AsyncGenerator<Uint8Array>, string, RegExp][] = [
    [
      "an error of ours passes",
      async function* () {
        yield new Uint8Array(1);
        throw new VramError("SOURCE_CHANGED", "it is another one now");
      },
      "SOURCE_CHANGED",
      /another one now/,
    ],
    [
      "any other is told with how far it got",
      async function* () {
        yield new Uint8Array(10);
        throw new Error("secret path");
      },
      "SOURCE_READ_FAILED",
      /^the source failed after 10 of 20 bytes$/,
    ],
    [
      "what is no bytes is refused",
      async function* () {
        yield "text" as unknown as Uint8Array;
      },
      "INVALID_ARGUMENT",
      /must yield Uint8Array/,
    ],
  ];

  it.each(cases)("%s", async (_title, chunks, code, message) => {
    const device = await openRemote(await remoteOptions({ start: emulatedInProcess().start }));
    const error = await errorOf(device.openSource({ kind: "chunks", chunks: chunks(), byteLength: 20 }, {}));
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
  });

  it("are let go of when the source is closed, refused, or its process is gone", async () => {
    const device = await openRemote(await remoteOptions({ start: emulatedInProcess().start }));
    let returned = 0;
    const stream = (): AsyncIterable<Uint8Array> => ({
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: new Uint8Array(MIB) }),
        return: async () => {
          returned += 1;
          return { done: true, value: undefined };
        },
      }),
    });
    const open = (byteLength: number) =>
      device.openSource({ kind: "chunks", chunks: stream(), byteLength }, { format: "raw" });
    await device.closeSource((await open(8 * MIB)).sourceId);
    expect(returned).toBe(1);
    expect(await codeOf(open(-1))).toBe("INVALID_ARGUMENT");
    expect(returned).toBe(2);
    await open(8 * MIB);
    await device.close();
    expect(returned).toBe(3);
  });
});

describe("health", () => {
  const monitor = (health: GpuHealth) => ({ read: async () => health, close: async () => undefined });

  it("is the monitor's to say, without our own process among the tenants", async () => {
    const processes = [2 ** 22 + 2, 5].map((pid) => ({ pid, name: "node", byteLength: 1 }));
    const { device } = await openScripted({}, { monitor: monitor({ processes, xids: [79] }) });
    expect(await device.health()).toEqual({ processes: [{ pid: 5, name: "node", byteLength: 1 }], xids: [79] });
    const { device: other } = await openScripted({}, { monitor: monitor({ xids: [] }) });
    expect(await other.health()).toEqual({ xids: [] });
  });

  it("is the process's without one; nothing is known of a device that is lost", async () => {
    const process = emulatedInProcess();
    const device = await openRemote(await remoteOptions({ start: process.start }));
    expect(await device.health()).toEqual({ processes: [] });
    process.exit({ exitCode: 1, signal: null });
    expect(await device.health()).toEqual({});
  });
});

describe("closing", () => {
  it("ends the process in order, once; nothing is asked after that", async () => {
    const process = emulatedInProcess();
    const device = await openRemote(await remoteOptions({ start: process.start }));
    const allocationId = await device.allocate(MIB);
    const losses: VramError[] = [];
    device.onLost((error) => losses.push(error));
    await Promise.all([device.close(), device.close()]);
    expect(await device.ended).toEqual({ wedged: false, exitCode: 0, signal: null });
    expect([process.kills, losses]).toEqual([0, []]);
    expect(await codeOf(device.memory())).toBe("CLOSED");
    expect(await device.free(allocationId)).toMatchObject({ zeroed: false });
    await device.closeSource(1);
  });

  it("kills one that does not go by itself", async () => {
    const { device, process } = await openScripted({ onRequest: answering("memory", {}), stubborn: true });
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const closing = device.close();
    await until("it was asked", () => calls(process.requests, "close") === 1);
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(LIMITS.deviceEndMs);
    await until("it is killed", () => process.kills === 1);
    vi.advanceTimersByTime(LIMITS.deviceKillMs);
    await closing;
    vi.useRealTimers();
  });
});
