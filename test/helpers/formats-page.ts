/**
 * docs/formats.md as its tests see it: sections, tables, files and printed examples; and its commands, run by one bash
 * with the tools of others, without our package.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Block, readPage } from "./docs-blocks.ts";

export const PAGE = readPage("docs/formats.md");
/** Ten times what the commands take on two busy cores. */
export const EXAMPLES_MS = 100_000;

const headingAt = (line: number): string =>
  PAGE.text
    .split("\n")
    .slice(0, line)
    .findLast((one) => one.startsWith("## "))
    ?.slice(3) ?? "";

/** The commands of a block, and what the page says that they print. */
export interface Example {
  readonly heading: string;
  readonly commands: Block;
  readonly shown: string | undefined;
}

/** Every block of commands, in order. */
export const EXAMPLES: readonly Example[] = PAGE.blocks.flatMap((commands, index) => {
  const next = PAGE.blocks[index + 1];
  const shown = next?.isOutput === true ? next.text : undefined;
  return commands.language === "sh" ? [{ heading: headingAt(commands.line), commands, shown }] : [];
});

const present = <T>(value: T | undefined, what: string): T => {
  if (value === undefined) throw new Error(`docs/formats.md has no ${what}`);
  return value;
};

/** The lines that the page shows under a heading; the first example there, unless another is asked for. */
export function shown(heading: string, index = 0): string[] {
  const example = EXAMPLES.filter((one) => one.heading === heading)[index];
  return present(example?.shown, `output ${index} under ${heading}`).trimEnd().split("\n");
}

/** The commands of that example, as text. */
export const commandsOf = (heading: string, index = 0): string =>
  present(EXAMPLES.filter((one) => one.heading === heading)[index], `example ${index} under ${heading}`).commands.text;

/** A file that the page gives to its commands. */
export const fileOf = (name: string): Buffer =>
  Buffer.from(
    present(
      PAGE.blocks.find(({ file }) => file === name),
      `file ${name}`,
    ).text,
  );

export function sectionOf(heading: string): string {
  return present(PAGE.text.split(`\n## ${heading}\n`)[1], `heading ${heading}`).split("\n## ")[0] ?? "";
}

/** The rows of a table under a heading, by the words of its first title. */
export function rowsOf(heading: string, title: string): string[][] {
  const [, table] = sectionOf(heading).split(`\n| ${title} |`);
  const lines = present(table, `table ${title} under ${heading}`).split("\n\n")[0]?.split("\n").slice(2) ?? [];
  return lines
    .filter((line) => line.startsWith("| "))
    .map((line) =>
      line
        .slice(1, -1)
        .split("|")
        .map((cell) => cell.trim()),
    );
}

/** What stands in backticks in these cells. */
export const quotedIn = (cells: readonly string[]): string[] =>
  cells.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, word = ""]) => word));

/** The limits under a heading, as numbers. */
export const limitsOf = (heading: string): Record<string, number> =>
  Object.fromEntries(
    rowsOf(heading, "limit").map(([what = "", value = ""]) => [what, Number(value.replaceAll(",", ""))]),
  );

/** The hex of `od`, as bytes. */
export const bytesOf = (lines: readonly string[]): Buffer => Buffer.from(lines.join("").replaceAll(/\s/g, ""), "hex");

/** Tools of others that are missing here. */
export function missingTools(): string[] {
  const says = (command: string, ...words: string[]): string => {
    const { status, stdout } = spawnSync(command, words, { encoding: "utf8" });
    return status === 0 ? stdout : "";
  };
  const tools: readonly (readonly [tool: string, isThere: boolean])[] = [
    ["OpenSSL 3", says("openssl", "version").startsWith("OpenSSL 3")],
    ["fsverity", says("fsverity", "--version") !== ""],
    ["jq", says("jq", "--version") !== ""],
    ["Python 3.9", /^Python 3\.(?:9|\d\d)/.test(says("python3", "--version"))],
    ["basenc", says("basenc", "--version") !== ""],
  ];
  return tools.flatMap(([tool, isThere]) => (isThere ? [] : [tool]));
}

/** What each example printed, standard error included. The first command that fails is the last one that is run. */
export function runExamples(): string[] {
  const folder = mkdtempSync(join(tmpdir(), "formats-doc-"));
  try {
    for (const { file, text } of PAGE.blocks) if (file !== undefined) writeFileSync(join(folder, file), text);
    const steps = EXAMPLES.map(({ commands }, index) => {
      writeFileSync(join(folder, `${index}.step`), commands.text);
      return `source ./${index}.step >${index}.out 2>&1 </dev/null; touch ${index}.done`;
    });
    // A page is one session; the first command that fails ends it.
    const script = ["set -euo pipefail", ...steps].join("\n");
    // Nothing of ours takes part.
    mkdirSync(join(folder, "bin"));
    for (const name of ["vram", "node", "npx"]) {
      writeFileSync(join(folder, "bin", name), "#!/bin/sh\nexit 97\n", { mode: 0o755 });
    }
    const env = {
      PATH: `${folder}/bin:${process.env["PATH"] ?? ""}`,
      HOME: folder,
      LC_ALL: "C.UTF-8",
      PYTHONDONTWRITEBYTECODE: "1",
    };
    spawnSync("bash", ["-c", script], { cwd: folder, env, timeout: EXAMPLES_MS });
    return EXAMPLES.map((_, index) => {
      const out = join(folder, `${index}.out`);
      if (!existsSync(out)) return "not reached";
      return `${readFileSync(out, "utf8")}${existsSync(join(folder, `${index}.done`)) ? "" : "and failed\n"}`;
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
