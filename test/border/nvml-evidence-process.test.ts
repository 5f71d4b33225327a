/** Evidence of a GPU from NVML's process, the real one of `dist`, over a stand-in for the library. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { openNvmlMonitor } from "../../src/cuda/nvml-monitor.ts";
import { liveHandles } from "../../src/dispose.ts";
import { LIMITS } from "../../src/limits.ts";
import { openRemoteDevice } from "../../src/process/remote-device.ts";
import { CC_ON, evidenceOf, FAKE_UUID, fakeNvmlEnv, NONCE } from "../helpers/fake-nvml.ts";
import {
  ENTRY,
  holdTimers,
  isRunning,
  monitorTests,
  pidOf,
  SELF,
  until,
  WATCHDOG_MS,
} from "../helpers/nvml-monitor.ts";
import { emulatedInProcess, remoteOptions } from "../helpers/remote.ts";

const { library, whyNot, folder, open, hanging } = monitorTests();

const CERTIFICATE = "nvmlDeviceGetConfComputeGpuCertificate";
const REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport";

describe.skipIf(whyNot !== "")(`asking NVML's process for evidence${whyNot}`, () => {
  test("many at once: each has its own nonce", async () => {
    const monitor = open(CC_ON);
    const nonces = Array.from({ length: 8 }, () => new Uint8Array(randomBytes(32)));
    const all = await Promise.all(nonces.map((nonce) => monitor.evidence(FAKE_UUID, nonce)));
    expect(all).toEqual(nonces.map((nonce) => evidenceOf(nonce)));
    expect(await open({}).evidence(FAKE_UUID, NONCE)).toBeUndefined();
    expect(await open({}, { library: "/nowhere/libnvidia-ml.so.1" }).evidence(FAKE_UUID, NONCE)).toBeUndefined();
  });

  test("parts as long as they can be", async () => {
    const sizes = [8192, 4096, 4096, 5120];
    expect(await open({ ...CC_ON, CC_SIZES: sizes.join(",") }).evidence(FAKE_UUID, NONCE)).toEqual(
      evidenceOf(NONCE, sizes),
    );
  });

  test("what a caller does to its nonce afterwards changes nothing", async () => {
    const monitor = open(CC_ON);
    const nonces = [1, 2].map(() => Uint8Array.from(NONCE));
    const asked = nonces.map((nonce) => monitor.evidence(FAKE_UUID, nonce));
    for (const nonce of nonces) nonce.fill(0);
    expect(await Promise.all(asked)).toEqual([evidenceOf(NONCE), evidenceOf(NONCE)]);
  });

  test.each([0, 31, 33])("a nonce of %i bytes: nothing, and no process is started", async (byteLength) => {
    expect(await open(CC_ON).evidence(FAKE_UUID, new Uint8Array(byteLength))).toBeUndefined();
    expect(liveHandles()).toEqual({});
  });

  test("as many may wait as there may be GPUs", async () => {
    const monitor = open(CC_ON);
    const asked = Array.from({ length: LIMITS.devicesListed + 1 }, () => monitor.evidence(FAKE_UUID, NONCE));
    const all = await Promise.all(asked);
    expect(all.filter((one) => one !== undefined)).toHaveLength(LIMITS.devicesListed);
    expect(all.at(-1)).toBeUndefined();
    expect(await monitor.evidence(FAKE_UUID, NONCE)).toEqual(evidenceOf(NONCE));
  });

  test("after the monitor is closed: nothing, and nothing is started", async () => {
    const monitor = open(CC_ON);
    await monitor.close();
    expect(await monitor.evidence(FAKE_UUID, NONCE)).toBeUndefined();
    expect(liveHandles()).toEqual({});
  });

  test.each([
    ["no evidence", { kind: "evidence", evidence: 7 }],
    [
      "an odd digit",
      { kind: "evidence", evidence: { report: "0", certificateChain: "", attestationCertificateChain: "" } },
    ],
    ["no hex", { kind: "evidence", evidence: { report: "zz", certificateChain: "", attestationCertificateChain: "" } }],
    ["a part left out", { kind: "evidence", evidence: { report: "00", certificateChain: "" } }],
    [
      "a part too long",
      {
        kind: "evidence",
        evidence: { report: "00".repeat(8193), certificateChain: "", attestationCertificateChain: "" },
      },
    ],
    [
      "one more part",
      {
        kind: "evidence",
        evidence: { report: "00", certificateChain: "", attestationCertificateChain: "", more: "" },
      },
    ],
    ["an answer to something else", { kind: "health", health: { xids: [1] } }],
  ])("a process that answers %s: nothing", async (what, reply) => {
    const file = join(folder, `${what.replaceAll(" ", "-")}.mjs`);
    const answer = `({ id }) => process.send({ id, ...${JSON.stringify(reply)} })`;
    writeFileSync(file, `process.on("message", ${answer}); process.on("disconnect", () => process.exit());`);
    expect(await open({}, { entry: pathToFileURL(file) }).evidence(FAKE_UUID, NONCE)).toBeUndefined();
  });
});

describe.skipIf(whyNot !== "")(`when a report does not come${whyNot}`, () => {
  test("nothing at the deadline, not before, and the process is gone; health is read all the while", async () => {
    const { settings, pid } = hanging("evidence-deadline", REPORT);
    const monitor = open({ ...settings, ...CC_ON }, { deadlineMs: LIMITS.nvmlEvidenceMs });
    const health = pidOf(await monitor.read(FAKE_UUID));
    holdTimers();
    const answers: unknown[] = [];
    const asked = monitor.evidence(FAKE_UUID, NONCE).then((answer) => answers.push(answer));
    const child = await pid();
    expect(liveHandles()).toEqual({ "nvml-process": 2 });
    expect(pidOf(await monitor.read(FAKE_UUID))).toBe(health);
    await vi.advanceTimersByTimeAsync(LIMITS.nvmlEvidenceMs - 1);
    expect([answers, isRunning(child)]).toEqual([[], true]);
    await vi.advanceTimersByTimeAsync(1);
    await asked;
    expect(answers).toEqual([undefined]);
    await until("the process is gone", () => !isRunning(child));
    expect(pidOf(await monitor.read(FAKE_UUID))).toBe(health);
  });

  test("the deadline is one of its own: 20 s for the first answer of a process, 10 s after that", async () => {
    const { settings, pid } = hanging("evidence-own", `${REPORT}:2`);
    const env = fakeNvmlEnv({ ...settings, ...CC_ON });
    const monitor = openNvmlMonitor({ library, entry: ENTRY, env });
    holdTimers();
    const timers = vi.spyOn(globalThis, "setTimeout");
    try {
      expect(await monitor.evidence(FAKE_UUID, NONCE)).toEqual(evidenceOf(NONCE));
      const late = monitor.evidence(FAKE_UUID, NONCE);
      await pid();
      expect(timers.mock.calls.map(([, ms]) => ms)).toEqual([20_000, 10_000]);
      vi.advanceTimersByTime(LIMITS.nvmlEvidenceMs);
      expect(await late).toBeUndefined();
    } finally {
      timers.mockRestore();
      await monitor.close();
    }
  });

  test("those behind it are asked of a new process, with a deadline that counts their own work", async () => {
    const { settings, pid } = hanging("evidence-behind", REPORT);
    const env = fakeNvmlEnv({ ...settings, ...CC_ON });
    const monitor = open({}, { env });
    holdTimers();
    const asked = [1, 2].map(() => monitor.evidence(FAKE_UUID, NONCE));
    const child = await pid();
    Reflect.deleteProperty(env, "VRAM_FAKE_NVML_HANG");
    await vi.advanceTimersByTimeAsync(WATCHDOG_MS);
    expect(await Promise.all(asked)).toEqual([undefined, evidenceOf(NONCE)]);
    expect(isRunning(child)).toBe(false);
  });

  test("three in a row: it is not asked again for a minute, and health is", async () => {
    const clock = { now: 0, monotonicMs: () => clock.now };
    const { settings, pid } = hanging("evidence-row", REPORT);
    const monitor = open({ ...settings, ...CC_ON }, { clock });
    holdTimers();
    const asked = Array.from({ length: LIMITS.nvmlFailures + 2 }, () => monitor.evidence(FAKE_UUID, NONCE));
    for (let turn = 0; turn < LIMITS.nvmlFailures; turn += 1) {
      await pid();
      await vi.advanceTimersByTimeAsync(WATCHDOG_MS);
    }
    expect(await Promise.all(asked)).toEqual(asked.map(() => undefined));
    await until("no process is left", () => Object.keys(liveHandles()).length === 0);
    expect(await monitor.evidence(FAKE_UUID, NONCE)).toBeUndefined();
    expect(liveHandles()).toEqual({});
    expect(pidOf(await monitor.read(FAKE_UUID))).toBeGreaterThan(0);
  });

  test("closed meanwhile: nothing at once, also for those that wait", async () => {
    const { settings, pid } = hanging("evidence-close", CERTIFICATE);
    const monitor = open({ ...settings, ...CC_ON });
    const asked = [1, 2].map(() => monitor.evidence(FAKE_UUID, NONCE));
    const child = await pid();
    await monitor.close();
    expect(await Promise.all(asked)).toEqual([undefined, undefined]);
    expect(isRunning(child)).toBe(false);
  });
});

describe.skipIf(whyNot !== "")(`a device in a process of its own${whyNot}`, () => {
  test("has its evidence from the monitor of this one", async () => {
    const monitor = open({ ...SELF, ...CC_ON });
    const uuid = FAKE_UUID;
    const options = await remoteOptions({ uuid, start: emulatedInProcess().start, monitor });
    const device = await openRemoteDevice(options);
    try {
      expect(await device.evidence(NONCE)).toEqual(evidenceOf(NONCE));
    } finally {
      await device.close();
    }
  });
});
