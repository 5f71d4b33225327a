/** NVML through koffi, against a stand-in: what is read, and that what cannot be known is absent. */
import { describe, expect, test } from "vitest";
import type { GpuHealth } from "../../src/cuda/monitor.ts";
import { openNvml } from "../../src/cuda/nvml.ts";
import { nvmlServer } from "../../src/cuda/nvml-serve.ts";
import { VramError } from "../../src/errors.ts";
import { dieWithParent } from "../../src/ffi/process.ts";
import { LIMITS } from "../../src/limits.ts";
import { FAKE_UUID, type FakeNvmlSettings, fakeNvml, openFakeNvml } from "../helpers/fake-nvml.ts";
import { errorOf } from "../helpers/header-parses.ts";

const fake = fakeNvml();

/** Every field differs from every other, and from zero. */
const SETTINGS = {
  PROCESSES: "1234:/usr/bin/python3:1048576,77:trainer:4096",
  MEMORY: "150754820096,633339904,140000000000,10121480192",
  ECC: "1,2,30,40",
  ROWS: "3,4,1,0",
  RECOVERY: "4",
  XIDS: "79,45,48",
  DRIVER: "595.10.01",
};

const HEALTH: Required<GpuHealth> = {
  driverVersion: "595.10.01",
  processes: [
    { pid: 77, name: "trainer", byteLength: 4096 },
    { pid: 1234, name: "python3", byteLength: 1_048_576 },
  ],
  memory: {
    bytesTotal: 150_754_820_096,
    bytesReserved: 633_339_904,
    bytesFree: 140_000_000_000,
    bytesUsed: 10_121_480_192,
  },
  ecc: { volatile: { corrected: 1, uncorrected: 2 }, aggregate: { corrected: 30, uncorrected: 40 } },
  remappedRows: { corrected: 3, uncorrected: 4, pending: true, failed: false },
  recoveryAction: "drain-and-reset",
  xids: [79, 48],
};

const read = (settings: FakeNvmlSettings, uuid = FAKE_UUID): GpuHealth =>
  openFakeNvml(fake.library, settings).read(uuid);

const without = (...fields: readonly (keyof GpuHealth)[]): GpuHealth =>
  Object.fromEntries(Object.entries(HEALTH).filter(([field]) => !fields.includes(field as keyof GpuHealth)));

/** Which field goes with which function. */
const FIELDS: readonly (readonly [symbol: string, field: keyof GpuHealth])[] = [
  ["nvmlSystemGetDriverVersion", "driverVersion"],
  ["nvmlDeviceGetComputeRunningProcesses_v3", "processes"],
  ["nvmlDeviceGetMemoryInfo_v2", "memory"],
  ["nvmlDeviceGetTotalEccErrors", "ecc"],
  ["nvmlDeviceGetRemappedRows", "remappedRows"],
  ["nvmlDeviceGetFieldValues", "recoveryAction"],
  ["field230", "recoveryAction"],
  ["nvmlEventSetCreate", "xids"],
  ["nvmlDeviceRegisterEvents", "xids"],
  ["nvmlEventSetWait_v2", "xids"],
];

describe.skipIf(fake.whyNot !== "")(`a GPU's health${fake.whyNot}`, () => {
  test("every field, in numbers", () => {
    const nvml = openFakeNvml(fake.library, SETTINGS);
    expect(nvml.read(FAKE_UUID)).toEqual(HEALTH);
    expect(nvml.driverVersion()).toBe("595.10.01");
  });

  test.each(FIELDS)("%s is not supported: %s is absent, and nothing else", (symbol, field) => {
    expect(read({ ...SETTINGS, UNSUPPORTED: symbol })).toEqual(without(field));
  });

  test.each(FIELDS)("%s fails once: %s is absent once", (symbol, field) => {
    const nvml = openFakeNvml(fake.library, { ...SETTINGS, FAULTS: `${symbol}:1:999` });
    expect(nvml.read(FAKE_UUID)).toEqual(without(field));
    expect(nvml.read(FAKE_UUID)).toEqual(HEALTH);
  });

  test.each([1, 2, 3, 4])("call %i for ECC errors fails: none of the four counts is given", (call) => {
    expect(read({ ...SETTINGS, FAULTS: `nvmlDeviceGetTotalEccErrors:${call}:999` })).toEqual(without("ecc"));
  });

  test("functions that a driver does not have at all", () => {
    const nvml = openFakeNvml(fake.bare, SETTINGS);
    expect(nvml.read(FAKE_UUID)).toEqual({});
    expect(nvml.driverVersion()).toBeUndefined();
  });

  test("counts that no number can hold are absent, not rounded", () => {
    const large = String(2n ** 53n);
    expect(read({ ...SETTINGS, MEMORY: `${large},1,1,1`, ECC: `0,0,0,${large}` })).toEqual(without("memory", "ecc"));
    const largest = Number.MAX_SAFE_INTEGER;
    expect(read({ MEMORY: `${largest},1,1,1` }).memory?.bytesTotal).toBe(largest);
  });

  test.each([
    [0, "none"],
    [1, "gpu-reset"],
    [2, "node-reboot"],
    [3, "drain-p2p"],
    [4, "drain-and-reset"],
    [5, "unknown"],
    [4_294_967_295, "unknown"],
  ])("recovery action %i is %s", (value, action) => {
    expect(read({ RECOVERY: String(value) }).recoveryAction).toBe(action);
  });

  test("a recovery action that is no unsigned int is absent", () => {
    expect(read({ RECOVERY: "1:0" })).not.toHaveProperty("recoveryAction");
  });
});

describe.skipIf(fake.whyNot !== "")(`devices${fake.whyNot}`, () => {
  const UUIDS = `${FAKE_UUID},MIG-5eed5eed-0001-0002-0003-000000000005,MIG-${FAKE_UUID}/1/0`;

  test.each(UUIDS.split(","))("%s is found", (uuid) => {
    expect(read({ ...SETTINGS, UUIDS }, uuid)).toEqual(HEALTH);
  });

  test.each([
    ["one it does not know", "GPU-5eed5eed-0001-0002-0003-000000000009"],
    ["an emulated one", "EMU-5eed5eed-0001-0002-0003-000000000004"],
    ["one with something after a NUL", `${FAKE_UUID}\0`],
    ["one that is too long", `GPU-${"0".repeat(92)}`],
  ])("%s: nothing is known", (_, uuid) => {
    expect(read({ ...SETTINGS, UUIDS }, uuid)).toEqual({});
  });
});

describe.skipIf(fake.whyNot !== "")(`processes${fake.whyNot}`, () => {
  const many = (count: number): string =>
    Array.from({ length: count }, (_, index) => `${index + 1}:worker:${index * 4096}`).join(",");

  test.each([0, 1, 31, 32, 33, 64, 65, 500, LIMITS.nvmlProcesses])("%i of them", (count) => {
    const processes = read({ PROCESSES: many(count) }).processes;
    expect(processes).toHaveLength(count);
    expect(processes?.every(({ pid, byteLength }) => byteLength === (pid - 1) * 4096)).toBe(true);
  });

  test("more than the limit: no list, rather than a part of one", () => {
    expect(read({ PROCESSES: many(LIMITS.nvmlProcesses + 1) })).not.toHaveProperty("processes");
  });

  test("a list that keeps growing ends at the limit", () => {
    const faults = Array.from({ length: 20 }, (_, index) => `nvmlDeviceGetComputeRunningProcesses_v3:${index + 1}:7`);
    expect(read({ FAULTS: faults.join(",") })).not.toHaveProperty("processes");
  });

  test("one that computes and draws is listed once; graphics alone make no list", () => {
    const both = { PROCESSES: "5:a:100", GRAPHICS: "5:a:100,6:b:7" };
    expect(read(both).processes).toEqual([
      { pid: 5, name: "a", byteLength: 100 },
      { pid: 6, name: "b", byteLength: 7 },
    ]);
    expect(read({ ...both, UNSUPPORTED: "nvmlDeviceGetGraphicsRunningProcesses_v3" }).processes).toEqual([
      { pid: 5, name: "a", byteLength: 100 },
    ]);
    expect(read({ ...both, UNSUPPORTED: "nvmlDeviceGetComputeRunningProcesses_v3" })).not.toHaveProperty("processes");
  });

  test("memory in use that is not known is 0", () => {
    expect(read({ PROCESSES: "5:a:-" }).processes).toEqual([{ pid: 5, name: "a", byteLength: 0 }]);
  });

  test.each([
    ["a path", "/opt/venv/bin/python3", "python3"],
    ["control characters", "a\u001b[31mb\n", "a [31mb"],
    ["a long name", "x".repeat(900), "x".repeat(64)],
    ["a folder", "/", "unknown"],
    ["nothing", "", "unknown"],
    ["more than there is room for", "y".repeat(1024), "unknown"],
  ])("the name of a process, from %s", (_, path, name) => {
    expect(read({ PROCESSES: `5:${path}:1` }).processes).toEqual([{ pid: 5, name, byteLength: 1 }]);
  });

  test.each(["1", "2", "40"])("entries of 32 bytes, as in R535 before 535.98: %s of them", (count) => {
    const settings = { PROCESSES: many(Number(count)) };
    expect(read({ ...settings, STRIDE: "32" }).processes).toEqual(read(settings).processes);
  });

  test("more of them than there was room for: no list", () => {
    const health = read({ ...SETTINGS, COUNT: "100000" });
    expect(health).toEqual(without("processes"));
  });

  test.each(["0:a:1", "4194305:a:1", "5:a:1,0:b:1", "5:a:1,0:b:1,6:c:1"])(
    "%s cannot be process ids: no list",
    (PROCESSES) => {
      expect(read({ PROCESSES })).not.toHaveProperty("processes");
    },
  );
});

describe.skipIf(fake.whyNot !== "")(`Xids${fake.whyNot}`, () => {
  test("are kept, told in every answer; 45 is none, nor are other events", () => {
    const nvml = openFakeNvml(fake.library, { XIDS: "45,31,1:7,79,45" });
    expect([1, 2, 3].map(() => nvml.read(FAKE_UUID).xids)).toEqual([
      [31, 79],
      [31, 79],
      [31, 79],
    ]);
  });

  test("the newest are kept, and a look takes a limited number", () => {
    const all = Array.from({ length: LIMITS.nvmlXids + 10 }, (_, index) => 100 + index);
    const nvml = openFakeNvml(fake.library, { XIDS: all.join(",") });
    expect(nvml.read(FAKE_UUID).xids).toEqual(all.slice(0, LIMITS.nvmlXids));
    expect(nvml.read(FAKE_UUID).xids).toEqual(all.slice(10));
  });

  test("a GPU that cannot be watched is asked again every time, and costs no event sets", () => {
    const faults = Array.from({ length: 20 }, (_, index) => `nvmlDeviceRegisterEvents:${index + 1}:999`);
    const nvml = openFakeNvml(fake.library, { XIDS: "79", FAULTS: faults.join(",") });
    for (const _ of faults) expect(nvml.read(FAKE_UUID)).not.toHaveProperty("xids");
    expect(nvml.read(FAKE_UUID).xids).toEqual([79]);
  });

  test("belong to the GPU that had them", () => {
    const nvml = openFakeNvml(fake.library, { XIDS: "79" });
    expect(nvml.read(FAKE_UUID).xids).toEqual([79]);
    expect(nvml.read("GPU-5eed5eed-0001-0002-0003-000000000006").xids).toEqual([]);
  });
});

describe.skipIf(fake.whyNot !== "")(`opening NVML${fake.whyNot}`, () => {
  const failure = (run: () => unknown): unknown => {
    const error = errorOf(run);
    return error instanceof VramError ? [error.code, error.message, error.details] : error;
  };

  test("it is not there", () => {
    expect(failure(() => openNvml("/nowhere/libnvidia-ml.so.1"))).toEqual([
      "DEVICE_UNUSABLE",
      expect.stringContaining("No such file or directory"),
      { library: "/nowhere/libnvidia-ml.so.1", missing: true },
    ]);
  });

  test("it is another library", () => {
    expect(failure(() => openNvml("libc.so.6"))).toEqual([
      "DEVICE_UNUSABLE",
      "libc.so.6 lacks nvmlInitWithFlags",
      { library: "libc.so.6" },
    ]);
  });

  test("the driver is not loaded", () => {
    expect(failure(() => openFakeNvml(fake.library, { FAULTS: "nvmlInitWithFlags:1:9" }))).toEqual([
      "DEVICE_UNUSABLE",
      `${fake.library} refused to start: nvmlInitWithFlags 9`,
      { library: fake.library, status: 9 },
    ]);
  });
});

describe.skipIf(fake.whyNot !== "")(`what NVML's process does${fake.whyNot}`, () => {
  test("answers with the id it was given", () => {
    const serve = nvmlServer(fake.library);
    const reply = serve({ id: 7, kind: "health", uuid: FAKE_UUID });
    expect(reply).toMatchObject({ id: 7, kind: "health", health: { recoveryAction: "none" } });
  });

  test("answers {} where NVML cannot be opened, and tries again", () => {
    const ask = (id: number) => ({ id, kind: "health", uuid: FAKE_UUID }) as const;
    const nothing = (id: number) => ({ id, kind: "health", health: {} });
    expect(nvmlServer("/nowhere/libnvidia-ml.so.1")(ask(1))).toEqual(nothing(1));
    const serve = nvmlServer(fake.library);
    process.env["VRAM_FAKE_NVML_FAULTS"] = "nvmlInitWithFlags:1:9";
    expect(serve(ask(2))).toEqual(nothing(2));
    Reflect.deleteProperty(process.env, "VRAM_FAKE_NVML_FAULTS");
    expect(serve(ask(3))).toMatchObject({ health: { processes: [] } });
  });

  test("asking to die with the parent never throws, and ends at once where the parent has died already", () => {
    // The parent of this process is vitest, which outlives it.
    expect(() => dieWithParent(process.ppid)).not.toThrow();
    // Under vitest, ending the process throws.
    expect(() => dieWithParent(process.ppid + 1)).toThrow("process.exit");
  });
});
