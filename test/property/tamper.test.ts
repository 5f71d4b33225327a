import { randomBytes, randomInt } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { constantTimeEqual } from "../../src/bytes.ts";
import type { VramError } from "../../src/errors.ts";
import { BLOCK_BYTES } from "../../src/hash/geometry.ts";
import { tensorsWithin } from "../../src/source/tensors.ts";
import type { Damage } from "../../src/verify/report.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { MIB, openSmall, type Recorded, temporaryFolder } from "../helpers/vram.ts";

/** A safetensors file of exactly `byteLength` bytes with `count` tensors of about the same size. */
async function modelFile(byteLength: number, count: number): Promise<string> {
  const path = join(await temporaryFolder(), "model.safetensors");
  const make = (lastBytes: number, pad: number): Uint8Array => {
    const each = Math.floor(byteLength / count / 1.05);
    const sizes = [...Array.from({ length: count - 1 }, () => each), lastBytes];
    const tensors = sizes.map((size, index) => ({
      name: `layers.${index}.weight`,
      dtype: "U8",
      shape: [size],
      data: randomBytes(size),
    }));
    return buildSafetensors(tensors, { pad });
  };
  const digits = String(byteLength).length;
  const probe = make(10 ** (digits - 1), 64).byteLength - 10 ** (digits - 1);
  let file = make(byteLength - probe, 64);
  file = make(byteLength - probe, 64 + byteLength - file.byteLength);
  expect(file.byteLength).toBe(byteLength);
  await writeFile(path, file);
  return path;
}

async function failedVerification(system: Recorded, name: string): Promise<Damage> {
  const error = await system.vram.verify(name).then(
    () => expect.fail("the flipped bits were not found"),
    (thrown: unknown) => thrown as VramError,
  );
  expect(error.code).toBe("MEASUREMENT_MISMATCH");
  return error.details["damage"] as Damage;
}

describe("flipped bits", () => {
  it("[VR-VER-03] every bit of a 12 KiB shard changes the measurement", async () => {
    const system = await openSmall();
    await system.vram.seal(randomBytes(3 * BLOCK_BYTES), { name: "small" });
    const shard = system.open.system.registry.find("small");
    const [device] = system.open.devices;
    if (device === undefined) expect.fail("there is a device");
    const sealed = (await device.measure(shard.allocationId)).digest;
    let found = 0;
    for (let bit = 0; bit < 3 * BLOCK_BYTES * 8; bit += 1) {
      await device.flipBit(shard.allocationId, bit >> 3, bit & 7);
      const { digest } = await device.measure(shard.allocationId);
      if (!constantTimeEqual(digest, sealed)) found += 1;
      await device.flipBit(shard.allocationId, bit >> 3, bit & 7);
    }
    expect(found).toBe(3 * BLOCK_BYTES * 8);
    expect((await system.vram.verify("small")).basis).toBe("measured");
  });

  it("[VR-VER-03] in a 12 KiB model every seventh byte's damage names its block, its offset and its tensor", async () => {
    const path = await modelFile(3 * BLOCK_BYTES, 5);
    const system = await openSmall({ onMismatch: "quarantine" });
    await system.vram.seal(path, { name: "m" });
    const shard = system.open.system.registry.find("m");
    for (let offset = randomInt(7); offset < 3 * BLOCK_BYTES; offset += 7) {
      const bit = offset % 8;
      await system.flipBit("m", offset, bit);
      const damage = await failedVerification(system, "m");
      const [block] = damage.blocks;
      expect(block).toMatchObject({ differing: 1, byteOffsets: [offset] });
      const hit = tensorsWithin(shard.tensors, offset, 1).map((tensor) => tensor.name);
      expect(damage.tensors).toEqual(expect.arrayContaining(hit));
      expect(block?.tensors).toEqual(expect.arrayContaining(hit));
      await system.flipBit("m", offset, bit);
      shard.state = "sealed";
    }
  });

  it("[VR-VER-03] 1,000 random bits of a 64 MiB model: each found, each with its tensor", async () => {
    const rounds = 20;
    const path = await modelFile(64 * MIB, 40);
    const system = await openSmall({ onMismatch: "quarantine" });
    await system.vram.seal(path, { name: "m" });
    const shard = system.open.system.registry.find("m");
    let named = 0;
    for (let round = 0; round < rounds; round += 1) {
      // Distinct blocks, so that each bit must be found on its own account.
      const blocks = new Set<number>();
      while (blocks.size < 1000 / rounds) blocks.add(randomInt((64 * MIB) / BLOCK_BYTES));
      const bits = [...blocks].map((block) => ({
        offset: block * BLOCK_BYTES + randomInt(BLOCK_BYTES),
        bit: randomInt(8),
      }));
      for (const { offset, bit } of bits) await system.flipBit("m", offset, bit);
      const damage = await failedVerification(system, "m");
      for (const { offset } of bits) {
        const block = damage.blocks.find((one) => one.offset <= offset && offset < one.offset + one.byteLength);
        const hit = tensorsWithin(shard.tensors, offset, 1).map((tensor) => tensor.name);
        expect(block?.byteOffsets, `byte ${offset}`).toEqual([offset]);
        expect(block?.tensors).toEqual(expect.arrayContaining(hit));
        expect(damage.tensors).toEqual(expect.arrayContaining(hit));
        named += 1;
      }
      expect(damage.blockCount).toBe(bits.length);
      for (const { offset, bit } of bits) await system.flipBit("m", offset, bit);
      shard.state = "sealed";
    }
    expect(named).toBe(1000);
    expect((await system.vram.verify("m")).basis).toBe("measured");
  });
});
