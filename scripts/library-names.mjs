// Writes docs/library.md, the names of the package's doors with the first sentence of what their docstrings say, after
// typedoc found nothing undocumented (typedoc.json): `node scripts/library-names.mjs`. With --check it writes nothing and
// fails where the page is another one.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Application, ReflectionKind } from "typedoc";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PAGE = new URL("../docs/library.md", import.meta.url);

const HEAD = `# The library: every name

What a program can import from this package, and nothing else: its four doors. Written by
\`node scripts/library-names.mjs\` from the docstrings; a test compares the two. \`npm run docs\` writes every field, option
and parameter to \`docs-html\`, and fails where one is not documented.
`;

const KINDS = new Map([
  [ReflectionKind.Function, "function"],
  [ReflectionKind.Class, "class"],
  [ReflectionKind.Interface, "interface"],
  [ReflectionKind.TypeAlias, "type"],
  [ReflectionKind.Variable, "constant"],
]);

/** The text of a comment on one line. */
function textOf(comment) {
  const text = comment?.summary.map((part) => part.text).join("") ?? "";
  return text.replace(/\s+/g, " ").trim();
}

/** Up to the first full stop that ends a sentence, or all of it. */
const firstSentence = (text) => /^(?:`[^`]*`|[^`])*?\.(?= |$)/.exec(text)?.[0] ?? text;

/** What is exported; behind a name that another door has as well, the same thing. */
const declarationOf = (child) =>
  child.kind === ReflectionKind.Reference ? declarationOf(child.getTargetReflection()) : child;

function rowOf(child) {
  const declaration = declarationOf(child);
  const kind = KINDS.get(declaration.kind);
  if (kind === undefined) throw new Error(`${child.name} is ${ReflectionKind.singularString(declaration.kind)}`);
  const text = textOf(declaration.comment ?? declaration.signatures?.[0]?.comment);
  if (text === "") throw new Error(`${child.name} has no docstring`);
  return `| \`${child.name}\` | ${kind} | ${firstSentence(text).replaceAll("|", "\\|")} |`;
}

const byName = (one, other) => (one.name < other.name ? -1 : 1);

function sectionOf(door) {
  const rows = [...door.children].sort(byName).map(rowOf);
  const table = ["| name | kind | what it is |", "|---|---|---|", ...rows];
  return `\n## \`${door.name}\`\n\n${firstSentence(textOf(door.comment))}\n\n${table.join("\n")}\n`;
}

const app = await Application.bootstrap({ options: `${ROOT}typedoc.json`, emit: "none" });
const project = await app.convert();
if (project === undefined) process.exit(1);
app.validate(project);
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1);

const page = HEAD + project.children.map(sectionOf).join("");
if (!process.argv.includes("--check")) writeFileSync(PAGE, page);
else if (readFileSync(PAGE, "utf8") !== page) {
  console.error("docs/library.md is another page: `node scripts/library-names.mjs` writes it anew");
  process.exit(1);
}
