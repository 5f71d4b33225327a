/** The book of exports: what is counted when, what is on record, and what of it is left when something fails. */
import { beforeEach, describe, expect, it } from "vitest";
import type { ExportedMemory } from "../../src/device/device.ts";
import { VramError } from "../../src/errors.ts";
import { createExports, type Exports, type ExportTerms } from "../../src/exports/exports.ts";
import { isAlive, peerOf, startTicksOf } from "../../src/exports/peer.ts";
import type { DurableBody } from "../../src/journal/entry.ts";
import { createLedger } from "../../src/residency/ledger.ts";
import type { Shard } from "../../src/residency/shard.ts";

const MIB = 1024 ** 2;
const UUID = "EMU-0b7f4c8e-1d5a-4f0e-9a39-3c1d7e2b5a60";
const TERMS: ExportTerms = {
  leaseId: "lease-1",
  caller: "uid 1",
  peer: { pid: 7, startTicks: 1 },
  expected: undefined,
};

let entries: DurableBody[];
let refuse: VramError | undefined;
let hand: () => Promise<ExportedMemory>;
let exports: Exports;
const journal = {
  append: async (entry: DurableBody) => {
    if (refuse !== undefined) throw refuse;
    entries.push(entry);
  },
  appendAnyway: async (entry: DurableBody) => void entries.push(entry),
};

/** As much of a shard as an export looks at. */
function shardOf(shardId: string, byteLength = 3 * MIB): Shard {
  const device = { ordinal: 0, uuid: UUID };
  const worker = { device: { info: { granuleBytes: 2 * MIB }, exportMemory: () => hand() } };
  const seal = { shardId, name: shardId, digest: "ab", byteLength, deviceUuid: UUID };
  return { device, worker, seal, allocationId: 1, state: "sealed", exports: 0, exportsTotal: 0 } as unknown as Shard;
}

beforeEach(() => {
  entries = [];
  refuse = undefined;
  hand = async () => ({ descriptor: 5, byteLength: 4 * MIB });
  exports = createExports({ journal } as never);
});

describe("an export", () => {
  it("[VR-SEAL-04] is counted and on record before the memory is handed over", async () => {
    const shard = shardOf("a");
    hand = async () => {
      expect(entries).toMatchObject([{ type: "shard_exported", shardId: "a", byteLength: 4 * MIB, peer: TERMS.peer }]);
      expect([shard.exports, shard.exportsTotal]).toEqual([1, 1]);
      return { descriptor: 5, byteLength: 4 * MIB };
    };
    const one = await exports.begin(shard, { ...TERMS, expected: "fsverity:ab" });
    expect(one).toMatchObject({ descriptor: 5, byteLength: 4 * MIB });
    expect(entries).toMatchObject([{ exportId: one.exportId, expected: "fsverity:ab" }]);
    await exports.end(one.exportId, "closed");
    await exports.end(one.exportId, "closed");
    expect([shard.exports, shard.exportsTotal]).toEqual([0, 1]);
    expect(entries.slice(1)).toMatchObject([{ type: "export_ended", because: "closed", held: false }]);
  });

  it("[VR-AUD-03] that cannot be recorded is none", async () => {
    refuse = new VramError("AUDIT_UNAVAILABLE", "no disk");
    const shard = shardOf("a");
    hand = () => expect.fail("handed over without a record");
    await expect(exports.begin(shard, TERMS)).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    expect([shard.exports, shard.exportsTotal]).toEqual([0, 0]);
    expect(entries).toMatchObject([{ type: "export_ended", because: "failed", held: false }]);
  });

  it("that the device refuses is ended on record", async () => {
    hand = () => Promise.reject(new VramError("DEVICE_LOST", "gone"));
    const shard = shardOf("a");
    await expect(exports.begin(shard, TERMS)).rejects.toMatchObject({ code: "DEVICE_LOST" });
    expect([shard.exports, shard.exportsTotal]).toEqual([0, 0]);
    expect(entries.map(({ type }) => type)).toEqual(["shard_exported", "export_ended"]);
  });

  it("of a shard that is taken away meanwhile is refused as that, whatever else failed", async () => {
    const shard = shardOf("a");
    hand = () => {
      shard.state = "evicted";
      return Promise.reject(new VramError("INTERNAL", "allocation 1 is not there"));
    };
    await expect(exports.begin(shard, TERMS)).rejects.toMatchObject({ code: "SHARD_NOT_RESIDENT" });
    const lost = shardOf("b");
    lost.state = "lost";
    hand = () => expect.fail("handed over though it is lost");
    await expect(exports.begin(lost, TERMS)).rejects.toMatchObject({ code: "SHARD_NOT_RESIDENT" });
  });

  it("is held by others when the book closes, as far as anybody knows", async () => {
    const shard = shardOf("a");
    await exports.begin(shard, TERMS);
    await exports.close();
    await exports.close();
    expect(entries.slice(1)).toMatchObject([{ because: "service_closed", held: true }]);
    expect(entries).toHaveLength(2);
    expect(shard.exports).toBe(1);
    await expect(exports.begin(shard, TERMS)).rejects.toMatchObject({ code: "CLOSED" });
  });
});

describe("what others hold", () => {
  it("is counted once for each memory, on its device, with what an earlier service left", async () => {
    const orphan = {
      exportId: "e",
      shardId: "old",
      name: "old",
      deviceUuid: UUID,
      byteLength: 2 * MIB,
      peer: TERMS.peer,
    };
    let orphans = [orphan, { ...orphan, exportId: "f" }, { ...orphan, shardId: "other", deviceUuid: "EMU-other" }];
    exports = createExports({ journal } as never, () => orphans);
    const shard = shardOf("a");
    await exports.begin(shard, TERMS);
    const second = await exports.begin(shard, TERMS);
    expect(exports.heldOn(UUID)).toBe(6 * MIB);
    await exports.end(second.exportId, "closed");
    expect(exports.heldOn(UUID)).toBe(6 * MIB);
    orphans = [];
    expect(exports.heldOn(UUID)).toBe(4 * MIB);
    expect(exports.heldOn("EMU-none")).toBe(0);
  });

  it("is unreclaimed in a new account, until the driver has it back", () => {
    const ledger = createLedger(100 * MIB, 2 * MIB, 0, 10 * MIB);
    expect(ledger.capacity(88 * MIB).bytesUnreclaimed).toBe(10 * MIB);
    expect(ledger.capacity(94 * MIB).bytesUnreclaimed).toBe(4 * MIB);
    expect(ledger.capacity(100 * MIB).bytesUnreclaimed).toBe(0);
  });

  it("is never more than what the driver does not have", () => {
    expect(createLedger(100 * MIB, 2 * MIB, 0, 10 * MIB).capacity(96 * MIB).bytesUnreclaimed).toBe(4 * MIB);
    expect(createLedger(100 * MIB, 2 * MIB, 0, 10 * MIB).capacity(100 * MIB).bytesUnreclaimed).toBe(0);
  });
});

describe("a peer", () => {
  it("is told from a later process of its number by when it started", () => {
    const self = peerOf(process.pid);
    expect(self.startTicks).toBeGreaterThan(0);
    expect(isAlive(self)).toBe(true);
    expect(isAlive({ ...self, startTicks: self.startTicks + 1 })).toBe(false);
    expect(isAlive({ pid: 0, startTicks: 0 })).toBe(false);
    expect(startTicksOf(2 ** 22 + 1)).toBe(0);
    expect(peerOf(0)).toEqual({ pid: 0, startTicks: 0 });
  });
});
