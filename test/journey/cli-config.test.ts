/** `vram config show`: every key, its value, where it is from, what /etc fixed; in words and as JSON. */
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { CONFIG_KEYS, type ConfigKey } from "../../src/config/table.ts";
import { normalised, vram } from "../helpers/cli.ts";
import { machine, write } from "../helpers/config.ts";

interface Shown {
  readonly key: ConfigKey;
  readonly value: unknown;
  readonly origin: Readonly<Record<string, unknown>>;
  readonly policy: boolean;
  readonly fixed?: unknown;
}

const ENV = { XDG_RUNTIME_DIR: "/run/user/1000", XDG_STATE_HOME: "/state" };
const show = (args: readonly string[] = [], setting: Parameters<typeof vram>[1] = {}) =>
  vram(["config", "show", ...args], { ...setting, env: { ...ENV, ...setting.env } });

/** A machine with policy in /etc and settings of a user. */
async function site(): Promise<{ systemConfig: string; env: { HOME: string }; system: string; user: string }> {
  const { folder, system, user } = await machine();
  await write(
    system,
    'requireGpu = true\nbackend = "cuda"\nmodelRoots = ["/srv/models"]\n\n[audit]\nretentionDays = 400\n',
  );
  await write(user, '[audit]\nretentionDays = 500\n\n[tls]\ncertFile = "/k/tls.crt"\nkeyFile = "/k/tls.key"\n');
  return { systemConfig: system, env: { HOME: join(folder, "home") }, system, user };
}

/** What is not from the settings of the test host. */
const UNSET = { VRAM_BACKEND: "", VRAM_EMULATED_BYTES: "", VRAM_HASH_THREADS: "" };

describe("vram config", () => {
  it("shows help with examples first, and how to correct a wrong word", async () => {
    expect((await vram(["config", "--help"])).out.startsWith("Examples:\n  $ vram config ")).toBe(true);
    const help = await vram(["config", "show", "--help"]);
    await expect(help.out).toMatchFileSnapshot(join(import.meta.dirname, "../golden/help-config-show.txt"));
    expect((await vram(["config", "shwo"])).err).toContain("Did you mean show?");
    expect(await vram(["config"])).toMatchObject({ code: 2, out: "" });
  });
});

describe("vram config show", () => {
  it("works where there is no file, and has a line for every key", async () => {
    const { code, out, err } = await show([], { env: UNSET });
    expect([code, err]).toEqual([0, ""]);
    const [files = "", table = ""] = out.split("\n\n");
    expect(files).toBe("system               /nonexistent/config.toml (no such file)");
    const lines = table.trimEnd().split("\n");
    expect(lines.map((line) => line.split(" ")[0])).toEqual(CONFIG_KEYS);
    expect(lines.every((line) => line.endsWith("  default"))).toBe(true);
    expect(out).toMatch(/^stateDir +\/state\/vram-residency +default$/m);
    expect(out).toMatch(/^hashThreads +one for each core +default$/m);
    expect((await vram(["config", "show"])).out).toMatch(/^stateDir +unknown: neither XDG_STATE_HOME nor HOME says/m);
  });

  it("prints one JSON document", async () => {
    const { code, out } = await show(["--json"], { env: UNSET });
    expect(code).toBe(0);
    const document = `${JSON.stringify(normalised(out), null, 2)}\n`;
    await expect(document).toMatchFileSnapshot(join(import.meta.dirname, "../golden/config-show.json"));
  });

  it("[VR-POL-01] says where each value is from, and what /etc fixed", async () => {
    const at = await site();
    const env = { ...UNSET, ...at.env, VRAM_LOG_LEVEL: "debug" };
    const flags = ["--listen", "127.0.0.1:7790", "--set", "lease.maxMs=15 min", "--set", "hashThreads=2"];
    const { out, code } = await show(flags, { systemConfig: at.systemConfig, env });
    expect(code).toBe(0);
    expect(out.replaceAll(at.system, "ETC")).toMatch(/^requireGpu +true +ETC line 1; fixed by ETC line 1$/m);
    expect(out).toMatch(/^audit.retentionDays +500 +.*home.*config.toml line 2; fixed by .*etc.*config.toml line 6$/m);
    expect(out).toMatch(/^log.level +debug +VRAM_LOG_LEVEL$/m);
    expect(out).toMatch(/^listen +127.0.0.1:7790 +--listen$/m);
    expect(out).toMatch(/^lease.maxMs +15 min +--set lease.maxMs$/m);
    expect(out).toContain("\naudit.retentionDays is fixed to 400: it may only become higher\n");

    const json = await show(["--json", ...flags], { systemConfig: at.systemConfig, env });
    const { keys, files } = JSON.parse(json.out) as { keys: Shown[]; files: unknown };
    expect(files).toEqual([
      { layer: "system", path: at.system, present: true },
      { layer: "user", path: at.user, present: true },
    ]);
    const of = (name: ConfigKey): Shown | undefined => keys.find(({ key }) => key === name);
    expect(of("audit.retentionDays")).toEqual({
      key: "audit.retentionDays",
      value: 500,
      origin: { layer: "user", file: at.user, line: 2 },
      policy: true,
      fixed: { value: 400, origin: { layer: "system", file: at.system, line: 6 }, mayOnly: "become higher" },
    });
    expect(of("lease.maxMs")).toMatchObject({ value: 900_000, origin: { layer: "flags", flag: "--set lease.maxMs" } });
    expect(keys.filter(({ fixed }) => fixed !== undefined)).toHaveLength(4);
  });

  it("[VR-POL-01] refuses what loosens the policy, from every layer, and says who set what", async () => {
    const { systemConfig, env, system } = await site();
    const setting = { systemConfig, env: { ...UNSET, ...env } };
    const flag = await show(["--set", "requireGpu=false"], setting);
    expect(flag).toMatchObject({ code: 2, out: "" });
    expect(flag.err).toContain(
      `error INVALID_ARGUMENT: --set requireGpu sets requireGpu to false, but ${system} line 1 fixes it to true: it may only become true\nfix   remove it there, or have whoever keeps ${system} line 1 change the policy\n`,
    );
    // What the emulated test host sets by itself is such a loosening.
    expect((await show([], { systemConfig, env })).err).toContain("VRAM_BACKEND sets backend to emulated, but ");
    const json = await show(["--json", "--backend", "auto"], setting);
    expect(json.code).toBe(2);
    expect(JSON.parse(json.out)).toMatchObject({
      schema: "vram-residency/config-show/v1",
      ok: false,
      error: { code: "INVALID_ARGUMENT", details: { argument: "backend", fixedBy: { layer: "system", line: 2 } } },
    });
  });

  it("[VR-IN-04] refuses what it does not know, with a suggestion, and files that others may write to", async () => {
    const { named, system } = await machine();
    await write(named, "[audit]\nmod = 'off'\n");
    expect((await show(["--config", named])).err).toContain(
      `error INVALID_ARGUMENT: ${named} line 2: there is no key "audit.mod"; did you mean audit.mode?\n`,
    );
    expect((await show(["--config", "/no/such.toml"])).err).toContain("/no/such.toml: no such file");
    expect((await show(["--set", "listen"])).err).toContain("--set takes KEY=VALUE");
    expect((await show(["--set", "=1"])).code).toBe(2);
    await write(system, "");
    await chmod(system, 0o666);
    expect((await show([], { systemConfig: system })).err).toContain(`fix   run chown and chmod go-w on ${system}`);
  });

  it("prints nothing that a terminal would obey, and colours terminals only", async () => {
    const evil = ["--set", "libcuda=/a\u001b[31mb"];
    expect((await show(evil)).out).toContain("/a\\u{1b}[31mb");
    expect((await show(evil)).out).not.toContain("\u001b");
    expect((await show([], { terminal: true })).out).toContain("\u001b[2mdefault");
    expect((await show(["--set", "a\u001b[31m=1"])).err).not.toContain("\u001b");
  });
});
