/**
 * `npm run quickstart`: from a fresh clone to a model that was sealed, tampered with and caught, in one command.
 * Leaves `node_modules` and `dist` behind and nothing else. Its first two steps, `install` and `build`, are also
 * those of `npm test`.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository. */
export const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The oldest Node.js that is supported; the same figure stands in package.json under `engines`. */
const NODE_FLOOR = [20, 19];

/** A step that did not work out: `code` is what the process should end with. */
export class StepFailed extends Error {
  /**
   * @param {string} message
   * @param {number} code
   */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/**
 * Children that are running: a signal that ends us ends them first. Process ids, negative where the child leads a
 * group: a test runner that is told to stop leaves its workers behind, and the group is what reaches them.
 * @type {Set<number>}
 */
const children = new Set();
/** @type {NodeJS.Signals | undefined} */
let stoppedBy;

/**
 * Runs `main` so that Ctrl-C and its relatives reach the running child first, `finally` blocks run, and only then does
 * this process end, by the same signal. Otherwise it ends with the exit code that `main` returns.
 * @param {() => Promise<number>} main
 */
export async function runToTheEnd(main) {
  for (const signal of /** @type {NodeJS.Signals[]} */ (["SIGINT", "SIGTERM", "SIGHUP"])) {
    process.on(signal, () => {
      // The second time the child has had its chance.
      for (const pid of children) {
        try {
          process.kill(pid, stoppedBy === undefined ? signal : "SIGKILL");
        } catch {
          // It has just ended by itself.
        }
      }
      stoppedBy ??= signal;
    });
  }
  try {
    process.exitCode = await main();
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error;
    process.exitCode = error.code;
    if (stoppedBy === undefined) process.stderr.write(`\n${error.message}\n`);
  }
  if (stoppedBy !== undefined) {
    process.removeAllListeners(stoppedBy);
    process.kill(process.pid, stoppedBy);
  }
}

/**
 * Runs a program in the repository to its end.
 * @param {string} program
 * @param {string[]} args
 * @param {{ hidden?: boolean, stdin?: "ignore" | "inherit" }} [options] `hidden`: collect what it prints instead of
 *   showing it
 * @returns {Promise<{ code: number, output: string }>} `code` is 128 and more if a signal ended it
 */
export function runProgram(program, args, { hidden = false, stdin = "ignore" } = {}) {
  return new Promise((resolve, reject) => {
    if (stoppedBy !== undefined) return reject(new StepFailed("stopped", 130));
    const shown = hidden ? "pipe" : "inherit";
    // Who may read the terminal must stay in our group, or the first read would stop it.
    const detached = stdin === "ignore";
    const child = spawn(program, args, { cwd: ROOT, stdio: [stdin, shown, shown], detached });
    const pid = (child.pid ?? 0) * (detached ? -1 : 1);
    if (child.pid !== undefined) children.add(pid);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    child.on("error", (error) => {
      children.delete(pid);
      reject(new StepFailed(`${program} could not be started: ${error.message}`, 1));
    });
    child.on("close", (code) => {
      children.delete(pid);
      if (stoppedBy !== undefined) reject(new StepFailed("stopped", 130));
      else resolve({ code: code ?? 128, output });
    });
  });
}

/**
 * Runs a step out of sight; what it printed is shown only if it fails.
 * @param {string} what
 * @param {string} program
 * @param {string[]} args
 */
async function runHidden(what, program, args) {
  const { code, output } = await runProgram(program, args, { hidden: true });
  if (code === 0) return;
  process.stderr.write(output);
  throw new StepFailed(`${what} failed (exit ${code})`, code);
}

/**
 * Whether `node_modules` is what the lockfile asks for. npm leaves a copy of what it installed, and only when it came
 * to its end. Packages for other platforms are left out there.
 */
function isInstalled() {
  try {
    const read = (/** @type {string} */ path) => JSON.parse(readFileSync(join(ROOT, path), "utf8")).packages;
    const wanted = read("package-lock.json");
    const present = read("node_modules/.package-lock.json");
    const same = (/** @type {string} */ path) =>
      path === "" || (wanted[path].optional && !present[path]) || wanted[path].integrity === present[path]?.integrity;
    return Object.keys(wanted).every(same) && Object.keys(present).every((path) => path in wanted);
  } catch {
    return false;
  }
}

/**
 * Installs the packages of the lockfile if they are missing or others; no package's scripts are run.
 * @param {(line: string) => void} announce
 */
export async function install(announce) {
  if (isInstalled()) return;
  announce("installing packages (npm ci --ignore-scripts)");
  await runHidden("npm ci", "npm", ["ci", "--ignore-scripts"]);
}

/** Builds `dist`. */
export async function build() {
  await runHidden("the build", process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]);
}

/** @param {string} line */
const announce = (line) => process.stdout.write(`• ${line}\n`);

const NEXT_STEPS = `
That ran on the EMULATED device: no GPU was used, and nothing here says anything about real VRAM.

Where to go next:
  npx vram digest FILE             the fs-verity digest of a file of yours
  npx vram try [--tamper] FILE     the same journey with a model of yours
  npx vram doctor                  what this machine has, and what is missing
  README.md                        what this is, and what works today
  ARCHITECTURE.md                  the journey on one page
`;

/** The quickstart itself. Returns the exit code of `vram try`. */
async function quickstart() {
  const startMs = performance.now();
  await install(announce);
  announce("building");
  await build();
  const folder = mkdtempSync(join(tmpdir(), "vram-quickstart-"));
  try {
    const model = join(folder, "model.safetensors");
    announce("writing a model of 64 MiB");
    const { writeModel } = await import("./make-model.mjs");
    writeModel(model);
    announce("vram try --tamper model.safetensors\n");
    // Emulation is asked for by name, so that what is said below holds on a machine with a GPU, too.
    process.env.VRAM_BACKEND = "emulated";
    // Lines for people, also where the output is collected in a file.
    const command = ["dist/cli/bin.js", "try", "--tamper", "--log-format", "text", model];
    const { code } = await runProgram(process.execPath, command, { stdin: "inherit" });
    if (code !== 0) throw new StepFailed(`vram try ended with exit ${code}`, code);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  process.stdout.write(`${NEXT_STEPS}\nDone in ${((performance.now() - startMs) / 1000).toFixed(1)} s.\n`);
  return 0;
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < NODE_FLOOR[0] || (major === NODE_FLOOR[0] && minor < NODE_FLOOR[1])) {
    const floor = NODE_FLOOR.join(".");
    process.stderr.write(
      `This needs Node.js ${floor} or newer, and this is ${process.versions.node}. See https://nodejs.org/ for a newer one.\n`,
    );
    process.exitCode = 1;
  } else {
    await runToTheEnd(quickstart);
  }
}
