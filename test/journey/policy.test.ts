import { describe, expect, it } from "vitest";
import { canonicalJson, toHex } from "../../src/bytes.ts";
import type { DeviceAttribute, PointerAttribute } from "../../src/cuda/driver.ts";
import { sha256 } from "../../src/hash/descriptor.ts";
import { openVram, VRAM_ONLY_POLICY } from "../../src/index.ts";
import { createFaultPlan, type FaultPlan } from "../../src/testing.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const NOTHING = { driverLibrary: false, deviceNodes: [], deniedNodes: [], wddm: false };

describe("the policy at start", () => {
  const table: [rule: string, attribute: DeviceAttribute, value: number][] = [
    ["integrated-gpu", "integrated", 1],
    ["mps", "mpsEnabled", 1],
    ["no-virtual-memory-management", "virtualMemoryManagement", 0],
  ];

  it.each(table)("[VR-POL-01] [VR-POL-03] refuses a device: %s", async (rule, attribute, value) => {
    const entries: string[] = [];
    const readers = [
      { required: true, accept: (entry: object) => void entries.push("rule" in entry ? String(entry.rule) : "") },
    ];
    const open = openSmall({ readers }, { deviceSpec: { attributes: { [attribute]: value } } });
    await expect(open).rejects.toMatchObject({ code: "POLICY_VIOLATION", details: { violations: [{ rule }] } });
    expect(entries).toContain(rule);
  });

  it("[VR-POL-03] accepts MPS only when that is asked for, and the seal says under which policy", async () => {
    const { path } = await randomFile(MIB);
    const spec = { deviceSpec: { attributes: { mpsEnabled: 1 } } };
    const lax = await openSmall({ allowMps: true }, spec);
    const strict = await openSmall();
    const [a, b] = [await lax.vram.seal(path), await strict.vram.seal(path)];
    expect(a.seal.policyDigest).not.toBe(b.seal.policyDigest);
    expect(b.seal.policyDigest).toBe(toHex(sha256(Buffer.from(canonicalJson(VRAM_ONLY_POLICY)))));
    expect(strict.vram.checkPolicy()).toMatchObject([{ policyDigest: b.seal.policyDigest, violations: [] }]);
  });

  it("[VR-POL-03] reports what is ordinary on healthy machines, and refuses nothing for it", async () => {
    const { vram } = await openSmall({}, { deviceSpec: { attributes: { pageableMemoryAccess: 1, eccEnabled: 1 } } });
    expect(vram.devices()[0]?.facts).toMatchObject({ pageableMemoryAccess: true, eccEnabled: true });
    expect(vram.checkPolicy()[0]?.violations).toEqual([]);
  });
});

describe("the policy per allocation", () => {
  const table: [rule: string, lie: (faults: FaultPlan) => void][] = [
    ["allocation-not-pinned", (faults) => faults.overrideProperties({ allocationType: 2 })],
    ["location-not-device", (faults) => faults.overrideProperties({ locationType: 2 })],
    ["wrong-ordinal", (faults) => faults.overrideProperties({ locationId: 3 })],
    ...pointerLies([
      ["host-resident-memory", "memoryType", 1],
      ["unknown-memory-type", "memoryType", 9],
      ["unknown-memory-type", "memoryType", undefined],
      ["managed-memory", "isManaged", 1],
      ["managed-memory", "isManaged", undefined],
      ["wrong-ordinal", "deviceOrdinal", 5],
      ["wrong-size", "rangeSize", 4096],
      ["wrong-mapping-access", "accessFlags", 3],
    ]),
    [
      "writable-mapping",
      (faults) => {
        faults.overrideAccess(3);
        faults.overrideAttribute("accessFlags", 3);
      },
    ],
    ["wrong-mapping-access", (faults) => faults.overrideAccess(0)],
  ];

  it.each(table)("[VR-POL-01] [VR-POL-03] [VR-MEM-01] refuses memory: %s", async (rule, lie) => {
    const faults = createFaultPlan();
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openSmall({}, { faults });
    const before = await vram.capacity();
    lie(faults);
    const outcome = await vram.seal(path).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(outcome).toMatchObject({ code: "POLICY_VIOLATION", details: { violations: [{ rule }] } });
    expect(entries.find((entry) => entry.type === "policy_violation")).toMatchObject({ rule });
    expect(vram.list()).toEqual([]);
    faults.reset();
    expect(await vram.capacity()).toEqual(before);
  });

  it("[VR-MEM-01] weights are allocated by one call only, as pinned device memory", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(5 * MIB);
    const { vram } = await openSmall({}, { faults });
    faults.reset();
    const { record } = await vram.seal(path);
    await vram.verify(record.shardId);
    const allocating = faults.calls().filter((call) => /create$|allocate/i.test(call));
    expect(allocating.filter((call) => !/^(stream|event)\./.test(call))).toEqual(["memory.create"]);
  });
});

function pointerLies(
  rows: [rule: string, attribute: PointerAttribute, value: number | undefined][],
): [string, (faults: FaultPlan) => void][] {
  return rows.map(([rule, attribute, value]) => [rule, (faults) => faults.overrideAttribute(attribute, value)]);
}

describe("which backend answers", () => {
  it("[VR-DEV-03] the emulated device only without any trace of NVIDIA, stamped everywhere", async () => {
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openSmall({ backend: "auto" }, { traces: NOTHING });
    const { record, seal } = await vram.seal(path);
    const report = await vram.verify(record.shardId);
    for (const stamped of [vram.backend, record, seal, report, vram.devices()[0]]) {
      expect(stamped).toMatchObject({ backend: "emulated" });
    }
    expect(entries[0]).toMatchObject({ type: "device_opened", backend: "emulated" });
    expect(vram.devices()[0]?.name).toMatch(/emulated/i);
  });

  it("[VR-DEV-03] a GPU that is present but unusable is refused with the fix, never replaced", async () => {
    for (const traces of [
      { ...NOTHING, deviceNodes: ["nvidia0"] },
      { ...NOTHING, driverLibrary: true, deviceNodes: ["nvidia0"], deniedNodes: ["nvidia0"] },
      { ...NOTHING, wddm: true },
    ]) {
      await expect(openSmall({ backend: "auto" }, { traces })).rejects.toMatchObject({
        code: "DEVICE_UNUSABLE",
        fix: expect.stringContaining("--backend emulated") as string,
      });
      const asked = await openSmall({ backend: "emulated" }, { traces });
      expect(asked.vram.backend.because).toContain("asked for");
    }
  });

  it("[VR-DEV-03] requireGpu, and cuda by name, refuse anything else", async () => {
    expect(await codeOf(openSmall({ requireGpu: true }, { traces: NOTHING }))).toBe("DEVICE_UNUSABLE");
    expect(await codeOf(openSmall({ requireGpu: true, backend: "emulated" }))).toBe("DEVICE_UNUSABLE");
    expect(await codeOf(openSmall({ backend: "cuda" }, { traces: NOTHING }))).toBe("DEVICE_UNUSABLE");
  });

  it("[VR-DEV-03] a state directory of another backend or other devices is refused", async () => {
    const { mkdir, readFile, writeFile } = await import("node:fs/promises");
    const stateDir = `${await temporaryFolder()}/state`;
    await mkdir(stateDir, { mode: 0o700 });
    const first = await openSmall({ stateDir });
    await first.vram.close();
    const path = `${stateDir}/state.json`;
    const GPU = "GPU-11111111-2222-3333-4444-555555555555";
    const state = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
    expect(await codeOf(openSmall({ stateDir, emulated: { devices: 2, byteLength: 128 * MIB } }))).toBe(
      "BACKEND_CHANGED",
    );
    await writeFile(path, JSON.stringify({ ...state, backend: "cuda", devices: [GPU] }));
    expect(await codeOf(openSmall({ stateDir }))).toBe("BACKEND_CHANGED");
    // An emulated device never bears a GPU's name, whatever somebody wrote there.
    const twice = ["EMU-11111111-2222-3333-4444-555555555555", "EMU-11111111-2222-3333-4444-555555555555"];
    for (const devices of [[GPU], ["x"], ["EMU-1"], twice]) {
      await writeFile(path, JSON.stringify({ ...state, devices }));
      expect(await codeOf(openSmall({ stateDir })), devices.join()).toBe("STATE_INVALID");
    }
  });

  it("the package's entry opens the emulated device by name", async () => {
    const vram = await openVram({ backend: "emulated", hashThreads: 0, emulated: { byteLength: 128 * MIB } });
    expect(vram.list()).toEqual([]);
    await vram[Symbol.asyncDispose]();
    expect(await codeOf(vram.capacity())).toBe("CLOSED");
    await vram.close();
  });
});
