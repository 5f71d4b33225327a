/** docs/coming-from-the-rust-crate.md names what there is here by its right name, and leaves out no origin. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { ERROR_TABLE } from "../../src/errors.ts";
import { PROOF_VARIABLES } from "../helpers/proof.ts";

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const PAGE = read("docs/coming-from-the-rust-crate.md");
const ROWS = JSON.parse(read("docs/requirements.json")) as readonly { readonly id: string; readonly origin?: string }[];

const section = (title: string): string => PAGE.split(`\n## ${title}\n`)[1]?.split("\n## ")[0] ?? "";
/** Cells of a table, row by row, without its head. */
const rowsOf = (title: string): readonly (readonly string[])[] =>
  [...section(title).matchAll(/^\| (.+) \| (.+) \|$/gm)].slice(1).map(([, left = "", right = ""]) => [left, right]);
const codesIn = (text: string): readonly string[] =>
  [...text.matchAll(/`([A-Z][A-Z_]+)`/g)].map(([, code = ""]) => code);

it("names errors that there are", () => {
  const codes = rowsOf("Errors").flatMap(([, here = ""]) => codesIn(here));
  expect(codes.length).toBeGreaterThan(8);
  expect(codes.filter((code) => !(code in ERROR_TABLE))).toEqual([]);
});

it("names entries and narrations that there are", () => {
  const types = rowsOf("Audit events").map(([, here = ""]) => here);
  expect(types).toHaveLength(7);
  for (const type of types) expect(read("docs/audit.md"), type).toContain(`| ${type} |`);
  const actions = [...section("Narration").matchAll(/`([a-z_]+)`/g)].map(([, action = ""]) => action);
  expect(new Set(actions).size).toBe(13);
  for (const action of actions) expect(read("docs/narration.md"), action).toContain(`| \`${action}\` |`);
});

it("maps every origin in the crate's numbers, to the requirement that has it", () => {
  const isNumbered = (origin: string | undefined): boolean => /^(WORKER|VP|MS|RP|IV|CI)-\d/.test(origin ?? "");
  const told = rowsOf("Requirements");
  const mapped = told.flatMap(([crate = "", here = ""]) => here.split(", ").map((id) => `${id} ${crate}`));
  const wanted = ROWS.filter(({ origin }) => isNumbered(origin)).map(({ id, origin = "" }) => `${id} ${origin}`);
  expect(mapped.toSorted()).toEqual(wanted.toSorted());
});

it("names variables of proof bundles that there are", () => {
  const named = [...section("What was what").matchAll(/`(VRAM_PROOF_[A-Z_]+)`/g)].map(([, name = ""]) => name);
  expect(named.filter((name) => !PROOF_VARIABLES.includes(name))).toEqual([]);
  for (const name of PROOF_VARIABLES) expect([read("docs/proof.md").includes(name), name]).toEqual([true, name]);
});
