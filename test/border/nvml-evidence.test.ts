/** Evidence of a GPU in confidential-computing mode through koffi, against a stand-in: all of it, or none. */
import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { GpuEvidence } from "../../src/cuda/monitor.ts";
import { nvmlServer } from "../../src/cuda/nvml-serve.ts";
import {
  CC_ON,
  evidenceOf,
  FAKE_UUID,
  type FakeNvmlSettings,
  fakeNvml,
  NONCE,
  openFakeNvml,
} from "../helpers/fake-nvml.ts";

const fake = fakeNvml();

const STATE = "nvmlSystemGetConfComputeState";
const CERTIFICATE = "nvmlDeviceGetConfComputeGpuCertificate";
const REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport";
const read = (settings: FakeNvmlSettings, uuid = FAKE_UUID): GpuEvidence | undefined =>
  openFakeNvml(fake.library, settings).evidence(uuid, NONCE);

describe.skipIf(fake.whyNot !== "")(`evidence${fake.whyNot}`, () => {
  test("holds the nonce, byte for byte, and every part of what the GPU says", () => {
    const nvml = openFakeNvml(fake.library, CC_ON);
    for (const nonce of [NONCE, new Uint8Array(32), new Uint8Array(32).fill(255), randomBytes(32)]) {
      expect(nvml.evidence(FAKE_UUID, nonce), toHex(nonce)).toEqual(evidenceOf(nonce));
    }
  });

  test("of a GPU without a CEC has no report of one, whatever its size is said to be", () => {
    const { cecReport: _, ...rest } = evidenceOf(NONCE);
    expect(read({ CC: "1,1,0,0" })).toEqual(rest);
    expect(read({ CC: "1,1,0,0", CC_SIZES: "1000,4294967295,700,900" })).toEqual(rest);
  });

  test.each([
    [8192, 4096, 4096, 5120],
    [1, 0, 0, 0],
  ])("parts of %i, %i, %i and %i bytes are taken whole, and nothing behind them", (...sizes) => {
    expect(read({ ...CC_ON, CC_SIZES: sizes.join(",") })).toEqual(evidenceOf(NONCE, sizes));
  });

  test.each([
    ["a report", "8193,500,700,900"],
    ["a report of 4 GiB", "4294967295,500,700,900"],
    ["a report of the CEC", "1000,4097,700,900"],
    ["a chain", "1000,500,4097,900"],
    ["an attestation chain", "1000,500,700,5121"],
    ["an attestation chain of 4 GiB", "1000,500,700,4294967295"],
  ])("%s that is longer than its field: none", (_, CC_SIZES) => {
    expect(read({ ...CC_ON, CC_SIZES })).toBeUndefined();
  });

  test("a report of no bytes: none", () => {
    expect(read({ ...CC_ON, CC_SIZES: "0,500,700,900" })).toBeUndefined();
  });

  test.each(["1,0,0,1", "1,2,0,1", "0,256,0,1"])("%s: the feature is not on, and the GPU is not asked", (CC) => {
    expect(read({ CC })).toBeUndefined();
  });

  test("a machine without confidential computing: none", () => {
    expect(read({})).toBeUndefined();
  });

  test.each([STATE, CERTIFICATE, REPORT])("%s is not supported, or fails once: none, and none once", (symbol) => {
    expect(read({ ...CC_ON, UNSUPPORTED: symbol })).toBeUndefined();
    const nvml = openFakeNvml(fake.library, { ...CC_ON, FAULTS: `${symbol}:1:999` });
    expect(nvml.evidence(FAKE_UUID, NONCE)).toBeUndefined();
    expect(nvml.evidence(FAKE_UUID, NONCE)).toEqual(evidenceOf(NONCE));
  });

  test("functions that a driver does not have at all, and GPUs that it does not know", () => {
    expect(openFakeNvml(fake.bare, CC_ON).evidence(FAKE_UUID, NONCE)).toBeUndefined();
    expect(read({ ...CC_ON, UUIDS: "GPU-1" })).toBeUndefined();
    expect(read(CC_ON, "EMU-5eed5eed-0001-0002-0003-000000000004")).toBeUndefined();
  });

  test("is asked for in hex; a nonce that is none is answered with nothing", () => {
    process.env["VRAM_FAKE_NVML_CC"] = CC_ON.CC;
    const serve = nvmlServer(fake.library);
    const ask = (id: number, nonce: string) => serve({ id, kind: "evidence", uuid: FAKE_UUID, nonce });
    const { report } = evidenceOf(NONCE);
    expect(ask(1, toHex(NONCE))).toMatchObject({ id: 1, kind: "evidence", evidence: { report: toHex(report) } });
    Reflect.deleteProperty(process.env, "VRAM_FAKE_NVML_CC");
    for (const nonce of ["", toHex(NONCE).slice(2), "g".repeat(64)]) {
      expect(ask(2, nonce)).toEqual({ id: 2, kind: "evidence" });
    }
    const nowhere = nvmlServer("/nowhere/libnvidia-ml.so.1");
    expect(nowhere({ id: 3, kind: "evidence", uuid: FAKE_UUID, nonce: toHex(NONCE) })).toEqual({
      id: 3,
      kind: "evidence",
    });
  });
});
