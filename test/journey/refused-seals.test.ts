import { createSecretKey } from "node:crypto";
import { describe, expect, it } from "vitest";
import { toHex } from "../../src/bytes.ts";
import type { Seal } from "../../src/seal/encoding.ts";
import { deriveWorkerKeys } from "../../src/seal/key.ts";
import { createSeal } from "../../src/seal/seal.ts";
import { codeOf, MIB, openSmall, type Recorded, randomFile } from "../helpers/vram.ts";

const TEXT = "the seal was refused";

/** The message, code and what the journal learnt when `presented` is handed in. */
async function refusal(system: Recorded, name: string, presented: unknown) {
  const before = system.entries.length;
  const error = await system.vram.verify(name, { seal: presented as Seal }).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  const message = error instanceof Error ? error.message : "accepted";
  const appended = system.entries.slice(before).filter((one) => one.durability === "durable");
  const entry = appended.find((one) => one.type === "seal_refused");
  return { message, reason: entry?.reason, appended: appended.length };
}

/** Another value of the same kind. */
function altered(value: unknown): unknown {
  if (typeof value === "number") return value + 1;
  const text = String(value);
  if (text === "") return "0".repeat(64);
  if (text === "witnessed") return "expected";
  if (text === "emulated") return "cuda";
  const last = text.endsWith("0") ? "1" : "0";
  return text.slice(0, -1) + last;
}

describe("a seal that is handed in", () => {
  it("[VR-VER-04] is refused with one text when any field is changed, added or taken away", async () => {
    const { path } = await randomFile(MIB);
    const system = await openSmall();
    const { record, seal } = await system.vram.seal(path);
    for (const field of Object.keys(seal) as (keyof Seal)[]) {
      const changed = { ...seal, [field]: altered(seal[field]) };
      const result = await refusal(system, record.name, changed);
      expect(result.message, field).toBe(TEXT);
      expect(result.appended, field).toBe(1);
      expect(["malformed", "key", "mac"], field).toContain(result.reason);
      expect(await refusal(system, record.name, { ...seal, [field]: [seal[field]] }), `${field} in a list`).toEqual({
        message: TEXT,
        reason: "malformed",
        appended: 1,
      });
      const { [field]: _, ...stripped } = seal;
      expect(await refusal(system, record.name, stripped), `without ${field}`).toMatchObject({
        message: TEXT,
        reason: "malformed",
      });
    }
    const oddities = [null, 1, "seal", [], {}, { ...seal, extra: 1 }, { ...seal, mac: "" }, { ...seal, sequence: 1.5 }];
    for (const oddity of oddities) expect(await refusal(system, record.name, oddity)).toMatchObject({ message: TEXT });
    expect(await refusal(system, record.name, { ...seal, digest: seal.digest.toUpperCase() })).toMatchObject({
      message: TEXT,
    });
    expect(system.vram.inspect(record.name)).toEqual(record);
    expect(system.vram.devices()[0]?.state).toBe("running");
    expect(await refusal(system, record.name, JSON.parse(JSON.stringify(seal)))).toMatchObject({ message: "accepted" });
  });

  it("that throws when it is read is no refused seal: its own error comes back, nothing is recorded", async () => {
    const { path } = await randomFile(MIB);
    const system = await openSmall();
    const { record, seal } = await system.vram.seal(path);
    const presented = {
      ...seal,
      get mac(): string {
        throw new Error("this proxy is closed");
      },
    };
    const { message, appended } = await refusal(system, record.name, presented);
    expect(message).toContain("this proxy is closed");
    expect(appended).toBe(0);
    expect(await refusal(system, record.name, seal)).toMatchObject({ message: "accepted" });
  });

  it("[VR-VER-04] of a wrong key, an older seal of the same name, or another shard, is refused", async () => {
    const { path } = await randomFile(MIB);
    const other = await randomFile(MIB);
    const system = await openSmall();
    const { seal } = await system.vram.seal(path, { name: "a" });
    const { seal: sealOfOther } = await system.vram.seal(other.path, { name: "b" });
    expect(await refusal(system, "a", sealOfOther)).toMatchObject({ message: TEXT, reason: "record" });

    const foreign = deriveWorkerKeys(createSecretKey(Buffer.alloc(32, 7)), "emulated", seal.deviceUuid);
    const { version: _v, mac: _m, keyId: _k, ...fields } = seal;
    expect(await refusal(system, "a", createSeal(foreign, fields))).toMatchObject({ message: TEXT, reason: "key" });
    const disguised = { ...createSeal(foreign, fields), keyId: seal.keyId };
    expect(await refusal(system, "a", disguised)).toMatchObject({ message: TEXT, reason: "mac" });

    await system.vram.evict("a");
    const again = await system.vram.seal(path, { name: "a" });
    expect(again.seal.sequence).toBeGreaterThan(seal.sequence);
    expect(await refusal(system, "a", seal)).toMatchObject({ message: TEXT, reason: "record" });
    expect(await refusal(system, "a", again.seal)).toMatchObject({ message: "accepted" });
  });

  it("[VR-DEV-04] [VR-VER-04] of another device or another instance is refused", async () => {
    const { path } = await randomFile(MIB);
    const stateDir = `${(await randomFile(1)).path}-state`;
    const options = { stateDir, emulated: { devices: 2, byteLength: 128 * MIB } };
    const first = await openSmall(options);
    const zero = await first.vram.seal(path, { name: "zero", device: 0 });
    const one = await first.vram.seal(path, { name: "one", device: 1 });
    expect(one.record.device.uuid).not.toBe(zero.record.device.uuid);
    expect(one.seal.keyId).not.toBe(zero.seal.keyId);
    expect(await refusal(first, "one", zero.seal)).toMatchObject({ message: TEXT, reason: "key" });
    await first.vram.close();

    const second = await openSmall(options);
    const again = await second.vram.seal(path, { name: "zero", device: 0 });
    expect(again.seal.keyId).toBe(zero.seal.keyId);
    expect(again.record.device).toEqual(zero.record.device);
    expect(await refusal(second, "zero", zero.seal)).toMatchObject({ message: TEXT, reason: "instance" });
  });

  it("[VR-DEV-04] a device is named by UUID; the ordinal is only where it stands", async () => {
    const { path } = await randomFile(MIB);
    const { vram } = await openSmall({ emulated: { devices: 2, byteLength: 128 * MIB } });
    const [, second] = vram.devices();
    const { record } = await vram.seal(path, { device: second?.uuid ?? "" });
    expect(record.device).toEqual({ ordinal: 1, uuid: second?.uuid });
    expect(second?.uuid).toMatch(/^EMU-[0-9a-f-]{36}$/);
  });

  it("[VR-SEAL-02] carries a mac of our own key over what was measured", async () => {
    const { path } = await randomFile(MIB);
    const { vram, open } = await openSmall();
    const { seal, record } = await vram.seal(path);
    const keys = deriveWorkerKeys(open.system.state.rootKey, "emulated", record.device.uuid);
    expect(toHex(keys.keyId)).toBe(seal.keyId);
    const { version: _v, mac, keyId: _k, ...fields } = seal;
    expect(createSeal(keys, fields).mac).toBe(mac);
    expect(await codeOf(vram.verify("nothing of this name", { seal }))).toBe("SHARD_NOT_FOUND");
  });
});
