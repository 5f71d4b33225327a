/** The VRAM-only policy over what the native driver answers: at the start, and for every allocation. */
import { describe, expect, it } from "vitest";
import { DEVICE_ATTRIBUTE, POINTER_ATTRIBUTE } from "../../src/cuda/driver.ts";
import { liveHandles } from "../../src/dispose.ts";
import type { VramError } from "../../src/errors.ts";
import type { Entry } from "../../src/journal/entry.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { amountOf, fakeLog, openNative, reconfigureFake, runNative } from "../helpers/native.ts";
import { codeOf, lastDurable, MIB, randomFile } from "../helpers/vram.ts";

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe.skipIf(fakeCuda() === undefined)(`the policy at the start of the native driver${whyNoFakeCuda()}`, () => {
  const refused: [rule: string, attributes: string][] = [
    ["integrated-gpu", `${DEVICE_ATTRIBUTE.integrated}=1`],
    ["no-virtual-memory-management", `${DEVICE_ATTRIBUTE.virtualMemoryManagement}=0`],
    ["mps", `${DEVICE_ATTRIBUTE.mpsEnabled}=1`],
  ];

  it.each(refused)("[VR-POL-01] [VR-POL-02] [VR-POL-03] refuses a device: %s", async (rule, ATTRIBUTES) => {
    const entries: Entry[] = [];
    const readers = [{ required: true, accept: (entry: Entry) => void entries.push(entry) }];
    const error = await errorOf(openNative({ ATTRIBUTES }, { readers }));
    expect(error).toMatchObject({ code: "POLICY_VIOLATION", details: { violations: [{ rule }] } });
    expect(error.message).toContain(rule);
    expect(entries).toMatchObject([
      { type: "policy_violation", rule, durability: "durable", gates: false },
      { type: "service_stopped", because: "failed", code: "POLICY_VIOLATION" },
    ]);
    expect(liveHandles()).toEqual({});
  });

  it.each(refused)(
    "[VR-POL-02] the command line refuses it with 5 and the rule's name: %s",
    async (rule, ATTRIBUTES) => {
      const { path } = await randomFile(5000);
      const { code, out, err } = await runNative(["try", path], { ATTRIBUTES });
      expect(code).toBe(5);
      expect(err).toContain("POLICY_VIOLATION");
      expect(err).toContain(rule);
      expect(`${out}${err}`.toLowerCase()).not.toContain("emulated");
    },
  );

  it("[VR-POL-01] names every rule that a device breaks, each in an entry of its own", async () => {
    const entries: Entry[] = [];
    const readers = [{ required: true, accept: (entry: Entry) => void entries.push(entry) }];
    const all = refused.map(([, attributes]) => attributes).join(",");
    const error = await errorOf(openNative({ ATTRIBUTES: all }, { readers }));
    const rules = refused.map(([rule]) => rule).sort();
    expect((error.details["violations"] as { rule: string }[]).map(({ rule }) => rule).sort()).toEqual(rules);
    expect(entries.filter(({ type }) => type === "policy_violation")).toHaveLength(3);
  });

  it("[VR-POL-03] accepts MPS when that is asked for, under a policy of its own, and nothing beside it", async () => {
    const { path } = await randomFile(MIB);
    const mps = `${DEVICE_ATTRIBUTE.mpsEnabled}=1`;
    const lax = await openNative({ ATTRIBUTES: mps }, { allowMps: true });
    const { seal } = await lax.vram.seal(path);
    expect(lax.vram.devices()[0]?.facts.mps).toBe(true);
    const strict = await openNative();
    expect((await strict.vram.seal(path)).seal.policyDigest).not.toBe(seal.policyDigest);
    const both = { ATTRIBUTES: `${mps},${DEVICE_ATTRIBUTE.integrated}=1` };
    expect((await errorOf(openNative(both, { allowMps: true }))).details).toMatchObject({
      violations: [{ rule: "integrated-gpu" }],
    });
  });

  it("[VR-POL-03] reports what healthy machines show, and refuses nothing for it", async () => {
    const { path } = await randomFile(MIB);
    const { pageableMemoryAccess, eccEnabled, managedMemory } = DEVICE_ATTRIBUTE;
    const ATTRIBUTES = `${pageableMemoryAccess}=1,${eccEnabled}=0,${managedMemory}=1`;
    const { vram } = await openNative({ ATTRIBUTES });
    expect(vram.devices()[0]?.facts).toMatchObject({
      pageableMemoryAccess: true,
      eccEnabled: false,
      managedMemory: true,
    });
    expect(vram.checkPolicy()).toMatchObject([{ violations: [] }]);
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });
});

describe.skipIf(fakeCuda() === undefined)(`the policy for allocations of the native driver${whyNoFakeCuda()}`, () => {
  const lies: [rule: string, attributes: string][] = [
    ["managed-memory", `${POINTER_ATTRIBUTE.isManaged}=1`],
    ["host-resident-memory", `${POINTER_ATTRIBUTE.memoryType}=1`],
    ["unknown-memory-type", `${POINTER_ATTRIBUTE.memoryType}=3`],
    ["wrong-ordinal", `${POINTER_ATTRIBUTE.deviceOrdinal}=1`],
    ["wrong-mapping-access", `${POINTER_ATTRIBUTE.accessFlags}=3`],
    ["wrong-size", `${POINTER_ATTRIBUTE.rangeSize}=4096`],
  ];

  it.each(lies)("[VR-POL-01] [VR-POL-03] [VR-MEM-01] refuses to seal: %s", async (rule, POINTER_ATTRIBUTES) => {
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openNative({ POINTER_ATTRIBUTES });
    const before = await vram.capacity();
    const error = await errorOf(vram.seal(path));
    expect(error).toMatchObject({ code: "POLICY_VIOLATION", details: { violations: [{ rule }] } });
    expect(entries.find((entry) => entry.type === "policy_violation")).toMatchObject({ rule });
    expect(lastDurable(entries)).toMatchObject({ type: "vram_deallocated", because: "undone", zeroed: true });
    expect(vram.list()).toEqual([]);
    expect(await vram.capacity()).toEqual(before);
    reconfigureFake({});
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });

  it("[VR-VER-06] [VR-POL-01] memory that changed its nature after it was sealed stops the worker, before it is measured", async () => {
    const { path } = await randomFile(MIB);
    const log = await fakeLog();
    const { vram, types } = await openNative({ LOG: log.LOG });
    await vram.seal(path, { name: "m" });
    reconfigureFake({ LOG: log.LOG, POINTER_ATTRIBUTES: `${POINTER_ATTRIBUTE.isManaged}=1` });
    log.take();
    expect(await codeOf(vram.verify("m"))).toBe("POLICY_VIOLATION");
    expect(amountOf(log.take(), "cuLaunchKernel")).toBe(0);
    expect(types()).toEqual(expect.arrayContaining(["policy_violation", "worker_stopped"]));
    expect(vram.devices()[0]?.state).toBe("stopped");
    expect(vram.inspect("m").sealed).toBe(false);
    reconfigureFake({});
    expect(await codeOf(vram.verify("m"))).toBe("SHARD_NOT_RESIDENT");
    expect(await vram.evict("m")).toMatchObject({ zeroed: true });
  });

  it("[VR-MEM-01] a host pointer that coherent machines show is reported, and no violation", async () => {
    const { path } = await randomFile(MIB);
    const { vram, open } = await openNative({ POINTER_ATTRIBUTES: `${POINTER_ATTRIBUTE.hostPointer}=4096` });
    const { record } = await vram.seal(path);
    const { allocationId } = open.system.registry.find(record.shardId);
    expect(await open.devices[0]?.facts(allocationId)).toMatchObject({ hostPointerKnown: true });
  });
});
