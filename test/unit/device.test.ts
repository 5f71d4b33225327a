/** One device behind its interface: what it says of itself, what it refuses, what every failure leaves. */
import { utimesSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { CudaDriver } from "../../src/cuda/driver.ts";
import { STATUS } from "../../src/cuda/status.ts";
import type { LocalDevice } from "../../src/device/local.ts";
import { liveHandles } from "../../src/dispose.ts";
import { RANGE_BYTES } from "../../src/hash/geometry.ts";
import { deviceMachine, fakeClock, uploadBytes } from "../helpers/handles.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

describe("opening", () => {
  test("[VR-MEM-03] fails with any driver call and leaves nothing", async () => {
    let calls = 0;
    let unsettledCalls = 0;
    for (let fired = 1; fired > 0; calls += 1) {
      const { faults, emulated, reports, open } = deviceMachine();
      faults.failCall("*", calls + 1, calls % 2 === 0 ? STATUS.UNKNOWN : STATUS.OUT_OF_MEMORY);
      const outcome = await open().catch((error: unknown) => error);
      fired = faults.fired();
      const code = outcome instanceof Error && "code" in outcome ? outcome.code : "opened";
      const expected = calls % 2 === 0 ? ["DEVICE_LOST"] : ["OUT_OF_VRAM", "DEVICE_STALLED"];
      if (fired > 0) expect(expected, `call ${calls + 1}`).toContain(code);
      else {
        // How often events are asked depends on the time: the fault must not strike while closing instead.
        faults.reset();
        await (outcome as LocalDevice).close();
      }
      // Where the end of the self-test cannot be awaited, the device may still be working: nothing is taken from
      // under it, and a lost device says what it could not release.
      const left = Object.keys(emulated.emulation.live()).length;
      const unsettled = code === "DEVICE_STALLED" || (code === "DEVICE_LOST" && left > 0 && reports.length > 0);
      unsettledCalls += unsettled ? 1 : 0;
      expect([unsettled ? 0 : left, unsettled ? [] : reports, liveHandles()], `call ${calls + 1}`).toEqual([0, [], {}]);
    }
    expect(calls).toBeGreaterThan(60);
    expect(unsettledCalls).toBeGreaterThan(0);
    expect(unsettledCalls).toBeLessThan(20);
  });

  test("[VR-DEV-04] says which device it is, by UUID, and what the driver answers", async () => {
    const { faults, open } = deviceMachine(undefined, { ordinal: 1, wddm: true });
    faults.overrideAttribute("computeCapabilityMajor", 9);
    faults.overrideAttribute("l2CacheBytes", 1234);
    faults.overrideAttribute("integrated", 1);
    faults.overrideAttribute("eccEnabled", 2);
    faults.overrideAttribute("managedMemory", 0);
    const { info, close } = await open().then((local) => ({ info: local.info, close: () => local.close() }));
    expect(info).toEqual({
      ...{ ordinal: 1, uuid: "EMU-00000000-0000-4000-8000-000000000001", name: "Emulated GPU", backend: "emulated" },
      ...{
        driverVersion: 13_000,
        computeCapability: "9.0",
        bytesTotal: 64 * MIB,
        granuleBytes: 2 * MIB,
        l2CacheBytes: 1234,
      },
      facts: {
        ...{ integrated: true, wddm: true, virtualMemoryManagement: true, mps: false, pageableMemoryAccess: false },
        ...{ unifiedAddressing: true, managedMemory: false, posixFileDescriptorHandles: true, eccEnabled: true },
      },
    });
    await close();
  });
});

describe("facts of an allocation", () => {
  const HEALTHY = {
    ...{ allocationType: "pinned", locationType: "device", memoryType: "device", managed: false, ordinalMatches: true },
    ...{ mainAccess: "read", accessConfirmed: true, sizeMatches: true, hostPointerKnown: false },
    properties: { allocationType: 1, locationType: 1, locationId: 0 },
  };
  type Faults = ReturnType<typeof deviceMachine>["faults"];
  const CASES: Record<string, readonly [lie: (faults: Faults) => void, facts: object]> = {
    "managed allocation": [(f) => f.overrideProperties({ allocationType: 2 }), { allocationType: "managed" }],
    "unheard-of allocation": [(f) => f.overrideProperties({ allocationType: 7 }), { allocationType: "unknown" }],
    "host location": [(f) => f.overrideProperties({ locationType: 2 }), { locationType: "host" }],
    "NUMA location": [(f) => f.overrideProperties({ locationType: 3 }), { locationType: "host" }],
    "unheard-of location": [(f) => f.overrideProperties({ locationType: 9 }), { locationType: "unknown" }],
    "another device": [(f) => f.overrideProperties({ locationId: 1 }), { ordinalMatches: false }],
    "another ordinal": [(f) => f.overrideAttribute("deviceOrdinal", 1), { ordinalMatches: false }],
    "no ordinal": [(f) => f.overrideAttribute("deviceOrdinal", undefined), { ordinalMatches: false }],
    "host memory": [(f) => f.overrideAttribute("memoryType", 1), { memoryType: "host" }],
    "unified memory": [(f) => f.overrideAttribute("memoryType", 4), { memoryType: "unified" }],
    "unheard-of memory": [(f) => f.overrideAttribute("memoryType", 3), { memoryType: "unknown" }],
    "no memory type": [(f) => f.overrideAttribute("memoryType", undefined), { memoryType: "unknown" }],
    "managed memory": [(f) => f.overrideAttribute("isManaged", 1), { managed: true }],
    "nobody knows whether managed": [(f) => f.overrideAttribute("isManaged", undefined), { managed: "unknown" }],
    "one witness of write access": [(f) => f.overrideAccess(3), { mainAccess: "unknown" }],
    "the other witness of it": [(f) => f.overrideAttribute("accessFlags", 3), { mainAccess: "unknown" }],
    "no second witness": [
      (f) => f.overrideAttribute("accessFlags", undefined),
      { mainAccess: "read", accessConfirmed: false },
    ],
    "a host pointer": [(f) => f.overrideAttribute("hostPointer", 4096), { hostPointerKnown: true }],
    "another size": [(f) => f.overrideAttribute("rangeSize", 4 * MIB), { sizeMatches: false }],
    "no size": [(f) => f.overrideAttribute("rangeSize", undefined), { sizeMatches: false }],
  };

  test("name what the driver answers, each lie by itself, and are asked every time", async () => {
    const { faults, open } = deviceMachine();
    const local = await open();
    const id = await local.allocate(3000);
    expect(await local.facts(id)).toEqual(HEALTHY);
    for (const [name, [lie, facts]] of Object.entries(CASES)) {
      faults.reset();
      lie(faults);
      expect(await local.facts(id), name).toMatchObject(facts);
    }
    faults.reset();
    expect(await local.facts(id)).toEqual(HEALTHY);
    await local.close();
  });
});

describe("what is refused", () => {
  test("[VR-MEM-02] lengths that are none, sources that do not fit, ids that nobody has", async () => {
    const local = await deviceMachine().open();
    for (const byteLength of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      expect(await codeOf(local.allocate(byteLength)), String(byteLength)).toBe("INVALID_ARGUMENT");
    }
    expect(await codeOf(local.allocate(65 * MIB))).toBe("OUT_OF_VRAM");
    const { sourceId } = await local.openSource({ kind: "bytes", bytes: new Uint8Array(101) }, {});
    const allocationId = await local.allocate(100);
    const request = { sourceId, allocationId, witness: true, sha256: false };
    expect(await codeOf(local.upload(request, {}))).toBe("OUT_OF_BOUNDS");
    expect(await codeOf(local.upload({ ...request, sourceId: 99 }, {}))).toBe("INTERNAL");
    expect(await codeOf(local.upload({ ...request, allocationId: 99 }, {}))).toBe("INTERNAL");
    expect(await codeOf(local.measure(99))).toBe("INTERNAL");
    for (const bit of [-1, 8, 0.5]) expect(await codeOf(local.flipBit(allocationId, 0, bit))).toBe("INVALID_ARGUMENT");
    for (const at of [-1, 100]) expect(await codeOf(local.flipBit(allocationId, at, 0))).toBe("OUT_OF_BOUNDS");
    expect(await local.memory()).toEqual({ bytesTotal: 64 * MIB, bytesFree: 60 * MIB });
    await local.close();
  });

  test("everything after it was closed, which may be done twice", async () => {
    const { open, emulated } = deviceMachine();
    const local = await open();
    await local.allocate(10);
    await local.openSource({ kind: "bytes", bytes: new Uint8Array(1) }, {});
    await local.close();
    await local.close();
    expect([await codeOf(local.memory()), await codeOf(local.measure(1))]).toEqual(["CLOSED", "CLOSED"]);
    expect(emulated.emulation.live()).toEqual({});
  });

  const losses = { uncorrectable: "VRAM_UNREADABLE", broken: "DEVICE_LOST" } as const;
  test.each(Object.entries(losses))("everything after a fatal error, to whoever asks: %s", async (how, code) => {
    const { faults, emulated, open } = deviceMachine();
    const local = await open();
    const lost: string[] = [];
    local.onLost((error) => lost.push(error.code));
    const { allocationId } = await uploadBytes(local, new Uint8Array(RANGE_BYTES + 1).fill(7));
    const { sourceId } = await local.openSource({ kind: "bytes", bytes: new Uint8Array(1) }, {});
    const allocation = emulated.emulation.allocations().at(-1)?.allocation ?? 0;
    faults.reset();
    if (how === "broken") faults.breakExecution("launch", 2, STATUS.ILLEGAL_ADDRESS);
    else faults.markUncorrectable({ allocation, offset: RANGE_BYTES, byteLength: 1 });
    expect(await codeOf(local.measure(allocationId))).toBe(code);
    const watch = {};
    const spec = { kind: "bytes", bytes: new Uint8Array(1) } as const;
    for (const call of [
      () => local.memory(),
      () => local.openSource(spec, {}),
      () => local.allocate(1),
      () => local.upload({ sourceId, allocationId, witness: false, sha256: false }, watch),
      () => local.digestSource(sourceId, false, watch),
      () => local.facts(allocationId),
      () => local.measure(allocationId),
      () => local.locate({ allocationId, rangeOffsets: [], kept: new Uint8Array(64) }),
      () => local.flipBit(allocationId, 0, 0),
    ]) {
      const error: unknown = await call().catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({
        code: "DEVICE_LOST",
        fatal: true,
        cause: expect.objectContaining({ code }) as unknown,
      });
    }
    expect(lost).toEqual([code]);
    expect(await local.free(allocationId)).toEqual({ zeroed: false, reason: "the device was lost earlier" });
    await local.close();
    expect(emulated.emulation.allocations()).toEqual([]);
  });

  test("[VR-MEM-03] nothing is freed of a device that stalled, and its close says so by what it leaves", async () => {
    const { faults, emulated, open } = deviceMachine(undefined, { clock: fakeClock() });
    const local = await open();
    const allocationId = await local.allocate(10);
    faults.reset();
    faults.stall("fill", 1);
    const before = emulated.emulation.live();
    expect(await local.free(allocationId)).toMatchObject({ zeroed: false });
    expect(await codeOf(local.memory())).toBe("DEVICE_LOST");
    await local.close();
    expect(emulated.emulation.live()).toEqual({ ...before, mappings: 3, reservations: 3 });
  });
});

describe("freeing", () => {
  test("[VR-MEM-03] zeroes the memory first, once, and says why when it cannot", async () => {
    const mapped: bigint[] = [];
    const spied = (driver: CudaDriver): CudaDriver => ({
      ...driver,
      memory: {
        ...driver.memory,
        map: (cuPointer, byteLength, cuHandle) => {
          mapped.push(cuHandle);
          driver.memory.map(cuPointer, byteLength, cuHandle);
        },
      },
    });
    const { faults, emulated, open } = deviceMachine(spied);
    const local = await open();
    const { allocationId } = await uploadBytes(local, new Uint8Array(2 * MIB).fill(0xab));
    // Somebody else keeps the memory: what is left of it shows. A granule of zeros takes no storage.
    emulated.memory.exportFd(mapped.at(-1) ?? 0n);
    const storedBefore = emulated.emulation.storedBytes();
    expect(await local.free(allocationId)).toEqual({ zeroed: true });
    expect(emulated.emulation.storedBytes()).toBe(storedBefore - 2 * MIB);
    expect(await local.free(allocationId)).toEqual({ zeroed: false, reason: "it was freed before" });
    const other = await local.allocate(100);
    faults.reset();
    faults.failCall("memory.map", 1, STATUS.OUT_OF_MEMORY);
    expect(await local.free(other)).toEqual({ zeroed: false, reason: "memory.map: OUT_OF_MEMORY (2)" });
    await local.close();
    expect(emulated.emulation.allocations()).toHaveLength(1);
  });
});

describe("uploading", () => {
  const SIZE = 5 * RANGE_BYTES + 3;

  async function opened() {
    const { path, bytes } = await randomFile(SIZE);
    const { faults, open } = deviceMachine();
    const local = await open();
    const allocationId = await local.allocate(SIZE);
    const begin = async (watch: Parameters<LocalDevice["upload"]>[1] = {}) => {
      const { sourceId } = await local.openSource({ kind: "path", path }, { format: "raw" });
      const request = { sourceId, allocationId, witness: true, sha256: true };
      return local.upload(request, watch).finally(() => local.closeSource(sourceId));
    };
    return { path, digest: toHex(digestOf(bytes)), faults, local, allocationId, begin };
  }

  test("and digesting without a device tell the same digests, and how far they are", async () => {
    const { path, digest, local, begin, allocationId } = await opened();
    const progress: number[] = [];
    const uploaded = await begin({ onProgress: (bytesDone) => progress.push(bytesDone) });
    expect(progress).toEqual([1, 2, 3, 4, 5].map((ranges) => ranges * RANGE_BYTES).concat(SIZE));
    const { sourceId } = await local.openSource({ kind: "path", path }, {});
    const digested = await local.digestSource(sourceId, true, {});
    expect([toHex(uploaded.digest ?? Buffer.of()), uploaded.byteLength]).toEqual([digest, SIZE]);
    expect(digested).toMatchObject({ byteLength: SIZE, digest: uploaded.digest, sha256: uploaded.sha256 });
    expect(toHex((await local.measure(allocationId)).digest)).toBe(digest);
    await local.close();
  });

  test.each(["abort", "refused copy", "refused mark", "changed source"])(
    "that ends early (%s) keeps no slot: the next one works",
    async (how) => {
      const { path, digest, faults, local, begin, allocationId } = await opened();
      const aborter = new AbortController();
      faults.reset();
      if (how === "refused copy") faults.failCall("stream.copyToDevice", 3, STATUS.INVALID_VALUE);
      if (how === "refused mark") faults.failCall("event.record", 3, STATUS.INVALID_VALUE);
      let seen = 0;
      const onProgress = (): void => {
        seen += 1;
        if (how === "abort" && seen === 2) aborter.abort();
        if (how === "changed source" && seen === 2) utimesSync(path, 1, 1);
      };
      const code = await codeOf(begin({ signal: aborter.signal, onProgress }));
      const codes = { abort: "ABORTED", "changed source": "SOURCE_CHANGED" } as Record<string, string>;
      expect(code).toBe(codes[how] ?? "CUDA_FAILED");
      faults.reset();
      await begin();
      expect(toHex((await local.measure(allocationId)).digest)).toBe(digest);
      await local.close();
    },
  );

  test("to a device that breaks ends with its error", async () => {
    const { faults, local, begin } = await opened();
    faults.reset();
    faults.breakExecution("copyToDevice", 2, STATUS.ILLEGAL_ADDRESS);
    expect(await codeOf(begin())).toBe("DEVICE_LOST");
    await local.close();
  });
});
