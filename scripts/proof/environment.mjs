/** Where a run took place: what somebody needs to run it again. Nothing that names the machine, its user or its paths. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { ROOT } from "../quickstart.mjs";

/** A hook of git has the repository that it runs for in its environment; asked is which one this is. */
const HOOKED = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"];
const outsideHooks = () => Object.fromEntries(Object.entries(process.env).filter(([name]) => !HOOKED.includes(name)));

/** What a tool prints, or undefined if it is not there or fails. */
function printed(program, ...args) {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: ROOT, encoding: "utf8", env: outsideHooks() });
  return status === 0 ? stdout || stderr : undefined;
}

/** The line that says which it is: the first one, but for nvcc, which says at length what it is. */
function firstLine(program, ...args) {
  const lines = printed(program, ...args)?.split("\n");
  return (lines?.find((line) => line.includes(", release ")) ?? lines?.[0])?.trim();
}

/** Tools that tests compare with or watch with. */
const TOOLS = [
  ["fsverity", "--version"],
  ["openssl", "version"],
  ["promtool", "--version"],
  ["python3", "--version"],
  ["strace", "--version"],
  ["g++", "--version"],
  ["nvcc", "--version"],
];

/** The commit, and what was changed on top of it. `commit` is undefined where there is no repository. */
export function readSource() {
  const top = firstLine("git", "rev-parse", "--show-toplevel");
  const commit = firstLine("git", "rev-parse", "HEAD");
  // A copy of the files that lies in somebody else's repository is of no commit of that one.
  if (commit === undefined || top === undefined || realpathSync(top) !== realpathSync(ROOT)) {
    return { commit: undefined, changed: [] };
  }
  const changed = printed("git", "status", "--porcelain", "--untracked-files=normal");
  if (changed === undefined) return { commit, changed: ["what git status could not say"] };
  // Whoever takes packages and `dist` as they are cannot say which commit they are of.
  const built = process.env.VRAM_TEST_BUILT === "1" ? ["dist, which was taken as it was"] : [];
  return { commit, changed: [...changed.split("\n").filter((line) => line !== ""), ...built] };
}

/** GPUs as the driver's own files list them; none of them if there is no driver. */
function readGpus() {
  const folder = "/proc/driver/nvidia/gpus";
  if (!existsSync(folder)) return [];
  return readdirSync(folder).map((name) => {
    const text = readFileSync(`${folder}/${name}/information`, "utf8");
    return /^Model:\s*(.+)$/m.exec(text)?.[1] ?? "unknown";
  });
}

const readDriver = () =>
  existsSync("/proc/driver/nvidia/version")
    ? readFileSync("/proc/driver/nvidia/version", "utf8").split("\n")[0].trim()
    : "none";

const osName = () =>
  existsSync("/etc/os-release")
    ? (/^PRETTY_NAME="?([^"\n]+)/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "unknown")
    : "unknown";

export function readEnvironment({ commit, changed }, backends) {
  return {
    commit: commit ?? "none",
    changed,
    version: JSON.parse(readFileSync(`${ROOT}/package.json`, "utf8")).version,
    backends,
    gpus: readGpus(),
    driver: readDriver(),
    node: process.version,
    npm: firstLine("npm", "--version") ?? "none",
    ...{ os: osName(), kernel: release(), architecture: process.arch },
    ...{ cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length, memoryGiB: Math.round(totalmem() / 2 ** 30) },
    tools: Object.fromEntries(TOOLS.map(([tool, flag]) => [tool, firstLine(tool, flag) ?? "none"])),
  };
}

/** Every package at run time, as CycloneDX 1.5, from the lockfile. */
export function readSbom() {
  const { status, stdout, stderr } = spawnSync(
    "npm",
    ["sbom", "--sbom-format", "cyclonedx", "--omit", "dev", "--package-lock-only"],
    { cwd: ROOT, encoding: "utf8", maxBuffer: 64 * 2 ** 20 },
  );
  if (status !== 0) throw new Error(`npm sbom failed (npm 9.5 or newer has it): ${stderr.trim()}`);
  const sbom = JSON.parse(stdout);
  // npm calls the package after the folder that it lies in.
  sbom.metadata.component.name = JSON.parse(readFileSync(`${ROOT}/package.json`, "utf8")).name;
  return sbom;
}
