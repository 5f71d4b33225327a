/** `docs/errors.md` against the table of errors and the exit codes, both ways. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { exitCodeFor } from "../../src/cli/exit.ts";
import { ERROR_TABLE, type ErrorCode, VramError } from "../../src/errors.ts";

const PAGE = readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8");
const CODES = Object.keys(ERROR_TABLE) as ErrorCode[];

/** The cells of every row of the table whose header has this cell first. */
function rowsUnder(header: string): string[][] {
  const lines = PAGE.split("\n");
  const start = lines.findIndex((line) => line.startsWith(`| ${header} |`)) + 2;
  const rows = lines.slice(start);
  const end = rows.findIndex((line) => !line.startsWith("|"));
  return rows.slice(0, end).map((line) => line.slice(2, -2).split(" | "));
}

const documented = rowsUnder("code | meaning");
const yesOrNo = (value: boolean): string => (value ? "yes" : "no");

describe("docs/errors.md", () => {
  it("lists every code once, in the order of the table, and no other", () => {
    expect(documented.map(([code]) => code)).toEqual(CODES.map((code) => `\`${code}\``));
  });

  it.each(CODES)("[VR-IN-04] says of %s what the program says", (code) => {
    const { meaning, fix, retriable, fatal } = ERROR_TABLE[code];
    const exit = String(exitCodeFor(new VramError(code, "a message")));
    expect(documented.find(([first]) => first === `\`${code}\``)).toEqual([
      `\`${code}\``,
      meaning,
      yesOrNo(retriable),
      yesOrNo(fatal),
      exit,
      fix,
    ]);
  });

  it("speaks of details of codes that exist only", () => {
    const named = rowsUnder("code | `details`").flatMap(([codes = ""]) => codes.replaceAll("`", "").split(", "));
    expect(named.length).toBeGreaterThan(0);
    expect(named.filter((code) => !(code in ERROR_TABLE))).toEqual([]);
  });

  it("names every rule of the policy, and no other", () => {
    const policy = readFileSync(new URL("../../src/residency/policy.ts", import.meta.url), "utf8");
    const section = PAGE.slice(PAGE.indexOf("## Rules of the policy"));
    const listed = [...section.matchAll(/`([a-z-]+)`/g)].map(([, rule]) => rule);
    const table = /const RULES[^{]+\{([^}]+)\}/.exec(policy)?.[1] ?? "";
    const returned = [...policy.matchAll(/return "([a-z-]+)"/g)].map(([, rule]) => rule);
    const known = [...table.matchAll(/: "([a-z-]+)"/g)].map(([, rule]) => rule).concat(returned);
    expect(listed.toSorted()).toEqual(known.toSorted());
  });
});
