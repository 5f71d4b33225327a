/** docs/threat-model.md and docs/security-review.md: no threat left out, and nothing named that is not there. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

const ROOT = new URL("../../", import.meta.url).pathname;
const read = (path: string): string => readFileSync(`${ROOT}${path}`, "utf8");

const MODEL = read("docs/threat-model.md");
const REVIEW = read("docs/security-review.md");
const IDS = (JSON.parse(read("docs/requirements.json")) as readonly { readonly id: string }[]).map(({ id }) => id);

/** The sections of the review, by threat. */
const SECTIONS = new Map(
  [...REVIEW.matchAll(/^## (T-\d{2}) [^\n]+\n([\s\S]*?)(?=^## )/gm)].map(([, id = "", text = ""]) => [id, text]),
);
const rowOf = (text: string, name: string): string =>
  new RegExp(`^\\| ${name} \\| (.+) \\|$`, "m").exec(text)?.[1] ?? "";

/** Whether a file declares a name. */
const declares = (source: string, name: string): boolean =>
  new RegExp(`\\b(?:function|const|class|interface)\\*? ${name}\\b`).test(source);

const faultsOfCode = (text: string): readonly string[] =>
  [...rowOf(text, "code").matchAll(/`([^`]+\.ts)` `([^`]+)`/g)]
    .filter(([, path = "", name = ""]) => {
      const file = `src/${path}`;
      return !existsSync(`${ROOT}${file}`) || !declares(read(file), name);
    })
    .map(([all]) => all);

const faultsOfTests = (text: string): readonly string[] =>
  [...rowOf(text, "tests").matchAll(/`(test\/[^`]+)` "([^"]+)"/g)]
    .filter(([, path = "", title = ""]) => !existsSync(`${ROOT}${path}`) || !read(path).includes(title))
    .map(([all]) => all);

describe("the security review", () => {
  it("goes through every threat of the model, in order", () => {
    const threats = [...MODEL.matchAll(/^\| (T-\d{2}) \|/gm)].map(([, id]) => id);
    expect(threats.length).toBeGreaterThan(15);
    expect([...SECTIONS.keys()]).toEqual(threats);
  });

  it.each([...SECTIONS])("%s names code and tests that are there, and what is open", (_, text) => {
    for (const row of ["code", "tests", "requirements"]) expect(rowOf(text, row), row).not.toBe("");
    expect(faultsOfCode(text), "code").toEqual([]);
    expect(faultsOfTests(text), "tests").toEqual([]);
    expect(text).toContain("**Open:**");
  });

  it("names every requirement, and no other", () => {
    const named = [...SECTIONS.values()].flatMap((text) => rowOf(text, "requirements").split(" "));
    expect(named.filter((id) => !IDS.includes(id))).toEqual([]);
    expect(IDS.filter((id) => !named.includes(id))).toEqual([]);
  });

  it("would notice what is not there", () => {
    const wrong =
      '| code | `seal/seal.ts` `notThere`, `no/file.ts` `checkMac` |\n| tests | `test/unit/leaf.test.ts` "no title" |';
    expect([faultsOfCode(wrong).length, faultsOfTests(wrong).length]).toEqual([2, 1]);
  });
});
