/**
 * One question, in a process of its own: `node scripts/gpu/question.mjs STEP NAME [--quick]`. What it finds goes out at
 * once, a line of JSON each, on standard output, or with `--channel` through descriptor 3: a question that hangs, or
 * takes the process along, leaves what it had found. The last line is `{ "done": … }`; without it the process was cut short.
 */
import { writeSync } from "node:fs";
import { prepareForCuda } from "../../dist/environment.js";
import { libraryName, Unsupported } from "./driver.mjs";

const CHANNEL = 3;

const out = process.argv.includes("--channel") ? CHANNEL : 1;
const tell = (line) => writeSync(out, `${JSON.stringify(line)}\n`);
const [stepName, questionName] = process.argv.slice(2);
const quick = process.argv.includes("--quick");

prepareForCuda(process.env);
try {
  const { questions } = await import(`./${stepName}.mjs`);
  const question = questions[questionName];
  if (question === undefined) throw new Error(`no question ${questionName} in step ${stepName}`);
  const report = (key, value) => tell({ key, value });
  await question.ask({ quick, library: libraryName(), report });
  tell({ done: "answered" });
} catch (error) {
  if (error instanceof Unsupported) tell({ done: "unsupported", error: error.message });
  else tell({ done: "failed", error: error?.stack?.split("\n").slice(0, 4).join("\n") ?? String(error) });
}
// Whatever the driver still has running, and whatever it would say on the way out, is of no interest.
process.exit();
