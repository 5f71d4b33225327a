import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { EXIT, exitCodeFor } from "../../src/cli/exit.ts";
import { createProgress, progressLine } from "../../src/cli/progress.ts";
import { ERROR_TABLE, type ErrorCode, VramError } from "../../src/errors.ts";
import { VERSION } from "../../src/version.ts";
import { normalised, vram } from "../helpers/cli.ts";
import { openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

/** The built command line as its own process. */
function run(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [BIN, ...args], { env: { ...process.env, ...env } }, (error, out, err) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, out, err });
    });
  });
}

describe("the command line", () => {
  it("shows help with examples first, the version, and how to correct a wrong word", async () => {
    const help = await vram(["--help"]);
    expect(help.code).toBe(0);
    for (const command of ["digest", "try", "doctor"]) {
      const one = await vram([command, "--help"]);
      expect(one.out.startsWith("Examples:\n  $ vram ")).toBe(true);
      await expect(one.out).toMatchFileSnapshot(join(import.meta.dirname, `../golden/help-${command}.txt`));
    }
    expect(await vram(["--version"])).toEqual({ code: 0, out: `${VERSION}\n`, err: "" });
    const typo = await vram(["digset"]);
    expect(typo.code).toBe(2);
    expect(typo.err).toContain("Did you mean digest?");
    expect((await vram(["digest", "--jsno", "x"])).code).toBe(2);
    expect((await vram(["try"])).code).toBe(2);
    expect((await vram(["try", "--backend", "opencl", "x"])).code).toBe(2);
    expect((await vram([])).code).toBe(2);
  });

  it("has an exit code for every error, and 3 for nothing but a mismatch", () => {
    const codes = (Object.keys(ERROR_TABLE) as ErrorCode[]).map((code) => [
      code,
      exitCodeFor(new VramError(code, "x")),
    ]);
    expect(Object.fromEntries(codes)).toMatchSnapshot();
    expect(codes.filter(([, exit]) => exit === EXIT.mismatch).map(([code]) => code)).toEqual([
      "DIGEST_MISMATCH",
      "MEASUREMENT_MISMATCH",
      "REGISTRY_CORRUPT",
    ]);
    expect(exitCodeFor(new TypeError("surprise"))).toBe(EXIT.error);
  });

  it("colours a terminal only, unless NO_COLOR is set; progress is for terminals", async () => {
    const { path } = await randomFile(5000);
    const esc = "\u001b[";
    const green = "\u001b[32m";
    const piped = await vram(["try", path, "--log-format", "text"]);
    expect(piped.out + piped.err).not.toContain(esc);
    const terminal = await vram(["try", path], { terminal: true });
    expect(terminal.err).toContain(`${green}sealed`);
    expect(terminal.err).toContain("█");
    expect((await vram(["try", path], { terminal: true, env: { NO_COLOR: "1" } })).err).not.toContain(green);
    const failed = await vram(["digest", "/no/such\u001b[31m/file"]);
    expect(failed.err).not.toContain("\u001b");
  });

  it("draws progress at most ten times a second and within the terminal's width", () => {
    const written: string[] = [];
    let now = 0;
    const host = {
      ...{ out: () => undefined, env: {}, outIsTerminal: true, signal: new AbortController().signal },
      ...{ err: (text: string) => void written.push(text), errIsTerminal: true, columns: 40 },
    };
    const progress = createProgress(host, () => now);
    for (now = 0; now < 1000; now += 10) progress.update("model.safetensors", now * 1000, 1_000_000);
    expect(written).toHaveLength(10);
    progress.clear();
    progress.clear();
    expect(written.at(-1)).toBe("\r\u001b[2K");
    expect(written).toHaveLength(11);
    for (const columns of [0, 1, 40, 200]) {
      expect(Array.from(progressLine("a\u001bname", 512, 1024, 100, columns)).length).toBeLessThanOrEqual(columns);
    }
    expect(progressLine("x", 0, 0, 0, 200)).toContain("0 B of 0 B");
    expect(progressLine("x", 1, 10_000, 1000, 200)).toMatch(/min left/);
  });
});

describe("vram doctor", () => {
  it("says what is here, with a mark and a fix, in words and as one JSON document", async () => {
    const { code, out } = await vram(["doctor"]);
    expect(code).toBe(0);
    expect(out).toContain("backend emulated");
    expect(out).toMatch(/^! backend emulated.*\n {4}fix: /m);
    for (const line of out.trimEnd().split("\n")) expect(line).toMatch(/^(?:[✓·!✗] | {4}fix: )/);
    const json = normalised((await vram(["doctor", "--json"])).out) as { checks: { id: string }[]; schema: string };
    expect(json.schema).toBe("vram-residency/doctor/v1");
    expect(json.checks.map((check) => check.id)).toEqual(
      expect.arrayContaining([
        "node",
        "driver-library",
        "device-nodes",
        "kernel-driver",
        "backend",
        "device-0",
        "policy",
      ]),
    );
  });

  it("finds a state directory that others may enter, one that is fine, and a worker that is stopped", async () => {
    const folder = await temporaryFolder();
    const open = join(folder, "open");
    await mkdir(open);
    await chmod(open, 0o755);
    const refused = await vram(["doctor", "--state-dir", open]);
    expect(refused.code).toBe(5);
    expect(refused.out).toContain(`fix: chmod 700 ${open}`);
    const absent = await vram(["doctor", "--state-dir", join(folder, "absent")]);
    expect(absent.out).toContain("does not exist yet");
    expect(existsSync(join(folder, "absent"))).toBe(false);

    const { path } = await randomFile(5000);
    const fine = join(folder, "fine");
    const first = await openSmall({ stateDir: fine });
    await first.vram.seal(path, { name: "m" });
    await first.flipBit("m", 1, 1);
    await first.vram.verify("m").catch(() => undefined);
    await first.vram.close();
    const stopped = await vram(["doctor", "--state-dir", fine]);
    expect(stopped.code).toBe(5);
    expect(stopped.out).toMatch(/^✗ worker 0 is stopped: .*\n {4}fix: find out why/m);
    expect(stopped.out).toContain("is private to this user");
    expect((await vram(["try", "--state-dir", fine, path])).code).toBe(5);
  });

  it("[VR-DEV-03] refuses cuda by name with the fix", async () => {
    const { code, out } = await vram(["doctor", "--backend", "cuda"]);
    expect(code).toBe(5);
    expect(out).toMatch(/^✗ a GPU is required/m);
  });
});

describe("the built program", () => {
  it("runs the whole journey with hashing threads, and survives a closed pipe", async () => {
    const { path } = await randomFile(3_000_000);
    const tried = await run(["try", "--tamper", "--json", path]);
    expect(tried.code).toBe(0);
    for (const line of tried.err.trimEnd().split("\n")) expect(JSON.parse(line)).toHaveProperty("action");
    expect(JSON.parse(tried.out)).toMatchObject({ ok: true, files: [{ tampering: { caught: true } }] });
    expect(await run(["digest", path])).toMatchObject({ code: 0, err: "" });
    // Build servers set CI, which some take for a terminal.
    expect((await run(["try", "--log-format", "text", path], { CI: "true" })).err).not.toContain("\u001b");
    expect(await run(["try", "--expect", "0".repeat(64), path])).toMatchObject({ code: 3 });
    const sums = join(await temporaryFolder(), "SUMS");
    await writeFile(sums, `${"0".repeat(64)}  ${path}\n`);
    const piped = `set -o pipefail; "${process.execPath}" "${BIN}" digest --check "${sums}" | true`;
    const status = await new Promise<unknown>((resolve) =>
      execFile("bash", ["-c", piped], (error) => resolve(error?.code)),
    );
    expect(status).toBe(3);
    const full = `"${process.execPath}" "${BIN}" digest "${path}" > /dev/full`;
    expect(
      await new Promise<unknown>((resolve) => execFile("bash", ["-c", full], (error) => resolve(error?.code))),
    ).toBe(1);
  });
});
