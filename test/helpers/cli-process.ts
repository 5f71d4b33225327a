/**
 * The built command line as its own process, on disks and with rights that a test chooses. Devices are stand-ins, made
 * by `mknod` in the test's own folder; disks are mounted in a namespace that ends with the process.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CliResult } from "./cli.ts";

export const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

const ENVIRONMENT = {
  VRAM_BACKEND: "emulated",
  VRAM_EMULATED_BYTES: String(128 * 1024 * 1024),
  VRAM_HASH_THREADS: "0",
};

/** Runs a program to its end. `stdout` is a descriptor, or what the program says is in `out`. */
function runToEnd(program: string, args: readonly string[], stdout: number | "pipe" = "pipe"): CliResult {
  const {
    status,
    stdout: out,
    stderr,
  } = spawnSync(program, args, {
    stdio: ["ignore", stdout, "pipe"],
    env: { ...process.env, ...ENVIRONMENT },
    encoding: "utf8",
  });
  return { code: status ?? -1, out: stdout === "pipe" ? out : "", err: stderr };
}

/** `vram` with these arguments, its data going to the descriptor `stdout`. */
export const vramTo = (stdout: number, ...argv: string[]): CliResult =>
  runToEnd(process.execPath, [BIN, ...argv], stdout);

/**
 * A shell script where `folder` is an empty tmpfs of 256 KiB, 64 pages; `vram` is the command line in it, and
 * `leave_pages N` leaves so many pages free.
 */
export function shellOnDisk(folder: string, script: string): CliResult {
  const before = `
    mount -t tmpfs -o size=256k,mode=700 tmpfs "$0" && cd "$0" || exit 99
    vram() { "${process.execPath}" "${BIN}" "$@"; }
    leave_pages() {
      rm -f filling
      head -c $(( (64 - $1) * 4096 - $(df -k --output=used . | tail -n 1) * 1024 )) /dev/zero > filling || exit 99
    }
    ${script}`;
  return runToEnd("unshare", ["-Urm", "sh", "-c", before, folder]);
}

/** `vram` as a user that owns our files and is not root: what its mode forbids is forbidden. */
export const vramUnprivileged = (...argv: string[]): CliResult =>
  runToEnd("unshare", ["-U", process.execPath, BIN, ...argv]);

/** Makes a node that behaves as /dev/full or /dev/null does. */
export function makeNode(path: string, like: "full" | "null"): void {
  execFileSync("mknod", ["-m", "666", path, "c", "1", like === "full" ? "7" : "3"], { stdio: "pipe" });
}

function succeeds(task: (folder: string) => void): boolean {
  const folder = mkdtempSync(join(tmpdir(), "vram-test-"));
  try {
    task(folder);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Whether this machine lets us make nodes that can be opened. */
export const canMakeNodes = succeeds((folder) => {
  makeNode(join(folder, "null"), "null");
  execFileSync("sh", ["-c", 'echo > "$0"', join(folder, "null")], { stdio: "pipe" });
});
/** Whether it lets us mount in a namespace of our own. */
export const canMount = succeeds((folder) => {
  execFileSync("unshare", ["-Urm", "mount", "-t", "tmpfs", "tmpfs", folder], { stdio: "pipe" });
});

for (const [can, what] of [
  [canMakeNodes, "device nodes, which cannot be made here"],
  [canMount, "full disks and missing rights, for want of namespaces"],
] as const) {
  if (!can) console.log(`skipped: the command line and ${what}`);
}
