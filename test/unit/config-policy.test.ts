/** Policy that /etc sets: each key tightened, each key loosened, and what the refusal says. */
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { placeOf } from "../../src/cli/config-options.ts";
import { CONFIG_KEYS, type ConfigKey, rowOf } from "../../src/config/table.ts";
import { type Layers, load, machine, set } from "../helpers/config.ts";

const HOST = { out: () => undefined, err: () => undefined, env: {}, outIsTerminal: false, errIsTerminal: false };
const { realpath } = placeOf({ ...HOST, columns: 80, signal: new AbortController().signal });
const GPU = ["GPU-00000000-0000-0000-0000-000000000001", "GPU-00000000-0000-0000-0000-000000000002"] as const;

/** For each key that is policy: what /etc says, texts that tighten it, texts that loosen it. */
const CASES: Partial<
  Record<ConfigKey, readonly [fixed: string, tighter: readonly string[], looser: readonly string[]]>
> = {
  backend: ['"cuda"', ["cuda"], ["auto", "emulated"]],
  requireGpu: ["true", ["true", "1"], ["false", "0"]],
  devices: [`["${GPU[0]}", 1]`, [GPU[0], "1"], ["all", "0", `${GPU[0]},${GPU[1]}`]],
  allowMps: ["false", ["false"], ["true"]],
  modelRoots: [
    '["/usr", "/etc"]',
    ["/usr/lib", "/usr", "/etc:/usr/share"],
    ["/", "/var", "/usr:/var", "/dev", "/usr/.."],
  ],
  maxModelBytes: ['"1 GiB"', ["1 GiB", "5"], ["2 GiB"]],
  onMismatch: ['"stop"', ["stop"], ["quarantine"]],
  "seal.maxAgeMs": ['"1 h"', ["1 h", "59 min"], ["2 h", "0"]],
  "verify.maxAgeMs": ['"1 h"', ["0", "1 h"], ["61 min"]],
  "audit.mode": ['"best-effort"', ["required"], ["off"]],
  "audit.retentionDays": ["365", ["365", "366"], ["364"]],
  allowedGroup: ['"gpu"', ["gpu"], ["users", "0"]],
  listen: ['"127.0.0.1:1"', ["off", "127.0.0.1:1"], ["127.0.0.1:2", "[::1]:1"]],
  allowedHosts: ['["a.example", "b.example"]', ["b.example"], ["b.example,c.example"]],
  metricsListen: ['"off"', ["off"], ["127.0.0.1:1"]],
  "lease.maxMs": ['"10 min"', ["1 min"], ["11 min"]],
  "limits.connections": ["10", ["9"], ["11"]],
  "limits.requests": ["10", ["9"], ["11"]],
  "limits.waiting": ["10", ["0"], ["11"]],
  "limits.bodyBytes": ['"64 KiB"', ["4096"], ["65537"]],
  "limits.headerBytes": ['"4 KiB"', ["4096"], ["4097"]],
  "limits.requestMs": ["5000", ["5 s"], ["6 s"]],
  "limits.idleMs": ["5000", ["1 s"], ["6 s"]],
  "limits.leases": ["10", ["1"], ["11"]],
  "limits.shards": ["10", ["1"], ["11"]],
};

const toml = (key: string, value: string): string => `${key} = ${value}\n`;
const messageOf = (layers: Layers, at?: Awaited<ReturnType<typeof machine>>): Promise<string> =>
  load({ place: { realpath }, ...layers }, at).then(
    () => "accepted",
    (thrown: unknown) => (thrown as Error).message,
  );

describe("[VR-POL-01] policy that /etc sets can only be tightened", () => {
  it("is tested for every key that is policy", () => {
    expect(Object.keys(CASES)).toEqual(CONFIG_KEYS.filter((key) => rowOf(key).policy !== undefined));
  });

  it.each(Object.entries(CASES))("%s", async (key, [fixed, tighter, looser]) => {
    const at = await machine();
    const variable = `VRAM_${key
      .replaceAll(/([a-z])([A-Z])/g, "$1_$2")
      .replace(".", "_")
      .toUpperCase()}`;
    const system = toml(key, fixed);
    expect((await load({ system }, at)).fixed.get(key as ConfigKey)?.origin).toMatchObject({ line: 1 });
    for (const text of tighter) {
      expect(await messageOf({ flags: [set(key, text)] }, at), `--set ${key}=${text}`).toBe("accepted");
      expect(await messageOf({ env: { [variable]: text } }, at), `${variable}=${text}`).toBe("accepted");
    }
    for (const text of looser) {
      const said = await messageOf({ flags: [set(key, text)] }, at);
      expect(said, `--set ${key}=${text}`).toContain(`--set ${key} sets ${key} to `);
      expect(said).toContain(`but ${at.system} line 1 fixes it to `);
      expect(await messageOf({ env: { [variable]: text } }, at)).toContain(`${variable} sets ${key} to `);
    }
    // Nobody else fixes anything.
    expect(await messageOf({ user: system, flags: [set(key, looser[0] ?? "")] })).toBe("accepted");
  });

  it("refuses a loosening in between, also if a later layer takes it back", async () => {
    const layers = { system: "requireGpu = true\n", env: { VRAM_REQUIRE_GPU: "0" }, flags: [set("requireGpu", "1")] };
    expect(await messageOf(layers)).toContain("VRAM_REQUIRE_GPU sets requireGpu to false");
  });

  it("leaves open what /etc leaves open", async () => {
    expect(await messageOf({ system: 'backend = "auto"\n', flags: [set("backend", "emulated")] })).toBe("accepted");
    expect(await messageOf({ system: 'devices = "all"\n', flags: [set("devices", "3")] })).toBe("accepted");
    expect(await messageOf({ system: "[seal]\nmaxAgeMs = 0\n", flags: [set("seal.maxAgeMs", "9 h")] })).toBe(
      "accepted",
    );
    expect(await messageOf({ system: "hashThreads = 1\n", flags: [set("hashThreads", "2")] })).toBe("accepted");
  });

  it("[VR-IN-03] follows the links of model folders before it compares them, and keeps what they lead to", async () => {
    const at = await machine();
    const [models, elsewhere] = [join(at.folder, "models"), join(at.folder, "elsewhere")];
    await mkdir(join(models, "a"), { recursive: true });
    await mkdir(elsewhere);
    await symlink(elsewhere, join(models, "out"));
    await symlink(join(models, "a"), join(models, "in"));
    const system = toml("modelRoots", JSON.stringify([models, join(at.folder, "gone")]));
    const given = (path: string): Layers => ({ system, flags: [set("modelRoots", path)], place: { realpath } });
    expect(await messageOf(given(join(models, "out")), at)).toContain(
      "it may only name folders that exist under those",
    );
    expect((await load(given(join(models, "in")), at)).values.modelRoots).toEqual([join(models, "a")]);
    expect(await messageOf(given(join(at.folder, "gone")), at)).toContain(
      "gone does not exist, so that nobody can say",
    );
    expect((await load(given(""), at)).values.modelRoots).toEqual([]);
    expect((await load({ system }, at)).values.modelRoots).toEqual([models, join(at.folder, "gone")]);
  });
});
