/**
 * A page run from top to bottom by one bash, in a folder of its own, with what its reader has: a home, the repository's
 * command, model files of the names that the page uses, and a service from the line that starts it to the page's end.
 * Everything is on the emulated device.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { type Block, type Page, ROOT } from "./docs-blocks.ts";
import { type Command, commandsOf } from "./docs-commands.ts";
import { smallGguf } from "./gguf-files.ts";
import { makeBundle } from "./proof.ts";

/** One thing that is run: a command line, or a block that is a program. */
export interface Step {
  readonly block: Block;
  readonly line: number;
  readonly text: string;
  readonly exit: number;
  readonly hashes: readonly string[];
}

export interface Ran extends Step {
  /** Undefined if the session did not get that far. */
  readonly code: number | undefined;
  /** What it printed; without standard error where the page shows a document. */
  readonly printed: string;
}

export interface Session {
  readonly steps: readonly Ran[];
  /** Commands that others run. */
  readonly elsewhere: readonly Command[];
  /** Exit code of stopping the service at the end, if the session got there. */
  readonly end: number | undefined;
  /** What bash itself had to say. */
  readonly said: string;
}

/** Ten times what the longest page takes on two busy cores. */
export const PAGE_MS = 400_000;
/** Of the repository, in whose root a reader is. `docs` is not there: pages write. */
const OF_THE_REPOSITORY = ["clients", "deploy", "dist", "examples", "node_modules", "package.json", "scripts"];
const PROGRAMS = { sh: "sh", ts: "mjs", js: "mjs", py: "py" } as const;
const isProgram = (block: Block): boolean => block.language in PROGRAMS && block.noRun === undefined;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** The ports of a page are others in each run, so that runs can go on side by side. */
async function renumber(text: string, ports: Map<string, string>): Promise<string> {
  for (const [address] of text.matchAll(/127\.0\.0\.1:\d+/g)) {
    if (!ports.has(address)) ports.set(address, `127.0.0.1:${await freePort()}`);
  }
  return text.replaceAll(/127\.0\.0\.1:\d+/g, (address) => ports.get(address) ?? address);
}

/** Files that a page takes for granted. A page that makes a model itself gets none. */
function makeFiles(page: Page, work: string): void {
  for (const name of OF_THE_REPOSITORY) symlinkSync(join(ROOT, name), join(work, name));
  const text = page.blocks.flatMap((block) => (isProgram(block) ? [block.text] : [])).join("\n");
  const named = text.matchAll(/(?:^|[\s='"]|\$PWD'?\/)([\w-]+\.(?:safetensors|gguf))\b/g);
  const names = text.includes("make-model.mjs") ? [] : [...named].map(([, name = ""]) => name);
  for (const name of new Set(names)) {
    const path = join(work, name);
    if (name.endsWith(".gguf")) writeFileSync(path, smallGguf);
    else execFileSync(process.execPath, [join(ROOT, "scripts/make-model.mjs"), path, "--mib", "1"]);
  }
  if (existsSync(join(ROOT, "docs/proof")))
    cpSync(join(ROOT, "docs/proof"), join(work, "docs/proof"), { recursive: true });
  if (text.includes("docs/proof/RUN")) {
    const { folder, signer } = makeBundle();
    cpSync(folder, join(work, "docs/proof/RUN"), { recursive: true });
    rmSync(folder, { recursive: true });
    writeFileSync(join(work, "signer.pub.pem"), signer.publicPem);
  }
}

function writeProgram(folder: string, name: string, text: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\nexec ${text} "$@"\n`);
  chmodSync(join(folder, name), 0o755);
}

function makePlace(page: Page, withCurl: boolean): string {
  const folder = mkdtempSync(join(tmpdir(), "vram-page-"));
  for (const name of ["bin", "home", "node_modules", "out", "run", "steps", "tmp", "work"]) {
    mkdirSync(join(folder, name), { mode: 0o700 });
  }
  writeProgram(join(folder, "bin"), "vram", `"${process.execPath}" "${join(ROOT, "dist/cli/bin.js")}"`);
  // For programs that a page starts; in the page itself it is a function of the prelude.
  writeProgram(join(folder, "bin"), "npx", "env");
  writeProgram(join(folder, "bin"), "my-engine", "echo my-engine");
  if (!withCurl) writeProgram(join(folder, "bin"), "curl", `"${process.execPath}" "${STAND_IN}"`);
  symlinkSync(ROOT, join(folder, "node_modules/vram-residency"));
  makeFiles(page, join(folder, "work"));
  return folder;
}

const STAND_IN = join(ROOT, "test/helpers/docs-curl.mjs");

/** Tools that a page calls and this machine has not; pages do without any others that a bare Debian lacks. */
export function missingTools({ blocks }: Page): string[] {
  const programs = blocks.filter(isProgram).map(({ language, text }) => (language === "py" ? "python3" : text));
  const called = ["fsverity", "jq", "openssl", "python3"].filter((tool) =>
    new RegExp(`\\b${tool}\\b`).test(programs.join("\n")),
  );
  return called.filter((tool) => spawnSync("sh", ["-c", `command -v ${tool}`]).status !== 0);
}

/** Whether this machine has curl; where it has none, a few lines of ours do what the pages ask of it. */
export function hasCurl(): boolean {
  try {
    return execFileSync("curl", ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }) !== "";
  } catch {
    return false;
  }
}

const environment = (folder: string): NodeJS.ProcessEnv => ({
  PATH: `${folder}/bin:${process.env["PATH"] ?? ""}`,
  ...{ HOME: `${folder}/home`, XDG_STATE_HOME: `${folder}/home/.local/state`, XDG_RUNTIME_DIR: `${folder}/run` },
  ...{ TMPDIR: `${folder}/tmp`, LANG: "C.UTF-8", TERM: "dumb", PYTHONDONTWRITEBYTECODE: "1" },
  PYTHONPATH: join(ROOT, "clients/python"),
  ...{ VRAM_BACKEND: "emulated", VRAM_EMULATED_BYTES: String(256 * 1024 * 1024), VRAM_EMULATED_DEVICES: "2" },
  ...{ REPO: ROOT, SESSION: folder, NODE: process.execPath },
});

/** A program as it can be run: TypeScript without its types, and `using` as Node.js 20 knows it. */
function runnable(block: Block): string {
  if (block.language !== "ts") return block.text;
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  return ts.transpileModule(block.text, { compilerOptions }).outputText;
}

const CALLS = { mjs: '"$NODE"', py: "python3", sh: "source" } as const;

/** The steps of a page, and the script that runs them. */
async function prepare(page: Page, folder: string) {
  const steps: Step[] = [];
  const elsewhere: Command[] = [];
  const ports = new Map<string, string>();
  const script = [`source "$REPO/test/helpers/docs-prelude.sh"`, 'cd "$SESSION/work"'];
  const add = async (step: Step, text: string, kind: keyof typeof CALLS, isDocument: boolean): Promise<void> => {
    const [at, number] = [`$SESSION/steps/${steps.length}.${kind}`, steps.length];
    writeFileSync(join(folder, `steps/${number}.${kind}`), await renumber(text, ports));
    const output = `>"$SESSION/out/${number}" 2>${isDocument ? "/dev/null" : "&1"} </dev/null`;
    script.push(`${CALLS[kind]} "${at}" ${output}`, `echo "${number} $?" >>"$SESSION/status"`);
    steps.push(step);
  };
  for (const [index, block] of page.blocks.entries()) {
    const next = page.blocks[index + 1];
    const isDocument = next?.language === "json" && next.isOutput;
    if (block.file !== undefined) {
      writeFileSync(join(folder, `steps/${block.file}`), block.text);
      script.push(`cp "$SESSION/steps/${block.file}" .`);
    } else if (isProgram(block)) {
      const kind = PROGRAMS[block.language as keyof typeof PROGRAMS];
      if (kind === "sh") {
        for (const { run, ...command } of commandsOf(block)) {
          if (run === "") elsewhere.push({ run, ...command });
          else await add({ block, ...command }, run, kind, isDocument);
        }
        script.push("set +eu");
      } else
        await add(
          { block, line: block.line, text: block.text, exit: 0, hashes: [] },
          runnable(block),
          kind,
          isDocument,
        );
    }
  }
  script.push("stop_service", `echo "end $?" >>"$SESSION/status"`);
  return { steps, elsewhere, script: script.join("\n") };
}

/** Runs the script in a process group of its own, which is killed as a whole if it takes too long. */
function runScript(script: string, folder: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const stdio = ["ignore", "pipe", "pipe"] as const;
    const child = spawn("bash", ["-c", script], { env: environment(folder), stdio: [...stdio], detached: true });
    let said = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        said += text;
      });
    }
    const watchdog = setTimeout(() => process.kill(-(child.pid ?? 0), "SIGKILL"), PAGE_MS);
    child.on("error", reject);
    child.on("close", () => {
      clearTimeout(watchdog);
      try {
        // What a page has left behind that broke off.
        process.kill(-(child.pid ?? 0), "SIGKILL");
      } catch {
        // Nothing.
      }
      resolve(said);
    });
  });
}

/** Runs a page. */
export async function runPage(page: Page, withCurl = hasCurl()): Promise<Session> {
  const folder = makePlace(page, withCurl);
  try {
    const { steps, elsewhere, script } = await prepare(page, folder);
    const said = await runScript(script, folder);
    const lines = readFileSync(join(folder, "status"), "utf8").trim().split("\n");
    const codes = new Map(lines.map((line) => [line.split(" ")[0], Number(line.split(" ")[1])]));
    const ran = steps.map((step, number) => {
      const code = codes.get(String(number));
      return { ...step, code, printed: code === undefined ? "" : readFileSync(join(folder, `out/${number}`), "utf8") };
    });
    return { steps: ran, elsewhere, end: codes.get("end"), said };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
