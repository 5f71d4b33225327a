/**
 * Every question that only hardware can answer, in one visit: `bash scripts/gpu-run.sh OUTDIR`. Each question is a
 * process with a deadline; after each one OUTDIR/results.json is written anew, so that whatever ends the visit leaves
 * what was found. A question that fails stops no other.
 *
 *     --only 1,5         only these steps        --quick           tiny sizes: does it run at all?
 *     --commit SHA       where git is not        --budget SECONDS  for everything; default 540
 *
 * Exit codes: 0 when every question was answered or is not supported; 1 otherwise; 2 for a wrong command line.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { killAll, ROOT, runNode } from "./process.mjs";
import { summaryOf } from "./table.mjs";

/**
 * In their order: what all else rests on first, what takes longest last. Each with the seconds that its questions may
 * take together, so that one step that hangs leaves time for the others.
 */
const STEPS = [
  ["machine", 50],
  ["digests", 60],
  ["semantics", 80],
  ["faults", 80],
  ["death", 80],
  ["throughput", 90],
  ["transfers", 100],
  ["tenant", 40],
  ["suite", 200],
];
export const FORMAT = "vram-residency/gpu-results/v1";
/** With less than this left no question is begun. */
const LEAST_MS = 3000;

/** One digest over what is run: the build, the kernels and these scripts. Ties a result to its code without git. */
function treeDigest() {
  const files = ["dist", "kernels", "scripts/gpu"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true })
      .map((name) => `${folder}/${name}`)
      .filter((path) => /\.(js|mjs|ptx)$/.test(path)),
  );
  const all = createHash("sha256");
  for (const path of files.sort()) {
    all.update(
      `${createHash("sha256")
        .update(readFileSync(join(ROOT, path)))
        .digest("hex")}  ${path}\n`,
    );
  }
  return all.digest("hex");
}

function codeOf(commit) {
  const git = (...args) => spawnSync("git", args, { cwd: ROOT, encoding: "utf8" });
  const head = git("rev-parse", "HEAD");
  const isDirty = head.status === 0 ? git("status", "--porcelain").stdout !== "" : undefined;
  const named = commit ?? (head.status === 0 ? head.stdout.trim() : undefined);
  return { commit: named ?? "unknown", ...(isDirty === undefined ? {} : { isDirty }), tree: treeDigest() };
}

function openResults(folder, begun) {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "results.json");
  const log = join(folder, "log.txt");
  const results = { format: FORMAT, ...begun, steps: [] };
  const save = () => {
    writeFileSync(`${path}.part`, `${JSON.stringify(results, undefined, 1)}\n`);
    renameSync(`${path}.part`, path);
  };
  writeFileSync(log, "");
  save();
  return { path, results, save, log: (text) => appendFileSync(log, text) };
}

/** What became of a process, in a few words; nothing if it said so itself. */
function endOf({ code, signal, late, output }, limitMs) {
  const said = output.trim() === "" ? "" : `: ${output.trim().slice(-600)}`;
  if (late) return `no answer within ${Math.round(limitMs / 1000)} s${said}`;
  return `the process ended with ${signal ?? `exit ${code}`}${said}`;
}

async function askOne(step, name, limitMs, quick, { save, log }, record) {
  const answer = { ok: false, seconds: 0, data: {} };
  record.data[name] = answer;
  let done;
  const onLine = (line) => {
    if ("done" in line) done = line;
    else answer.data[line.key] = line.value;
    save();
  };
  log(`\n== ${step} ${name}\n`);
  const args = ["scripts/gpu/question.mjs", step, name, "--channel", ...(quick ? ["--quick"] : [])];
  const ended = await runNode(args, { limitMs, onLine, log });
  answer.seconds = Number(ended.seconds.toFixed(2));
  answer.ok = done !== undefined && done.done !== "failed";
  if (done?.done === "unsupported") answer.unsupported = done.error;
  else if (!answer.ok) answer.error = done?.error ?? endOf(ended, limitMs);
  return answer;
}

async function runStep(number, { quick, leftMs }, out) {
  const [step, stepS] = STEPS[number];
  const record = { number, name: step, title: step, ok: true, seconds: 0, data: {} };
  out.results.steps.push(record);
  const begin = performance.now();
  try {
    const { questions, title } = await import(`./${step}.mjs`);
    record.title = title;
    for (const [name, { limitS }] of Object.entries(questions)) {
      const stepLeftMs = stepS * 1000 - (performance.now() - begin);
      const limitMs = Math.min(limitS * 1000, stepLeftMs, leftMs());
      const answer =
        limitMs < LEAST_MS
          ? { ok: false, seconds: 0, data: {}, error: "no time was left" }
          : await askOne(step, name, limitMs, quick, out, record);
      record.data[name] = answer;
      const word = answer.unsupported !== undefined ? "unsupported" : answer.ok ? "ok" : "FAILED";
      process.stdout.write(`  ${step} ${name}: ${word} (${answer.seconds} s)\n`);
    }
    const failed = Object.entries(record.data).filter(([, { ok }]) => !ok);
    if (failed.length > 0)
      record.error = failed.map(([name, { error }]) => `${name}: ${error.split("\n")[0]}`).join("\n");
    record.ok = failed.length === 0;
  } catch (error) {
    record.ok = false;
    record.error = String(error?.stack ?? error);
  }
  record.seconds = Number(((performance.now() - begin) / 1000).toFixed(2));
  out.save();
  return record;
}

function parse(argv) {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      only: { type: "string" },
      quick: { type: "boolean", default: false },
      commit: { type: "string" },
      budget: { type: "string", default: "540" },
    },
  });
  const numbers = values.only?.split(",").map(Number);
  const wrong = numbers?.some((number) => !(number >= 1 && number < STEPS.length)) ?? false;
  const [folder, ...more] = positionals;
  const isSmall = !(Number(values.budget) > 0);
  if (folder === undefined || more.length > 0 || wrong || isSmall) throw new Error("the command line makes no sense");
  return { ...values, folder, numbers: numbers ?? STEPS.slice(1).map((_, index) => index + 1) };
}

async function main(argv) {
  const { folder, numbers, quick, commit, budget } = parse(argv);
  const deadline = performance.now() + Number(budget) * 1000;
  const command = ["bash scripts/gpu-run.sh", ...argv].join(" ");
  const out = openResults(folder, {
    begun: new Date().toISOString(),
    ended: null,
    command,
    quick,
    backend: "unknown",
    library: process.env.VRAM_LIBCUDA ? "VRAM_LIBCUDA" : "libcuda.so.1",
    code: codeOf(commit),
  });
  const { results, save, path } = out;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      killAll();
      process.exit(130);
    });
  }
  const leftMs = () => deadline - performance.now();
  for (const number of [0, ...numbers]) {
    const record = await runStep(number, { quick, leftMs }, out);
    if (number === 0) results.backend = record.data.gpu?.data.backend ?? "unknown";
  }
  results.ended = new Date().toISOString();
  save();
  process.stdout.write(`\n${summaryOf(results)}\n${path}\n`);
  return results.steps.every(({ ok }) => ok) ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error?.message ?? error}\n`);
  process.stderr.write(
    "usage: bash scripts/gpu-run.sh OUTDIR [--only 1,5] [--quick] [--commit SHA] [--budget SECONDS]\n",
  );
  process.exitCode = 2;
}
