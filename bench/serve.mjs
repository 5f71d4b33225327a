/** A service that is measured: `vram serve` in a process of its own, on the EMULATED device. */
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const BIN = fileURLToPath(new URL("../dist/cli/bin.js", import.meta.url));

/** Starts `vram serve` and waits until it can be reached. */
export async function startService(folder, capacityBytes) {
  const runtime = join(folder, "run");
  mkdirSync(runtime, { mode: 0o700 });
  const env = { ...process.env, XDG_RUNTIME_DIR: runtime, XDG_STATE_HOME: join(folder, "state"), HOME: folder };
  const args = [
    BIN,
    "serve",
    "--json",
    "--quiet",
    "--backend",
    "emulated",
    "--set",
    `emulated.bytes=${capacityBytes}B`,
  ];
  const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const said = await new Promise((resolve, reject) => {
    child.stdout.once("data", (bytes) => resolve(JSON.parse(bytes.toString())));
    ended.then((code) => reject(new Error(`the service ended with ${code}`)));
  });
  return {
    socket: said.socket,
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}
