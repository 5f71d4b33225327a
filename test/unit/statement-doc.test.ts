/** docs/statement.md against the code, both ways: fields, faults, properties, and the numbers it names. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { PAYLOAD_TYPE } from "../../src/attest/envelope.ts";
import { PREDICATE_TYPES, STATEMENT_TYPE, statementSchema } from "../../src/attest/statement.ts";
import { madeStatement } from "../helpers/statements.ts";

const text = readFileSync(new URL("../../docs/statement.md", import.meta.url), "utf8");
const source = (path: string): string => readFileSync(new URL(`../../src/attest/${path}`, import.meta.url), "utf8");

/** First cells of the table behind a heading of it. */
function rows(heading: string): string[] {
  const table = text.split(`\n| ${heading} |`)[1]?.split("\n\n")[0] ?? expect.fail(`no table ${heading}`);
  return [...table.matchAll(/^\| `([^`]+)` \|/gm)].map(([, cell = ""]) => cell);
}

/** Paths of the fields of a schema; records and scalars are leaves. */
function pathsOf(schema: unknown, path = ""): string[] {
  const { def } = schema as { def: { type: string; shape?: object; items?: unknown[]; innerType?: unknown } };
  if (def.type === "object") {
    return Object.entries(def.shape ?? {}).flatMap(([key, part]) =>
      pathsOf(part, path === "" ? key : `${path}.${key}`),
    );
  }
  if (def.type === "tuple") return (def.items ?? []).flatMap((part, index) => pathsOf(part, `${path}[${index}]`));
  if (def.type === "optional") return pathsOf(def.innerType, path);
  return [path];
}

/** Members of a union of texts in a source file. */
const unionOf = (path: string, name: string): string[] => {
  const [, union = ""] = new RegExp(`type ${name} =([^;]+);`).exec(source(path)) ?? [];
  return [...union.matchAll(/"([^"]+)"/g)].map(([, member = ""]) => member);
};

describe("docs/statement.md", () => {
  it("has every field of a statement, and no other", () => {
    expect(rows("field").toSorted()).toEqual(pathsOf(statementSchema).toSorted());
  });

  it("has every fault, and no other", () => {
    const faults = [...unionOf("check.ts", "StatementFault"), ...unionOf("logged.ts", "LogFault")];
    expect(rows("fault").toSorted()).toEqual(faults.toSorted());
  });

  it("has every property of a statement that is accepted, in the order they are told", async () => {
    const checked = await madeStatement().check();
    expect(checked).toMatchObject({ ok: true });
    const told = checked.ok ? checked.findings.map(({ property }) => property) : [];
    expect(rows("property")).toEqual(told);
  });

  it("names the types as they are", () => {
    expect(text).toContain(STATEMENT_TYPE);
    expect(text).toContain(`DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} `);
    for (const [backend, type] of Object.entries(PREDICATE_TYPES)) {
      expect(type).toBe(`urn:vram-residency:statement:${backend}:v1`);
    }
  });
});
