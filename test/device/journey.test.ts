/** Sealing and verifying through the library: both ways of sealing, large and odd shards, damage, sets. */
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { BLOCK_BYTES } from "../../src/hash/geometry.ts";
import { foldKept } from "../../src/hash/tree.ts";
import { bytesOf, gpu, onGpu, openOnGpu, sized } from "../helpers/gpu.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { digestOf } from "../helpers/reference.ts";
import { codeOf, MIB, randomFile, temporaryFolder } from "../helpers/vram.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const RAW = { format: "raw" } as const;

/** SHA-256 of every block of `data`. */
const hashesOf = (data: Uint8Array): Buffer =>
  Buffer.concat(
    Array.from({ length: data.byteLength / BLOCK_BYTES }, (_, index) =>
      createHash("sha256")
        .update(data.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES))
        .digest(),
    ),
  );

/** The digest of `chunk` repeated `count` times, without hashing it more than once. */
function digestOfRepeated(chunk: Uint8Array, count: number): string {
  const kept = hashesOf(hashesOf(chunk));
  const all = Buffer.concat(Array.from({ length: count }, () => kept));
  return hex(foldKept(all, chunk.byteLength * count).digest);
}

onGpu("the journey", () => {
  test("[VR-SEAL-01] a file is sealed as witnessed, verified where it lies, and evicted", async () => {
    const { vram, entries } = await openOnGpu();
    const { path, bytes } = await randomFile(sized(100 * MIB, 3 * MIB) + 1234);
    const { record, seal } = await vram.seal(path, RAW);
    expect(record).toMatchObject({ sealed: true, comparedWith: "witnessed", digest: hex(digestOf(bytes)) });
    expect(record.backend).toBe(gpu().driver.backend);
    const report = await vram.verify(record.shardId, { seal });
    expect(report).toMatchObject({ basis: "measured", bytesCovered: bytes.byteLength, digest: record.digest });
    expect(await vram.evict(record.shardId)).toMatchObject({ zeroed: true });
    expect(entries.map(({ type }) => type)).toContain("vram_sealed");
    expect(vram.list()).toEqual([]);
  });

  test("an expected digest is what decides: the right one seals without hashing, a wrong one leaves nothing", async () => {
    const { vram } = await openOnGpu();
    const bytes = bytesOf(2 * MIB + 5, "expected");
    const digest = hex(digestOf(bytes));
    const before = await vram.capacity();
    const wrong = `fsverity:${digest.replace(/^./, (first) => (first === "0" ? "1" : "0"))}`;
    expect(await codeOf(vram.seal({ bytes, name: "a" }, { ...RAW, expected: wrong }))).toBe("DIGEST_MISMATCH");
    expect(vram.list()).toEqual([]);
    expect((await vram.capacity()).bytesUsed).toBe(before.bytesUsed);
    const { record } = await vram.seal({ bytes, name: "a" }, { ...RAW, expected: `fsverity:${digest}` });
    expect(record).toMatchObject({ comparedWith: "expected", digest });
  });

  test.each([1, 4095, 4096, 4097, 524_287, 524_289, 2 * MIB, 2 * MIB + 1])(
    "[VR-SEAL-05] %i bytes: the digest of the host, with a salt as well",
    async (byteLength) => {
      const { vram } = await openOnGpu();
      const bytes = bytesOf(byteLength, "odd");
      const { record } = await vram.seal({ bytes, name: "a" }, RAW);
      expect(record.digest).toBe(hex(digestOf(bytes)));
      const salt = bytesOf(1 + (byteLength % 32), "salt");
      const { salted } = await vram.verify("a", { salt: hex(salt) });
      expect(salted?.digest).toBe(hex(digestOf(bytes, salt)));
    },
  );

  test("[VR-VER-03] one flipped bit is caught, and named to its 4 KiB block and byte", async () => {
    const { vram, flipBit } = await openOnGpu();
    const { path } = await randomFile(5 * MIB);
    await vram.seal(path, { ...RAW, name: "a" });
    const offset = 3 * MIB + 4097;
    await flipBit("a", offset, 6);
    const error: unknown = await vram.verify("a").catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "MEASUREMENT_MISMATCH",
      details: {
        damage: {
          precision: "block",
          blocks: [{ offset: 3 * MIB + 4096, differing: 1, byteOffsets: [offset] }],
        },
      },
    });
    expect(vram.devices()[0]).toMatchObject({ state: "stopped" });
  });

  test("several shards side by side: the one that was changed is the one that is named", async () => {
    const { vram, flipBit } = await openOnGpu({ onMismatch: "quarantine" });
    const names = ["a", "b", "c", "d", "e", "f"];
    for (const name of names) await vram.seal({ bytes: bytesOf(3 * MIB + 1, name), name }, RAW);
    for (const name of names) expect((await vram.verify(name)).bytesCovered).toBe(3 * MIB + 1);
    await flipBit("d", 3 * MIB, 0);
    for (const name of names) {
      expect(await codeOf(vram.verify(name)), name).toMatch(name === "d" ? "MEASUREMENT_MISMATCH" : /^no error/);
    }
  });

  test("a shard of many windows, 8 GiB on hardware: sealed, verified, and a bit of its last byte is missed", async () => {
    const { vram, flipBit } = await openOnGpu({ onMismatch: "quarantine" });
    const chunk = bytesOf(sized(64 * MIB, MIB), "chunk");
    const count = sized(129, 25);
    const byteLength = chunk.byteLength * count;
    async function* chunks() {
      for (let left = count; left > 0; left -= 1) yield chunk;
    }
    const expected = `fsverity:${digestOfRepeated(chunk, count)}`;
    await vram.seal({ chunks: chunks(), byteLength, name: "large" }, { ...RAW, expected });
    const report = await vram.verify("large");
    expect(report).toMatchObject({ basis: "measured", bytesCovered: byteLength });
    await flipBit("large", byteLength - 1, 7);
    const error: unknown = await vram.verify("large").catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "MEASUREMENT_MISMATCH",
      details: { damage: { rangeCount: 1, ranges: [{ offset: byteLength - 524_288 }] } },
    });
  });

  test("[VR-SEAL-06] one file in several shards is sealed and verified as a set", async () => {
    const { vram } = await openOnGpu();
    const path = join(await temporaryFolder(), "model.safetensors");
    const tensors = ["a", "b", "c", "d", "e", "f", "g"].map((name) => {
      const data = bytesOf(sized(9 * MIB, MIB) + name.charCodeAt(0), name);
      return { name, dtype: "U8", shape: [data.byteLength], data };
    });
    await writeFile(path, buildSafetensors(tensors));
    const { set, members } = await vram.sealSet(path, { shards: 3 });
    expect(members.length).toBe(3);
    const report = await vram.verifySet(set);
    expect(report.members.map(({ basis }) => basis)).toEqual(["measured", "measured", "measured"]);
  });

  test("[VR-MEM-04] the account agrees with the driver's", async () => {
    const { vram } = await openOnGpu();
    const before = await vram.capacity();
    await vram.seal({ bytes: bytesOf(sized(64 * MIB, 6 * MIB) + 1, "account"), name: "a" }, RAW);
    const during = await vram.capacity();
    expect(during.bytesUsed - before.bytesUsed).toBeGreaterThan(sized(64 * MIB, 6 * MIB));
    await vram.evict("a");
    expect((await vram.capacity()).bytesUsed).toBe(before.bytesUsed);
  });

  test("a seal that is aborted half way leaves nothing behind", async () => {
    const { vram } = await openOnGpu();
    const stop = new AbortController();
    const chunk = bytesOf(MIB, "aborted");
    async function* chunks() {
      for (let left = 8; left > 0; left -= 1) {
        if (left === 4) stop.abort();
        yield chunk;
      }
    }
    const sealing = vram.seal({ chunks: chunks(), byteLength: 8 * MIB, name: "a" }, { ...RAW, signal: stop.signal });
    expect(await codeOf(sealing)).toBe("ABORTED");
    expect(vram.list()).toEqual([]);
    expect((await vram.seal({ bytes: chunk, name: "a" }, RAW)).record.digest).toBe(hex(digestOf(chunk)));
  });
});
