/** Processes with a deadline. All that a process started ends with it: it leads a group, and the group is killed. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** How long a process may take to be gone after its last line, or after it was killed in the middle of a driver call. */
const GRACE_MS = 5000;
const TAIL_CHARACTERS = 2000;

function killGroup(pid) {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // All of it has ended.
  }
}

/** Groups that are running: whoever is told to stop ends them first. */
const running = new Set();
export const killAll = () => running.forEach(killGroup);

/**
 * Runs `node ARGS` and hands every line it writes to descriptor 3 to `onLine`, parsed; `{ "done": … }` is its last.
 * Resolves when it has ended or was given up on; never rejects.
 * @returns {Promise<{ code: number | null, signal: string | null, late: boolean, output: string, seconds: number }>}
 */
export function runNode(args, { limitMs, onLine = () => {}, log = () => {} }) {
  const begin = performance.now();
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  let output = "";
  let lastWords;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      log(text);
      output = (output + text).slice(-TAIL_CHARACTERS);
    });
  }
  createInterface({ input: child.stdio[3] }).on("line", (line) => {
    try {
      const told = JSON.parse(line);
      onLine(told);
      if ("done" in told) lastWords ??= setTimeout(() => killGroup(child.pid), GRACE_MS);
    } catch {
      log(`not a line of JSON: ${line}\n`);
    }
  });
  return new Promise((resolve) => {
    let late = false;
    let grace;
    const { pid } = child;
    if (pid !== undefined) running.add(pid);
    const end = (code, signal) => {
      clearTimeout(timer);
      clearTimeout(grace);
      clearTimeout(lastWords);
      if (pid !== undefined) {
        killGroup(pid);
        running.delete(pid);
      }
      resolve({ code, signal, late, output, seconds: (performance.now() - begin) / 1000 });
    };
    const timer = setTimeout(() => {
      late = true;
      if (pid !== undefined) killGroup(pid);
      grace = setTimeout(() => end(null, "SIGKILL, and still there"), GRACE_MS);
    }, limitMs);
    child.on("error", (error) => {
      output += error.message;
      end(null, null);
    });
    // After `exit` children of its own may hold the pipes: they are killed, and then the pipes close.
    child.on("exit", () => pid !== undefined && killGroup(pid));
    child.on("close", end);
  });
}
