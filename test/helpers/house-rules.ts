/**
 * The house rules that no linter knows (STYLE.md), each a function from files to breaches. `tidy.test.ts` runs them over
 * the tree, and over small bad examples to show that each one bites. Files are read as text and parsed, never imported.
 */
import { readdirSync, readFileSync } from "node:fs";
import { posix } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

/** A file as the rules see it: `path` is relative to the repository, with forward slashes. */
export interface TreeFile {
  readonly path: string;
  readonly text: string;
}

/** One place where a rule is broken. */
export interface Breach {
  readonly path: string;
  readonly line: number;
  readonly what: string;
}

export type Rule = (files: readonly TreeFile[]) => readonly Breach[];

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const CODE = /\.[cm]?[jt]s$/;

/** All code under src, test and scripts, and package.json. */
export function readTree(): readonly TreeFile[] {
  const read = (path: string): TreeFile => ({ path, text: readFileSync(`${ROOT}${path}`, "utf8") });
  const under = (folder: string): TreeFile[] =>
    readdirSync(`${ROOT}${folder}`, { recursive: true, encoding: "utf8" })
      .map((name) => `${folder}/${name.replaceAll("\\", "/")}`)
      .filter((path) => CODE.test(path))
      .sort()
      .map(read);
  return [...under("src"), ...under("test"), ...under("scripts"), read("package.json")];
}

const parsed = new WeakMap<TreeFile, ts.SourceFile>();

function sourceOf(file: TreeFile): ts.SourceFile {
  const source = parsed.get(file) ?? ts.createSourceFile(file.path, file.text, ts.ScriptTarget.Latest, true);
  parsed.set(file, source);
  return source;
}

/** Every syntax node of a file, parents first. */
export function nodesOf(file: TreeFile): readonly ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(sourceOf(file));
  return found;
}

/** The nodes above `node`, nearest first. */
export function ancestorsOf(node: ts.Node): readonly ts.Node[] {
  const above: ts.Node[] = [];
  for (let at = node; !ts.isSourceFile(at); at = at.parent) above.push(at.parent);
  return above;
}

const isIn = (folder: string) => (file: TreeFile) => file.path.startsWith(`${folder}/`);
const isCode = (file: TreeFile): boolean => CODE.test(file.path);
const lineCount = (file: TreeFile): number => file.text.trimEnd().split("\n").length;

/** A rule that judges one syntax node at a time: `judge` says what is wrong with it, or nothing. */
function perNode(
  applies: (file: TreeFile) => boolean,
  judge: (node: ts.Node, file: TreeFile) => string | undefined,
): Rule {
  return (files) =>
    files.filter(applies).flatMap((file) =>
      nodesOf(file).flatMap((node) => {
        const what = judge(node, file);
        if (what === undefined) return [];
        const { line } = sourceOf(file).getLineAndCharacterOfPosition(node.getStart());
        return [{ path: file.path, line: line + 1, what }];
      }),
    );
}

/** A rule that judges a file as a whole; what is wrong with it is reported for its first line. */
function perFile(applies: (file: TreeFile) => boolean, judge: (file: TreeFile) => string | undefined): Rule {
  return (files) =>
    files.filter(applies).flatMap((file) => {
      const what = judge(file);
      return what === undefined ? [] : [{ path: file.path, line: 1, what }];
    });
}

/** The module that a node names: in an import, an export … from, an `import()` or an `import("…").Type`. */
function specifierOf(node: ts.Node): string | undefined {
  const literal =
    ts.isImportDeclaration(node) || ts.isExportDeclaration(node)
      ? node.moduleSpecifier
      : ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword
        ? node.arguments[0]
        : ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)
          ? node.argument.literal
          : undefined;
  return literal !== undefined && ts.isStringLiteral(literal) ? literal.text : undefined;
}

/** The order of the journey: each may import what stands before it. Single files (`open`, `vram`) are the composition. */
const ORDER = [
  ..."leaf ffi journal hash cuda handles source staging device seal residency verify lease exports attest".split(" "),
  ..."offline proof options backend process config recording open environment api requests vram tamper".split(" "),
  ..."service client cli".split(" "),
];
const LEAVES = ["errors", "assert", "bytes", "dispose", "clock", "limits", "files", "version"];
/** Readers of the journal see leaves and journal only; nothing before `lease` sees them. */
const READERS = ["audit", "narrate", "metrics"];
/** Entry points of the package may import anything. */
const COMPOSERS = ["index", "testing"];

/** Where a file of src stands: a folder of it, `leaf`, or the name of a file directly in it. */
function unitOf(path: string): string {
  const [, first = "", second] = path.split("/");
  if (second !== undefined) return first;
  const name = first.replace(CODE, "");
  return LEAVES.includes(name) ? "leaf" : name;
}

function mayImport(from: string, to: string): boolean {
  if (from === to || to === "leaf" || COMPOSERS.includes(from)) return true;
  if (READERS.includes(from)) return to === "journal";
  if (READERS.includes(to)) return ORDER.indexOf(from) >= ORDER.indexOf("lease");
  if (to === "index") return from === "cli";
  return ORDER.includes(to) && ORDER.indexOf(to) < ORDER.indexOf(from);
}

const importDirection = perNode(isIn("src"), (node, file) => {
  const specifier = specifierOf(node);
  const from = unitOf(file.path);
  if (ts.isSourceFile(node) && ![...ORDER, ...READERS, ...COMPOSERS].includes(from)) {
    return `${from} has no place in the order of imports`;
  }
  if (specifier?.startsWith(".") !== true) return undefined;
  const target = posix.join(posix.dirname(file.path), specifier);
  if (!target.startsWith("src/")) return `${specifier} leaves src`;
  const to = unitOf(target);
  return mayImport(from, to) ? undefined : `${from} must not import ${to} (${specifier})`;
});

const oneDoorToNative = perNode(
  (file) => isIn("src")(file) && !file.path.startsWith("src/ffi/"),
  (node) =>
    ts.isStringLiteral(node) && /^koffi(\/|$)/.test(node.text) ? "koffi is imported in src/ffi/ only" : undefined,
);

const noDefaultExports = perNode(isIn("src"), (node) => {
  const exported =
    ts.isExportAssignment(node) ||
    (ts.isExportSpecifier(node) && node.name.text === "default") ||
    node.kind === ts.SyntaxKind.DefaultKeyword;
  return exported ? "default exports have no name to search for" : undefined;
});

const fileLength = perFile(
  (file) => isCode(file) && file.path !== "src/errors.ts",
  (file) => (lineCount(file) > 300 ? `${lineCount(file)} lines, and 300 is the most` : undefined),
);

const shortEntryFiles = perFile(
  (file) => /^src\/(hash\/pool-thread|cuda\/nvml-process|service\/device-process|cli\/bin)\.ts$/.test(file.path),
  (file) => (lineCount(file) > 15 ? `${lineCount(file)} lines; tests cannot reach more than 15 here` : undefined),
);

const noEnumsOrNamespaces = perNode(isIn("src"), (node) => {
  if (ts.isEnumDeclaration(node)) return "use a union or a const table, not an enum";
  const isNamespace = ts.isModuleDeclaration(node) && ts.isIdentifier(node.name) && node.name.text !== "global";
  return isNamespace ? "a file is the namespace" : undefined;
});

const noBarrels = perFile(
  (file) => isIn("src")(file) && !COMPOSERS.includes(unitOf(file.path)),
  (file) => {
    const { statements } = sourceOf(file);
    const passesOn =
      statements.length > 0 && statements.every((s) => ts.isImportDeclaration(s) || ts.isExportDeclaration(s));
    return passesOn && statements.some(ts.isExportDeclaration)
      ? "only passes exports on; import the file itself"
      : undefined;
  },
);

const noConsole = perNode(
  (file) => isIn("src")(file) && !isIn("src/cli")(file),
  (node) => {
    if (!ts.isIdentifier(node) || node.text !== "console") return undefined;
    const isName =
      (ts.isPropertyAccessExpression(node.parent) && node.parent.name === node) || ts.isPropertyAssignment(node.parent);
    return isName ? undefined : "the library appends entries to the journal; only the command line prints";
  },
);

const noEnvironment = perNode(
  (file) => isIn("src")(file) && !isIn("src/cli")(file) && file.path !== "src/index.ts",
  (node) => {
    const isAccess =
      (ts.isPropertyAccessExpression(node) || ts.isElementAccessExpression(node)) &&
      /\bprocess(\.env|\??\.?\[["'`]env["'`]\])$/.test(node.getText());
    const isImport =
      ts.isImportSpecifier(node) &&
      (node.propertyName ?? node.name).text === "env" &&
      /["'](node:)?process["']/.test(node.parent.parent.parent.getText());
    return isAccess || isImport ? "the environment is read in src/cli and src/index.ts only" : undefined;
  },
);

const noMarks: Rule = (files) =>
  files.filter(isIn("src")).flatMap(({ path, text }) =>
    text.split("\n").flatMap((content, index) => {
      const mark = /\b(TODO|FIXME|XXX)\b/.exec(content)?.[0];
      return mark === undefined
        ? []
        : [{ path, line: index + 1, what: `${mark}: do it, or write it down as an issue` }];
    }),
  );

const KEBAB = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|config|d))?(\.[cm]?[jt]s)?$/;

/** A rule that judges every part of a path: folders and the name of the file. */
function perPathPart(isBad: (part: string) => boolean, what: string): Rule {
  return perFile(isCode, (file) => {
    const bad = file.path.split("/").find(isBad);
    return bad === undefined ? undefined : `${bad} ${what}`;
  });
}

const kebabCase = perPathPart((part) => !KEBAB.test(part), "is not kebab-case");

const foldersHaveSubjects = perPathPart(
  (part) => ["utils", "common", "managers"].includes(part),
  "says nothing about what is in it",
);

const opensWithComment = perFile(isIn("src"), (file) =>
  /^(#!.*\n)?\s*\/[*/]/.test(file.text) ? undefined : "say first where the file stands in the journey",
);

const noSleepingTests = perNode(
  (file) => isIn("test")(file) && !isIn("test/helpers")(file),
  (node) => {
    const isModule = /^(node:)?timers\/promises$/.test(specifierOf(node) ?? "");
    const isTimer = ts.isIdentifier(node) && node.text === "setTimeout";
    const waits = (above: ts.Node): boolean =>
      ts.isAwaitExpression(above) ||
      (ts.isNewExpression(above) && above.expression.getText() === "Promise") ||
      (ts.isCallExpression(above) && above.expression.getText().endsWith("promisify"));
    // As far up as the function it stands in, and what that function is given to.
    const above = ancestorsOf(node);
    const end = above.findIndex(ts.isFunctionLike);
    const near = end === -1 ? above : above.slice(0, end + 2);
    const isSleep = isModule || (isTimer && near.some(waits));
    return isSleep ? "wait for the event, or give the code a clock of the test's own" : undefined;
  },
);

type Manifest = Readonly<Record<string, Readonly<Record<string, string>> | undefined>>;

const exactDependencies: Rule = (files) =>
  files
    .filter(({ path }) => path === "package.json")
    .flatMap(({ path, text }) => {
      const { dependencies = {}, devDependencies = {}, optionalDependencies = {} } = JSON.parse(text) as Manifest;
      const shipped = { ...dependencies, ...optionalDependencies };
      const lineOf = (name: string): number => text.slice(0, text.indexOf(`"${name}"`)).split("\n").length;
      const breaches = Object.entries({ ...devDependencies, ...shipped })
        .filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))
        .map(([name, version]) => ({ path, line: lineOf(name), what: `${name} ${version} is not an exact version` }));
      const count = Object.keys(shipped).length;
      const tooMany = { path, line: lineOf("dependencies"), what: `${count} runtime dependencies, and 12 is the most` };
      return count > 12 ? [...breaches, tooMany] : breaches;
    });

/** Every rule by its name; the names are the test titles. */
export const HOUSE_RULES = {
  "imports follow the order of the journey": importDirection,
  "koffi is imported in src/ffi/ only": oneDoorToNative,
  "src has no default exports": noDefaultExports,
  "no file is longer than 300 lines": fileLength,
  "entry files of threads and processes have at most 15 lines": shortEntryFiles,
  "src has no enum and no namespace": noEnumsOrNamespaces,
  "there are no barrels below src/index.ts": noBarrels,
  "only the command line prints": noConsole,
  "only the command line and src/index.ts read the environment": noEnvironment,
  "src has no marks for later": noMarks,
  "files and folders are named in kebab-case": kebabCase,
  "no folder is named utils, common or managers": foldersHaveSubjects,
  "every file of src opens with a comment": opensWithComment,
  "no test sleeps": noSleepingTests,
  "dependencies are exact, and at most 12 at run time": exactDependencies,
} as const satisfies Record<string, Rule>;
