/**
 * A GPU that cannot be used is refused in words that lead somewhere, each cause in its own, and is never replaced by
 * the emulated device: `vram doctor` and `vram try` as processes over the fake libcuda.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { liveHandles } from "../../src/dispose.ts";
import type { VramError } from "../../src/errors.ts";
import { doctor } from "../helpers/doctor.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { type FakeSettings, openNative, runNative } from "../helpers/native.ts";
import { codeOf, randomFile, temporaryFolder } from "../helpers/vram.ts";

const everyInit = (status: number): FakeSettings => ({ FAULTS: `cuInit:1+:${status}` });

/** How to be refused, and the words that must stand in the cause and in the fix. */
interface Refusal {
  readonly title: string;
  readonly settings?: FakeSettings;
  readonly env?: () => Record<string, string> | Promise<Record<string, string>>;
  readonly what: RegExp;
  readonly fix: RegExp;
}

const notElf = async (): Promise<Record<string, string>> => {
  const path = join(await temporaryFolder(), "libcuda.so.1");
  writeFileSync(path, "This is no library, whatever it is called.\n".repeat(100));
  return { VRAM_LIBCUDA: path };
};

const REFUSALS: readonly Refusal[] = [
  {
    title: "a library that does not exist",
    env: () => ({ VRAM_LIBCUDA: "/nonexistent/libcuda.so.1" }),
    what: /\/nonexistent\/libcuda\.so\.1 cannot be loaded.*No such file/,
    fix: /correct or unset VRAM_LIBCUDA/,
  },
  {
    title: "a file that is no library",
    env: notElf,
    what: /is there, but is no library for this/,
    fix: /unset VRAM_LIBCUDA/,
  },
  {
    title: "a library of something else",
    env: () => ({ VRAM_LIBCUDA: "libm.so.6" }),
    what: /libm\.so\.6 is no CUDA driver.*cuInit/,
    fix: /correct or unset VRAM_LIBCUDA/,
  },
  {
    title: "a driver that is too old",
    settings: { DRIVER_VERSION: 11000 },
    what: /too old.*CUDA 11\.0.*11\.4/,
    fix: /R470 or newer/,
  },
  {
    title: "a driver that lacks functions",
    env: () => ({ VRAM_LIBCUDA: fakeCuda()?.old ?? "" }),
    what: /lacks functions.*cuMemCreate/,
    fix: /R470 or newer/,
  },
  {
    title: "a driver without a GPU",
    settings: everyInit(100),
    what: /shows no GPU.*NO_DEVICE \(100\)/,
    fix: /CUDA_VISIBLE_DEVICES.*--gpus all/,
  },
  {
    title: "a GPU this user may not use",
    settings: everyInit(800),
    what: /may not use the GPU.*\(800\)/,
    fix: /group that owns \/dev\/nvidia/,
  },
  {
    title: "NVSwitch that is not set up yet",
    settings: everyInit(802),
    what: /fabric manager.*\(802\)/,
    fix: /nvidia-fabricmanager/,
  },
  {
    title: "library and kernel module of different versions",
    settings: everyInit(803),
    what: /different versions.*\(803\)/,
    fix: /reboot, or reload/,
  },
  {
    title: "the toolkit's stub",
    settings: everyInit(34),
    what: /stub.*\(34\)/,
    fix: /`stubs` folder.*LD_LIBRARY_PATH/,
  },
  { title: "a driver that will not say", settings: everyInit(999), what: /UNKNOWN \(999\)/, fix: /NVRM.*dmesg/ },
  {
    title: "a GPU whose kernels fail",
    settings: { FAULTS: "cuLaunchKernel:1:719" },
    what: /DEVICE_LOST.*cuLaunchKernel.*LAUNCH_FAILED \(719\)/,
    fix: /NVRM in `dmesg`.*CUDA_VISIBLE_DEVICES/,
  },
  {
    title: "a GPU whose memory cannot be read",
    settings: { FAULTS: "cuEventQuery:1:214" },
    what: /VRAM_UNREADABLE.*ECC_UNCORRECTABLE \(214\)/,
    fix: /error counters/,
  },
  {
    title: "a GPU whose kernels do nothing",
    settings: { DROP_LAUNCHES: 1 },
    what: /self-test failed.*canary/,
    fix: /have the GPU checked/,
  },
  {
    title: "a driver that does not know our PTX",
    settings: { FAULTS: "cuModuleLoadDataEx:1:222" },
    what: /cuModuleLoadDataEx.*UNSUPPORTED_PTX_VERSION \(222\)/,
    fix: /install driver R470 or newer/,
  },
  {
    title: "a GPU that is too old for our PTX",
    settings: { FAULTS: "cuModuleLoadDataEx:1:209" },
    what: /cuModuleLoadDataEx.*NO_BINARY_FOR_GPU \(209\)/,
    fix: /Turing/,
  },
  {
    title: "a driver without its compiler",
    settings: { FAULTS: "cuModuleLoadDataEx:1:221" },
    what: /cuModuleLoadDataEx.*JIT_COMPILER_NOT_FOUND \(221\)/,
    fix: /libnvidia-ptxjitcompiler/,
  },
  {
    title: "a GPU without room for the scratch",
    settings: { FAULTS: "cuMemCreate:1:2" },
    what: /OUT_OF_VRAM.*cuMemCreate/,
    fix: /stop another process/,
  },
  {
    title: "an integrated GPU",
    settings: { ATTRIBUTES: "18=1" },
    what: /POLICY_VIOLATION.*integrated-gpu/,
    fix: /a GPU with memory of its own/,
  },
];

/** What each of them was told, to compare them all in the end. */
const told = new Map<string, string>();

describe.skipIf(fakeCuda() === undefined)(`what cannot be used is refused${whyNoFakeCuda()}`, () => {
  const named = REFUSALS.map((refusal) => [refusal.title, refusal] as const);

  it.each(named)("[VR-DEV-03] [VR-DEV-01] %s", async (title, { settings = {}, env, what, fix }) => {
    const report = await doctor(settings, await env?.());
    expect(report).toMatchObject({ code: 5, ok: false, devices: [] });
    const failures = report.checks.filter(({ status }) => status === "fail");
    expect(failures).toHaveLength(1);
    expect(failures[0]?.what).toMatch(what);
    expect(failures[0]?.fix).toMatch(fix);
    // To be told to run what one has just run helps nobody.
    expect(failures[0]?.fix).not.toMatch(/^`vram doctor`/);
    expect(report.checks.find(({ id }) => id === "backend")).toMatchObject({
      status: "warn",
      what: expect.stringContaining("cuda-substituted") as string,
    });
    expect(report.checks.map((check) => check.what).join("\n")).not.toMatch(/emulated/i);
    told.set(title, failures[0]?.what ?? "");
  });

  it("[VR-DEV-03] no two of them are told the same", () => {
    expect(told.size).toBe(REFUSALS.length);
    expect(new Set(told.values()).size).toBe(REFUSALS.length);
  });

  it("[VR-DEV-03] a driver that counts no devices is told the same as one that says so", async () => {
    const { code, checks } = await doctor({ DEVICES: 0 });
    expect(code).toBe(5);
    expect(checks.find(({ status }) => status === "fail")?.what).toBe(told.get("a driver without a GPU"));
  });

  it.each([
    ["without the library", {}, { VRAM_LIBCUDA: "/nonexistent/libcuda.so.1" }],
    ["when cuInit refuses", everyInit(803), {}],
    ["when a later call refuses", { FAULTS: "cuMemGetAllocationGranularity:1:801" }, {}],
  ] as const)("[VR-DEV-03] `try` does not fall back either, %s", async (_, settings, env) => {
    const { path } = await randomFile(5000);
    const [text, json] = await Promise.all([
      runNative(["try", path], settings, env),
      runNative(["try", "--json", path], settings, env),
    ]);
    expect(text.code).toBe(json.code);
    expect(text.code).not.toBe(0);
    expect(text.out).toBe("");
    expect(text.err).toMatch(/^\{.+"action":"shutdown".+\}\nerror [A-Z_]+: .+\nfix {3}.+\n$/);
    const document = JSON.parse(json.out) as { ok: boolean; error: { code: string; fix: string } };
    expect(document).toMatchObject({ schema: "vram-residency/try/v1", ok: false });
    expect(text.err).toContain(`error ${document.error.code}: `);
    expect(text.err).toContain(`fix   ${document.error.fix}`);
    expect(JSON.stringify({ ...document, error: { ...document.error, fix: "" } })).not.toMatch(/emulated/i);
  });

  it("[VR-DEV-01] [VR-DEV-04] two GPUs are both shown, with UUID, capability and worker", async () => {
    const { code, checks, devices } = await doctor({ DEVICES: 2 });
    expect(code).toBe(0);
    expect(devices.map(({ name, backend }) => [name, backend])).toEqual([
      ["Fake GPU 0", "cuda-substituted"],
      ["Fake GPU 1", "cuda-substituted"],
    ]);
    expect(new Set(devices.map(({ uuid }) => uuid)).size).toBe(2);
    for (const [ordinal, { uuid }] of devices.entries()) {
      expect(checks.find(({ id }) => id === `device-${ordinal}`)?.what).toContain(uuid);
      expect(checks.find(({ id }) => id === `facts-${ordinal}`)?.what).toContain("compute capability 9.0");
      expect(checks.find(({ id }) => id === `worker-${ordinal}`)?.status).toBe("ok");
    }
  });

  it("[VR-DEV-03] one GPU of two that cannot be used is a reason to refuse, not to go on with the other", async () => {
    const launches = 2;
    const { code, devices } = await doctor({ DEVICES: 2, FAULTS: `cuLaunchKernel:${launches + 1}:719` });
    expect({ code, devices }).toEqual({ code: 5, devices: [] });
  });

  it("[VR-DEV-03] [VR-DEV-02] a kernel that cannot be loaded makes the device unusable, each reason with its own fix", async () => {
    const fixes: string[] = [];
    for (const status of [209, 218, 221, 222, 223]) {
      const opening = openNative({ FAULTS: `cuModuleLoadDataEx:1:${status}` });
      const error = await opening.then(
        () => expect.fail("it cannot be loaded"),
        (thrown: unknown) => thrown as VramError,
      );
      expect(error).toMatchObject({ code: "DEVICE_UNUSABLE", retriable: false, details: { status } });
      fixes.push(error.fix);
      expect(liveHandles()).toEqual({});
    }
    expect(new Set(fixes).size).toBe(fixes.length);
    const refusedOtherwise = openNative({ FAULTS: "cuModuleLoadDataEx:1:400" });
    expect(await codeOf(refusedOtherwise)).toBe("CUDA_FAILED");
  });
});
