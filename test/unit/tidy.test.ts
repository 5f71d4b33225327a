/** The house rules over the tree, and each rule over examples that break it and one that does not. */
import { describe, expect, it } from "vitest";
import { HOUSE_RULES, type Rule, readTree, type TreeFile } from "../helpers/house-rules.ts";

type RuleName = keyof typeof HOUSE_RULES;

const RULES = Object.entries(HOUSE_RULES) as readonly (readonly [RuleName, Rule])[];
const tree = readTree();

const listed = (rule: Rule, files: readonly TreeFile[]): readonly string[] =>
  rule(files).map(({ path, line, what }) => `${path}:${line} ${what}`);

/** `path: text`; a rule has to object to every bad one, at the line that is given, and to no good one. */
interface Examples {
  readonly bad: readonly (readonly [path: string, text: string, line?: number])[];
  readonly good: readonly (readonly [path: string, text: string])[];
}

const lines = (count: number): string => "x;\n".repeat(count);
const thirteen = JSON.stringify(Object.fromEntries(Array.from({ length: 13 }, (_, index) => [`p${index}`, "1.0.0"])));

const EXAMPLES: Record<RuleName, Examples> = {
  "imports follow the order of the journey": {
    bad: [
      ["src/hash/tree.ts", 'import "../bytes.ts";\nimport { a } from "../cuda/driver.ts";', 2],
      ["src/cuda/emulated/queue.ts", 'import type { a } from "../../handles/stream.ts";'],
      ["src/seal/seal.ts", 'export { a } from "../verify/verify.ts";'],
      ["src/seal/seal.ts", 'const a = await import("../verify/verify.ts");'],
      ["src/seal/seal.ts", 'let a: import("../verify/verify.ts").A;'],
      ["src/errors.ts", 'import { a } from "./journal/entry.ts";'],
      ["src/audit/log.ts", 'import { a } from "../seal/seal.ts";'],
      ["src/residency/evict.ts", 'import { a } from "../audit/log.ts";'],
      ["src/verify/verify.ts", 'import { a } from "../index.ts";'],
      ["src/cli/main.ts", 'import { a } from "../testing.ts";'],
      ["src/verify/verify.ts", 'import { a } from "../open.ts";'],
      ["src/open.ts", 'import { a } from "./vram.ts";'],
      ["src/cli/main.ts", 'import { a } from "../../test/helpers/a.ts";'],
      ["src/helpers/a.ts", "export const a = 1;"],
    ],
    good: [
      ["src/verify/verify.ts", 'import { a } from "../residency/shard.ts";\nimport { b } from "./locate.ts";'],
      ["src/index.ts", 'import { a } from "./cli/main.ts";'],
      ["src/vram.ts", 'import { a } from "./open.ts";\nimport { b } from "./verify/verify.ts";'],
      ["src/audit/log.ts", 'import { a } from "../journal/entry.ts";\nimport { b } from "../errors.ts";'],
      ["src/cli/main.ts", 'import { a } from "../index.ts";\nimport { b } from "commander";'],
    ],
  },
  "koffi is imported in src/ffi/ only": {
    bad: [
      ["src/cuda/native/driver.ts", 'import koffi from "koffi";'],
      ["src/cli/main.ts", 'createRequire(import.meta.url)("koffi");'],
    ],
    good: [["src/ffi/library.ts", 'import koffi from "koffi";']],
  },
  "src has no default exports": {
    bad: [
      ["src/a.ts", "\nexport default 1;", 2],
      ["src/a.ts", "export default function a() {}"],
      ["src/a.ts", "const a = 1;\nexport { a as default };", 2],
    ],
    good: [["src/a.ts", 'import a from "b";\nswitch (a) {\n  case 1:\n  default:\n}']],
  },
  "no file is longer than 300 lines": {
    bad: [
      ["src/a.ts", lines(301)],
      ["test/unit/a.test.ts", lines(301)],
      ["scripts/a.mjs", lines(301)],
    ],
    good: [
      ["src/a.ts", lines(300)],
      ["src/errors.ts", lines(301)],
    ],
  },
  "entry files of threads and processes have at most 15 lines": {
    bad: [
      ["src/hash/pool-thread.ts", lines(16)],
      ["src/cli/bin.ts", lines(16)],
    ],
    good: [
      ["src/cli/bin.ts", lines(15)],
      ["src/cli/main.ts", lines(16)],
    ],
  },
  "src has no enum and no namespace": {
    bad: [
      ["src/a.ts", "\n\nenum A { b }", 3],
      ["src/a.ts", "export const enum A { b }"],
      ["src/a.ts", "declare namespace A {}"],
    ],
    good: [["src/a.ts", "// an enum\ndeclare global {}\nconst namespace = 'enum';"]],
  },
  "there are no barrels below src/index.ts": {
    bad: [
      ["src/hash/index.ts", 'export * from "./tree.ts";'],
      ["src/hash/all.ts", 'import { a } from "./tree.ts";\nexport { a };'],
    ],
    good: [
      ["src/index.ts", 'export * from "./hash/tree.ts";'],
      ["src/hash/tree.ts", 'export { a } from "./pool.ts";\nexport const b = 1;'],
      ["src/hash/pool-thread.ts", 'import "./pool.ts";'],
    ],
  },
  "only the command line prints": {
    bad: [
      ["src/seal/seal.ts", "\nconsole.log(1);", 2],
      ["src/seal/seal.ts", "const { log } = console;"],
    ],
    good: [
      ["src/cli/main.ts", "console.log(1);"],
      ["src/seal/seal.ts", "// console.log\nconst a = { console: 1 }.console;"],
    ],
  },
  "only the command line and src/index.ts read the environment": {
    bad: [
      ["src/seal/key.ts", "const a = process.env.HOME;"],
      ["src/seal/key.ts", 'const a = process["env"];'],
      ["src/testing.ts", 'import { env } from "node:process";'],
    ],
    good: [
      ["src/cli/main.ts", "process.env.HOME;"],
      ["src/index.ts", "process.env.HOME;"],
      ["src/seal/key.ts", "// process.env\nconst a = process.pid;"],
    ],
  },
  "src has no marks for later": {
    bad: [
      ["src/a.ts", "// one\n// TODO: two", 2],
      ["src/a.ts", "/* FIXME */"],
    ],
    good: [["src/a.ts", "const mastodon = 'TODOS';"]],
  },
  "files and folders are named in kebab-case": {
    bad: [
      ["src/hashTree.ts", ""],
      ["src/hash/Tree.ts", ""],
      ["test/unit/hash_tree.test.ts", ""],
      ["src/cudaDriver/a.ts", ""],
    ],
    good: [["test/unit/seal-model-2.test.ts", ""]],
  },
  "no folder is named utils, common or managers": {
    bad: [
      ["src/utils/bytes.ts", ""],
      ["test/common/a.ts", ""],
      ["src/seal/managers/a.ts", ""],
    ],
    good: [["src/common-words.ts", ""]],
  },
  "every file of src opens with a comment": {
    bad: [
      ["src/a.ts", "const a = 1; // late"],
      ["src/cli/bin.ts", "#!/usr/bin/env node\nmain();"],
      ["src/b.ts", ""],
    ],
    good: [
      ["src/a.ts", "/** Place in the journey. */\nconst a = 1;"],
      ["src/cli/bin.ts", "#!/usr/bin/env node\n// The command.\nmain();"],
      ["scripts/a.mjs", "main();"],
    ],
  },
  "no test sleeps": {
    bad: [
      ["test/unit/a.test.ts", "\nawait new Promise((done) => setTimeout(done, 5));", 2],
      ["test/unit/a.test.ts", "new Promise((done) => { setTimeout(done, 5); });"],
      ["test/unit/a.test.ts", "await promisify(setTimeout)(5);"],
      ["test/unit/a.test.ts", "const sleep = promisify(setTimeout);"],
      ["test/unit/a.test.ts", 'import { setTimeout as sleep } from "node:timers/promises";'],
    ],
    good: [
      ["test/helpers/a.ts", "await new Promise((done) => setTimeout(done, 5));"],
      ["test/unit/a.test.ts", "// setTimeout(\nconst timer = setTimeout(() => child.kill(), 5);"],
      ["test/unit/a.test.ts", "await run(() => { setTimeout(() => child.kill(), 5); });"],
    ],
  },
  "dependencies are exact, and at most 12 at run time": {
    bad: [
      ["package.json", '{\n"dependencies": {\n"a": "^1.0.0" } }', 3],
      ["package.json", '{ "devDependencies": { "a": "~1.0.0" } }'],
      ["package.json", '{ "optionalDependencies": { "a": "latest" } }'],
      ["package.json", `{ "dependencies": ${thirteen} }`],
    ],
    good: [["package.json", '{ "dependencies": { "a": "1.0.0", "b": "2.0.0-rc.1" } }']],
  },
};

describe("house rules", () => {
  it.each(RULES)("%s", (_name, rule) => {
    expect(listed(rule, tree), "breaches, as file:line").toEqual([]);
  });
});

describe("each house rule bites", () => {
  it.each(RULES)("%s", (name, rule) => {
    const { bad, good } = EXAMPLES[name];
    for (const [path, text, line = 1] of bad) {
      expect(
        rule([{ path, text }]).map((breach) => breach.line),
        `has to object: ${path}: ${text}`,
      ).toEqual([line]);
    }
    for (const [path, text] of good) expect(listed(rule, [{ path, text }])).toEqual([]);
    expect(bad.length).toBeGreaterThan(0);
  });
});
