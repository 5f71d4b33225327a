/** The checks of `vram doctor` that look at the machine: driver, tools, limits, permissions. Each returns lines. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, promises, readFileSync, type Stats } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { delimiter, join } from "node:path";
import { formatBytes } from "../../bytes.ts";
import { readKernelImage, SHIPPED_VARIANT } from "../../cuda/native/kernel-image.ts";
import { readHostTraces } from "../../device/detect.ts";
import { systemFix, systemReason } from "../../errors.ts";
import { isSystemError } from "../../files.ts";
import { LIMITS } from "../../limits.ts";
import type { VramOptions } from "../../open.ts";
import type { Check } from "./doctor.ts";

const TOOL_TIMEOUT_MS = 10_000;

/** The first line a command prints; undefined when it is absent or fails. */
function firstLine(file: string, args: readonly string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    execFile(file, args, { timeout: TOOL_TIMEOUT_MS }, (error, stdout) => {
      const lines = stdout.trim().split("\n");
      resolve(error === null ? (lines.find((line) => line.includes("release")) ?? lines[0]) : undefined);
    });
  });
}

/** What is loaded into the driver, and for which architectures: PTX runs on its own and every later one. */
function kernelText(): string {
  const digest = createHash("sha256").update(readKernelImage()).digest("hex");
  return `hashing kernel: PTX for compute capability 7.5 (Turing) and newer, variant ${SHIPPED_VARIANT}, sha256:${digest}`;
}

/** The NVIDIA driver, as far as files tell. */
export async function driverChecks(options: VramOptions): Promise<Check[]> {
  const traces = readHostTraces(options.libraryPath);
  const kernel = await promises.readFile("/proc/driver/nvidia/version", "utf8").catch(() => undefined);
  const closed = traces.deniedNodes;
  const checks: Check[] = [
    { id: "node", status: "ok", what: `Node.js ${process.versions.node} on ${process.platform} ${process.arch}` },
    {
      id: "driver-library",
      status: "note",
      what: traces.driverLibrary ? "libcuda.so.1 is here" : "libcuda.so.1 is not here",
    },
    {
      id: "device-nodes",
      status: "note",
      what: traces.deviceNodes.length > 0 ? `/dev: ${traces.deviceNodes.join(", ")}` : "no /dev/nvidia* device node",
    },
    { id: "kernel-driver", status: "note", what: kernel?.split("\n")[0] ?? "no NVIDIA kernel driver is loaded" },
    { id: "kernels", status: "note", what: kernelText() },
  ];
  if (closed.length > 0) {
    const what = `this user may not use ${closed.map((node) => `/dev/${node}`).join(", ")}`;
    const fix = "add the user to the group that owns them (often video or render)";
    checks.push({ id: "device-permissions", status: "fail", what, fix });
  }
  if (traces.wddm) {
    const what = "/dev/dxg is here: WSL2, where Windows pages VRAM";
    checks.push({ id: "wddm", status: "warn", what, fix: "use bare-metal Linux for real GPUs" });
  }
  return checks;
}

/** Tools that help but are not needed. `path` is `PATH`. */
export async function toolChecks(path: string): Promise<Check[]> {
  const tools = [
    { name: "nvidia-smi", args: ["--version"], use: "shows the GPU's own view" },
    { name: "nvcc", args: ["--version"], use: "rebuilds kernels; never needed to run" },
    { name: "fsverity", args: ["--version"], use: "computes the same digests independently" },
    { name: "openssl", args: ["version"], use: "recomputes a seal's mac independently" },
  ];
  return Promise.all(
    tools.map(async ({ name, args, use }): Promise<Check> => {
      const file = path
        .split(delimiter)
        .map((folder) => join(folder, name))
        .find((candidate) => existsSync(candidate));
      const version = file === undefined ? undefined : await firstLine(file, args);
      const what = file === undefined ? `${name} is not here (${use})` : `${name}: ${version ?? "does not answer"}`;
      return { id: `tool-${name}`, status: "note", what };
    }),
  );
}

/** Locked-memory limit in bytes; undefined when unlimited or unknown. */
function lockedMemoryLimit(): number | undefined {
  try {
    const line = readFileSync("/proc/self/limits", "utf8").match(/^Max locked memory\s+(\d+)/m);
    return line?.[1] === undefined ? undefined : Number(line[1]);
  } catch {
    return undefined;
  }
}

/** Limits of this process that matter to sealing. */
export function limitChecks(): Check[] {
  const ringBytes = LIMITS.ringSlots * LIMITS.ringSlotBytes;
  const locked = lockedMemoryLimit();
  return [
    {
      id: "host-memory",
      status: totalmem() > 4 * ringBytes ? "ok" : "warn",
      what: `host memory ${formatBytes(totalmem())}; sealing takes a ring of ${formatBytes(ringBytes)}`,
      ...(totalmem() > 4 * ringBytes ? {} : { fix: "a machine with more memory seals without swapping" }),
    },
    {
      id: "locked-memory",
      status: "note",
      what: `locked memory: ${locked === undefined ? "unlimited" : `limit ${formatBytes(locked)} (the driver pins its own)`}`,
    },
    { id: "threads", status: "ok", what: `${availableParallelism()} hashing threads` },
    { id: "model-limit", status: "note", what: `models up to ${LIMITS.maxModelBytes} bytes` },
  ];
}

/** The state directory, if one was named. */
export async function stateChecks(directory: string | undefined): Promise<Check[]> {
  if (directory === undefined)
    return [{ id: "state", status: "note", what: "no state directory named: keys stay in memory" }];
  let stats: Stats;
  try {
    stats = await promises.stat(directory);
  } catch (cause) {
    if (isSystemError(cause, "ENOENT")) {
      return [{ id: "state", status: "note", what: `${directory} does not exist yet` }];
    }
    const what = `${directory} cannot be looked at: ${systemReason(cause) ?? String(cause)}`;
    return [{ id: "state", status: "fail", what, fix: systemFix(cause) ?? "name a directory" }];
  }
  if (!stats.isDirectory()) {
    return [{ id: "state", status: "fail", what: `${directory} is not a directory`, fix: "name a directory" }];
  }
  const isPrivate = (stats.mode & 0o077) === 0 && stats.uid === process.getuid?.();
  if (isPrivate) return [{ id: "state", status: "ok", what: `${directory} is private to this user` }];
  return [{ id: "state", status: "fail", what: `${directory} is open to other users`, fix: `chmod 700 ${directory}` }];
}
