/**
 * Calls that run at the same time, in orders drawn from a seed (`helpers/chaos.ts`). Whatever the order, what is said
 * afterwards is true, and nothing is left. `VRAM_TEST_SEED=n` replays.
 */
import { randomBytes } from "node:crypto";
import { afterAll, describe, expect, it } from "vitest";
import type { EmulatedFaults } from "../../src/cuda/emulated/faults.ts";
import type { Tenant } from "../../src/cuda/monitor.ts";
import { STATUS } from "../../src/cuda/status.ts";
import { liveHandles } from "../../src/testing.ts";
import { type Chaos, chaosOf } from "../helpers/chaos.ts";
import { reportCount } from "../helpers/counts.ts";
import { forbidUnhandledRejections } from "../helpers/sweep.ts";
import { codeOf, MIB, type Recorded, randomFile, temporaryFolder } from "../helpers/vram.ts";

forbidUnhandledRejections();

const { VRAM_TEST_SEED } = process.env;
const SEED = Number(VRAM_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
const RUNS = 40;
let count = 0;
afterAll(() => reportCount(`interleavings: ${count}, VRAM_TEST_SEED=${SEED}`));

const granules = (bytes: number): number => Math.ceil(bytes / (2 * MIB)) * 2 * MIB;

/** What holds when nothing is in flight. */
async function requireAccounts({ vram }: Recorded): Promise<void> {
  for (const { ordinal, uuid, state } of vram.devices()) {
    const here = vram.list().filter((record) => record.device.uuid === uuid);
    for (const record of here) if (state === "lost") expect(record.state).not.toBe("sealed");
    if (state === "lost") continue;
    const used = here.reduce((sum, record) => sum + granules(record.byteLength), 0);
    const { bytesUsed, bytesReserved, bytesUnreclaimed } = await vram.capacity(ordinal);
    const account = { bytesUsed, bytesReserved, bytesUnreclaimed };
    expect(account).toEqual({ bytesUsed: used, bytesReserved: 0, bytesUnreclaimed: 0 });
  }
}

/** What holds after closing. */
async function requireNothing({ vram, open, entries }: Recorded): Promise<void> {
  await vram.close();
  expect(vram.list()).toEqual([]);
  expect(open.driver.emulation.pendingLint()).toBeUndefined();
  expect(liveHandles()).toEqual({});
  const made = entries.filter((entry) => entry.type === "vram_allocated").length;
  expect(entries.filter((entry) => entry.type === "vram_deallocated")).toHaveLength(made);
}

/** Runs the scenario in `RUNS` orders. */
function interleave(title: string, scenario: (chaos: Chaos) => Promise<Recorded>, runs = RUNS): void {
  it(title, async () => {
    for (let run = 0; run < runs; run += 1) {
      try {
        const system = await scenario(chaosOf(SEED + run));
        if ((await codeOf(system.vram.capacity())) !== "CLOSED") await requireAccounts(system);
        await requireNothing(system);
      } catch (error) {
        throw new Error(`in the order of seed ${SEED + run}`, { cause: error });
      }
      count += 1;
    }
  });
}

const counted = (outcomes: readonly string[], what: string): number => outcomes.filter((one) => one === what).length;
const among = (outcomes: readonly string[], ...allowed: string[]): void => {
  for (const outcome of outcomes) expect(allowed).toContain(outcome);
};

describe("[VR-MEM-04] one shard, one name, one account", () => {
  const bytes = randomBytes(5000);
  const others = randomBytes(5001);

  interleave("verifying and evicting one shard: it is evicted once, and never verified afterwards", async (chaos) => {
    const system = await chaos.open();
    const { vram } = system;
    await vram.seal(bytes, { name: "a" });
    const verified = [0, 1, 2].map(() => chaos.later(() => vram.verify("a")));
    const evicted = [0, 1].map(() => chaos.later(() => vram.evict("a")));
    among(await Promise.all(verified), "ok", "SHARD_NOT_FOUND");
    expect((await Promise.all(evicted)).sort()).toEqual(["SHARD_NOT_FOUND", "ok"]);
    const types = system.types();
    expect(types.lastIndexOf("seal_verified")).toBeLessThan(types.indexOf("vram_deallocated"));
    return system;
  });

  interleave("seals of one name: one shard is listed, and everybody who succeeded was told of it", async (chaos) => {
    const system = await chaos.open();
    const { vram } = system;
    const sources = [bytes, bytes, others];
    const ids = new Set<string>();
    const outcomes = await Promise.all(
      sources.map((source) =>
        chaos.later(async () => ids.add((await vram.seal(source, { name: "a" })).record.shardId)),
      ),
    );
    among(outcomes, "ok", "SEAL_IN_PROGRESS", "NAME_CONFLICT");
    expect(counted(outcomes, "ok")).toBeGreaterThan(0);
    expect(vram.list().map((record) => record.shardId)).toEqual([...ids]);
    await vram.verify("a");
    return system;
  });

  interleave("sealing, verifying and evicting one name over and over", async (chaos) => {
    const system = await chaos.open();
    const { vram } = system;
    const tasks = [() => vram.seal(bytes, { name: "a" }), () => vram.verify("a"), () => vram.evict("a")];
    const outcomes = await Promise.all(
      Array.from({ length: 9 }, (_, index) => chaos.later(tasks[index % 3] ?? expect.fail())),
    );
    among(outcomes, "ok", "SEAL_IN_PROGRESS", "SHARD_NOT_FOUND", "SHARD_NOT_RESIDENT");
    expect(vram.list().length).toBeLessThan(2);
    for (const { shardId } of vram.list()) await vram.verify(shardId);
    return system;
  });

  interleave("a name and another shard's id that are the same are never both given out", async (chaos) => {
    const system = await chaos.open();
    const { vram } = system;
    const outcomes = await Promise.all([
      chaos.later(() => vram.seal(bytes, { name: "x" })),
      chaos.later(() => vram.seal(bytes, { name: "y", shardId: "x" })),
    ]);
    expect(outcomes.sort()).toEqual(["NAME_CONFLICT", "ok"]);
    return system;
  });

  interleave("of 20 seals at once, of which 7 fit, 7 succeed and 13 are refused", async (chaos) => {
    const tenants: Tenant[] = [];
    const system = await chaos.open({}, { tenants });
    const { vram } = system;
    const others = (await vram.capacity()).bytesFree - 7 * 4 * MIB;
    tenants.push({ pid: 1, name: "others", byteLength: others });
    const seals = Array.from({ length: 20 }, (_, index) =>
      chaos.later(() => vram.seal(new Uint8Array(2 * MIB + 1 + index), { name: `n${index}` })),
    );
    const readings = Array.from({ length: 8 }, async () => {
      await chaos.wait();
      const { bytesUsed, bytesReserved, bytesFree } = await vram.capacity();
      expect(bytesUsed + bytesReserved + bytesFree, "at every moment").toBe(7 * 4 * MIB);
    });
    const outcomes = await Promise.all(seals);
    await Promise.all(readings);
    expect([counted(outcomes, "ok"), counted(outcomes, "OUT_OF_VRAM")]).toEqual([7, 13]);
    expect(vram.list()).toHaveLength(7);
    expect((await vram.capacity()).bytesFree).toBe(0);
    return system;
  });

  interleave("seals that are aborted whenever: each is sealed or leaves nothing", async (chaos) => {
    const { path } = await randomFile(MIB);
    const system = await chaos.open();
    const { vram } = system;
    const outcomes = await Promise.all(
      ["a", "b", "c", "d"].map(async (name) => {
        const controller = new AbortController();
        const { signal } = controller;
        const sealing = chaos.later(() => vram.seal(path, { name, signal }));
        for (let step = chaos.pick(6); step > 0; step -= 1) await chaos.wait();
        controller.abort();
        return sealing;
      }),
    );
    among(outcomes, "ok", "ABORTED");
    expect(vram.list()).toHaveLength(counted(outcomes, "ok"));
    for (const { shardId } of vram.list()) await vram.verify(shardId);
    return system;
  });
});

describe("[VR-VER-06] stopping, losing, closing", () => {
  const bytes = randomBytes(70_000);

  interleave("a seal in flight is not sealed once its worker has stopped", async (chaos) => {
    const system = await chaos.open();
    const { vram, entries } = system;
    await vram.seal(bytes, { name: "damaged" });
    await system.flipBit("damaged", chaos.pick(70_000), chaos.pick(8));
    const found = chaos.later(() => vram.verify("damaged"));
    const seals = ["a", "b", "c"].map((name) => chaos.later(() => vram.seal(bytes, { name })));
    expect(await found).toBe("MEASUREMENT_MISMATCH");
    const outcomes = await Promise.all(seals);
    among(outcomes, "ok", "WORKER_STOPPED");
    const stop = entries.find((entry) => entry.type === "worker_stopped")?.seq ?? expect.fail();
    for (const entry of entries) if (entry.type === "vram_sealed") expect(entry.seq).toBeLessThan(stop);
    expect(vram.list()).toHaveLength(1 + counted(outcomes, "ok"));
    return system;
  });

  interleave(
    "a mismatch that is found while the worker is resumed stops it again",
    async (chaos) => {
      const stateDir = `${await temporaryFolder()}/state`;
      const system = await chaos.open({ stateDir });
      const { vram } = system;
      for (const name of ["a", "b"]) await vram.seal(bytes, { name });
      for (const name of ["a", "b"]) await system.flipBit(name, 7, 7);
      expect(await codeOf(vram.verify("a"))).toBe("MEASUREMENT_MISMATCH");
      const resumed = vram.resume("a is understood");
      expect(await chaos.later(() => vram.verify("b"))).toBe("MEASUREMENT_MISMATCH");
      await resumed;
      expect(vram.devices()[0]).toMatchObject({ state: "stopped" });
      await vram.close();
      const again = await chaos.open({ stateDir });
      expect(again.vram.devices()[0]).toMatchObject({ state: "stopped" });
      return again;
    },
    20,
  );

  interleave(
    "two devices that stop at once are both stopped at the next start",
    async (chaos) => {
      const options = { stateDir: `${await temporaryFolder()}/state`, emulated: { devices: 2, byteLength: 64 * MIB } };
      const system = await chaos.open(options);
      for (const device of [0, 1]) await system.vram.seal(bytes, { name: `on ${device}`, device });
      for (const device of [0, 1]) await system.flipBit(`on ${device}`, 1, 1);
      const found = [0, 1].map((device) => chaos.later(() => system.vram.verify(`on ${device}`)));
      expect(await Promise.all(found)).toEqual(["MEASUREMENT_MISMATCH", "MEASUREMENT_MISMATCH"]);
      expect(system.types()).not.toContain("entry_unrecorded");
      await system.vram.close();
      const again = await chaos.open(options);
      expect(again.vram.devices().map(({ state }) => state)).toEqual(["stopped", "stopped"]);
      return again;
    },
    20,
  );

  interleave("a device that is lost takes its seals in flight with it, and no other device's", async (chaos) => {
    const at = chaos.pick(40);
    let seen = 0;
    let opened = false;
    const breakIt: EmulatedFaults["onExecute"] = ({ ordinal }) => {
      if (ordinal === 0 && opened) seen += 1;
      return ordinal === 0 && seen > at ? { status: STATUS.ILLEGAL_ADDRESS } : undefined;
    };
    const system = await chaos.open({ emulated: { devices: 2, byteLength: 64 * MIB } }, { breakIt });
    opened = true;
    const { vram } = system;
    const on = (device: number): Promise<string>[] =>
      ["a", "b"].map((name) =>
        chaos.later(async () => {
          await vram.seal(bytes, { name: `${name}${device}`, device });
          await vram.verify(`${name}${device}`);
        }),
      );
    const lost = on(0);
    expect(await Promise.all(on(1))).toEqual(["ok", "ok"]);
    among(await Promise.all(lost), "ok", "DEVICE_LOST", "SHARD_NOT_RESIDENT");
    for (const { device, state } of vram.list()) if (device.ordinal === 1) expect(state).toBe("sealed");
    return system;
  });

  interleave("closing waits for what it let in, and nothing comes after it", async (chaos) => {
    const { path } = await randomFile(MIB);
    const system = await chaos.open();
    const { vram } = system;
    await vram.seal(bytes, { name: "a" });
    const tasks = [
      () => vram.seal(path, { name: "b" }),
      () => vram.seal(bytes, { name: "c" }),
      () => vram.verify("a"),
      () => vram.evict("a"),
      () => vram.resume("no reason"),
    ].map(chaos.later);
    const reading = chaos.later(() => vram.capacity());
    for (let step = chaos.pick(4); step > 0; step -= 1) await chaos.wait();
    await Promise.all([vram.close(), vram.close()]);
    expect(liveHandles()).toEqual({});
    const after = system.entries.length;
    among(await Promise.all([...tasks, reading]), "ok", "ABORTED", "CLOSED", "SHARD_NOT_FOUND");
    expect(system.entries).toHaveLength(after);
    return system;
  });
});
