/** The shipped service over the fake libcuda: native drivers in processes of their own, none in the service itself. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import { type Client, openClient } from "../../src/client.ts";
import { vram } from "../helpers/cli.ts";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { fakeLibrary } from "../helpers/native.ts";
import { isRunning } from "../helpers/nvml-monitor.ts";
import { digestOf } from "../helpers/reference.ts";
import { MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const running: ChildProcess[] = [];

afterEach(() => {
  for (const child of running.splice(0)) child.kill("SIGKILL");
});

async function serve(): Promise<{ child: ChildProcess; client: Client; state: string }> {
  const folder = await temporaryFolder();
  await mkdir(join(folder, "run"), { mode: 0o700 });
  const env = {
    ...process.env,
    HOME: folder,
    XDG_RUNTIME_DIR: join(folder, "run"),
    XDG_STATE_HOME: join(folder, "state"),
  };
  const args = ["serve", "--json", "--quiet", "--set", `libcuda=${fakeLibrary()}`, "--set", "hashThreads=0"];
  const child = spawn(process.execPath, [BIN, ...args], { env, stdio: ["ignore", "pipe", "ignore"] });
  running.push(child);
  const [said] = (await once(child.stdout, "data")) as [Buffer];
  const { socket } = JSON.parse(said.toString()) as { socket: string };
  return { child, client: openClient({ socket }), state: join(folder, "state", "vram-residency") };
}

describe.skipIf(fakeCuda() === undefined)(`a service over a GPU driver${whyNoFakeCuda()}`, () => {
  it("[VR-API-01] [VR-DEV-05] seals, verifies, leases, survives its device's process, and is no GPU's evidence", async () => {
    const { child, client, state } = await serve();
    const { path, bytes } = await randomFile(3 * MIB + 1);
    const { result } = await client.seal({ path, wait: true });
    const [{ record } = expect.fail("it is sealed")] = result?.shards ?? [];
    expect(record).toMatchObject({ digest: toHex(digestOf(bytes)), backend: "cuda-substituted", state: "sealed" });
    const { verification } = await client.grant({ shard: "model.bin", holder: "engine" });
    expect(verification).toMatchObject({ basis: "measured", bytesCovered: bytes.byteLength, readFrom: "substituted" });
    expect(await client.ready()).toMatchObject({
      ready: true,
      evidence: expect.stringContaining("SUBSTITUTED") as string,
    });
    // Neither CUDA nor NVML is in the service itself.
    const maps = await readFile(`/proc/${child.pid ?? 0}/maps`, "utf8");
    expect(maps).not.toMatch(/libcuda|nvidia-ml/);

    const [device] = await client.devices();
    const pid = device?.process.pid ?? expect.fail("the device has a process");
    expect(device).toMatchObject({ state: "running", uuid: expect.stringMatching(/^GPU-/) as string });
    process.kill(pid, "SIGKILL");
    const isBack = async (): Promise<boolean> => {
      const { ready, devices } = await client.ready();
      return ready && devices[0]?.process.pid !== pid;
    };
    while (!(await isBack()));
    expect((await client.list()).shards).toMatchObject([
      { shardId: record.shardId, digest: record.digest, state: "sealed" },
    ]);
    expect((await client.verify(record.shardId)).basis).toBe("measured");

    const [again] = await client.devices();
    child.kill("SIGTERM");
    const [code] = (await once(child, "exit")) as [number];
    client.close();
    expect(code).toBe(0);
    expect(isRunning(again?.process.pid ?? 0)).toBe(false);
    const audit = await vram(["audit", "verify", "--json", "--state-dir", state]);
    expect(JSON.parse(audit.out)).toMatchObject({ ok: true, verdict: "intact" });
  });
});
