/** Step 8: the tests of `test/device`, told that they must find a device. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./process.mjs";

function suite({ report }) {
  const folder = mkdtempSync(join(tmpdir(), "vram-suite-"));
  try {
    const file = join(folder, "report.json");
    const args = ["run", "--project", "device", "--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
    const { status } = spawnSync(process.execPath, ["node_modules/vitest/vitest.mjs", ...args], {
      cwd: ROOT,
      env: { ...process.env, VRAM_DEVICE_TESTS: "1", NO_COLOR: "1" },
      stdio: ["ignore", "inherit", "inherit"],
    });
    const { testResults } = JSON.parse(readFileSync(file, "utf8"));
    const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
    const count = (wanted) => tests.filter((test) => test.status === wanted).length;
    const counts = { passed: count("passed"), failed: count("failed") };
    report("counts", { ...counts, skipped: tests.length - counts.passed - counts.failed });
    const outside = testResults.filter(
      ({ status: end, assertionResults }) => end === "failed" && assertionResults.length === 0,
    );
    for (const { name, message } of outside) report(name.slice(ROOT.length), String(message).slice(0, 1000));
    report(
      "tests",
      tests.map(({ fullName, status: end, duration }) => [end, Math.round(duration ?? 0), fullName.trim()]),
    );
    const failures = tests.filter(({ status: end }) => end === "failed");
    report(
      "failures",
      failures.map(({ fullName, failureMessages }) => [fullName, failureMessages.join("\n").slice(0, 1500)]),
    );
    if (status !== 0) throw new Error(`vitest ended with exit ${status}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export const title = "the device tests";
export const questions = { vitest: { limitS: 200, ask: suite } };
