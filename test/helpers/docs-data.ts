/** Blocks that are no commands: configuration, as our loader reads it; parts of units; programs, as TypeScript sees them. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { loadConfig } from "../../src/config/config.ts";
import { EMPTY_PLACE } from "./config.ts";
import { type Block, ROOT } from "./docs-blocks.ts";

/** What our loader takes from a block as the file in /etc, or what it throws. */
export async function readToml(block: Block): Promise<unknown> {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "vram-toml-")));
  try {
    const systemFile = join(folder, "config.toml");
    writeFileSync(systemFile, block.text, { mode: 0o644 });
    return await loadConfig({ systemFile, flags: [], place: { ...EMPTY_PLACE, env: { HOME: folder } } });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** `systemd-analyze` where there is one; without it only the form of a block is looked at. */
export const hasSystemdAnalyze = (): boolean => spawnSync("systemd-analyze", ["--version"]).status === 0;

const UNIT = "vram-residency.service";

/** What is wrong with a block as a drop-in of the unit that ships. */
export function faultsOfIni(block: Block): string {
  const lines = block.text.split("\n").filter((line) => !/^(#.*)?$/.test(line));
  if (
    !/^\[[A-Z][a-z]+\]$/.test(lines[0] ?? "") ||
    lines.some((line) => !/^(\[[A-Z][a-z]+\]|[A-Z]\w+=.*)$/.test(line))
  ) {
    return `${block.page}:${block.line} is no part of a unit`;
  }
  if (!hasSystemdAnalyze()) return "";
  const folder = mkdtempSync(join(tmpdir(), "vram-unit-"));
  try {
    // The command is not installed here; everything else is as it ships.
    const unit = readFileSync(join(ROOT, "deploy/systemd", UNIT), "utf8").replace("/usr/local/bin/vram", "/bin/true");
    writeFileSync(join(folder, UNIT), unit);
    mkdirSync(join(folder, `${UNIT}.d`));
    writeFileSync(join(folder, `${UNIT}.d/page.conf`), block.text);
    const env = { ...process.env, SYSTEMD_UNIT_PATH: `${folder}:` };
    const args = ["verify", "--man=no", join(folder, UNIT)];
    const { stderr } = spawnSync("systemd-analyze", args, { env, encoding: "utf8" });
    return stderr
      .split("\n")
      .filter((line) => line.includes("/page.conf"))
      .join("\n");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What TypeScript says of these programs, each a module of somebody who has installed the package. */
export function faultsOfPrograms(blocks: readonly Block[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), "vram-blocks-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(ROOT, join(folder, "node_modules/vram-residency"));
    writeFileSync(join(folder, "package.json"), `{"type":"module"}`);
    const files = blocks.map(({ page, line, language, text }) => {
      const path = join(folder, `${page.replaceAll(/\W/g, "-")}-${line}.${language}`);
      writeFileSync(path, text);
      return path;
    });
    const program = ts.createProgram(files, {
      ...{
        module: ts.ModuleKind.NodeNext,
        target: ts.ScriptTarget.ES2022,
        lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
      },
      ...{
        strict: true,
        noUncheckedIndexedAccess: true,
        allowJs: true,
        checkJs: true,
        skipLibCheck: true,
        noEmit: true,
      },
      ...{ types: ["node"], typeRoots: [join(ROOT, "node_modules/@types")] },
    });
    return ts.getPreEmitDiagnostics(program).map(({ file, start = 0, messageText }) => {
      const line = file === undefined ? 0 : file.getLineAndCharacterOfPosition(start).line + 1;
      return `${file?.fileName.slice(folder.length + 1) ?? ""}:${line}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
