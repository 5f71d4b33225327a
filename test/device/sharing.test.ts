/** Memory and other processes: descriptors, imports, what an importer may do, what outlives its maker. */
import { closeSync, readFileSync, readlinkSync } from "node:fs";
import { expect, test } from "vitest";
import { present } from "../../src/assert.ts";
import { ask, type Opened, onGpu, openOnGpu, runScript, sized } from "../helpers/gpu.ts";
import { codeOf, MIB } from "../helpers/vram.ts";

const PATTERN = 0x42;

/** Seals a shard full of a pattern; its handle, so that a test can hand its memory to another process. */
async function sealPattern({ vram, cuHandles }: Opened, name: string) {
  const before = cuHandles.length;
  const bytes = Buffer.alloc(sized(64 * MIB, 2 * MIB), PATTERN);
  const { record } = await vram.seal({ bytes, name }, { format: "raw" });
  return { record, byteLength: bytes.byteLength, cuHandle: present(cuHandles[before], "the shard's handle") };
}

/** Has another process import the memory behind `fd`, and write to three of its blocks if it should. */
async function importElsewhere(fd: number, byteLength: number, options: object) {
  const all = JSON.stringify({ byteLength, pattern: PATTERN, access: "read", ...options });
  const out = await runScript(["scripts/gpu/parts.mjs", "importer", all], fd);
  return JSON.parse(out) as { found: { blocks: number; zero: number; pattern: number } };
}

onGpu("memory and other processes", () => {
  test("a descriptor of device memory is not inherited by processes that are started later", async () => {
    const opened = await openOnGpu();
    const { cuHandle } = await sealPattern(opened, "a");
    const fd = opened.open.driver.memory.exportFd(cuHandle);
    const flags = /flags:\s*([0-7]+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "";
    expect(Number.parseInt(flags, 8) & 0o2000000).not.toBe(0);
    expect(readlinkSync(`/proc/self/fd/${fd}`).length).toBeGreaterThan(0);
    closeSync(fd);
  });

  test("another process that is handed the descriptor reads the sealed bytes, and the shard stays what it was", async () => {
    const opened = await openOnGpu();
    const { cuHandle, byteLength } = await sealPattern(opened, "a");
    const fd = opened.open.driver.memory.exportFd(cuHandle);
    const { found } = await importElsewhere(fd, byteLength, {});
    closeSync(fd);
    expect(found).toEqual({ blocks: byteLength / 4096, zero: 0, pattern: byteLength / 4096 });
    expect((await opened.vram.verify("a")).bytesCovered).toBe(byteLength);
  });

  test("[VR-VER-01] bytes that another process wrote through its own mapping are found, and named", async () => {
    const opened = await openOnGpu({ onMismatch: "quarantine" });
    const { cuHandle, byteLength } = await sealPattern(opened, "a");
    const { record: other } = await sealPattern(opened, "b");
    const fd = opened.open.driver.memory.exportFd(cuHandle);
    await importElsewhere(fd, byteLength, { access: "readWrite", write: true });
    closeSync(fd);
    const error: unknown = await opened.vram.verify("a").catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      code: "MEASUREMENT_MISMATCH",
      details: { damage: { rangeCount: 1, ranges: [{ offset: 0, byteLength: 524_288 }] } },
    });
    expect(opened.vram.inspect("a")).toMatchObject({ sealed: false });
    expect((await opened.vram.verify(other.shardId)).record.sealed).toBe(true);
  });

  test("[VR-MEM-03] what an importer still holds after an eviction is zeros", async () => {
    const opened = await openOnGpu();
    const { cuHandle, byteLength } = await sealPattern(opened, "a");
    const fd = opened.open.driver.memory.exportFd(cuHandle);
    expect(await opened.vram.evict("a")).toMatchObject({ zeroed: true });
    const { found } = await importElsewhere(fd, byteLength, {});
    closeSync(fd);
    expect(found).toEqual({ blocks: byteLength / 4096, zero: byteLength / 4096, pattern: 0 });
    expect(await codeOf(opened.vram.verify("a"))).toBe("SHARD_NOT_FOUND");
  });

  test("an importer has an access of its own: the exporter's read-only mapping does not bind it", async () => {
    const { done, data } = await ask("semantics", "import-elsewhere");
    expect(done).toBe("answered");
    expect(data).toMatchObject({
      exporterSeesItsWrites: { kernel: true, copy: true, fill: true },
      exporterAccessIsStill: 1,
    });
  });

  test("memory whose maker was killed while it worked survives with whoever holds its descriptor", async () => {
    const { done, data } = await ask("death", "working-held");
    expect(done).toBe("answered");
    expect(data).toMatchObject({ survives: true });
  });

  test("memory can be made, mapped and exported with no context at all", async () => {
    const { data } = await ask("semantics", "without-context");
    expect(data).toMatchObject({
      "create, reserve, map, set access": "SUCCESS (0)",
      export: "SUCCESS (0)",
      memoryInfo: "INVALID_CONTEXT (201)",
    });
  });

  test("writes through an alias are seen by copies, by plain loads and by the hashing kernel", async () => {
    const { done, data } = await ask("semantics", "alias-coherence");
    expect(done).toBe("answered");
    expect(data["counts"]).toEqual({ rounds: 5, copySeen: 5, storeSeen: 5, hashSeen: 5 });
  });
});
