/** What a proof bundle lists, from what vitest and cucumber report: nothing that broke passes for something else. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Tests } from "../../src/proof/results.ts";
import { cleanMessage, ROOT, readFeatures, readTests, standing, tag } from "../helpers/proof-producer.ts";

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

  it("of the GPU suite: what passed without a GPU has failed", () => {
    const test = { ancestorTitles: [], title: `${tag("MEM-01")} holds`, status: "passed", failureMessages: [] };
    const file = { name: `${ROOT}test/device/x.test.ts`, startTime: 0, endTime: 0, status: "passed", message: "" };
    const report = JSON.stringify({ testResults: [{ ...file, assertionResults: [test] }] });
    expect(standing(written(report, readTests) as Tests)).toEqual([["gap", "failed"]]);
    const read = written(report, readTests, { "hardware.txt": "A GPU\nA GPU\n" }) as Tests;
    expect([read.gpus, standing(read)]).toEqual([["A GPU"], [["gap", "passed"]]]);
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

    const alone = common.slice(0, 3);
    const passed = [...alone, started("1"), step("1", "PASSED"), end("1")];
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

    // A run that was killed, in the middle of what it wrote: what it did not come to has not passed.
    const cut = [...common, started("1"), step("1", "PASSED"), end("1")].map((message) => JSON.stringify(message));
    expect(written(`${cut.join("\n")}\n{"testCase`, (path) => readFeatures(path, "emulated", 137))).toMatchObject({
      features: [
        { scenarios: [{ status: "passed" }, { message: "it did not run" }, { message: "it did not run" }] },
        { scenarios: [{ message: expect.stringContaining("exit 137") as string }] },
      ],
    });
    const unread = { parseError: { message: "(1:1): expected a feature" } };
    expect(reading(unread, { testRunFinished: { success: false } })).toMatchObject({
      features: [{ scenarios: [{ message: unread.parseError.message }] }],
    });

    // Hooks run around every scenario, also around one that says nothing.
    const empty = [started("1"), step("1", "PASSED", "hook"), end("1"), { testRunFinished: { success: true } }];
    expect(reading(...alone, ...empty)).toMatchObject({ features: [{ scenarios: [{ status: "failed" }] }] });
  });
});
