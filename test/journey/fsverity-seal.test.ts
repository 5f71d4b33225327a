import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { MIB, openSmall, randomFile } from "../helpers/vram.ts";

const MODELS = fileURLToPath(new URL("../../../shared/models", import.meta.url));
const hasTool = spawnSync("fsverity", ["--version"]).status === 0;
const hasModels = existsSync(MODELS);
if (!hasTool) console.log("skipped: the tool fsverity is not installed (Debian package fsverity)");
if (!hasModels) console.log("skipped: no folder ../shared/models beside the checkout");

const fsverity = (path: string, ...salt: string[]): string =>
  execFileSync("fsverity", ["digest", "--compact", ...salt, path])
    .toString()
    .trim();

describe.skipIf(!hasTool)("the measurement in emulated VRAM equals `fsverity digest` (needs fsverity)", () => {
  it.each([1, 4095, 4096, 4097, 524_287, 524_288, 524_289, 64 * MIB - 1, 64 * MIB, 64 * MIB + 1])(
    "[VR-SEAL-05] %d bytes, plain and salted",
    async (size) => {
      const { path } = await randomFile(size);
      const { vram } = await openSmall({}, { ringSlotBytes: 8 * MIB, measureWindowBytes: 32 * MIB });
      const { record } = await vram.seal(path, { expected: fsverity(path) });
      expect(record).toMatchObject({ sealed: true, comparedWith: "expected" });
      const salt = "5a17".repeat(8);
      const report = await vram.verify(record.shardId, { salt });
      expect(report.salted?.digest).toBe(fsverity(path, `--salt=${salt}`));
    },
  );

  it.skipIf(!hasModels)("[VR-SEAL-01] the real model files, by the digest the tool gives", async () => {
    const { vram } = await openSmall();
    for (const name of readdirSync(MODELS)) {
      if (!/\.(?:gguf|safetensors)$/.test(name)) continue;
      const path = join(MODELS, name);
      // Raw: the bytes are what is measured here; the headers have tests of their own.
      const { record } = await vram.seal(path, { expected: fsverity(path), format: "raw" });
      expect(await vram.verify(record.shardId)).toMatchObject({ digest: record.digest });
    }
    expect(vram.list().length).toBeGreaterThanOrEqual(5);
  });
});
