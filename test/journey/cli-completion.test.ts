/**
 * Completion of command lines: bash is really run, and asked what it would suggest. What there is to suggest is taken from
 * the help, so that a command or option that is new, and not completed, fails here.
 */
import { spawnSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { vram } from "../helpers/cli.ts";
import { vramAt } from "../helpers/cli-service.ts";
import * as is from "../helpers/stub-replies.ts";

const NAMES = ["llama:7b", "my model.gguf", "org/mistral"];
const ASK = `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vram; printf "%s\\n" "\${COMPREPLY[@]}"`;

let folder: string;
let script: string;

/** What stands for `vram` where the script asks for names. */
async function putProgram(body: string): Promise<string> {
  const bin = await mkdtemp(join(folder, "bin-"));
  await writeFile(join(bin, "vram"), `#!/bin/sh\necho "$@" >> "${bin}/asked"\n${body}\n`);
  await chmod(join(bin, "vram"), 0o755);
  return bin;
}

let listing: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "vram-test-"));
  script = join(folder, "bash-script");
  await writeFile(script, (await vram(["completion", "bash"])).out);
  await mkdir(join(folder, "models"));
  await writeFile(join(folder, "model.gguf"), "");
  const [first = "", ...others] = NAMES;
  const shards = others.map((name, index) => is.record({ name, shardId: `shard-${index}` }));
  const reply = is.listing({
    shards: [...shards, is.record({ name: 'quo"ted' })],
    missing: [is.missing({ name: first })],
    operations: [is.operation({ name: "not-there-yet" })],
  });
  const { out } = await vramAt({ "GET /v1/shards": { json: reply } }, ["ps", "--json"]);
  await writeFile(join(folder, "ps.json"), out);
  listing = await putProgram(`cat "${folder}/ps.json"`);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** What bash would suggest for these words, the last of which is being typed. It splits words at `:` and `=`. */
function suggest(words: readonly string[], bin = listing): readonly string[] {
  const { stdout, stderr, status } = spawnSync("bash", ["--norc", "-c", ASK, script, "vram", ...words], {
    cwd: folder,
    env: { PATH: `${bin}:${process.env["PATH"] ?? ""}` },
    encoding: "utf8",
  });
  expect([status, stderr], words.join(" ")).toEqual([0, ""]);
  return stdout.split("\n").filter((line) => line !== "");
}

/** Every command with its long options, as the help has them. */
async function readTable(path: readonly string[] = []): Promise<ReadonlyMap<string, readonly string[]>> {
  const { out } = await vram([...path, "--help"]);
  const options = [...out.matchAll(/^ {2}(?:-\w, )?(--[a-z0-9-]+)/gm)].map(([, option = ""]) => option);
  const table = new Map<string, readonly string[]>([[path.join(" "), options]]);
  const [, list = ""] = out.split("\nCommands:\n");
  for (const [, command = ""] of list.matchAll(/^ {2}([a-z]+) /gm)) {
    for (const [name, below] of await readTable([...path, command])) table.set(name, below);
  }
  return table;
}

describe("completion in bash", () => {
  it.each<[string, readonly string[], readonly string[]]>([
    ["commands of a group", ["audit", ""], ["verify", "tail", "prove", "keys"]],
    ["a command that is begun", ["ver"], ["verify"]],
    ["choices of an option", ["try", "--backend", ""], ["auto", "cuda", "emulated"]],
    ["choices behind =", ["try", "--backend", "=", "cu"], ["cuda"]],
    ["choices another command declares", ["serve", "--backend", ""], ["auto", "cuda", "emulated"]],
    ["forms of narration", ["try", "--log-format", "t"], ["text"]],
    ["choices of an argument", ["completion", ""], ["bash", "zsh"]],
    ["folders", ["audit", "tail", "--state-dir", "m"], ["models"]],
    ["files", ["seal", "--wait", "mod"], ["models", "model.gguf"]],
    ["files of an option", ["digest", "--check", "model."], ["model.gguf"]],
    ["names, also of what should be there", ["show", ""], ["org/mistral", "llama:7b", "my\\ model.gguf"]],
    ["a second name", ["verify", "--all", "org/mistral", "my"], ["my\\ model.gguf"]],
    ["a name with a colon", ["evict", "llama", ":", "7"], ["7b"]],
    ["what stands before a command", ["lease", "org/mistral", ""], ["--"]],
    ["files of the command", ["lease", "org/mistral", "--", "cat", "model."], ["model.gguf"]],
    ["nothing where it knows nothing", ["seal", "--expect", ""], []],
    ["nothing behind a word nobody knows", ["nonsense", ""], []],
  ])("offers %s", (_, words, offered) => {
    expect(suggest(words).toSorted()).toEqual(offered.toSorted());
  });

  it("offers programs behind `lease NAME --`, and options before it", () => {
    expect(suggest(["lease", "org/mistral", "--", "bas"])).toContain("bash");
    expect(suggest(["lease", "org/mistral", "--m"])).toEqual(["--max-age"]);
    expect(suggest(["lease", ""])).toContain("org/mistral");
  });

  it("offers every command, and every option of each", async () => {
    const table = await readTable();
    expect(table.size).toBeGreaterThan(20);
    for (const [command, options] of table) {
      const path = command === "" ? [] : command.split(" ");
      expect(
        suggest([...path, "--"]).filter((one) => one.startsWith("--")),
        command,
      ).toEqual(expect.arrayContaining([...options]));
      const last = path.at(-1);
      if (last !== undefined) expect(suggest([...path.slice(0, -1), last])).toContain(last);
    }
  });

  it("asks the service that the command line names, and is silent where none answers", async () => {
    const bin = await putProgram("echo nobody answers >&2; exit 6");
    expect(suggest(["show", "--socket", "/run/other", "--json", ""], bin)).toEqual([]);
    expect(suggest(["evict", "--url", "=", "http", ":", "//127.0.0.1", ":", "1", ""], bin)).toEqual([]);
    expect(await readFile(join(bin, "asked"), "utf8")).toBe(
      "ps --json --socket /run/other\nps --json --url http://127.0.0.1:1\n",
    );
    expect(suggest(["verify", ""], await putProgram("exec sleep 60")), "a service that hangs").toEqual([]);
  });

  it("evaluates nothing that was typed", async () => {
    const trap = join(folder, "trapped");
    for (const word of [`$(touch ${trap})`, `\`touch ${trap}\``, `'$(touch ${trap})`, "*", "a[$(touch trapped)]"]) {
      for (const before of [[], ["show"], ["seal"], ["try", "--backend"], ["lease", "x", "--"], [word]]) {
        suggest([...before, word]);
      }
    }
    await expect(readFile(trap)).rejects.toThrow("ENOENT");
  });
});

describe("completion in zsh", () => {
  it("is a script with every command and option, which zsh can read where it is here", async () => {
    const { out, code } = await vram(["completion", "zsh"]);
    expect([code, out.split("\n")[0]]).toEqual([0, "#compdef vram"]);
    for (const [command, options] of await readTable()) {
      const [, body = ""] = out.split(`\n_vram${command === "" ? "" : `_${command.replaceAll(" ", "_")}`}() {\n`);
      const own = body.split("\n}\n")[0] ?? "";
      for (const option of options) expect(own, command).toMatch(new RegExp(`${option}=?\\[`));
    }
    expect(out).toContain("'--backend=[which device answers]:backend:(auto cuda emulated)'");
    expect(out).toContain("'1:name:__vram_shards'");
    const { error, stderr } = spawnSync("zsh", ["-n"], { input: out, encoding: "utf8" });
    if (error === undefined) expect(stderr).toBe("");
    else console.log("skipped: no zsh here to read its completion script");
  });
});

describe("vram completion", () => {
  it("prints one JSON document with the script, and refuses other shells", async () => {
    const { out } = await vram(["completion", "zsh", "--json"]);
    const text = (await vram(["completion", "zsh"])).out;
    expect(JSON.parse(out)).toEqual({ schema: "vram-residency/completion/v1", ok: true, shell: "zsh", script: text });
    expect((await vram(["completion", "fish"])).code).toBe(2);
    expect((await vram(["completion"])).code).toBe(2);
  });
});
