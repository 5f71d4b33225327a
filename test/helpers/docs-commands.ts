/**
 * The command lines of a page: where one ends and the next begins, as bash reads them; which exit code the page promises;
 * and which are run elsewhere, because they would build, install or test everything anew.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { type Block, ROOT } from "./docs-blocks.ts";

export interface Command {
  readonly line: number;
  /** As the page has it, comments and continued lines included. */
  readonly text: string;
  /** With what is run elsewhere left out; empty if that was all. */
  readonly run: string;
  /** Exit code: `# … exit 3`, or of `curl` for `# 404`; else 0. */
  readonly exit: number;
  /** Hashes that the comment lines behind it promise of its output. */
  readonly hashes: readonly string[];
}

/** A command that is run by somebody else, who is named with the words that show it. */
interface Elsewhere {
  readonly command: RegExp;
  readonly by: string;
  readonly shows: string;
  /** What is run here instead. */
  readonly instead?: string;
}

const CI = ".ci/run";
export const ELSEWHERE: readonly Elsewhere[] = [
  { command: /npm ci\b( --ignore-scripts)?/g, by: CI, shows: `step "install" npm ci --ignore-scripts` },
  { command: /npm run (-s )?build\b/g, by: CI, shows: `step "build" npm run -s build` },
  { command: /npm run lint\b/g, by: CI, shows: `step "lint" npm run -s lint` },
  { command: /npm run types\b/g, by: CI, shows: `step "types" npm run -s types` },
  { command: /npm test\b/g, by: CI, shows: "npm test -- --coverage" },
  { command: /npm run proof\b/g, by: "test/crash/proof.test.ts", shows: `"scripts/proof.mjs"` },
  { command: /npm run features\b/g, by: CI, shows: `step "features" npx cucumber-js` },
  // What the lint step checks, written.
  { command: /npm run format\b/g, by: "package.json", shows: `"format": "biome check --write ."` },
  // What it shows, without installing and building.
  { command: /npm run quickstart\b/g, by: CI, shows: `step "quickstart" npm run quickstart`, instead: "quickstart" },
  {
    command: /\b(bash|node) examples\/\d\d-\S+/g,
    by: "test/crash/examples.test.ts",
    shows: `readdirSync(join(ROOT, "examples"))`,
  },
];

/** Whether everybody who is said to run something does. */
export const elsewhereIsTrue = (): boolean[] =>
  ELSEWHERE.map(({ by, shows }) => readFileSync(`${ROOT}${by}`, "utf8").includes(shows));

/** What is left of a command line when others run their part; the words of comments are no commands. */
function leaveOut(text: string): string {
  const comment = /(^|\s)#.*$/gm;
  const whole = text.replace(comment, "");
  const left = ELSEWHERE.reduce((rest, { command, instead }) => rest.replace(command, instead ?? "true"), whole);
  if (left === whole) return text;
  return /^(true|&&|\s)*$/.test(left) ? "" : left;
}

/** Reads lines until they are whole commands, and prints how many lines each one has. Parses, and runs nothing. */
const SPLIT = `
count=0 text=
while IFS= read -r line || [ -n "$line" ]; do
  text+=$line$'\\n' count=$((count + 1))
  case $line in *\\\\) continue ;; esac
  if eval "parsed() { :
$text
}" 2>/dev/null; then echo $count; count=0 text=; fi
done
[ $count = 0 ]`;

/** The command lines of a block, in order. */
export function commandsOf(block: Block): Command[] {
  const counts = execFileSync("bash", ["-c", SPLIT], { input: block.text, encoding: "utf8" });
  const lines = block.text.split("\n");
  const commands: Command[] = [];
  let from = 0;
  for (const count of counts.trim().split("\n").map(Number)) {
    const text = lines.slice(from, from + count).join("\n");
    const line = block.line + 1 + from;
    from += count;
    const last = commands.at(-1);
    if (/^\s*(#|$)/.test(text) && !text.includes("\n")) {
      const hashes = text.match(/\b[0-9a-f]{64}\b/g) ?? [];
      if (last !== undefined && last.line + last.text.split("\n").length === line) {
        commands[commands.length - 1] = { ...last, text: `${last.text}\n${text}`, hashes: [...last.hashes, ...hashes] };
      }
      continue;
    }
    const [, exit, status] = /#[^\n]*?\b(?:exit (\d+)|([45]\d\d)\b)/.exec(text) ?? [];
    commands.push({ line, text, run: leaveOut(text), exit: Number(exit ?? (status && 22) ?? 0), hashes: [] });
  }
  return commands;
}
