/** What a process over the native driver takes from Linux stays level: memory, mappings, open files. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { fakeEnvironment, fakeLibrary, NO_NVML } from "../helpers/native.ts";
import { MIB, randomFile } from "../helpers/vram.ts";

interface Level {
  readonly rss: number;
  readonly fds: number;
  readonly maps: number;
  /** Mappings of files and of memory that has a descriptor, as the device's has over the fake. */
  readonly files: number;
  readonly handles: Record<string, number>;
}

/** A module that may call `level()`, and prints what `task` resolves to. */
const script = (task: string): string => `
  import { readdirSync, readFileSync } from "node:fs";
  import { openVram } from ${JSON.stringify(new URL("../../dist/index.js", import.meta.url).href)};
  import { liveHandles } from ${JSON.stringify(new URL("../../dist/testing.js", import.meta.url).href)};
  const [, path] = process.argv;
  const options = {
    cudaLibrary: ${JSON.stringify(fakeLibrary())},
    nvmlLibrary: ${JSON.stringify(NO_NVML)},
    hashThreads: 0,
  };
  const level = () => {
    for (let round = 0; round < 3; round += 1) globalThis.gc();
    // ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH: what V8 maps for itself has no inode.
    const maps = readFileSync("/proc/self/maps", "utf8").split("\\n");
    return {
      rss: process.memoryUsage.rss(),
      fds: readdirSync("/proc/self/fd").length,
      maps: maps.length,
      files: maps.filter((line) => !["0", undefined].includes(line.split(/ +/)[4])).length,
      handles: liveHandles(),
    };
  };
  const task = async () => { ${task} };
  console.log(JSON.stringify(await task()));`;

async function levels(task: string, byteLength: number): Promise<readonly Level[]> {
  const { path } = await randomFile(byteLength);
  const args = ["--expose-gc", "--input-type=module", "-e", script(task), path];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: fakeEnvironment() });
  return JSON.parse(stdout) as Level[];
}

/** The level before and after, as differences. */
function growth([before, after]: readonly Level[]): Level {
  if (before === undefined || after === undefined) return expect.fail("two levels are needed");
  expect(after.handles).toEqual(before.handles);
  return {
    rss: after.rss - before.rss,
    fds: after.fds - before.fds,
    maps: after.maps - before.maps,
    files: after.files - before.files,
    handles: after.handles,
  };
}

describe.skipIf(fakeCuda() === undefined)(`a long life over the native driver${whyNoFakeCuda()}`, () => {
  it("[VR-MEM-03] [VR-MEM-08] fifty times sealed, verified and evicted leave memory, mappings and open files level", async () => {
    const byteLength = 8 * MIB + 1;
    const task = `
      const vram = await openVram(options);
      const cycle = async () => {
        const { record, seal } = await vram.seal(path);
        await vram.verify(record.shardId, { seal });
        await vram.evict(record.shardId);
      };
      for (let round = 0; round < 10; round += 1) await cycle();
      const before = level();
      for (let round = 0; round < 50; round += 1) await cycle();
      const after = level();
      await vram.close();
      return [before, after];`;
    const { rss, fds, maps, files } = growth(await levels(task, byteLength));
    expect([fds, files]).toEqual([0, 0]);
    // V8 takes and gives back a few of its own; fifty shards that stayed would be fifty and more.
    expect(Math.abs(maps)).toBeLessThan(25);
    // Measured: 1 to 10 MiB of the allocator's own. Fifty shards that stayed would be 400.
    expect(rss).toBeLessThan(4 * byteLength);
  });

  it("[VR-MEM-03] systems that are opened, used and closed again and again leave nothing behind", async () => {
    const task = `
      const cycle = async () => {
        const vram = await openVram(options);
        await vram.seal(path, { name: "left to close" });
        await vram.close();
      };
      for (let round = 0; round < 3; round += 1) await cycle();
      const before = level();
      for (let round = 0; round < 12; round += 1) await cycle();
      return [before, level()];`;
    const { rss, fds, maps, handles } = growth(await levels(task, MIB));
    expect(handles).toEqual({});
    expect(fds).toBe(0);
    expect(Math.abs(maps)).toBeLessThan(20);
    // The ring alone has 128 MiB.
    expect(rss).toBeLessThan(64 * MIB);
  });

  it("[VR-MEM-03] seals that are refused leave open files and mappings level, too", async () => {
    const task = `
      const vram = await openVram(options);
      const refuse = () => vram.seal(path, { expected: "0".repeat(64) }).then(
        () => { throw new Error("it was sealed"); },
        (error) => { if (error.code !== "DIGEST_MISMATCH") throw error; },
      );
      for (let round = 0; round < 5; round += 1) await refuse();
      const before = level();
      for (let round = 0; round < 30; round += 1) await refuse();
      const after = level();
      await vram.close();
      return [before, after];`;
    const { rss, fds, maps } = growth(await levels(task, 4 * MIB));
    expect(fds).toBe(0);
    expect(Math.abs(maps)).toBeLessThan(10);
    expect(rss).toBeLessThan(16 * MIB);
  });
});
