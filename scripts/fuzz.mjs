/**
 * Fuzzes both header parsers for as long as asked: `test/property/fuzz.test.ts` with more time. What breaks a law is
 * written to `test/vectors/hostile/findings`, named by seed and number; the test checks those files ever after.
 *
 *     npm run fuzz -- --minutes N [--seed S]
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({ options: { minutes: { type: "string", default: "1" }, seed: { type: "string" } } });
const minutes = Number(values.minutes);
if (!(minutes > 0 && minutes <= 24 * 60)) {
  process.stderr.write("--minutes takes a number of minutes, up to a day\n");
  process.exit(2);
}
const env = { ...process.env, VRAM_FUZZ_MINUTES: String(minutes) };
if (values.seed !== undefined) env["VRAM_FUZZ_SEED"] = values.seed;
const test = ["node_modules/vitest/vitest.mjs", "run", "--project", "property", "test/property/fuzz.test.ts"];
const cwd = fileURLToPath(new URL("../", import.meta.url));
const child = spawn(process.execPath, test, { cwd, env, stdio: "inherit" });
child.on("exit", (code) => {
  process.exitCode = code ?? 1;
});
