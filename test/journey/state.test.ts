import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { VramError } from "../../src/errors.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const errorOf = (task: Promise<unknown>): Promise<VramError> =>
  task.then(
    () => expect.fail("it should have failed"),
    (error: unknown) => error as VramError,
  );

describe("the state directory", () => {
  it("is made with its parents, and refused where none can be made", async () => {
    const stateDir = join(await temporaryFolder(), "a", "b", "state");
    await (await openSmall({ stateDir })).vram.close();
    expect((await stat(join(stateDir, ".."))).mode & 0o777).toBe(0o700);
    for (const nowhere of ["/proc/nope", "/proc/nope/deeper", "/dev/null/x"]) {
      expect(await codeOf(openSmall({ stateDir: nowhere })), nowhere).toBe("STATE_INVALID");
    }
  });

  it("refuses what it did not write, and says which file", async () => {
    const texts = [
      "",
      "{}",
      "null",
      '{"version":1,"backend":"emulated","devices":["EMU-1"],"stopped":null}',
      '{"version":1,"backend":"emulated","devices":["EMU-1"],"stopped":{},"extra":1}',
      '{"version":2,"backend":"emulated","devices":["EMU-1"],"stopped":{}}',
      '{"version":1,"backend":"magic","devices":["EMU-1"],"stopped":{}}',
    ];
    for (const text of texts) {
      const stateDir = join(await temporaryFolder(), "state");
      await mkdir(stateDir, { mode: 0o700 });
      await writeFile(join(stateDir, "root.key"), "0".repeat(64), { mode: 0o600 });
      await writeFile(join(stateDir, "state.json"), text);
      const error = await errorOf(openSmall({ stateDir }));
      expect(error, text).toMatchObject({ code: "STATE_INVALID" });
      expect(error.message).toContain("state.json");
    }
  });

  it("without its key is refused, not given a new one; a key that is a directory is refused too", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    await (await openSmall({ stateDir })).vram.close();
    await rm(join(stateDir, "root.key"));
    expect(await codeOf(openSmall({ stateDir }))).toBe("STATE_INVALID");
    expect((await readdir(stateDir)).sort()).toEqual([
      "audit",
      "audit-epoch.key",
      "audit-log.key",
      "lock",
      "state.json",
    ]);
    await mkdir(join(stateDir, "root.key"), { mode: 0o700 });
    expect(await codeOf(openSmall({ stateDir }))).toBe("STATE_INVALID");
  });

  it("an iterable of nothing but empty chunks ends", async () => {
    const { vram } = await openSmall();
    async function* empty() {
      for (;;) yield new Uint8Array(0);
    }
    expect(await codeOf(vram.seal({ chunks: empty(), byteLength: 5 }))).toBe("SOURCE_READ_FAILED");
    const long = { bytes: new Uint8Array(5), name: "é".repeat(50_000) };
    expect(Buffer.byteLength((await vram.seal(long)).record.name)).toBeLessThanOrEqual(1024);
  });

  it("[VR-SEAL-03] root.key is exactly 64 hex digits, private, and made whole or not at all", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    await (await openSmall({ stateDir })).vram.close();
    const files = ["audit", "audit-epoch.key", "audit-log.key", "lock", "root.key", "state.json"];
    expect((await readdir(stateDir)).sort()).toEqual(files);
    expect((await stat(stateDir)).mode & 0o777).toBe(0o700);
    const key = await readFile(join(stateDir, "root.key"), "utf8");
    for (const text of ["", key.slice(1), `${key}\n`, `${key.slice(0, 63)}g`]) {
      await writeFile(join(stateDir, "root.key"), text);
      expect(await codeOf(openSmall({ stateDir })), JSON.stringify(text)).toBe("STATE_INVALID");
    }
    await writeFile(join(stateDir, "root.key"), key.toUpperCase());
    expect(await codeOf((await openSmall({ stateDir })).vram.capacity())).toContain("no error");
  });

  it("a second opener is refused with the pid of the first, and let in when that one is closed", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    const first = await openSmall({ stateDir });
    const error = await errorOf(openSmall({ stateDir }));
    expect(error).toMatchObject({ code: "STATE_BUSY", details: { pid: process.pid }, retriable: true });
    expect(error.message).toContain(`process ${process.pid}`);
    expect(await codeOf(first.vram.capacity()), "the first is not disturbed").toContain("no error");
    await first.vram.close();
    expect(await codeOf((await openSmall({ stateDir })).vram.capacity())).toContain("no error");
  });

  it("workers that stop one after the other stay stopped over restarts", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    const { path } = await randomFile(MIB);
    const options = { stateDir, emulated: { devices: 2, byteLength: 128 * MIB } };
    for (const device of [0, 1]) {
      const system = await openSmall(options);
      await system.vram.seal(path, { name: "m", device });
      await system.flipBit("m", 1, 1);
      expect(await codeOf(system.vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
      await system.vram.close();
    }
    expect((await openSmall(options)).vram.devices().map((device) => device.state)).toEqual(["stopped", "stopped"]);
  });
});
