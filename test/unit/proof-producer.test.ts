/** What `npm run proof` makes of what ran: the matrix, the page, and what it refuses to write down. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { matrixOf } from "../../src/proof/matrix.ts";
import type { Features, Tests } from "../../src/proof/results.ts";
import { cleanMessage, html, ROOT, secretsIn, standing, tag } from "../helpers/proof-producer.ts";

type Status = "passed" | "failed" | "skipped";

const testsOf = (tier: string, ...tests: readonly (readonly [title: string, status: Status])[]): Tests => ({
  schema: "vram-residency/proof-tests/v1",
  gpus: [],
  files: [
    { path: `test/${tier}/x.test.ts`, tier, ms: 1, tests: tests.map(([title, status]) => ({ title, status, ms: 1 })) },
  ],
});

const featuresOf = (backend: string, requirement: string, status: Status): Features => ({
  schema: "vram-residency/proof-features/v1",
  backend,
  features: [
    {
      path: "features/x.feature",
      name: "X",
      scenarios: [{ name: "it is", requirements: [requirement], status, ms: 1 }],
    },
  ],
});

describe("[VR-PRF-01] the matrix", () => {
  const own = tag("MEM-01");

  it("shows what passed, what failed, and what no test carries", () => {
    expect(standing(testsOf("unit", [`${own} holds`, "passed"]))).toEqual([["passed", "gap"]]);
    expect(standing(testsOf("unit", [`part > ${own} holds`, "passed"], [`${own} bites`, "failed"]))).toEqual([
      ["failed", "gap"],
    ]);
    expect(standing(testsOf("unit", ["holds", "passed"]))).toEqual([["gap", "gap"]]);
  });

  it("takes no skipped test for a passed one", () => {
    expect(standing(testsOf("unit", [`${own} holds`, "skipped"]))).toEqual([["gap", "gap"]]);
  });

  it("[VR-PRF-02] keeps what a GPU showed apart from what the emulated device did", () => {
    expect(standing(testsOf("device", [`${own} holds`, "skipped"]))).toEqual([["gap", "gap"]]);
    expect(standing(testsOf("device", [`${own} holds`, "passed"]))).toEqual([["gap", "passed"]]);
    const none = testsOf("unit");
    expect(standing(none, [featuresOf("emulated", "VR-MEM-01", "passed")])).toEqual([["passed", "gap"]]);
    expect(standing(none, [featuresOf("cuda", "VR-MEM-01", "failed")])).toEqual([["gap", "failed"]]);
  });

  it("does not count what passed in a file that failed around it", () => {
    const [file] = testsOf("unit", [`${own} holds`, "passed"]).files;
    if (file === undefined) throw new Error("no file");
    const tests = { ...testsOf("unit"), files: [{ ...file, error: "not cleaned up" }] };
    expect(standing(tests)).toEqual([["failed", "gap"]]);
  });

  it("names tags that are nobody's", () => {
    const { strays } = matrixOf([{ id: "VR-MEM-01" }], testsOf("unit", [`${tag("MEM-77")} holds`, "passed"]), [
      featuresOf("emulated", "VR-SEAL-88", "passed"),
    ]);
    expect(strays).toHaveLength(2);
  });
});

describe("[VR-PRF-01] secrets are refused, by kind and place, and not repeated", () => {
  // Titles stand in bundles, and must not hold what is refused there.
  it.each([
    ["a private key in PEM", "-----BEGIN PRIVATE KEY-----"],
    ["a private key in PEM", "-----BEGIN EC PRIVATE KEY-----"],
    ["an API token", `vram_operate_${"A".repeat(43)}`],
    ["a token of a code host", `ghp_${"a".repeat(36)}`],
    ["a cloud key", `AKIA${"A".repeat(16)}`],
    ["a password in an address", "https://me:hunter2hunter2@example.com/"],
    ["the value of DEPLOY_TOKEN", "it is correct-horse, of course"],
    ["the value of GIT_PAT", "first of two"],
    ["the value of SIGNING_KEY", 'say \\"friend\\" &amp; enter'],
    ["a path of this machine", `${ROOT}src/index.ts`],
  ])("%s", (kind, text) => {
    const env = { DEPLOY_TOKEN: "correct-horse", GIT_PAT: "first of two", SIGNING_KEY: 'say \\"friend\\" &amp; enter' };
    expect(secretsIn("tests.json", `first\n  "${text}"\n`, { ...env, SHELL: "/bin/sh" })).toEqual([
      `tests.json, line 2: ${kind}`,
    ]);
  });

  it.each<[string, string, (value: string) => string]>([
    ["a line of it", 'line "one"\nline & <two>', (value) => `it was ${value.split("\n")[1] ?? ""}!`],
    ["as JSON", 'line "one"\nline & <two>', (value) => JSON.stringify([value])],
    ["in a page", 'line "one"\nline & <two>', (value) => html`<p>${value}</p>`.toString()],
    [
      "printed, in JSON, in a page",
      '{"a":"b\\n"}\nsecond "line"',
      (v) => html`${JSON.stringify(inspect([v]))}`.toString(),
    ],
    ["without the white space around it", "0123456789abcdef\n", (value) => `<${value.trim()}>`],
    ["cut", "a-long-secret-of-many-characters", (value) => `expected '${value.slice(0, 20)}…' to be 'x'`],
  ])("a value is found: %s", (_, value, shown) => {
    const found = secretsIn("f", `x\n${shown(value)}`, { MY_TOKEN: value });
    expect(found).toContain("f, line 2: the value of MY_TOKEN");
  });

  it("a token is found that was cut, and a place with nothing behind it", () => {
    expect(secretsIn("f", `vram_use_${"A".repeat(20)}…`, {})).toEqual(["f, line 1: an API token"]);
    expect(secretsIn("f", `no repository: ${ROOT.slice(0, -1)}`, {})).toEqual(["f, line 1: a path of this machine"]);
    expect(cleanMessage(`in ${ROOT.slice(0, -1)}: ${ROOT}src, file://${ROOT}test/x.ts`)).toBe("in .: src, test/x.ts");
  });

  it("what only looks like one is left alone", () => {
    const text = `-----BEGIN PUBLIC KEY-----\nvram_use_short\nhttps://example.com/a:b\n${"a".repeat(64)}\n/bin/sh\ndocs${homedir()}/\n`;
    expect(secretsIn("tests.json", text, { SHELL: "/bin/sh", TOKEN: "short" })).toEqual([]);
  });
});

describe("the page", () => {
  it("lets nothing in that is not text", () => {
    expect(html`<p title="${'"'}">${"<script>"} ${[html`<b>${"&"}</b>`, "'"]}</p>`.toString()).toBe(
      '<p title="&quot;">&lt;script&gt; <b>&amp;</b>&#39;</p>',
    );
  });

  it("has no script and loads nothing", () => {
    const sources = ["page", "page-parts"].map((name) =>
      readFileSync(new URL(`../../scripts/proof/${name}.mjs`, import.meta.url), "utf8"),
    );
    for (const source of sources) expect(source).not.toMatch(/<script|<link|<img|src=|@import/);
  });
});
