/** `npm run proof`, in parts: what runs is what the bundle says, and what must not be in one is not written. */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkBundle } from "../../src/proof/check.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** A file of a few quick tests, and one that shows a requirement. */
const QUICK = "test/unit/proof-check.test.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "vram-proof-run-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

interface Ended {
  readonly code: number;
  readonly out: string;
}

function run(script: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  const place = { VRAM_PROOF_DIR: folder, VRAM_PROOF_RUN_ID: "run", VRAM_TEST_BUILT: "1" };
  // What this test runs in is not what it asks for.
  const {
    VITEST: _,
    VITEST_WORKER_ID: __,
    VITEST_POOL_ID: ___,
    VRAM_TEST_COUNTS: ____,
    VRAM_PROOF_KEY: _____,
    ...rest
  } = process.env;
  const options = { cwd: ROOT, env: { ...rest, ...place, ...env }, timeout: 240_000 };
  return new Promise((resolve) => {
    execFile(process.execPath, [script, ...args], options, (error, out, err) => {
      resolve({ code: typeof error?.code === "number" ? error.code : error === null ? 0 : 128, out: out + err });
    });
  });
}

const proof = (args: readonly string[], env?: Readonly<Record<string, string>>): Promise<Ended> =>
  run("scripts/proof.mjs", args, env);

const read = (path: string): unknown => JSON.parse(readFileSync(join(folder, "run", path), "utf8"));

describe("[VR-PRF-01] npm run proof", () => {
  it("writes what ran, whole and checkable, and ends with 1 where requirements have gaps", async () => {
    const { code, out } = await proof(["--tests", QUICK, "--features", "none"]);
    expect(code, out).toBe(1);
    expect(out).toMatch(/requirements: \d+ in all, 1 shown without a GPU, 0 failed, \d+ gaps: VR-MEM-01/);
    const checked = await checkBundle(join(folder, "run"));
    expect(checked).toMatchObject({ ok: true, result: "WARNED", onHardware: 0, counts: { failed: 0 } });
    expect(read("tests.json")).toMatchObject({ files: [{ path: QUICK }], partial: expect.any(String) as string });
    const environment = read("environment.json") as Record<string, unknown>;
    expect(environment).toMatchObject({ backends: ["emulated"], node: process.version });
    const { rows } = read("requirements.json") as { rows: readonly { id: string; withoutGpu: string }[] };
    expect(rows.filter(({ withoutGpu }) => withoutGpu === "passed").map(({ id }) => id)).toEqual(["VR-PRF-01"]);
    const page = readFileSync(join(folder, "run", "index.html"), "utf8");
    expect(page).toContain("Not the whole suite");
    expect(page).toContain(`${rows.length} requirements, by name:`);
    expect(page).not.toMatch(/<script/i);
    const text = readdirSync(join(folder, "run")).map((name) => join(folder, "run", name));
    for (const path of text.filter((file) => statSync(file).isFile())) {
      expect(readFileSync(path, "utf8"), path).not.toContain(ROOT);
    }
    expect(statSync(join(folder, "proof-signing-key.pem")).mode & 0o777).toBe(0o600);
  });

  it("never writes over a run, nor beside the folder of runs", async () => {
    const again = await proof(["--tests", QUICK, "--features", "none"]);
    expect([again.code, again.out]).toEqual([1, expect.stringContaining("exists: give another VRAM_PROOF_RUN_ID")]);
    expect((await proof([], { VRAM_PROOF_RUN_ID: "../out" })).code).toBe(2);
  });

  it("says what it cannot do before it has run everything", async () => {
    const started = expect.not.stringContaining("RUN") as string;
    const key = join(folder, "no.pem");
    const open = join(folder, "open.pem");
    writeFileSync(key, "no key\n", { mode: 0o600 });
    writeFileSync(open, "no key\n", { mode: 0o644 });
    for (const [args, env, code, words] of [
      [["--help"], {}, 0, "runs everything"],
      [["--al"], {}, 2, "Unknown option"],
      [[], { VRAM_PROOF_RUN_ID: "keyless", VRAM_PROOF_KEY: key }, 1, "not a key for statements"],
      [[], { VRAM_PROOF_RUN_ID: "keyless", VRAM_PROOF_KEY: open }, 1, "others may read it; chmod 600"],
      [[], { VRAM_PROOF_DIR: key }, 1, "EEXIST"],
      [[], { VRAM_BACKEND: "emulated" }, 2, "unset VRAM_BACKEND"],
    ] as const) {
      const ended = await proof(args, env);
      expect([ended.code, ended.out]).toEqual([code, expect.stringContaining(words)]);
      expect(ended.out).toEqual(started);
      expect(ended.out).not.toMatch(/^\s+at /m);
    }
    for (const path of [key, open]) rmSync(path);
    expect(readdirSync(folder).toSorted()).toEqual(["proof-signing-key.pem", "run"]);
  });

  it("[VR-NAR-02] writes nothing that holds a secret, and does not repeat it", async () => {
    const secrets = { MY_SECRET: "of another form", VRAM_PROOF_RUN_ID: "secret" };
    const { code, out } = await proof(["--tests", QUICK, "--features", "none"], secrets);
    expect([code, out]).toEqual([1, expect.stringMatching(/tests\.json, line \d+: the value of MY_SECRET/)]);
    expect(out.split("no bundle was written")[1]).not.toContain(secrets.MY_SECRET);
    expect(readdirSync(folder).toSorted()).toEqual(["proof-signing-key.pem", "run"]);
  });

  it("[VR-PRF-02] a folder for reports that was used before lends no GPU to the next run", async () => {
    const kept = join(folder, "kept");
    mkdirSync(kept);
    writeFileSync(join(kept, "hardware.txt"), "A GPU of another run\n");
    const { code, out } = await run("scripts/test.mjs", ["test/unit/clock.test.ts"], { VRAM_TEST_REPORT: kept });
    expect(code, out).toBe(0);
    expect(readdirSync(kept).toSorted()).toEqual(["counts.txt", "outside.json", "report.json"]);
    rmSync(kept, { recursive: true });
  });

  it("says what failed, in the row, on the page and in the result, which the same key signs", async () => {
    const feature = join(folder, "broken.feature");
    writeFileSync(feature, "@VR-MEM-02\nFeature: Broken\n\n  Scenario: It holds\n    Given nothing of the sort\n");
    const { code, out } = await proof(["--tests", QUICK, "--features", feature], { VRAM_PROOF_RUN_ID: "broken" });
    expect([code, out]).toEqual([1, expect.stringContaining("1 failed: VR-MEM-02")]);
    const [first, second] = await Promise.all(["run", "broken"].map((id) => checkBundle(join(folder, id))));
    expect(second).toMatchObject({ ok: true, result: "FAILED", keyId: first?.ok === true ? first.keyId : "none" });
    const page = readFileSync(join(folder, "broken", "index.html"), "utf8");
    expect(page).toMatch(/id="VR-MEM-02"[\s\S]{0,2000}<span class="pill bad">FAILED<\/span>/);
    expect(page).toContain("1 failure");
  });
});
