/** A disk without room: what changes something is refused, what takes something away and what looks still works. */
import { execFileSync } from "node:child_process";
import { promises } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { readEntries } from "../helpers/audit-writer.ts";
import { createDisk } from "../helpers/audit-writer-disk.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const SCRIPT = fileURLToPath(new URL("../helpers/audit-writer-full.mjs", import.meta.url));

/** Runs a command where `folder` is a file system of 2 MiB, which is gone when it ends. Root is not needed. */
function onSmallDisk(folder: string, command: readonly string[]): string {
  const script = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"';
  return execFileSync("unshare", ["-Urm", "sh", "-c", script, folder, ...command], { encoding: "utf8" });
}

const canMount = ((): boolean => {
  try {
    onSmallDisk("/tmp", ["true"]);
    return true;
  } catch {
    return false;
  }
})();
if (!canMount) console.log("skipped: the audit log on a full tmpfs, which cannot be mounted here");

describe("a disk that is full", () => {
  test.skipIf(!canMount)("[VR-AUD-03] a tmpfs: seal and resume are refused, evict, verify and close work", async () => {
    const { path } = await randomFile(2 * MIB);
    const folder = await temporaryFolder();
    const said = JSON.parse(onSmallDisk(folder, [process.execPath, SCRIPT, folder, path])) as unknown;
    expect(said).toEqual({
      triedWithRoom: 0,
      firstRefusal: "AUDIT_UNAVAILABLE",
      seals: ["AUDIT_UNAVAILABLE", "AUDIT_UNAVAILABLE", "AUDIT_UNAVAILABLE"],
      tried: 7,
      reserveWhenFull: false,
      verify: "ok",
      verifyDamaged: "MEASUREMENT_MISMATCH",
      resume: "AUDIT_UNAVAILABLE",
      evict: "ok",
      whenFull: "intact",
      resumeWithRoom: "ok",
      sealWithRoom: "ok",
      reserveWithRoom: MIB,
      close: "ok",
      sealAfterRestart: "ok",
      verdict: "intact",
      problems: [],
      triedAgain: 0,
    });
  });

  test("[VR-AUD-03] /dev/full behind the lines: the same, and again when there is room", async () => {
    const disk = createDisk();
    const stateDir = `${await temporaryFolder()}/state`;
    const { path } = await randomFile(2 * MIB);
    const { vram, flipBit } = await openSmall({ stateDir }, { auditFiles: disk.openFile });
    const first = (await vram.seal(path, { name: "first" })).record.shardId;
    const second = (await vram.seal(path, { name: "second" })).record.shardId;
    const full = await promises.open("/dev/full", "w");
    disk.onWrite = async (name, bytes) => {
      if (name.endsWith(".jsonl")) await full.write(bytes);
    };
    expect(await codeOf(vram.seal(path, { name: "third" }))).toBe("AUDIT_UNAVAILABLE");
    await vram.verify(first);
    await flipBit(second, 12_345, 3);
    expect(await codeOf(vram.verify(second))).toBe("MEASUREMENT_MISMATCH");
    expect(await codeOf(vram.resume("the disk is still full"))).toBe("AUDIT_UNAVAILABLE");
    await vram.evict(second);
    disk.onWrite = () => Promise.resolve();
    await vram.resume("there is room");
    expect((await vram.seal(path, { name: "fourth" })).record.sealed).toBe(true);
    await full.close();
    await vram.close();
    const types = (await readEntries(join(stateDir, "audit"))).map(({ type }) => type);
    expect(types.filter((type) => type === "vram_sealed")).toHaveLength(3);
    expect(types).toEqual(
      expect.arrayContaining(["seal_verified", "seal_verification_failed", "worker_stopped", "worker_resumed"]),
    );
  });
});
