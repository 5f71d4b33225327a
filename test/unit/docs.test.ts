/**
 * The documents against the program: every command line they show exists, every option that exists is documented, the
 * TypeScript of the README type-checks, and no relative link leads nowhere.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { beforeAll, describe, expect, it } from "vitest";
import { EXIT } from "../../src/cli/exit.ts";
import { vram } from "../helpers/cli.ts";
import { temporaryFolder } from "../helpers/vram.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");
const markdownIn = (folder: string): string[] =>
  readdirSync(join(ROOT, folder))
    .filter((name) => name.endsWith(".md"))
    .map((name) => normalize(join(folder, name)));
const PAGES = [...markdownIn("."), ...markdownIn("docs")];
const CLI_PAGES = ["README.md", "docs/cli.md"];

/** Of the worked example in docs/audit.md. */
const LOG_KEY = "vram-residency/0123456789abcdef+9cca361c+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

/** A command line as a page shows it, without the program. */
interface Shown {
  readonly page: string;
  readonly words: readonly string[];
}

/** Every `npx vram …` and `npm run -s vram -- …` with arguments, in blocks and in running text. */
function shownIn(page: string): Shown[] {
  const lines = read(page).matchAll(/(?:npx vram|npm run -s vram --) ([^`\n#]+)/g);
  return (
    [...lines]
      // Behind ` -- ` stands somebody else's command.
      .map(([, rest = ""]) => ({ page, words: (rest.split(" -- ")[0] ?? "").trim().split(/\s+/) }))
      .filter(({ words }) => words[0] !== "…")
  );
}

/** The long options of a help text. */
const optionsOf = (help: string): string[] =>
  [...help.matchAll(/^ {2}(?:-\w, )?(--[a-z0-9-]+)/gm)].map(([, option = ""]) => option);

const helps = new Map<string, string>();

/** Help of every command; a group of commands has none of its own here. */
async function readHelps(group: readonly string[]): Promise<void> {
  const { out } = await vram([...group, "--help"]);
  const [, list = ""] = out.split("\nCommands:\n");
  if (list === "") helps.set(group.join(" "), out);
  for (const [, command = ""] of list.matchAll(/^ {2}([a-z]+) /gm)) await readHelps([...group, command]);
}

beforeAll(() => readHelps([]));

/** The command that a command line begins with, and the words behind it. */
function splitCommand(words: readonly string[]): { command: string; rest: readonly string[] } {
  const length = helps.has(words.slice(0, 2).join(" ")) ? 2 : 1;
  // What that group does when none of its commands is named.
  if (length === 1 && words[0] === "attest") return { command: "attest issue", rest: words.slice(1) };
  return { command: words.slice(0, length).join(" "), rest: words.slice(length) };
}

/** The part of docs/cli.md about one command. */
function sectionOf(command: string): string {
  const [, rest = ""] = read("docs/cli.md").split(`\n## vram ${command}\n`);
  return rest.split("\n## ")[0] ?? "";
}

describe("command lines in README.md and docs/cli.md", () => {
  it("are of commands and options that exist", () => {
    const shown = CLI_PAGES.flatMap(shownIn);
    expect(shown.length).toBeGreaterThan(10);
    for (const { page, words } of shown) {
      const { command, rest } = splitCommand(words);
      const known = optionsOf(helps.get(command) ?? "");
      expect([...helps.keys()], `${page}: vram ${words.join(" ")}`).toContain(command);
      const unknown = rest.filter((word) => word.startsWith("--") && !known.includes(word));
      expect(unknown, `${page}: vram ${words.join(" ")}`).toEqual([]);
    }
  });

  it("docs/cli.md has a section for every command, with exactly its options", () => {
    const page = read("docs/cli.md");
    const sections = [...page.matchAll(/^## vram ([a-z ]+)$/gm)].map(([, command]) => command);
    expect(sections).toEqual([...helps.keys()]);
    for (const [command, help] of helps) {
      const rows = [...sectionOf(command).matchAll(/^\| `(--[a-z0-9-]+)/gm)].map(([, option = ""]) => option);
      const options = optionsOf(help).filter((option) => option !== "--help");
      expect(rows.toSorted(), command).toEqual(options.toSorted());
    }
  });

  it("docs/cli.md and README.md list every exit code", () => {
    const codes = Object.values(EXIT).toSorted((a, b) => a - b);
    const listed = [...read("docs/cli.md").matchAll(/^\| (\d+) \|/gm)].map(([, code]) => Number(code));
    expect(listed).toEqual(codes);
    const section = read("README.md").split("\n## Exit codes\n")[1]?.split("\n## ")[0] ?? "";
    const short = [...section.matchAll(/\| (\d+) (?=\|)/g)].map(([, code]) => Number(code));
    expect(short.toSorted((a, b) => a - b)).toEqual(codes);
  });

  it("docs/cli.md names the schemas that are printed", async () => {
    const state = await temporaryFolder();
    const printed = await Promise.all([
      vram(["digest", "--json", "package.json"]),
      vram(["try", "--json", "package.json"]),
      vram(["doctor", "--json"]),
      vram(["audit", "verify", "--json", "--log", "test"]),
      vram(["audit", "prove", "--json", "--log", "test", "0"]),
      vram(["audit", "prove", "--json", "--check", "package.json", "--log-key", LOG_KEY]),
      vram(["audit", "keys", "--json", "--state-dir", "test"]),
      vram(["config", "show", "--json"]),
      vram(["token", "add", "--json", "--scope", "use", "..", "--state-dir", state]),
      vram(["token", "list", "--json", "--state-dir", state]),
      vram(["token", "revoke", "--json", "..", "--state-dir", state]),
    ]);
    expect(printed.every(({ out }) => out.startsWith("{"))).toBe(true);
    for (const { out } of printed) {
      const { schema } = JSON.parse(out) as { readonly schema: string };
      expect(read("docs/cli.md")).toContain(`\`schema\` \`${schema}\``);
    }
  });
});

/** What TypeScript has to say about `text` as a module of this repository that imports the package by its name. */
function diagnosticsOf(text: string): string[] {
  const file = join(ROOT, "readme-block.ts");
  const parsed = ts.parseJsonConfigFileContent(JSON.parse(read("tsconfig.json")), ts.sys, ROOT);
  const paths = {
    "vram-residency": [join(ROOT, "src/index.ts")],
    "vram-residency/testing": [join(ROOT, "src/testing.ts")],
  };
  const options = { ...parsed.options, paths };
  const onDisk = ts.createCompilerHost(options);
  const host: ts.CompilerHost = {
    ...onDisk,
    fileExists: (path) => path === file || onDisk.fileExists(path),
    readFile: (path) => (path === file ? text : onDisk.readFile(path)),
    getSourceFile: (path, version, ...rest) =>
      path === file ? ts.createSourceFile(path, text, version) : onDisk.getSourceFile(path, version, ...rest),
  };
  const program = ts.createProgram([file], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
}

describe("TypeScript in README.md", () => {
  const blocks = [...read("README.md").matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = ""]) => code);

  it("type-checks", () => {
    expect(blocks.length).toBeGreaterThan(0);
    for (const block of blocks) expect(diagnosticsOf(block)).toEqual([]);
  });

  it("would not, if it used something that is not there", () => {
    const wrong = `import { openVram } from "vram-residency";\n(await openVram()).unseal("m");\n`;
    expect(diagnosticsOf(wrong).join("\n")).toContain("'unseal' does not exist");
  });
});

/** The anchor that a heading gets on the usual renderers. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replaceAll(/\s/g, "-");
const anchorsOf = (page: string): string[] =>
  [...read(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) => anchorOf(heading));

describe("links", () => {
  it.each(PAGES)("of %s lead somewhere", (page) => {
    const links = [...read(page).matchAll(/\]\(([^)\s]+)\)/g)].map(([, target = ""]) => target);
    for (const link of links.filter((target) => !/^[a-z]+:/.test(target))) {
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? page : normalize(join(dirname(page), path));
      expect(existsSync(join(ROOT, target)), `${page}: ${link}`).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(target), `${page}: ${link}`).toContain(anchor);
    }
  });

  it("README.md leads to every other page", () => {
    const targets = [...read("README.md").matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target);
    expect(PAGES.filter((page) => page !== "README.md" && !targets.includes(page))).toEqual([]);
  });
});
