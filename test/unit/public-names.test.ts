/**
 * What programs can import is documented, both ways: typedoc finds no name without a docstring, and docs/library.md is
 * the page that follows from the docstrings. That it has the names of the doors, no more and no fewer, is seen in the
 * doors themselves, which are read here without typedoc.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const read = (path: string): string => readFileSync(`${ROOT}${path}`, "utf8");
const PAGE = read("docs/library.md");
/** Takes 6 s of one core where this was measured. */
const WATCHDOG_MS = 120_000;

type Manifest = Readonly<{ exports: Readonly<Record<string, { readonly default: string }>> }>;
const { exports: doors } = JSON.parse(read("package.json")) as Manifest;

/** The doors: what a program imports, and the file behind it. */
const DOORS = Object.entries(doors).map(([path, { default: file }]): readonly [string, string] => [
  `vram-residency${path.slice(1)}`,
  file.replace("./dist/", "src/").replace(/\.js$/, ".ts"),
]);

/** The names that a file exports. One that passes on all of another file would show as `*`. */
function exportedBy(file: string): readonly string[] {
  const source = ts.createSourceFile(file, read(file), ts.ScriptTarget.Latest, true);
  return source.statements.flatMap((statement) => {
    if (ts.isExportDeclaration(statement)) {
      const clause = statement.exportClause;
      return clause !== undefined && ts.isNamedExports(clause) ? clause.elements.map(({ name }) => name.text) : ["*"];
    }
    const isExported =
      ts.canHaveModifiers(statement) &&
      ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) === true;
    if (!isExported) return [];
    if (ts.isVariableStatement(statement)) {
      return statement.declarationList.declarations.map(({ name }) => name.getText());
    }
    const { name } = statement as ts.Statement & { readonly name?: ts.Node };
    return [name?.getText() ?? "default"];
  });
}

/** The names in the table under this heading. */
function listedUnder(door: string): readonly string[] {
  const [, rest = ""] = PAGE.split(`\n## \`${door}\`\n`);
  const [section = ""] = rest.split("\n## ");
  return [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = ""]) => name);
}

describe("what programs can import", () => {
  it(
    "is documented down to fields and options, and docs/library.md is the page of it",
    () => {
      const { status, stdout, stderr } = spawnSync(process.execPath, ["scripts/library-names.mjs", "--check"], {
        cwd: ROOT,
        encoding: "utf8",
        timeout: WATCHDOG_MS,
      });
      expect(`${stdout}${stderr}`).toBe("");
      expect(status).toBe(0);
    },
    WATCHDOG_MS,
  );

  it.each(DOORS)("%s has every name of %s on the page, once, and no other", (door, file) => {
    expect(listedUnder(door)).toEqual([...exportedBy(file)].sort());
    expect(listedUnder(door).length).toBeGreaterThan(10);
  });

  it("is behind the doors of package.json, all of which are on the page", () => {
    expect([...PAGE.matchAll(/^## `(.+)`$/gm)].map(([, door]) => door).toSorted()).toEqual(
      DOORS.map(([door]) => door).toSorted(),
    );
  });

  it("is checked with every kind of name required, and with warnings as errors", () => {
    const options = JSON.parse(read("typedoc.json")) as Readonly<Record<string, unknown>>;
    expect(options["entryPoints"]).toEqual(DOORS.map(([, file]) => file));
    expect(options).toMatchObject({
      validation: { notDocumented: true, notExported: true, invalidLink: true },
      treatWarningsAsErrors: true,
      treatValidationWarningsAsErrors: true,
    });
    expect(options["requiredToBeDocumented"]).toEqual([
      ...["Module", "Variable", "Function", "Class", "Constructor", "Interface", "Property", "Method"],
      ...["CallSignature", "Accessor", "TypeAlias", "Enum", "EnumMember"],
    ]);
    expect(options).not.toHaveProperty("intentionallyNotDocumented");
  });
});
