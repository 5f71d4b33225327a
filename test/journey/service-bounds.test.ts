/** What callers can do to each other and to the service: nothing beyond what the configuration and their scope allow. */
import { rename } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import type { Caller } from "../../src/service/service.ts";
import { CALLER, makeHome, NEVER, openTestService } from "../helpers/service.ts";
import { codeOf, MIB, randomFile } from "../helpers/vram.ts";

const user = (name: string, transport: Caller["transport"] = "socket"): Caller => ({ transport, scope: "use", name });

async function openSealed(settings: Readonly<Record<string, unknown>> = {}) {
  const test = await openTestService(await makeHome(), settings);
  const { path } = await randomFile(MIB);
  const { ended } = await test.service.seal({ path }, CALLER);
  expect((await ended).state).toBe("succeeded");
  return { ...test, path };
}

describe("[VR-API-02] a lease", () => {
  it("is renewed and released by whoever was granted it, and by who may do everything", async () => {
    const { service } = await openSealed();
    const granted = await service.grant({ shard: "model.bin" }, user("token aaaaaa"), NEVER);
    const { leaseId } = granted.lease;
    const other = user("token bbbbbb");
    expect(await codeOf(service.renew(leaseId, {}, other, NEVER))).toBe("FORBIDDEN");
    expect(await codeOf(service.release(leaseId, other))).toBe("FORBIDDEN");
    expect((await service.renew(leaseId, {}, user("token aaaaaa"), NEVER)).lease.leaseId).toBe(leaseId);
    await service.release(leaseId, CALLER);
    expect(await codeOf(service.release(leaseId, CALLER))).toBe("LEASE_NOT_FOUND");
  });

  it("is one of so many, and a shard too", async () => {
    const { service, path } = await openSealed({ "limits.leases": 2, "limits.shards": 1 });
    await service.grant({ shard: "model.bin" }, CALLER, NEVER);
    const { lease } = await service.grant({ shard: "model.bin" }, CALLER, NEVER);
    expect(await codeOf(service.grant({ shard: "model.bin" }, CALLER, NEVER))).toBe("SERVICE_BUSY");
    await service.release(lease.leaseId, CALLER);
    await service.grant({ shard: "model.bin" }, CALLER, NEVER);
    const second = await (await service.seal({ path, name: "second" }, CALLER)).ended;
    expect(second.error?.code).toBe("SERVICE_BUSY");
    expect(service.list().shards.map(({ name }) => name)).toEqual(["model.bin"]);
  });
});

describe("[VR-IN-03] files", () => {
  it("are named freely by the service's own user only", async () => {
    const { service, path } = await openSealed();
    expect((await service.plan({ path }, CALLER)).fits).toBe(true);
    for (const caller of [user("uid 1001"), user("token aaaaaa", "tcp")]) {
      expect(await codeOf(service.plan({ path }, caller))).toBe("SOURCE_REFUSED");
    }
  });
});

describe("[VR-API-04] a source that is not there", () => {
  it("is waited for: a disk may be mounted after the service has started", async () => {
    const home = await makeHome();
    const { path } = await randomFile(MIB);
    const first = await openTestService(home);
    await (await first.service.seal({ path }, CALLER)).ended;
    await first.close();
    await rename(path, `${path}.away`);
    const second = await openTestService(home);
    expect(second.service.list().missing).toMatchObject([{ name: "model.bin", state: "waiting" }]);
    expect(second.of("wanted_refused")).toMatchObject([{ code: "SOURCE_NOT_FOUND" }]);
    second.restore();
    await second.settled();
    expect(second.of("wanted_refused"), "it is on record once").toHaveLength(1);
    await rename(`${path}.away`, path);
    second.restore();
    await second.settled();
    expect(second.service.isReady()).toBe(true);
  });
});
