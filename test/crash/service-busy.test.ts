/** A service where another one is already, or a device that cannot be had: it does not start, and leaves nothing. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isLocked, listed, modelFile, onRecord, seal, stop, verifyAll } from "../helpers/service-checks.ts";
import {
  devicesOf,
  type Home,
  type Launched,
  launch,
  makeHome,
  type Running,
  startService,
} from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

/** The same machine, with another state directory. */
const withOtherState = (home: Home): Home => ({ ...home, stateDir: join(home.folder, "other-state") });
const elsewhere = ({ folder }: Home) => ["--socket", join(folder, "other", "vram.sock")];

/** The refusal of a service that has not started. */
async function refusalOf(made: Launched): Promise<string> {
  expect(await made.ended()).toEqual({ code: 1, signal: null });
  expect(made.out()).toBe("");
  expect(devicesOf(made.pid)).toEqual([]);
  return /^error .*$/m.exec(made.err())?.[0] ?? expect.fail(made.err());
}

async function startWithModel(home: Home): Promise<Running> {
  const service = await startService(home);
  await seal(service, await modelFile(home, "model.bin", MIB));
  return service;
}

describe("a second service", () => {
  it("on the same state directory, the same socket or the same GPU is refused; the first goes on", async () => {
    const home = await makeHome();
    const first = await startWithModel(home);
    const before = await listed(first);
    const [gpuPid] = devicesOf(first.pid);

    const sameState = await refusalOf(launch(home, { args: elsewhere(home) }));
    expect(sameState).toBe(`error STATE_BUSY: ${home.stateDir}: in use by process ${first.pid}`);

    const other = withOtherState(home);
    const sameSocket = await refusalOf(launch(other));
    expect(sameSocket).toBe(`error STATE_BUSY: ${home.socket}: a service answers there already`);
    expect(await isLocked(join(other.stateDir, "lock"))).toBe(false);

    // A copied state has the same devices.
    const copy: Home = { ...home, stateDir: join(home.folder, "copy") };
    mkdirSync(copy.stateDir, { mode: 0o700 });
    for (const name of ["root.key", "state.json"]) copyFileSync(join(home.stateDir, name), join(copy.stateDir, name));
    const sameGpu = await refusalOf(launch(copy, { args: elsewhere(home) }));
    expect(sameGpu).toMatch(new RegExp(`^error DEVICE_BUSY: process ${gpuPid} has the device EMU-`));
    expect(existsSync(join(home.folder, "other"))).toBe(false);

    expect(await listed(first)).toEqual(before);
    await verifyAll(first, "model.bin");
    expect(first.of("device_lost")).toEqual([]);
    await stop(first);
    await onRecord(home);
  });
});

describe("one device of two that cannot be opened", () => {
  it("keeps the service from starting; the other one is closed, and nothing is left", async () => {
    const home = await makeHome();
    const args = ["--set", "emulated.devices=2"];
    const first = await startService(home, { args });
    const uuids = (await first.client.devices()).map(({ uuid }) => uuid);
    await stop(first);

    // Where its lock should be is something else.
    const lock = (uuid = "") => join(home.runtimeDir, `gpu-${uuid}.lock`);
    rmSync(lock(uuids[1]));
    mkdirSync(lock(uuids[1]));
    const second = launch(home, { args });
    expect(await refusalOf(second)).toMatch(/^error STATE_INVALID: .*gpu-.*\.lock: cannot be made or written/);
    expect(await isLocked(lock(uuids[0]))).toBe(false);
    expect(await isLocked(join(home.stateDir, "lock"))).toBe(false);
    expect(readdirSync(home.runtimeDir)).not.toContain("vram.sock");
    expect((await onRecord(home)).at(-1)).toMatchObject({
      type: "service_stopped",
      data: { because: "failed", code: "STATE_INVALID" },
    });
  });
});
