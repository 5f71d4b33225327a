/**
 * The fenced blocks of the pages that tests run: README.md, CONTRIBUTING.md, docs/*.md and every README.md of examples.
 * Folders are read, so that a new page is run without anybody naming it. What a block may be is a closed list; whatever is
 * not on it fails.
 */
import { readdirSync, readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Why a block is not run: ```sh no-run="needs a GPU". There are no other reasons. */
export const NO_RUN = ["needs a GPU", "needs root and systemd", "needs another machine"] as const;

/** What a fence may say it holds. `text` is what a command printed, the content of a file, or checked by another test. */
export const LANGUAGES = ["sh", "ts", "js", "py", "json", "toml", "ini", "text"] as const;
export type Language = (typeof LANGUAGES)[number];

export interface Block {
  readonly page: string;
  /** The line of its fence, from 1. */
  readonly line: number;
  readonly language: Language;
  /** Not run, for this reason. */
  readonly noRun: string | undefined;
  /** What the commands before it print. */
  readonly isOutput: boolean;
  /** Drawn with lines and arrows: nothing that could be run. */
  readonly isPicture: boolean;
  /** The content of this file, for the commands behind it. */
  readonly file: string | undefined;
  /** The test that reads this block from the page. */
  readonly checkedBy: string | undefined;
  readonly text: string;
}

export interface Page {
  readonly path: string;
  readonly text: string;
  readonly blocks: readonly Block[];
}

const FENCE = /^( *)(`{3,})(.*)$/;
const ATTRIBUTE = /^(?:(output|picture)|(no-run|file|checked-by)="([^"]+)")$/;

/** What stands behind the backticks. */
function readInfo(info: string, where: string): Omit<Block, "page" | "line" | "text"> {
  const [word = "", ...rest] = info.match(/[a-z-]+="[^"]*"|\S+/g) ?? [];
  const language = LANGUAGES.find((one) => one === word);
  if (language === undefined) throw new Error(`${where}: a block is one of ${LANGUAGES.join(", ")}, not "${word}"`);
  const given = new Map<string, string>();
  for (const attribute of rest) {
    const [, flag, name = flag, value = ""] = ATTRIBUTE.exec(attribute) ?? [];
    if (name === undefined || given.has(name)) throw new Error(`${where}: ${attribute}`);
    given.set(name, value);
  }
  const noRun = given.get("no-run");
  if (noRun !== undefined && !NO_RUN.some((reason) => reason === noRun)) {
    throw new Error(`${where}: "${noRun}" is no reason; reasons are ${NO_RUN.join(", ")}`);
  }
  const [isOutput, isPicture] = [given.has("output"), given.has("picture")];
  const [file, checkedBy] = [given.get("file"), given.get("checked-by")];
  if (file !== undefined && basename(file) !== file) throw new Error(`${where}: ${file} is no name of a file`);
  const isSaid = isOutput || isPicture || file !== undefined || checkedBy !== undefined;
  if (language === "text" && !isSaid) {
    throw new Error(
      `${where}: text is output, a picture, the content of a file, or checked by another test; say which`,
    );
  }
  return { language, noRun, isOutput, isPicture, file, checkedBy };
}

/** The fenced blocks of a page; those within a list are indented with it. */
export function blocksOf(page: string, text: string): Block[] {
  const blocks: Block[] = [];
  let open:
    | { readonly indent: string; readonly fence: string; readonly line: number; readonly info: string }
    | undefined;
  let inside: string[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const [, indent = "", fence = "", info = ""] = FENCE.exec(line) ?? [];
    if (open === undefined) {
      if (fence !== "") open = { indent, fence, line: index + 1, info: info.trim() };
    } else if (fence === open.fence && info.trim() === "") {
      const where = `${page}:${open.line}`;
      blocks.push({ page, line: open.line, ...readInfo(open.info, where), text: `${inside.join("\n")}\n` });
      [open, inside] = [undefined, []];
    } else inside.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line);
  }
  if (open !== undefined) throw new Error(`${page}:${open.line}: a block that does not end`);
  return blocks;
}

/** The pages, as they are in the repository now. */
export function pagePaths(): string[] {
  const examples = readdirSync(`${ROOT}examples`, { recursive: true, encoding: "utf8" });
  return [
    ...["README.md", "CONTRIBUTING.md"],
    ...readdirSync(`${ROOT}docs`).flatMap((name) => (name.endsWith(".md") ? [`docs/${name}`] : [])),
    ...examples.flatMap((name) => (basename(name) === "README.md" ? [`examples/${name}`] : [])),
  ];
}

export function readPage(path: string): Page {
  const text = readFileSync(`${ROOT}${path}`, "utf8");
  return { path, text, blocks: blocksOf(path, text) };
}

/** Whether the test that a block names is there and reads this page. */
export function isReadBy(block: Block): boolean {
  const { checkedBy = "", page } = block;
  if (!checkedBy.startsWith("test/") || dirname(checkedBy).includes("..")) return false;
  return readFileSync(`${ROOT}${checkedBy}`, "utf8").includes(basename(page));
}
