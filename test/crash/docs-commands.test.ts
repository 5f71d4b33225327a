/**
 * Every block of every page is run: commands by bash, a page as one session from top to bottom, on the emulated device;
 * programs under Node.js and Python, after TypeScript has seen them; configuration by what reads it. What a page shows as
 * output was printed. A block that is not run says why, in its fence; there are three reasons. New pages are found by
 * reading the folders.
 */
import { afterAll, describe, expect, it } from "vitest";
import { reportCount } from "../helpers/counts.ts";
import { type Block, blocksOf, NO_RUN, type Page, pagePaths, readPage } from "../helpers/docs-blocks.ts";
import { ELSEWHERE, elsewhereIsTrue } from "../helpers/docs-commands.ts";
import { faultsOfPrograms, hasSystemdAnalyze } from "../helpers/docs-data.ts";
import { faultsOf } from "../helpers/docs-faults.ts";
import { hasCurl, missingTools, PAGE_MS, runPage, type Session } from "../helpers/docs-session.ts";

const PAGES = pagePaths();
const totals = { pages: 0, blocks: 0, steps: 0, elsewhere: 0, notRun: new Map<string, number>() };

function count(page: Page, session: Session): void {
  totals.pages += 1;
  totals.blocks += page.blocks.length;
  totals.steps += session.steps.length;
  totals.elsewhere += session.elsewhere.length;
  for (const { noRun } of page.blocks) {
    if (noRun !== undefined) totals.notRun.set(noRun, (totals.notRun.get(noRun) ?? 0) + 1);
  }
}

afterAll(() => {
  const { pages, blocks, steps, elsewhere, notRun } = totals;
  const reasons = [...notRun].map(([reason, times]) => `${times} ${reason}`).join(", ");
  const left = [...notRun.values()].reduce((sum, times) => sum + times, 0);
  const missing = [...(hasCurl() ? [] : ["curl"]), ...(hasSystemdAnalyze() ? [] : ["systemd-analyze"])];
  reportCount(
    [
      `documents: ${pages} pages, ${blocks} blocks: ${blocks - left} run, ${left} not run`,
      reasons === "" ? "" : ` (${reasons})`,
      `; ${steps} commands and programs on the emulated device, ${elsewhere} commands by CI or another test`,
      missing.length === 0 ? "" : `; without ${missing.join(" and ")}`,
    ].join(""),
  );
});

/** The page; what is wrong with its fences is a failure of its own test. */
function pageOrFault(path: string): Page | Error {
  try {
    return readPage(path);
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

describe.concurrent("every block of", () => {
  for (const path of PAGES) {
    const page = pageOrFault(path);
    const without = page instanceof Error ? "" : missingTools(page).join(" or ");
    const title = `${path}${without === "" ? "" : ` (no ${without})`}`;
    it.skipIf(without !== "")(title, { timeout: PAGE_MS + 10_000 }, async () => {
      if (page instanceof Error) throw page;
      const session = await runPage(page);
      count(page, session);
      expect((await faultsOf(page, session)).join("\n")).toBe("");
    });
  }
});

describe("programs in the pages", () => {
  it("type-check, for somebody who has installed the package", { timeout: PAGE_MS }, () => {
    const isProgram = ({ language }: Block): boolean => language === "ts" || language === "js";
    const blocks = PAGES.flatMap((path) => readPage(path).blocks).filter(isProgram);
    expect(blocks.length).toBeGreaterThan(3);
    const [first = expect.fail()] = blocks;
    const wrong = {
      ...first,
      line: 0,
      text: `import { openVram } from "vram-residency";\n(await openVram()).unseal();\n`,
    };
    expect(faultsOfPrograms([...blocks, wrong])).toEqual([expect.stringContaining("'unseal' does not exist")]);
  });
});

/** What is wrong with a page of these lines. */
async function faultsIn(lines: readonly string[], withCurl?: boolean): Promise<readonly string[]> {
  const text = lines.join("\n");
  const page = { path: "page.md", text, blocks: blocksOf("page.md", text) };
  return faultsOf(page, await runPage(page, withCurl));
}
const fenced = (info: string, ...lines: readonly string[]): string[] => [`\`\`\`${info}`, ...lines, "```"];

describe.concurrent("a page that is wrong is found out:", () => {
  const hex = "0".repeat(64);
  it.each<[string, string[], RegExp]>([
    ["another exit code", fenced("sh", "true", "false # exit 3", "true"), /^exit 1 instead of 3: page.md:3: false/],
    ["an option that is none", fenced("sh", "npx vram ps --al"), /^exit 2 instead of 0: .*unknown option/s],
    ["what breaks off", fenced("sh", "set -e", "false", "true"), /^exit never instead of 0/],
    ["another hash", fenced("sh", "echo 12", `# ${hex}`), /^0{64} is not in/],
    ["another output", [...fenced("sh", "echo a; echo b"), ...fenced("text output", "b", "a")], /not printed:\na\n/],
    ["another document", [...fenced("sh", "echo '[1]'"), ...fenced("json output", "[2]")], /\[2\] was \[1\]/],
    ["a program that fails", fenced("js", "throw new Error()"), /^exit 1 instead of 0/],
    ["no JSON", fenced("json", "{"), /SyntaxError/],
    ["a key that is none", fenced("toml", "requireGPU = true"), /requireGPU/],
    ["no unit", fenced("ini", "Service"), /no part of a unit/],
    ["a picture of words", fenced("text picture", "npx vram ps", "──▶"), /page.md:1: a picture has lines/],
    ["a test that does not read it", fenced('text checked-by="test/unit/tidy.test.ts"', "x"), /does not read it/],
  ])("%s", async (_, lines, fault) => {
    expect((await faultsIn(lines)).join("\n")).toMatch(fault);
  });

  it("an answer that is a problem, also where there is no curl", async () => {
    const ask = (path: string): string =>
      `curl --unix-socket $XDG_RUNTIME_DIR/vram-residency/vram.sock http://vram${path}`;
    const lines = ["vram serve", `${ask("/v1/shards/nothing")} # 404`, ask("/v1/shards"), ask("/v1/nothing")];
    expect(await faultsIn(fenced("sh", ...lines), false)).toEqual([
      expect.stringMatching(/^exit 22 instead of 0: page.md:5/),
    ]);
  });
});

describe("what is not run here", () => {
  it("is run by who is named", () => {
    expect(elsewhereIsTrue()).toEqual(ELSEWHERE.map(() => true));
  });

  it("has a reason of the list, and no other", () => {
    const page = (info: string): string => fenced(info, "rm -rf /").join("\n");
    expect(NO_RUN.map((reason) => blocksOf("p", page(`sh no-run="${reason}"`)).at(0)?.noRun)).toEqual([...NO_RUN]);
    const refused = ['sh no-run="slow"', "sh no-run", 'sh run="no"', "bash", "", "text", 'text file="../f"', "console"];
    for (const info of refused) expect(() => blocksOf("p", page(info)), info).toThrow(/^p:1/);
    expect(() => blocksOf("p", "```sh\nls\n")).toThrow("does not end");
  });
});
