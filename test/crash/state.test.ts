import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

/** Starts `vram try --tamper` and kills it with SIGKILL as soon as it has told `word`. */
async function killAt(word: string, stateDir: string, path: string): Promise<void> {
  const command = ["try", "--tamper", "--log-format", "text", "--state-dir", stateDir, path];
  const child: ChildProcess = spawn(process.execPath, [BIN, ...command], {
    stdio: ["ignore", "inherit", "pipe"],
    env: { ...process.env, VRAM_BACKEND: "emulated", VRAM_EMULATED_BYTES: String(128 * MIB), VRAM_HASH_THREADS: "0" },
  });
  let text = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (text.includes(`  ${word}`)) child.kill("SIGKILL");
  });
  await once(child, "exit");
  expect(text).toContain(`  ${word}`);
}

describe("kill -9", () => {
  it("[VR-VER-06] after a mismatch was caught: the worker is still stopped at the next start", async () => {
    const stateDir = `${await temporaryFolder()}/state`;
    const { path } = await randomFile(8 * MIB);
    await killAt("stopped", stateDir, path);
    const { vram } = await openSmall({ stateDir });
    expect(vram.devices()[0]?.state).toBe("stopped");
    expect(await codeOf(vram.seal(path))).toBe("WORKER_STOPPED");
    await vram.resume("the test killed it");
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });

  it.each(["device", "reserved", "sealed", "tampered"])("at '%s': keys and state are whole", async (word) => {
    const stateDir = `${await temporaryFolder()}/state`;
    const { path } = await randomFile(8 * MIB);
    await killAt(word, stateDir, path);
    expect(await readFile(`${stateDir}/root.key`, "utf8")).toMatch(/^[0-9a-f]{64}$/);
    expect((await stat(`${stateDir}/root.key`)).mode & 0o777).toBe(0o600);
    const { vram } = await openSmall({ stateDir });
    if (vram.devices()[0]?.state === "stopped") await vram.resume("the process was killed after it had caught the bit");
    expect((await vram.seal(path)).record.sealed).toBe(true);
  });
});
