/**
 * Builds the PTX in `kernels/` from its sources, or shows that it is what its sources make. The PTX is committed, so
 * that nobody who uses the package needs a CUDA toolkit; `kernels/build.json` says which compiler made it.
 *
 *     npm run kernels                  builds: writes the PTX files and build.json
 *     npm run kernels -- --check       builds elsewhere and compares bytes; changes nothing
 *     npm run kernels -- --registers   assembles the PTX for each architecture and prints the table of kernels/README.md
 *
 * Exit codes: 0; 1 when a file differs, does not compile or spills registers; 2 when the tool is not there, or nvcc is
 * not of the recorded build.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const RECORD = "kernels/build.json";

/** compute_75 (Turing) is the lowest target that nvcc 13 accepts; the driver compiles its PTX for what is there. */
const FLAGS = ["-std=c++17", "-O3", "-arch=compute_75", "-ptx", "-Werror", "all-warnings"];
/** The lowest version that knows sm_75. nvcc writes its own, which older drivers refuse though nothing here needs it. */
const PTX_VERSION = "6.3";
const ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"];

const VARIANTS = [
  { variant: "plain", defines: [] },
  { variant: "imad", defines: ["-DVRAM_IMAD"] },
  { variant: "imad-umulhi", defines: ["-DVRAM_IMAD", "-DVRAM_UMULHI"] },
];

/** @typedef {{ output: string, source: string, defines: string[] }} Target */

/** @type {Target[]} */
const TARGETS = [
  ...["fsverity", "ceiling"].flatMap((name) =>
    VARIANTS.map(({ variant, defines }) => ({
      output: `kernels/${name}.${variant}.ptx`,
      source: `kernels/${name}.cu`,
      defines,
    })),
  ),
  { output: "kernels/probes.ptx", source: "kernels/probes.cu", defines: [] },
];

/** What ends the program, and its exit code. */
class Stopped extends Error {
  /**
   * @param {1 | 2} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * Runs a tool of the toolkit in the repository root. Flags that nvcc would take from the environment are left out:
 * they would change its output.
 * @param {string} tool
 * @param {string[]} args
 * @returns {string} what it printed
 */
function runTool(tool, args) {
  const env = { ...process.env };
  delete env["NVCC_PREPEND_FLAGS"];
  delete env["NVCC_APPEND_FLAGS"];
  try {
    // stderr into stdout: ptxas reports there.
    return execFileSync("sh", ["-c", 'exec "$0" "$@" 2>&1', tool, ...args], { cwd: ROOT, env, encoding: "utf8" });
  } catch (error) {
    const { status, stdout } = /** @type {{ status: number | null, stdout: string | null }} */ (error);
    if (status === 127) throw new Stopped(2, `${tool} is not here: it comes with the CUDA toolkit`);
    throw new Stopped(1, `${tool} ${args.join(" ")} failed:\n${stdout ?? String(error)}`);
  }
}

/** Release, version and build of nvcc, as it prints them. */
function nvccBuild() {
  const text = runTool("nvcc", ["--version"]);
  const [, release, version, build] = /release ([\d.]+), (V[\d.]+)\s+Build (\S+)/.exec(text) ?? [];
  if (build === undefined) throw new Stopped(2, `nvcc --version prints no release and build:\n${text}`);
  return { release, version, build };
}

/** @param {string | Uint8Array} bytes */
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

/**
 * The PTX of a target. Paths are relative to the root, so the place of the checkout cannot get into it.
 * @param {Target} target
 * @param {string} folder temporary
 */
function compile({ output, source, defines }, folder) {
  const path = join(folder, output.replaceAll("/", "-"));
  runTool("nvcc", [...FLAGS, ...defines, source, "-o", path]);
  const lines = readFileSync(path, "utf8").split("\n");
  const at = lines.flatMap((line, index) => (line.startsWith(".version ") ? [index] : []));
  const [index] = at;
  if (index === undefined || at.length !== 1)
    throw new Stopped(1, `${output} has ${at.length} .version lines, not one`);
  lines[index] = `.version ${PTX_VERSION}`;
  return lines.join("\n");
}

/**
 * Compiles everything. Returns the texts by file, build.json last.
 * @param {ReturnType<typeof nvccBuild>} nvcc
 * @returns {Map<string, string>}
 */
function buildAll(nvcc) {
  const folder = mkdtempSync(join(tmpdir(), "vram-kernels-"));
  try {
    const texts = new Map(TARGETS.map((target) => [target.output, compile(target, folder)]));
    const files = TARGETS.map(({ output, source, defines }) => [
      output,
      { source, defines: defines.join(" "), sha256: sha256(texts.get(output) ?? "") },
    ]);
    const record = { nvcc, flags: FLAGS.join(" "), ptxVersion: PTX_VERSION, files: Object.fromEntries(files) };
    texts.set(RECORD, `${JSON.stringify(record, undefined, 2)}\n`);
    return texts;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function build() {
  const texts = buildAll(nvccBuild());
  mkdirSync(join(ROOT, "kernels"), { recursive: true });
  for (const [path, text] of texts) {
    writeFileSync(join(ROOT, path), text);
    process.stdout.write(`${path}: ${Buffer.byteLength(text)} bytes\n`);
  }
}

/** Where two texts part, in words. */
function difference(/** @type {string} */ committed, /** @type {string} */ built) {
  const [ours, theirs] = [committed.split("\n"), built.split("\n")];
  const line = ours.findIndex((text, index) => text !== theirs[index]);
  const at = line === -1 ? ours.length : line;
  return `line ${at + 1} is "${ours[at] ?? ""}", and "${theirs[at] ?? ""}" when built`;
}

function check() {
  if (!existsSync(join(ROOT, RECORD))) throw new Stopped(1, `${RECORD} is missing: npm run kernels writes it`);
  const recorded = JSON.parse(readFileSync(join(ROOT, RECORD), "utf8")).nvcc;
  const nvcc = nvccBuild();
  if (nvcc.build !== recorded.build) {
    throw new Stopped(
      2,
      `nvcc is ${nvcc.version} (${nvcc.build}), not the recorded ${recorded.version} (${recorded.build})`,
    );
  }
  const different = [...buildAll(nvcc)].flatMap(([path, built]) => {
    const committed = existsSync(join(ROOT, path)) ? readFileSync(join(ROOT, path), "utf8") : "";
    return committed === built ? [] : [`${path} is not what its sources make: ${difference(committed, built)}`];
  });
  if (different.length > 0) throw new Stopped(1, `${different.join("\n")}\nnpm run kernels builds them anew`);
  process.stdout.write(`unchanged: ${TARGETS.length} PTX files and ${RECORD}, by nvcc ${nvcc.version}\n`);
}

/**
 * Registers per thread of each entry of a PTX file. Spilling any of them to memory is an error.
 * @param {string} path
 * @param {string} architecture
 * @returns {[entry: string, registers: string][]}
 */
function assemble(path, architecture) {
  const report = runTool("ptxas", ["-v", `-arch=${architecture}`, path, "-o", "/dev/null"]);
  const pattern = /entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers/gs;
  const entries = [...report.matchAll(pattern)];
  if (entries.length === 0) throw new Stopped(1, `ptxas -v says nothing about ${path}:\n${report}`);
  return entries.map(([, entry = "", stores, loads, registers = ""]) => {
    if (stores !== "0" || loads !== "0") {
      throw new Stopped(1, `${path}: ${entry} spills ${stores} bytes and loads ${loads} for ${architecture}`);
    }
    return [entry, registers];
  });
}

function printRegisters() {
  const row = (/** @type {string[]} */ ...cells) => process.stdout.write(`| ${cells.join(" | ")} |\n`);
  row("file", "kernel", ...ARCHITECTURES, "spills");
  row(...Array(ARCHITECTURES.length + 3).fill("---"));
  for (const { output } of TARGETS) {
    /** @type {Map<string, string[]>} */
    const entries = new Map();
    for (const architecture of ARCHITECTURES) {
      for (const [entry, registers] of assemble(output, architecture)) {
        entries.set(entry, [...(entries.get(entry) ?? []), registers]);
      }
    }
    for (const [entry, registers] of [...entries].sort())
      row(output.slice("kernels/".length), entry, ...registers, "0");
  }
}

try {
  const options = { check: { type: "boolean" }, registers: { type: "boolean" } };
  const { values } = parseArgs({ options: /** @type {const} */ (options) });
  if (values.check) check();
  else if (values.registers) printRegisters();
  else build();
} catch (error) {
  if (!(error instanceof Stopped)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = error.code;
}
