/** Calls to a device behind a channel: their turn, their bound, what goes with them, and the end of it all. */
import { describe, expect, it, vi } from "vitest";
import { createFaultPlan } from "../../src/cuda/emulated/faults.ts";
import { type GpuEvidence, type GpuHealth, NO_MONITOR } from "../../src/cuda/monitor.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Method } from "../../src/process/protocol.ts";
import { until } from "../helpers/nvml-monitor.ts";
import { emulatedInProcess, failureOf, openRemote, remoteOptions } from "../helpers/remote.ts";
import { answering, calls, openScripted } from "../helpers/scripted.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

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
    const digesting = failureOf(
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
    expect((await failureOf(device.upload(request, { onProgress }))).message).toContain("the caller's own");
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
    const error = await failureOf(device.openSource({ kind: "chunks", chunks: chunks(), byteLength: 20 }, {}));
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
  const monitor = (health: GpuHealth) => ({ ...NO_MONITOR, read: async () => health });

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

describe("evidence", () => {
  const NONCE = new Uint8Array(32).map((_, index) => 255 - index);
  const EVIDENCE: Required<GpuEvidence> = {
    report: new Uint8Array(8192).fill(1),
    cecReport: new Uint8Array(4096).fill(2),
    certificateChain: new Uint8Array(4096).fill(3),
    attestationCertificateChain: new Uint8Array(5120).fill(4),
  };

  it("is the monitor's to give, for this device and this nonce", async () => {
    const asked: unknown[] = [];
    const evidence = async (...question: readonly unknown[]) => {
      asked.push(question);
      return EVIDENCE;
    };
    const { device, process } = await openScripted({}, { monitor: { ...NO_MONITOR, evidence } });
    expect(await device.evidence(NONCE)).toBe(EVIDENCE);
    expect(asked).toEqual([[device.info.uuid, NONCE]]);
    expect(calls(process.requests, "evidence")).toBe(0);
  });

  it("crosses byte for byte, the nonce too", async () => {
    const { device, process } = await openScripted({ onRequest: answering("evidence", EVIDENCE) });
    expect(await device.evidence(NONCE)).toEqual(EVIDENCE);
    expect(process.requests).toMatchObject([{ kind: "call", method: "evidence", args: [NONCE] }]);
    const { cecReport: _, ...rest } = EVIDENCE;
    const { device: other } = await openScripted({ onRequest: answering("evidence", rest) });
    expect(await other.evidence(NONCE)).toEqual(rest);
  });

  it.each(Object.keys(EVIDENCE))("ends a process whose %s is too long, or no bytes", async (part) => {
    const field = EVIDENCE[part as keyof GpuEvidence];
    for (const wrong of [new Uint8Array(field.byteLength + 1), "00", null]) {
      const { device, process } = await openScripted({
        onRequest: answering("evidence", { ...EVIDENCE, [part]: wrong }),
      });
      expect(await device.evidence(NONCE)).toBeUndefined();
      expect(process.kills).toBe(1);
      expect(await codeOf(device.memory())).toBe("DEVICE_LOST");
    }
  });

  it("ends a process that adds to it, or leaves something out", async () => {
    const { report: _, ...without } = EVIDENCE;
    for (const wrong of [{ ...EVIDENCE, more: 1 }, without, null]) {
      const { device, process } = await openScripted({ onRequest: answering("evidence", wrong) });
      expect(await device.evidence(NONCE)).toBeUndefined();
      expect(process.kills).toBe(1);
    }
  });

  it("is asked for with 32 bytes only, with a monitor or without", async () => {
    const asked: unknown[] = [];
    const evidence = async (...question: readonly unknown[]) => void asked.push(question);
    const { device } = await openScripted({}, { monitor: { ...NO_MONITOR, evidence } });
    const { device: other, process } = await openScripted({});
    for (const byteLength of [0, 31, 33]) {
      expect(await codeOf(device.evidence(new Uint8Array(byteLength)))).toBe("INVALID_ARGUMENT");
      expect(await codeOf(other.evidence(new Uint8Array(byteLength)))).toBe("INVALID_ARGUMENT");
    }
    expect([asked, process.requests]).toEqual([[], []]);
  });

  it("is nothing on an emulated device, and of one that is lost", async () => {
    const process = emulatedInProcess();
    const device = await openRemote(await remoteOptions({ start: process.start }));
    expect(await device.evidence(NONCE)).toBeUndefined();
    expect((await device.memory()).bytesTotal).toBe(128 * MIB);
    process.exit({ exitCode: 1, signal: null });
    expect(await device.evidence(NONCE)).toBeUndefined();
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
