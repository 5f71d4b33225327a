/**
 * `npm run test:long`: the crash suite of the audit log in its long form, at least 200 random kills, and its result in
 * `bench/results/audit-crash.json`. VRAM_AUDIT_SEED repeats the kills of another run.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir } from "node:os";
import { join } from "node:path";
import { build, install, ROOT, runProgram, runToTheEnd } from "./quickstart.mjs";

const RESULT = join(ROOT, "bench", "results", "audit-crash.json");

/** @typedef {{ name: string, crashes: number, acknowledged: number, longestRestartMs: number, seed?: number }} Tally */

/** @param {string} line */
const print = (line) => process.stdout.write(`${line}\n`);

/** @param {Tally[]} tallies */
function writeResult(tallies) {
  const figures = {
    // Killed, or their disk failed: those end in order.
    runs: tallies.reduce((sum, { crashes }) => sum + crashes, 0),
    entriesAcknowledged: tallies.reduce((sum, { acknowledged }) => sum + acknowledged, 0),
    entriesLost: 0, // a test that misses one fails, and there is no result
    longestRestartMs: Math.max(...tallies.map(({ longestRestartMs }) => longestRestartMs)),
  };
  const machine = {
    node: process.version,
    kernel: release(),
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
  };
  const tests = [...tallies].sort((a, b) => a.name.localeCompare(b.name));
  const document = { bench: "audit log, crash suite", ...machine, figures, tests };
  writeFileSync(RESULT, `${JSON.stringify(document, null, 2)}\n`);
  print(`${RESULT}: ${figures.runs} runs, longest restart ${figures.longestRestartMs} ms`);
}

await runToTheEnd(async () => {
  await install(print);
  await build();
  const folder = mkdtempSync(join(tmpdir(), "vram-long-"));
  const lines = join(folder, "tallies");
  try {
    writeFileSync(lines, "");
    process.env.VRAM_AUDIT_LONG = "1";
    process.env.VRAM_AUDIT_RESULT = lines;
    const args = ["node_modules/vitest/vitest.mjs", "run", "--project", "crash", "test/crash/audit-"];
    const { code } = await runProgram(process.execPath, args);
    if (code === 0)
      writeResult(
        readFileSync(lines, "utf8")
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line)),
      );
    return code;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
