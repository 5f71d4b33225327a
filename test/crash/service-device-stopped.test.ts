/** One device of two does not come back: it is given up, durably, until somebody resumes it; the other goes on. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { failureOf } from "../helpers/remote.ts";
import { listed, modelFile, onRecord, roomOf, seal, stop, verifyAll } from "../helpers/service-checks.ts";
import { makeHome, startService } from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

const TWO = ["--set", "emulated.devices=2"];

describe("a device whose process ends again and again", () => {
  it("[VR-DEV-05] is stopped by the sixth end in five minutes, durably; the other goes on; resumed, it has all back", async () => {
    const home = await makeHome();
    const service = await startService(home, { args: TWO, test: { isHasty: true } });
    const { client } = service;
    const [first, second] = [await modelFile(home, "first.bin", 2 * MIB), await modelFile(home, "second.bin", MIB)];
    await seal(service, first, { device: 0 });
    await seal(service, second, { device: 1 });
    const { leaseId } = (await client.grant({ shard: "second.bin" })).lease;
    const [before, room] = [await listed(service), await roomOf(service)];
    const uuid = (await client.devices())[0]?.uuid ?? "";

    const runs = (entry: Readonly<Record<string, unknown>>) =>
      entry["state"] === "running" && (entry["device"] as { readonly uuid: string }).uuid === uuid;
    for (let end = 1; end <= 6; end += 1) {
      const { pid } = await service.entry("device_process_changed", runs, end);
      process.kill(Number(pid), "SIGKILL");
    }
    const { reason } = await service.entry("worker_stopped");
    expect(reason).toContain("ended again and again");
    const devices = await client.devices();
    expect(
      devices.map(({ state, reason: why, process: { state: its, restarts, pid } }) => ({
        state,
        why,
        its,
        restarts,
        pid: typeof pid,
      })),
    ).toEqual([
      { state: "stopped", why: reason, its: "stopped", restarts: 5, pid: "undefined" },
      { state: "running", why: undefined, its: "running", restarts: 0, pid: "number" },
    ]);
    const kept = JSON.parse(readFileSync(join(home.stateDir, "state.json"), "utf8")) as { readonly stopped: object };
    expect(Object.keys(kept.stopped)).toEqual([uuid]);
    expect((await client.ready()).reasons).toEqual([
      // Lost, or on its way back when its device was lost once more.
      expect.stringMatching(/^first\.bin is (lost|not resident)/),
      expect.stringMatching(/^device 0 is stopped: the process of the device ended again and again/),
    ]);

    // The other one has noticed nothing.
    expect((await client.lease(leaseId)).name).toBe("second.bin");
    await verifyAll(service, "second.bin");
    await seal(service, second, { device: 1, name: "third" });
    await client.evict("third");
    expect((await failureOf(client.verify("first.bin"))).code).toBe("SHARD_NOT_RESIDENT");
    expect((await failureOf(client.grant({ shard: "first.bin" }))).code).toBe("SHARD_NOT_RESIDENT");
    expect((await failureOf(client.seal({ path: first, name: "again", device: 0, wait: true }))).code).toBe(
      "WORKER_STOPPED",
    );

    await client.resume({ reason: "this test killed it", device: uuid });
    await service.ready();
    expect(await listed(service)).toEqual(before);
    expect(await roomOf(service)).toEqual(room);
    await verifyAll(service, "first.bin", "second.bin");
    await client.release(leaseId);
    await stop(service);
    const types = (await onRecord(home)).map(({ type }) => type);
    expect(types.filter((type) => /^worker_/.test(type))).toEqual(["worker_stopped", "worker_resumed"]);
  });
});
