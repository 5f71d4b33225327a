/** What `npm run proof` makes of what ran: the matrix, the page, and what it refuses to write down. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Features, Tests } from "../../src/proof/results.ts";

interface Row {
  readonly id: string;
  readonly withoutGpu: string;
  readonly onGpu: string;
  readonly evidence: readonly { readonly name: string }[];
}
interface Matrix {
  readonly rows: readonly Row[];
  readonly strays: readonly string[];
}

const load = async (name: string): Promise<unknown> =>
  import(new URL(`../../scripts/proof/${name}.mjs`, import.meta.url).href);
const { matrixOf } = (await load("matrix")) as {
  matrixOf: (requirements: readonly object[], tests: Tests, features: readonly Features[]) => Matrix;
};
const { secretsIn } = (await load("secrets")) as {
  secretsIn: (path: string, text: string, env?: Record<string, string>) => readonly string[];
};
const { readTests, readFeatures } = (await load("results")) as {
  readTests: (path: string) => Tests;
  readFeatures: (path: string, backend: string) => Features;
};
const { html } = (await load("html")) as {
  html: (parts: TemplateStringsArray, ...values: readonly unknown[]) => { toString(): string };
};

const ROOT = new URL("../../", import.meta.url).pathname;
/** A tag that is none of this file's own. */
const tag = (id: string): string => ["[VR", "-", id, "]"].join("");

type Status = "passed" | "failed" | "skipped";

const testsOf = (tier: string, ...tests: readonly (readonly [title: string, status: Status])[]): Tests => ({
  schema: "vram-residency/proof-tests/v1",
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

const ONE = [{ id: "VR-MEM-01", title: "t", must: "m", gpu: true }];
const standing = (tests: Tests, features: readonly Features[] = []): readonly unknown[] =>
  matrixOf(ONE, tests, features).rows.map(({ withoutGpu, onGpu }) => [withoutGpu, onGpu]);

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

  it("names tags that are nobody's", () => {
    const { strays } = matrixOf(ONE, testsOf("unit", [`${tag("MEM-77")} holds`, "passed"]), [
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
    ["a path of this machine", `${ROOT}src/index.ts`],
  ])("%s", (kind, text) => {
    const found = secretsIn("tests.json", `first\n  "${text}"\n`, { DEPLOY_TOKEN: "correct-horse", SHELL: "/bin/sh" });
    expect(found).toEqual([`tests.json, line 2: ${kind}`]);
  });

  it("what only looks like one is left alone", () => {
    const text = `-----BEGIN PUBLIC KEY-----\nvram_use_short\nhttps://example.com/a:b\n${"a".repeat(64)}\n/bin/sh\n`;
    expect(secretsIn("tests.json", text, { SHELL: "/bin/sh", TOKEN: "short" })).toEqual([]);
  });
});

describe("reports of the runners", () => {
  function written(text: string, read: (path: string) => unknown): unknown {
    const folder = mkdtempSync(join(tmpdir(), "vram-proof-test-"));
    try {
      writeFileSync(join(folder, "report"), text);
      return read(join(folder, "report"));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  it("of tests lose colours and places, not failures", () => {
    const test = {
      ancestorTitles: ["a"],
      title: "b",
      duration: 1.4,
      failureMessages: [`\u001b[31mat ${ROOT}src/x.ts`],
    };
    const file = { startTime: 0, endTime: 3, message: "" };
    const testResults = [
      {
        ...file,
        name: `${ROOT}test/unit/x.test.ts`,
        status: "failed",
        assertionResults: [{ ...test, status: "failed" }],
      },
      {
        ...file,
        name: `${ROOT}test/unit/a.test.ts`,
        status: "failed",
        assertionResults: [],
        message: "no such module",
      },
      {
        ...file,
        name: `${ROOT}test/unit/c.test.ts`,
        status: "passed",
        assertionResults: [{ ...test, status: "todo" }],
      },
    ];
    expect(written(JSON.stringify({ testResults }), readTests)).toMatchObject({
      files: [
        { path: "test/unit/a.test.ts", error: "no such module" },
        { path: "test/unit/c.test.ts", tests: [{ status: "skipped" }] },
        { path: "test/unit/x.test.ts", tests: [{ title: "a > b", status: "failed", ms: 1, message: "at src/x.ts" }] },
      ],
    });
  });

  it("of scenarios: one that began and did not end has failed, and so has a run that fails outside of them", () => {
    const pickle = (id: string, name: string) => ({
      pickle: { id, uri: "features/x.feature", name, location: { line: 3 }, tags: [{ name: "@VR-MEM-01" }] },
    });
    const started = (id: string) => ({
      testCaseStarted: { id: `s-${id}`, testCaseId: `c-${id}`, timestamp: { seconds: 1, nanos: 0 } },
    });
    const step = (id: string, status: string) => ({
      testStepFinished: { testCaseStartedId: `s-${id}`, testStepResult: { status, message: "why" } },
    });
    const end = (id: string) => ({
      testCaseFinished: { testCaseStartedId: `s-${id}`, timestamp: { seconds: 2, nanos: 0 } },
    });
    const common = [
      { gherkinDocument: { uri: "features/x.feature", feature: { name: "X" } } },
      ...["1", "2", "3"].flatMap((id) => [pickle(id, "same"), { testCase: { id: `c-${id}`, pickleId: id } }]),
    ];
    const run = [started("1"), step("1", "PASSED"), end("1"), started("2"), step("2", "PASSED"), started("3")];
    const undefinedStep = [step("3", "UNDEFINED"), end("3"), { testRunFinished: { success: false } }];
    const text = [...common, ...run, ...undefinedStep].map((message) => JSON.stringify(message)).join("\n");
    expect(written(text, (path) => readFeatures(path, "emulated"))).toMatchObject({
      features: [{ scenarios: [{ status: "passed", ms: 1000 }, { status: "failed" }, { status: "failed" }] }],
    });
    const outside = [...common, started("1"), step("1", "PASSED"), end("1"), { testRunFinished: { success: false } }];
    const read = written(outside.map((message) => JSON.stringify(message)).join("\n"), (path) =>
      readFeatures(path, "emulated"),
    );
    expect(read).toMatchObject({ features: [{}, { name: "the run itself", scenarios: [{ status: "failed" }] }] });
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
