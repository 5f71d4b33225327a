/** What `npm run proof` makes of what ran: the matrix, the page, and what it refuses to write down. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { matrixOf } from "../../src/proof/matrix.ts";
import type { Features, Tests } from "../../src/proof/results.ts";

const load = async (name: string): Promise<unknown> =>
  import(new URL(`../../scripts/proof/${name}.mjs`, import.meta.url).href);
const { secretsIn } = (await load("secrets")) as {
  secretsIn: (path: string, text: string, env?: Record<string, string>) => readonly string[];
};
const { readTests, readFeatures, cleanMessage } = (await load("results")) as {
  cleanMessage: (text: string) => string;
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
    ["the value of GIT_PAT", "first of two"],
    ["the value of SIGNING_KEY", 'say \\"friend\\" &amp; enter'],
    ["a path of this machine", `${ROOT}src/index.ts`],
  ])("%s", (kind, text) => {
    const env = { DEPLOY_TOKEN: "correct-horse", GIT_PAT: "first of two", SIGNING_KEY: 'say \\"friend\\" &amp; enter' };
    expect(secretsIn("tests.json", `first\n  "${text}"\n`, { ...env, SHELL: "/bin/sh" })).toEqual([
      `tests.json, line 2: ${kind}`,
    ]);
  });

  it("a value of two lines, as it is, in JSON and in a page", () => {
    const env = { SSH_KEY: 'line "one" & more\nline two' };
    const page = html`<p>${env.SSH_KEY}</p>`.toString();
    for (const text of [env.SSH_KEY, JSON.stringify([env.SSH_KEY]), page]) {
      expect(secretsIn("f", `x\n${text}`, env), text).toEqual(["f, line 2: the value of SSH_KEY"]);
    }
  });

  it("what only looks like one is left alone", () => {
    const text = `-----BEGIN PUBLIC KEY-----\nvram_use_short\nhttps://example.com/a:b\n${"a".repeat(64)}\n/bin/sh\ndocs${homedir()}/\n`;
    expect(secretsIn("tests.json", text, { SHELL: "/bin/sh", TOKEN: "short" })).toEqual([]);
  });
});

describe("reports of the runners", () => {
  function written(text: string, read: (path: string) => unknown, others: Record<string, string> = {}): unknown {
    const folder = mkdtempSync(join(tmpdir(), "vram-proof-test-"));
    try {
      for (const [name, content] of Object.entries(others)) writeFileSync(join(folder, name), content);
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

  it("of tests: what did not run because its set-up broke has failed, and so has a file that did not end", () => {
    const broken = { name: `${ROOT}test/unit/b.test.ts`, startTime: 0, endTime: 0, status: "failed", message: "" };
    const test = (title: string, status: string) => ({ ancestorTitles: [], title, status, failureMessages: [] });
    const own = tag("MEM-01");
    const report = {
      testResults: [
        { ...broken, assertionResults: [test(`${own} holds`, "skipped"), test("other", "failed")] },
        { ...broken, name: `${ROOT}test/unit/k.test.ts`, status: "passed", assertionResults: [test("cut", "pending")] },
        {
          ...broken,
          name: `${ROOT}test/unit/s.test.ts`,
          status: "passed",
          assertionResults: [test("left", "skipped")],
        },
      ],
    };
    const outside = [
      { path: "test/unit/b.test.ts", message: "no such folder" },
      { path: "npm test", message: "a promise that nobody watched" },
    ];
    const read = written(JSON.stringify(report), readTests, { "outside.json": JSON.stringify(outside) }) as Tests;
    expect(read.files).toMatchObject([
      { path: "npm test", error: "a promise that nobody watched", tests: [] },
      { path: "test/unit/b.test.ts", error: "no such folder", tests: [{ status: "failed" }, { status: "failed" }] },
      { path: "test/unit/k.test.ts", tests: [{ status: "failed", message: expect.any(String) as string }] },
      { path: "test/unit/s.test.ts", tests: [{ status: "skipped" }] },
    ]);
    expect(standing(read)).toEqual([["failed", "gap"]]);
  });

  it("are cut, unless they hold a secret, which is looked for later", () => {
    expect(cleanMessage("x".repeat(5000))).toHaveLength(4000);
    const secret = `${"x".repeat(3980)} -----BEGIN EC PRIVATE KEY-----`;
    expect(cleanMessage(secret)).toBe(secret);
    expect(cleanMessage(`at ${homedir()}/.cache/x`)).toBe("at ~/.cache/x");
  });

  it("of scenarios: one that began and did not end has failed, and so has a run that fails outside of them", () => {
    const pickle = (id: string, name: string) => ({
      pickle: { id, uri: "features/x.feature", name, location: { line: 3 }, tags: [{ name: "@VR-MEM-01" }] },
    });
    const started = (id: string) => ({
      testCaseStarted: { id: `s-${id}`, testCaseId: `c-${id}`, timestamp: { seconds: 1, nanos: 0 } },
    });
    const step = (id: string, status: string, testStepId = `t-${id}`) => ({
      testStepFinished: { testCaseStartedId: `s-${id}`, testStepId, testStepResult: { status, message: "why" } },
    });
    const end = (id: string) => ({
      testCaseFinished: { testCaseStartedId: `s-${id}`, timestamp: { seconds: 2, nanos: 0 } },
    });
    const common = [
      { gherkinDocument: { uri: "features/x.feature", feature: { name: "X" } } },
      ...["1", "2", "3"].flatMap((id) => [
        pickle(id, "same"),
        {
          testCase: {
            ...{ id: `c-${id}`, pickleId: id },
            testSteps: [
              { id: "hook", hookId: "h" },
              { id: `t-${id}`, pickleStepId: "p" },
            ],
          },
        },
      ]),
    ];
    const reading = (...messages: readonly object[]): unknown =>
      written(messages.map((message) => JSON.stringify(message)).join("\n"), (path) => readFeatures(path, "emulated"));

    const run = [started("1"), step("1", "PASSED"), end("1"), started("2"), step("2", "PASSED"), started("3")];
    const undefinedStep = [step("3", "UNDEFINED"), end("3"), { testRunFinished: { success: false } }];
    expect(reading(...common, ...run, ...undefinedStep)).toMatchObject({
      features: [{ scenarios: [{ status: "passed", ms: 1000 }, { status: "failed" }, { status: "failed" }] }],
    });

    const passed = [...common, started("1"), step("1", "PASSED"), end("1")];
    expect(reading(...passed, { testRunFinished: { success: false } })).toMatchObject({
      features: [{}, { name: "the run itself", scenarios: [{ status: "failed" }] }],
    });
    const hook = { testRunHookFinished: { result: { status: "FAILED", message: "not cleaned up" } } };
    expect(reading(...passed, hook, { testRunFinished: { success: false } })).toMatchObject({
      features: [
        { scenarios: [{ status: "passed" }] },
        { scenarios: [{ status: "failed", message: "not cleaned up" }] },
      ],
    });

    // Hooks run around every scenario, also around one that says nothing.
    const empty = [started("1"), step("1", "PASSED", "hook"), end("1"), { testRunFinished: { success: true } }];
    expect(reading(...common, ...empty)).toMatchObject({ features: [{ scenarios: [{ status: "failed" }] }] });
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
