/** A service whose audit log cannot grow any more: what relies on it is refused, what looks or takes away goes on. */
import { execFileSync, spawnSync } from "node:child_process";
import { statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ask } from "../helpers/http.ts";
import { failureOf } from "../helpers/remote.ts";
import { modelFile, onRecord, seal, stop, tell } from "../helpers/service-checks.ts";
import { makeHome, startService } from "../helpers/service-run.ts";
import { MIB } from "../helpers/vram.ts";

/** Files of this process grow no further than this (setrlimit(2), RLIMIT_FSIZE): EFBIG, because Node ignores SIGXFSZ. */
const limitFiles = (pid: number, byteLength: number | "unlimited"): void =>
  void execFileSync("prlimit", ["--pid", String(pid), `--fsize=${byteLength}:`]);

const hasLimits = spawnSync("prlimit", ["--version"]).status === 0;
if (!hasLimits) console.log("skipped: a service whose files cannot grow, for which there is no prlimit");

describe.skipIf(!hasLimits)("an audit log that cannot be written", () => {
  it("[VR-AUD-03] lease, renew, seal and resume are refused with 503; verify, release and evict go on", async () => {
    const home = await makeHome();
    const service = await startService(home, { args: ["--set", "emulated.devices=2"], test: {} });
    const { client } = service;
    const path = await modelFile(home, "a.bin", 2 * MIB);
    await seal(service, path, { device: 0 });
    await seal(service, await modelFile(home, "b.bin", MIB), { device: 1 });
    const { leaseId } = (await client.grant({ shard: "a.bin" })).lease;
    limitFiles(service.pid, statSync(join(home.stateDir, "audit", "000001.jsonl")).size);

    const refused = async (): Promise<readonly string[]> => {
      const calls = [
        client.grant({ shard: "a.bin" }),
        client.renew(leaseId),
        client.seal({ path, name: "late", device: 0, wait: true }),
      ];
      return Promise.all(calls.map(async (call) => (await failureOf(call)).code));
    };
    const begun = performance.now();
    expect(await refused()).toEqual(["AUDIT_UNAVAILABLE", "AUDIT_UNAVAILABLE", "AUDIT_UNAVAILABLE"]);
    // The wait for the log would be ten seconds.
    expect(performance.now() - begun).toBeLessThan(5000);
    const lease = { method: "POST", body: { shard: "a.bin" } };
    expect((await ask({ socketPath: home.socket }, "/v1/leases", lease)).status).toBe(503);
    expect((await client.verify("a.bin")).basis).toBe("measured");
    await client.release(leaseId);
    await tell(service, 1, "flip", 0, 0, 0);
    expect((await failureOf(client.verify("b.bin"))).code).toBe("MEASUREMENT_MISMATCH");
    expect((await failureOf(client.resume({ reason: "not yet" }))).code).toBe("AUDIT_UNAVAILABLE");
    expect((await client.devices()).map(({ state }) => state)).toEqual(["running", "stopped"]);
    expect((await client.list()).shards.map(({ name, leases }) => [name, leases])).toEqual([
      ["a.bin", 0],
      ["b.bin", 0],
    ]);
    expect(await client.evict("a.bin")).toMatchObject({ wanted: true, shards: [{ zeroed: true }] });

    limitFiles(service.pid, "unlimited");
    await client.resume({ reason: "there is room" });
    await service.ready();
    expect((await client.list()).shards.map(({ name }) => name)).toEqual(["b.bin"]);
    await client.release((await client.grant({ shard: "b.bin" })).lease.leaseId);
    await stop(service);
    const record = await onRecord(home);
    const types = record.map(({ type }) => type);
    // Nothing that was done is missing, and no lease was granted.
    expect(types.filter((type) => type === "lease_granted")).toHaveLength(2);
    expect(types.filter((type) => type === "vram_deallocated")).toHaveLength(4);
    expect(types).toEqual(
      expect.arrayContaining(["lease_released", "seal_verification_failed", "worker_stopped", "worker_resumed"]),
    );
    expect(types).not.toContain("audit_gap");
  });
});
