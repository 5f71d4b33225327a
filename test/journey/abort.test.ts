import { open as openHandle } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import type { Entry } from "../../src/journal/entry.ts";
import { type FileSystem, nodeFileSystem } from "../../src/source/file.ts";
import { codeOf, MIB, openSmall, randomFile } from "../helpers/vram.ts";

describe("what is cut short leaves nothing behind", () => {
  it("an abort at every step of the upload, and at every stage before the entry is durable", async () => {
    const { path } = await randomFile(3 * MIB);
    let abortAt: string | undefined;
    let controller = new AbortController();
    const seen: string[] = [];
    const accept = (entry: Entry): void => {
      const step = entry.type === "upload_progressed" ? `${entry.type} ${entry.bytesDone}` : entry.type;
      seen.push(step);
      if (step === abortAt) controller.abort();
    };
    const { vram } = await openSmall({ readers: [{ required: true, accept }] });
    const before = await vram.capacity();
    await vram.evict((await vram.seal(path)).record.shardId);
    const steps = [...new Set(seen.slice(seen.indexOf("source_opened"), seen.indexOf("vram_sealed")))];
    expect(steps.filter((step) => step.startsWith("upload_progressed"))).toHaveLength(6);
    for (const step of steps) {
      abortAt = step;
      controller = new AbortController();
      expect(await codeOf(vram.seal(path, { signal: controller.signal })), step).toBe("ABORTED");
      abortAt = undefined;
      expect(vram.list(), step).toEqual([]);
      expect(await vram.capacity(), step).toEqual(before);
    }
    expect(await codeOf(vram.seal(path, { signal: AbortSignal.abort() }))).toBe("ABORTED");
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });

  it("[VR-IN-03] a file that changes between two reads is refused", async () => {
    const { path } = await randomFile(3 * MIB);
    let reads = 0;
    let meddle: (() => Promise<void>) | undefined;
    const fs: FileSystem = {
      ...nodeFileSystem,
      open: async (file, flags) => {
        const handle = await nodeFileSystem.open(file, flags);
        return {
          fd: handle.fd,
          stat: (options) => handle.stat(options),
          close: () => handle.close(),
          read: async (...args) => {
            reads += 1;
            if (reads === 3) await meddle?.();
            return handle.read(...args);
          },
        };
      },
    };
    const { vram } = await openSmall({}, { fs });
    const before = await vram.capacity();
    const ways = [
      async () => {
        const file = await openHandle(path, "r+");
        await file.write(Buffer.from("changed"), 0, 7, 100);
        await file.close();
      },
      async () => {
        const file = await openHandle(path, "a");
        await file.write("longer");
        await file.close();
      },
      async () => {
        const file = await openHandle(path, "r+");
        await file.truncate(2 * MIB);
        await file.close();
      },
    ];
    for (const way of ways) {
      reads = 0;
      meddle = way;
      expect(await codeOf(vram.seal(path))).toBe("SOURCE_CHANGED");
      meddle = undefined;
      expect(vram.list()).toEqual([]);
      expect(await vram.capacity()).toEqual(before);
    }
    expect((await vram.seal(path)).record.byteLength).toBe(2 * MIB);
  });

  it("closing while a seal is in flight aborts it, and waits for it", async () => {
    const { path } = await randomFile(8 * MIB);
    const { vram, types } = await openSmall();
    const sealing = codeOf(vram.seal(path));
    await vram.close();
    expect(await sealing).toBe("ABORTED");
    expect(types().filter((type) => type === "vram_sealed")).toEqual([]);
    expect(await codeOf(vram.seal(path))).toBe("CLOSED");
  });

  it("an iterable that hangs can be aborted", async () => {
    const { vram } = await openSmall();
    const before = await vram.capacity();
    async function* hanging() {
      yield new Uint8Array(MIB);
      await new Promise(() => undefined);
    }
    const controller = new AbortController();
    const sealing = codeOf(vram.seal({ chunks: hanging(), byteLength: 2 * MIB }, { signal: controller.signal }));
    setImmediate(() => setImmediate(() => controller.abort()));
    expect(await sealing).toBe("ABORTED");
    expect(await vram.capacity()).toEqual(before);
  });
});
