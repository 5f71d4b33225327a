/** The layers of the configuration: who wins, what is refused, and what each refusal says. */
import { chmod, mkdir, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { configDigest } from "../../src/config/config.ts";
import { optionsFromConfig } from "../../src/environment.ts";
import type { VramError } from "../../src/errors.ts";
import { LIMITS } from "../../src/limits.ts";
import { checkVramOptions } from "../../src/options.ts";
import { type Layers, load, machine, set, write } from "../helpers/config.ts";

/** The error that these layers end with; it is always `INVALID_ARGUMENT`. */
async function refusal(layers: Layers, at?: Awaited<ReturnType<typeof machine>>): Promise<VramError> {
  const error = (await load(layers, at).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )) as VramError | undefined;
  expect(error?.code).toBe("INVALID_ARGUMENT");
  return error as VramError;
}

describe("the layers", () => {
  it("go from the defaults over /etc, the user's file and the environment to flags, and each value says where it is from", async () => {
    const nothing = await load({});
    expect(nothing.values["lease.maxMs"]).toBe(3_600_000);
    expect(nothing.files.map(({ layer, present }) => [layer, present])).toEqual([
      ["system", false],
      ["user", false],
    ]);

    const at = await machine();
    const layers = {
      system: '[log]\nlevel = "warn"\nformat = "json"\n\n[emulated]\ndevices = 2\n',
      user: 'hashThreads = 3\n[log]\n  format = "text"\n',
      env: { VRAM_HASH_THREADS: "4", VRAM_EMULATED_BYTES: "1 GiB", VRAM_SOCKET: "" },
      flags: [set("hashThreads", "5"), { key: "socket", text: "run/vram.sock", flag: "--socket" }],
    };
    const { values, origins, fixed } = await load(layers, at);
    expect(values).toMatchObject({
      hashThreads: 5,
      socket: "/srv/run/vram.sock",
      "log.level": "warn",
      "log.format": "text",
      "emulated.devices": 2,
      "emulated.bytes": 2 ** 30,
    });
    expect(origins).toMatchObject({
      hashThreads: { layer: "flags", flag: "--set hashThreads" },
      socket: { layer: "flags", flag: "--socket" },
      "log.level": { layer: "system", file: at.system, line: 2 },
      "log.format": { layer: "user", file: at.user, line: 3 },
      "emulated.bytes": { layer: "environment", variable: "VRAM_EMULATED_BYTES" },
      listen: { layer: "default" },
    });
    expect(fixed.size).toBe(0);
  });

  it("a file that is named stands in for the user's, from a flag or VRAM_CONFIG, and has to exist", async () => {
    const at = await machine();
    const named = await load({ user: "hashThreads = 1\n", named: "hashThreads = 2\n" }, at);
    expect(named.values.hashThreads).toBe(2);
    const { values, files } = await load({ env: { VRAM_CONFIG: at.named } }, at);
    expect([values.hashThreads, files[1]?.path]).toEqual([2, at.named]);
    expect((await refusal({ env: { VRAM_CONFIG: "/no/such.toml" } })).message).toContain("/no/such.toml: no such file");
  });

  it("gives options that openVram accepts", async () => {
    const bare = await load({});
    expect(() => checkVramOptions(optionsFromConfig(bare.values, {}))).not.toThrow();
    const { values } = await load({
      user: 'libcuda = "libfake.so"\nlibnvml = "/x.so"\nmodelRoots = ["/srv/models/"]\nheadroomBytes = 0\nhashThreads = 0\n',
    });
    const options = optionsFromConfig(values, { LD_LIBRARY_PATH: "/lib" });
    expect(checkVramOptions(options)).toMatchObject({
      cudaLibrary: "libfake.so",
      nvmlLibrary: "/x.so",
      libraryPath: "/lib",
      modelRoots: ["/srv/models"],
      headroomBytes: 0,
      hashThreads: 0,
      audit: { mode: "required", retentionDays: 365 },
    });
  });
});

describe("the digest of a configuration", () => {
  it("is that of its values, wherever they are from", async () => {
    const digestOf = async (layers: Layers): Promise<string> => configDigest((await load(layers)).values);
    const env = { HOME: "/h" };
    const usual = await digestOf({ env });
    expect(usual).toMatch(/^[0-9a-f]{64}$/);
    expect(await digestOf({ env, flags: [set("listen", "off"), set("lease.maxMs", "60 min")] })).toBe(usual);
    expect(await digestOf({ env, flags: [set("requireGpu", "1")] })).not.toBe(usual);
    expect(await digestOf({ env, flags: [set("hashThreads", "0")] })).not.toBe(usual);
  });
});

describe("[VR-IN-04] what is refused names key, place and way out", () => {
  it.each([
    ["lease.mxaMs", "[lease]\nmxaMs = 1\n", 'line 2: there is no key "lease.mxaMs"; did you mean lease.maxMs?'],
    ["another spelling", "require_gpu = true\n", 'there is no key "require_gpu"; did you mean requireGpu?'],
    ["a key outside its table", "retentionDays = 9\n", "did you mean audit.retentionDays?"],
    ["nothing like it", "colour = 1\n", 'line 1: there is no key "colour"'],
    ["a table as a value", 'audit = "required"\n', 'line 1: "audit" is a table, which may hold audit.mode, '],
    ["an empty table", "[servre]\n", 'there is no key "servre"'],
    ["a table below a key", "[listen]\nhost = 1\n", 'there is no key "listen.host"'],
    ["a quoted key with a dot", '"lease.maxMs" = 1\n', "did you mean lease.maxMs?"],
    ["a key of all objects", "constructor = 1\n", "not TOML: line 1"],
    ["text for a boolean", 'requireGpu = "true"\n', 'line 1: requireGpu must be true or false, and is "true"'],
    ["another word", 'onMismatch = "ignore"\n', 'onMismatch must be "quarantine", "stop", and is "ignore"'],
    ["a number too large", "hashThreads = 257\n", "hashThreads must be a whole number from 0 to 256, and is"],
    [
      "a list for a path",
      'socket = ["/a"]\n',
      "socket must be an absolute path of at most 107 bytes, and is another list",
    ],
    ["a date", "stateDir = 2026-01-01\n", "stateDir must be an absolute path, and is a table or date"],
    ["a relative path", 'stateDir = "state"\n', 'stateDir must be an absolute path, and is "state"'],
    [
      "no unit",
      '[lease]\nmaxMs = "15"\n',
      'lease.maxMs must be a duration like "15 min", from 1 s to 366 d, and is "15"',
    ],
    ["a number that is none", "maxModelBytes = nan\n", 'and is "NaN"'],
    ["a key twice", "backend = 'auto'\nbackend = 'cuda'\n", "not TOML: line 2, column"],
    ["no TOML", 'backend = "auto\n', "not TOML: line 1, column 16"],
  ])("in a file: %s", async (_, user, said) => {
    const { message, fix } = await refusal({ user });
    expect(message).toContain(said);
    expect(message).not.toContain("\n");
    expect(fix).not.toBe("");
  });

  it("misspelt variables, but not those of somebody else", async () => {
    const { message, details } = await refusal({ env: { VRAM_REQUIRE_GPUS: "1" } });
    expect(message).toBe("the variable VRAM_REQUIRE_GPUS sets nothing; did you mean VRAM_REQUIRE_GPU?");
    expect(details).toMatchObject({ suggestion: "VRAM_REQUIRE_GPU" });
    await load({ env: { VRAM_FAKE_LOG: "x", VRAM_OF_MY_GAME: "x", ["VRAM_".repeat(20)]: "x" } });
    expect((await refusal({ env: { VRAM_REQUIRE_GPU: "yes" } })).message).toMatch(/^VRAM_REQUIRE_GPU: requireGpu must/);
  });

  it("flags: unknown keys, and a key that is set twice", async () => {
    expect((await refusal({ flags: [set("lisen", "off")] })).message).toContain("did you mean listen?");
    const twice = [set("listen", "off"), { key: "listen", text: "off", flag: "--listen" }];
    expect((await refusal({ flags: twice })).message).toBe("--listen: listen is set twice");
  });

  it.each([
    ['[tls]\ncertFile = "/a.crt"\n', "tls.keyFile is missing"],
    ['[tls]\nkeyFile = "/a.key"\n', "tls.certFile is missing"],
    ['listen = "0.0.0.0:1"\n', "listen is 0.0.0.0:1, which others reach, and there is no TLS"],
    ['metricsListen = "[::]:1"\n', "metricsListen is [::]:1, which others reach"],
    ['listen = "127.0.0.1:1"\nmetricsListen = "127.0.0.1:1"\n', "listen and metricsListen are both 127.0.0.1:1"],
    ['requireGpu = true\nbackend = "emulated"\n', "a GPU is required, and the emulated device was asked for"],
    ["[lease]\nmaxMs = 30000\n", "lease.defaultMs is 1 min, and lease.maxMs only 30 s (lease.defaultMs: default; "],
  ])("what contradicts itself: %j", async (user, said) => {
    expect((await refusal({ user })).message).toContain(said);
  });

  it("accepts the same where it makes sense", async () => {
    const tls = '[tls]\ncertFile = "/a.crt"\nkeyFile = "/a.key"\n';
    await load({ user: `listen = "0.0.0.0:1"\nmetricsListen = "[::]:2"\n${tls}` });
    await load({ user: 'listen = "127.0.0.1:0"\nmetricsListen = "127.0.0.1:0"\n' });
    await load({ user: "[lease]\nmaxMs = 30000\ndefaultMs = 30000\n" });
  });
});

describe("[VR-IN-03] configuration files", () => {
  it.each(["system", "user"] as const)("of the layer %s are refused if others may write to them", async (layer) => {
    const at = await machine();
    await write(at[layer], "hashThreads = 1\n");
    for (const mode of [0o664, 0o646]) {
      await chmod(at[layer], mode);
      const { message, fix } = await refusal({}, at);
      expect(message).toBe(`${at[layer]}: refused: its group or everybody may write to it`);
      expect(fix).toContain(`chmod go-w on ${at[layer]}`);
    }
    await chmod(at[layer], 0o600);
    await chmod(dirname(at[layer]), 0o777);
    expect((await refusal({}, at)).message).toContain("others may replace it, because they may write to its folder");
    await chmod(dirname(at[layer]), 0o1777);
    expect((await load({}, at)).values.hashThreads).toBe(1);
  });

  it("that are named are the caller's own choice", async () => {
    const at = await machine();
    await write(at.named, "hashThreads = 1\n");
    await chmod(at.named, 0o666);
    expect((await load({ env: { VRAM_CONFIG: at.named } }, at)).values.hashThreads).toBe(1);
  });

  it("may be links, but are files of a bounded size, and text", async () => {
    const at = await machine();
    await write(join(at.folder, "real.toml"), "hashThreads = 1\n");
    await mkdir(dirname(at.system), { recursive: true });
    await symlink(join(at.folder, "real.toml"), at.system);
    expect((await load({}, at)).origins.hashThreads).toMatchObject({ layer: "system", file: at.system });
    const of = async (text: string | Uint8Array): Promise<string> => {
      await write(at.named, text);
      return (await refusal({ env: { VRAM_CONFIG: at.named } }, at)).message;
    };
    expect(await of(`#${" ".repeat(LIMITS.configBytes)}`)).toContain(`larger than ${LIMITS.configBytes} bytes`);
    expect(await of(Uint8Array.of(0x23, 0xff))).toContain("not UTF-8");
    expect(await of(`devices = ${"[".repeat(LIMITS.configDepth + 2)}`)).toContain("not TOML");
    expect((await refusal({ env: { VRAM_CONFIG: at.folder } }, at)).message).toContain("not a regular file");
  });

  it("are absent only if there is none: what cannot be looked at in /etc is not passed over", async () => {
    const at = await machine();
    await write(dirname(at.system), "");
    expect((await refusal({}, at)).message).toBe(`${at.system}: cannot be read`);
    await load({ env: { HOME: "/dev/null" } });
    expect((await load({ env: { HOME: "" } })).values.stateDir).toBeUndefined();
  });

  it("tells no line where it is not sure of it", async () => {
    const { origins } = await load({
      user: 'lease = { maxMs = 120000 }\nlibcuda = """\nhashThreads = 1\n"""\nhashThreads = 2\n',
    });
    expect(origins["lease.maxMs"]).not.toHaveProperty("line");
    expect(origins.hashThreads).not.toHaveProperty("line");
    expect(origins.libcuda).toMatchObject({ line: 2 });
  });
});
