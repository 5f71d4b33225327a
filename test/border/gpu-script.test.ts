/**
 * `scripts/gpu-run.sh` over the fake libcuda: that one visit to a GPU will leave a result whatever happens. What the
 * fake answers is no evidence of anything, and the result has to say so.
 */
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { fakeCuda, whyNoFakeCuda } from "../helpers/fake-cuda.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

interface Answer {
  readonly ok: boolean;
  readonly seconds: number;
  readonly data: Readonly<Record<string, unknown>>;
  readonly error?: string;
  readonly unsupported?: string;
}

interface Step {
  readonly number: number;
  readonly name: string;
  readonly ok: boolean;
  readonly seconds: number;
  readonly error?: string;
  readonly data: Readonly<Record<string, Answer>>;
}

interface Results {
  readonly format: string;
  readonly ended: string | null;
  readonly backend: string;
  readonly quick: boolean;
  readonly command: string;
  readonly code: { readonly commit: string; readonly tree: string };
  readonly steps: readonly Step[];
}

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program of the repository to its end. */
function run(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Run> {
  const all = { PATH: process.env["PATH"], VRAM_LIBCUDA: fakeCuda()?.library, ...env };
  return new Promise((resolve) => {
    execFile(program, args, { cwd: ROOT, env: all, timeout: 60_000 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : -1, out, err });
    });
  });
}

const visit = (args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Run> =>
  run("bash", ["scripts/gpu-run.sh", ...args], env);

const readResults = (folder: string): Results =>
  JSON.parse(readFileSync(join(folder, "results.json"), "utf8")) as Results;

describe.skipIf(fakeCuda() === undefined)(`the GPU script over the fake libcuda${whyNoFakeCuda()}`, () => {
  it("answers digests and semantics, and marks them as answers of a substituted library", async () => {
    const folder = await temporaryFolder();
    const { code, out, err } = await visit(["--quick", "--only", "1,2", "--commit", "abc", folder]);
    expect(err).toBe("");
    expect(code).toBe(0);
    const { steps, ...head } = readResults(folder);
    expect(head).toMatchObject({
      format: "vram-residency/gpu-results/v1",
      backend: "cuda-substituted",
      quick: true,
      command: `bash scripts/gpu-run.sh --quick --only 1,2 --commit abc ${folder}`,
      code: { commit: "abc", tree: expect.stringMatching(/^[0-9a-f]{64}$/) as string },
    });
    expect(head.ended).not.toBeNull();
    expect(steps.map(({ number, name, ok }) => [number, name, ok])).toEqual([
      [0, "machine", true],
      [1, "digests", true],
      [2, "semantics", true],
    ]);
    const [machine, digests, semantics] = steps.map(({ data }) => data);
    expect(machine?.["gpu"]?.data).toMatchObject({ device: { name: "Fake GPU 0" } });
    expect(machine?.["smi"]?.unsupported).toContain("substituted");
    expect(Object.keys(digests ?? {}).sort()).toEqual(["imad", "imad-umulhi", "plain"]);
    for (const { data } of Object.values(digests ?? {})) expect(data).toMatchObject({ cases: 12, wrong: 0 });
    expect(semantics?.["descriptor"]?.data).toMatchObject({ closeOnExecAtBirth: false });
    expect(semantics?.["import-elsewhere"]?.data).toMatchObject({
      exporterSeesItsWrites: { kernel: true, copy: true, fill: true },
      exporterAccessIsStill: 1,
    });
    expect(out).toContain("nothing here was shown on hardware");
    const table = await run(process.execPath, ["scripts/gpu/table.mjs", join(folder, "results.json")]);
    expect(table.out).toContain("| 2 | semantics | ok | 10 |");
    expect(readFileSync(join(folder, "log.txt"), "utf8")).toContain("== semantics descriptor");
  });

  it("asks all the rest of a substituted library, too: faults, deaths, throughput, transfers, a co-tenant", async () => {
    const folder = await temporaryFolder();
    const { code } = await visit(["--quick", "--only", "3,4,5,6,7", folder]);
    const { steps } = readResults(folder);
    expect(steps.map(({ name, error }) => [name, error])).toEqual(
      ["machine", "faults", "death", "throughput", "transfers", "tenant"].map((name) => [name, undefined]),
    );
    expect(code).toBe(0);
    const dataOf = (step: string, question: string): Answer["data"] =>
      steps.find(({ name }) => name === step)?.data[question]?.data ?? {};
    expect(dataOf("faults", "fill-read-only")).toMatchObject({ isUnchanged: true, isNoticed: true });
    expect(dataOf("death", "working-held")).toMatchObject({ survives: true });
    expect(dataOf("throughput", "hash-1")).toHaveProperty("imad-umulhi × 256");
    expect(dataOf("transfers", "seal")).toHaveProperty("verify, run 0");
    expect(dataOf("tenant", "co-tenant")).toHaveProperty("alone");
    const unsupported = steps.flatMap(({ data }) =>
      Object.entries(data).flatMap(([question, answer]) => (answer.unsupported === undefined ? [] : [question])),
    );
    expect(unsupported).toEqual(["smi", "host-alloc"]);
  });

  it("goes on past questions that fail, keeps what they had found, and ends with 1", async () => {
    const folder = await temporaryFolder();
    const { code } = await visit(["--quick", "--only", "1", folder], { VRAM_FAKE_FAULTS: "cuLaunchKernel:3+:719" });
    expect(code).toBe(1);
    const [, digests] = readResults(folder).steps;
    expect(digests).toMatchObject({ ok: false });
    expect(Object.values(digests?.data ?? {}).map(({ ok }) => ok)).toEqual([false, false, false]);
    for (const { data, error } of Object.values(digests?.data ?? {})) {
      expect(data).toHaveProperty("seed");
      expect(error).toContain("719");
    }
    expect(digests?.error?.split("\n")).toHaveLength(3);
  });

  it("a process that hangs or dies is a result like any other, and nothing it started outlives it", async () => {
    const script = `
      import { existsSync, readFileSync } from "node:fs";
      import { runNode } from "./scripts/gpu/process.mjs";
      const told = [];
      const onLine = (line) => told.push(line.pid);
      const parent = \`
        const { spawn } = await import("node:child_process");
        const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "inherit" });
        (await import("node:fs")).writeSync(3, JSON.stringify({ pid: child.pid }) + "\\\\n");
      \`;
      const hangs = await runNode(["--input-type=module", "-e", parent + "setInterval(() => {}, 1000)"], { limitMs: 1500, onLine });
      const dies = await runNode(["--input-type=module", "-e", parent + "process.kill(process.pid, 'SIGSEGV')"], { limitMs: 20000, onLine });
      // What has ended and was not collected yet is a zombie.
      const isAlive = (pid) => existsSync("/proc/" + pid) && !/\\) [ZX] /.test(readFileSync("/proc/" + pid + "/stat", "utf8"));
      // Killing is not dying: that takes the kernel a moment, and a busy machine a longer one.
      const end = Date.now() + 15000;
      while (told.some(isAlive) && Date.now() < end) await new Promise((resolve) => setImmediate(resolve));
      console.log(JSON.stringify({ hangs, dies, started: told.length, alive: told.filter(isAlive) }));`;
    const { out, err } = await run(process.execPath, ["--input-type=module", "-e", script]);
    expect(err).toBe("");
    expect(JSON.parse(out)).toMatchObject({
      hangs: { late: true, signal: "SIGKILL" },
      dies: { late: false, signal: "SIGSEGV" },
      started: 2,
      alive: [],
    });
  });

  it("begins no question that has no time left, and says so", async () => {
    const folder = await temporaryFolder();
    const { code } = await visit(["--quick", "--only", "2", "--budget", "1", folder]);
    expect(code).toBe(1);
    const answers = readResults(folder).steps.flatMap(({ data }) => Object.values(data));
    expect(answers.length).toBeGreaterThan(10);
    expect(new Set(answers.map(({ error }) => error))).toEqual(new Set(["no time was left"]));
  });

  it("without a driver every question fails by itself, and the table says that nothing was shown", async () => {
    const folder = await temporaryFolder();
    const { code, out } = await visit(["--quick", "--only", "1", folder], { VRAM_LIBCUDA: "/nonexistent/libcuda.so" });
    expect(code).toBe(1);
    expect(readResults(folder).steps.map(({ ok }) => ok)).toEqual([false, false]);
    expect(out).toContain("nothing here was shown on hardware");
  });

  it("a command line that makes no sense changes nothing and ends with 2", async () => {
    const folder = await temporaryFolder();
    mkdirSync(join(folder, "kept"));
    writeFileSync(join(folder, "kept", "results.json"), "mine");
    for (const args of [[], ["--only", "9", "kept"], ["--only", "x", "kept"], ["a", "b"], ["--budget", "0", "kept"]]) {
      const { code, err } = await visit(args.map((arg) => (arg === "kept" ? join(folder, "kept") : arg)));
      expect(code, args.join(" ")).toBe(2);
      expect(err).toContain("usage: bash scripts/gpu-run.sh OUTDIR");
    }
    expect(readFileSync(join(folder, "kept", "results.json"), "utf8")).toBe("mine");
  });
});
