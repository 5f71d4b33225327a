/** Narration of real journeys, by a reader of the journal and by the built command line. */
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { withCorrelation } from "../../src/index.ts";
import { createFaultPlan } from "../../src/testing.ts";
import { vram as vramCli } from "../helpers/cli.ts";
import { buildSafetensors } from "../helpers/model-files.ts";
import { jsonLines, linesOf, recordingNarrator } from "../helpers/narration.ts";
import { codeOf, MIB, openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const BIN = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
/** Control characters and bidirectional overrides, as `printable` knows them; line feeds apart. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not be there
const UNPRINTABLE = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/u;

/** A safetensors file with one tensor of this name. */
async function modelFile(tensor: string): Promise<string> {
  const path = join(await temporaryFolder(), "model.safetensors");
  const data = Uint8Array.from({ length: 700_000 }, (_, index) => index % 251);
  await writeFile(path, buildSafetensors([{ name: tensor, dtype: "U8", shape: [data.length], data }]));
  return path;
}

describe("a journey", () => {
  it("[VR-NAR-01] is told in all thirteen actions, each with its fields", async () => {
    const faults = createFaultPlan();
    const { path } = await randomFile(MIB);
    const { narrator, lines } = await recordingNarrator();
    const { vram, flipBit, open } = await openSmall({ readers: [narrator] }, { faults });
    await vram.seal(path, { name: "m" });
    await vram.verify("m");
    await vram.capacity();
    await flipBit("m", 5, 5);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    await vram.evict("m");
    await vram.resume("seen");
    faults.reset();
    faults.failCall("memory.create", 1, 2);
    expect(await codeOf(vram.seal(path, { name: "n" }))).toBe("OUT_OF_VRAM");
    faults.reset();
    faults.overrideAccess(3);
    expect(await codeOf(vram.seal(path, { name: "p" }))).toBe("POLICY_VIOLATION");
    faults.reset();
    expect(await codeOf(vram.seal(path, { name: "" }))).toBe("INVALID_ARGUMENT");
    const uuid = open.workers[0]?.ref.uuid ?? "";
    const worker = { actor: "worker", worker_id: uuid, device: 0 };
    const shard = { ...worker, target: "m" };
    const figure = expect.any(Number) as number;
    const id = expect.stringMatching(UUID) as string;
    const expected: Record<string, object> = {
      init: { actor: "vram-residency", level: "info", target: open.system.instanceId },
      cuda_init: { ...worker, level: "info", target: uuid },
      allocate: { ...shard, level: "info", correlation_id: id },
      digest: { ...shard, level: "info", correlation_id: id, duration_ms: figure },
      sign: { ...shard, level: "debug", correlation_id: id },
      seal: { ...shard, level: "info", correlation_id: id },
      verify: { ...shard, level: "info", correlation_id: id, duration_ms: figure },
      capacity_query: { ...worker, level: "debug", target: uuid, correlation_id: id },
      verify_failed: { ...shard, level: "error", correlation_id: id, error_kind: "mismatch" },
      deallocate: { ...shard, level: "info", correlation_id: id },
      allocate_failed: { ...worker, level: "error", target: "n", correlation_id: id, error_kind: "OUT_OF_VRAM" },
      policy_violation: { ...worker, level: "error", target: uuid, error_kind: "POLICY_VIOLATION" },
      validate_failed: { actor: "vram-residency", level: "warn", target: "name", error_kind: "INVALID_ARGUMENT" },
    };
    for (const [action, fields] of Object.entries(expected)) {
      const told = lines().find((one) => one.action === action);
      expect(told, action).toMatchObject({ ...fields, human: expect.stringMatching(/\S/) as string });
      expect(Math.abs(Date.now() - Date.parse(told?.time ?? "")), action).toBeLessThan(60_000);
    }
  });

  it("[VR-NAR-01] carries the caller's correlation id through every entry and every line of its calls", async () => {
    const { path } = await randomFile(MIB);
    const { narrator, lines } = await recordingNarrator();
    const { vram, entries } = await openSmall({ readers: [narrator] });
    const before = { entries: entries.length, lines: lines().length };
    await withCorrelation("deploy-4711/a", async () => {
      const { record, seal } = await vram.seal(path);
      await vram.verify(record.shardId, { seal });
      await vram.sealSet(path, { name: "set", shards: 1 }).catch(() => undefined);
      await vram.evict(record.shardId);
      expect(await codeOf(vram.verify("nobody"))).toBe("SHARD_NOT_FOUND");
    });
    const caused = entries.slice(before.entries);
    expect(caused.length).toBeGreaterThan(20);
    expect(new Set(caused.map(({ correlationId }) => correlationId))).toEqual(new Set(["deploy-4711/a"]));
    const told = lines().slice(before.lines);
    expect(new Set(told.map((one) => one["correlation_id"]))).toEqual(new Set(["deploy-4711/a"]));
    for (const entry of caused.filter((one) => "device" in one)) expect(entry.workerId).toMatch(/^EMU-/);
  });

  it("[VR-NAR-01] calls at the same time keep their ids apart", async () => {
    const { path } = await randomFile(MIB);
    const { vram, entries } = await openSmall();
    const names = ["a", "b", "c", "d"];
    await Promise.all(names.map((name) => withCorrelation(`id-${name}`, () => vram.seal(path, { name }))));
    for (const name of names) {
      const named = entries.filter((entry) => "name" in entry && entry.name === name);
      expect(named.length).toBeGreaterThan(5);
      expect(new Set(named.map(({ correlationId }) => correlationId))).toEqual(new Set([`id-${name}`]));
    }
    await vram.capacity();
    await vram.capacity();
    const queried = entries.filter(({ type }) => type === "capacity_queried").map(({ correlationId }) => correlationId);
    expect(new Set(queried).size).toBe(2);
    for (const id of queried) expect(id).toMatch(UUID);
  });

  it("[VR-NAR-02] escapes control characters and bidirectional overrides in what files and drivers call things, in both forms", async () => {
    const path = await modelFile("w\u009b2J\u0085\u202egnp.\u2028x");
    const [json, text] = [await recordingNarrator(), await recordingNarrator({ format: "text" })];
    const { vram, flipBit } = await openSmall(
      { readers: [json.narrator, text.narrator] },
      { deviceSpec: { name: "emulated\u001b[2J\n\u0000" } },
    );
    await vram.seal(path, { name: "m" });
    await flipBit("m", 400_000, 1);
    expect(await codeOf(vram.verify("m"))).toBe("MEASUREMENT_MISMATCH");
    // Names and reasons of callers that would have to be escaped are refused.
    expect(await codeOf(vram.resume("seen\u001b[0m"))).toBe("INVALID_ARGUMENT");
    expect(json.text() + text.text()).not.toMatch(UNPRINTABLE);
    const failed = json.lines().find(({ action }) => action === "verify_failed");
    expect(failed?.human).toContain("w\\u{9b}2J\\u{85}\\u{202e}gnp.\\u{2028}x");
    expect(linesOf(text.text()).filter((one) => one.includes("gnp."))).toHaveLength(1);
    expect(text.text()).toContain("emulated\\u{1b}[2J\\u{a}\\u{0} opened as device 0");
  });
});

describe("vram try", () => {
  it("[VR-NAR-01] narrates in JSON lines where stderr is no terminal, and in readable ones where it is", async () => {
    const { path } = await randomFile(5000);
    const piped = await vramCli(["try", path]);
    const lines = jsonLines(piped.err);
    expect(lines.map(({ action }) => action)).toEqual(
      expect.arrayContaining(["cuda_init", "warn_backend", "allocate", "digest", "seal", "verify", "deallocate"]),
    );
    for (const one of lines) expect(one).toMatchObject({ level: expect.stringMatching(/^(info|warn)$/) as string });
    const terminal = await vramCli(["try", path], { terminal: true, env: { NO_COLOR: "1" } });
    expect(terminal.err).toMatch(/^vram try\n\n {2}\S+ /);
    expect(terminal.err).toMatch(/\n {2}sealed {5}model\.bin is sealed as shard-/);
    expect(terminal.out).toBe(piped.out);
    for (const [args, env] of [
      [["--log-format", "json"], {}],
      [[], { VRAM_LOG_FORMAT: "json" }],
    ] as const) {
      const { err } = await vramCli(["try", ...args, path], { terminal: true, env });
      expect(jsonLines(err).map(({ action }) => action)).toEqual(lines.map(({ action }) => action));
    }
  });

  it("[VR-NAR-01] has levels and --quiet, by option or environment; the option goes first", async () => {
    const { path } = await randomFile(5000);
    const levels = async (args: string[], env: Record<string, string> = {}): Promise<string[]> => {
      const { code, err } = await vramCli(["try", "--tamper", ...args, path], { env });
      expect(code).toBe(0);
      return [...new Set(jsonLines(err).map(({ level }) => level))].toSorted();
    };
    expect(await levels([])).toEqual(["error", "info", "warn"]);
    expect(await levels(["--log-level", "debug"])).toEqual(["debug", "error", "info", "warn"]);
    expect(await levels([], { VRAM_LOG_LEVEL: "warn" })).toEqual(["error", "warn"]);
    expect(await levels(["--log-level", "error"], { VRAM_LOG_LEVEL: "debug" })).toEqual(["error"]);
    expect(await levels(["--quiet"], { VRAM_LOG_LEVEL: "debug", VRAM_LOG_FORMAT: "" })).toEqual(["error"]);
    const quiet = await vramCli(["try", "--quiet", path], { terminal: true });
    expect(quiet).toMatchObject({ code: 0, err: "" });
    expect(quiet.out).toMatch(/^Sealed, verified and evicted\./);
    const tampered = await vramCli(["try", "--quiet", "--tamper", path], { terminal: true, env: { NO_COLOR: "1" } });
    expect(linesOf(tampered.err).map((one) => one.trim().split(" ")[0])).toEqual(["stopped", "caught", "located"]);
  });

  it("keeps the document on stdout one document, with or without narration", async () => {
    const { path } = await randomFile(5000);
    for (const [args, terminal] of [
      [[], false],
      [["--log-level", "debug"], false],
      [["--quiet"], false],
      [[], true],
    ] as const) {
      const { out, err } = await vramCli(["try", "--json", ...args, path], { terminal });
      expect(JSON.parse(out)).toMatchObject({ schema: "vram-residency/try/v1", ok: true });
      if (!terminal) jsonLines(err);
      expect(err === "").toBe(args.some((arg) => arg === "--quiet"));
    }
  });

  it("[VR-IN-04] refuses what is no format or level, and says where it was found", async () => {
    for (const [name, value] of [
      ["VRAM_LOG_FORMAT", "yaml"],
      ["VRAM_LOG_LEVEL", "loud"],
    ] as const) {
      const { code, err } = await vramCli(["try", "x"], { env: { [name]: value } });
      expect(code).toBe(2);
      expect(err).toMatch(new RegExp(`^error INVALID_ARGUMENT: ${name} must be `));
      const json = await vramCli(["try", "--json", "x"], { env: { [name]: value } });
      expect(JSON.parse(json.out)).toMatchObject({ error: { details: { argument: name } } });
    }
    for (const args of [
      ["--log-format", "yaml"],
      ["--log-level", "loud"],
      ["--quiet", "--log-level", "info"],
    ]) {
      expect((await vramCli(["try", ...args, "x"])).code).toBe(2);
    }
  });

  it("tells a failure once as a line, and once in words with the way out", async () => {
    const fake = await randomFile(5000, "fake.gguf");
    const { code, err } = await vramCli(["try", fake.path]);
    const [words, lines] = [linesOf(err).slice(-2), jsonLines(`${linesOf(err).slice(0, -2).join("\n")}\n`)];
    expect(code).toBe(1);
    const told = lines.filter((one) => "error_kind" in one);
    expect(told).toMatchObject([{ action: "validate_failed", target: "seal", error_kind: "MODEL_MALFORMED" }]);
    expect(words[0]).toMatch(/^error MODEL_MALFORMED: /);
    expect(JSON.stringify(lines)).not.toContain(fake.path);
  });
});

describe("pino", () => {
  it("is loaded by commands that write JSON lines, and by no other", async () => {
    const { path } = await randomFile(5000);
    const probe = join(await temporaryFolder(), "probe.cjs");
    const isLoaded = 'Object.keys(require.cache).some((file) => file.includes("/pino/"))';
    await writeFile(probe, `process.on("exit", () => process.stdout.write("pino " + ${isLoaded}));`);
    const loads = (args: readonly string[]): Promise<boolean> =>
      new Promise((resolve, reject) => {
        const env = { ...process.env, VRAM_BACKEND: "emulated", VRAM_HASH_THREADS: "0" };
        execFile(process.execPath, ["--require", probe, BIN, ...args], { env }, (error, out) => {
          if (error === null) resolve(out.endsWith("pino true"));
          else reject(new Error(error.message));
        });
      });
    expect(await loads(["try", path])).toBe(true);
    for (const args of [["try", "--log-format", "text", path], ["digest", path], ["doctor"], ["--help"]]) {
      expect(await loads(args), args.join(" ")).toBe(false);
    }
  });
});
