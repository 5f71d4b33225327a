/** The shipped process of a device over the fake libcuda: the native driver in a process of its own. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { liveHandles } from "../../src/dispose.ts";
import { listDevices } from "../../src/process/list-devices.ts";
import { openRemoteDevice, type RemoteDeviceOptions } from "../../src/process/remote-device.ts";
import { startFrom } from "../../src/process/start-process.ts";
import { sealModel } from "../../src/residency/seal-model.ts";
import { verify } from "../../src/verify/verify.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { fakeLibrary } from "../helpers/native.ts";
import { digestOf } from "../helpers/reference.ts";
import { failureOf, openBench, openRemote, remoteOptions, sealRequest } from "../helpers/remote.ts";
import { MIB, randomFile } from "../helpers/vram.ts";

const uuidOf = (ordinal: number): string => `GPU-fa4e0000-0000-4000-8000-00000000000${ordinal}`;

/** The second GPU of two. */
const options = (settings: Readonly<Record<string, string>> = {}): Promise<RemoteDeviceOptions> =>
  remoteOptions({
    ...{ backend: "cuda-substituted", library: fakeLibrary(), uuid: uuidOf(1), ordinal: 1 },
    start: startFrom(new URL("../../dist/process/device-process.js", import.meta.url)),
    env: {
      ...{ VRAM_FAKE_DEVICES: "2", VRAM_FAKE_BYTES: String(256 * MIB) },
      ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [`VRAM_FAKE_${name}`, value])),
    },
  });

describe.skipIf(fakeCuda() === undefined)(`a GPU in a process of its own${whyNoFakeCuda()}`, () => {
  it("[VR-DEV-04] is the one that was asked for; the driver found its environment when it was loaded", async () => {
    const device = await openRemote(await options());
    expect(device.info).toMatchObject({ uuid: uuidOf(1), ordinal: 1, backend: "cuda-substituted" });
    // Its memory is private: of all users only root may look there. What is handed over has a test of its own.
    if (process.getuid?.() === 0) {
      const environment = readFileSync(`/proc/${device.pid}/environ`, "utf8").split("\0");
      expect(environment).toContain(`CUDA_VISIBLE_DEVICES=${uuidOf(1)}`);
      expect(environment).toContain("CUDA_CACHE_DISABLE=1");
      expect(environment).toContain("CUDA_MODULE_LOADING=EAGER");
    }
    expect(await device.health(), "it starts no process to ask NVML").toEqual({});
    expect(await device.evidence(new Uint8Array(32)), "nor for evidence").toBeUndefined();
    const other = await failureOf(openRemoteDevice({ ...(await options()), uuid: uuidOf(7) }));
    expect([other.code, other.details]).toEqual(["DEVICE_NOT_FOUND", { uuids: [uuidOf(0), uuidOf(1)] }]);
  });

  it("[VR-DEV-04] is found by a process that lists those there are, and is gone then", async () => {
    const { library, env, start } = await options();
    const wanted = {
      backend: "cuda-substituted",
      library: fakeLibrary(),
      env: env ?? {},
      ...(start && { start }),
    } as const;
    expect(library).toBe(wanted.library);
    expect(await listDevices(wanted)).toEqual({ uuids: [uuidOf(0), uuidOf(1)] });
    const none = await failureOf(listDevices({ ...wanted, env: { ...wanted.env, VRAM_FAKE_DEVICES: "0" } }));
    expect([none.code, none.message]).toEqual(["DEVICE_UNUSABLE", expect.stringContaining("no GPU")]);
    const broken = await failureOf(
      listDevices({ ...wanted, env: { ...wanted.env, VRAM_FAKE_FAULTS: "cuInit:1:999" } }),
    );
    expect(broken.code).toBe("DEVICE_UNUSABLE");
    expect(liveHandles()).not.toHaveProperty("device-process");
  });

  it("[VR-DEV-05] seals and verifies; a fatal status loses it and ends the process", async () => {
    const device = await openRemote(await options());
    const { system, worker } = await openBench(device);
    const { path, bytes } = await randomFile(5 * MIB + 1);
    const { result } = await sealModel(system, worker, sealRequest(path));
    expect(result.record).toMatchObject({ digest: toHex(digestOf(bytes)), backend: "cuda-substituted" });
    const request = { presented: result.seal, maxAgeMs: undefined, salt: undefined, signal: undefined };
    const shard = system.registry.find(result.record.shardId);
    expect((await verify(system, worker, shard, request)).bytesCovered).toBe(bytes.byteLength);
    await device.close();
    expect(await device.ended).toEqual({ wedged: false, exitCode: 0, signal: null });

    // 700: an illegal address.
    const failing = await openRemote(await options({ FAULTS: "cuMemGetInfo_v2:1:700" }));
    const error = await failureOf(failing.memory());
    expect([error.code, error.fatal, error.details]).toMatchObject(["DEVICE_LOST", true, { status: 700 }]);
    expect(await failing.ended).toEqual({ wedged: false, exitCode: null, signal: "SIGKILL" });
  });
});
