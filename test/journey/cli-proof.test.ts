/** `vram proof verify`, as people and programs read it. */
import { appendFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { createStatementSigner } from "../../src/attest/keys.ts";
import { vram } from "../helpers/cli.ts";
import { makeBundle } from "../helpers/proof.ts";

const COMMITTED = fileURLToPath(new URL("../../docs/proof/", import.meta.url));

const made: string[] = [];

function bundle() {
  const one = makeBundle();
  made.push(one.folder);
  return one;
}

afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
});

describe("[VR-PRF-01] vram proof verify", () => {
  it("has help with examples first, and a group that says what it is", async () => {
    const help = await vram(["proof", "verify", "--help"]);
    expect(help.out.startsWith("Examples:\n  $ vram ")).toBe(true);
    await expect(help.out).toMatchFileSnapshot(join(import.meta.dirname, "../golden/help-proof-verify.txt"));
    expect((await vram(["proof", "--help"])).out).toContain("verify");
  });

  it("says what it checked, and what rests on the signer's word", async () => {
    const { folder, signer } = bundle();
    const own = await vram(["proof", "verify", folder]);
    expect(own.code).toBe(0);
    expect(own.out).toContain("✓ 6 files, each as it was when it was signed");
    expect(own.out).toContain(`· signed by the key that lies in it, ${signer.keyId}: whose that is was not checked`);
    expect(own.out).toContain("✓ its result is what its lists say: WARNED, 2 passed, 0 failed, 1 skipped");
    expect(own.out).toContain(
      "✓ its matrix is what its lists say\n· that these are all requirements: 2, of which 1 are shown",
    );
    expect(own.out).toContain("· that its pages say what its lists say");
    expect(own.out).toContain("· nothing in it was shown on a GPU");
    const key = join(folder, "..", `${signer.keyId}.pem`);
    made.push(key);
    writeFileSync(key, signer.publicPem);
    const given = await vram(["proof", "verify", folder, "--pub", key]);
    expect([given.code, given.out.includes("✓ signed by the key you gave")]).toEqual([0, true]);
    writeFileSync(key, createStatementSigner().publicPem);
    const stranger = await vram(["proof", "verify", folder, "--pub", key]);
    expect([stranger.code, stranger.out]).toEqual([3, expect.stringContaining("✗ signature: statement.dsse.json")]);
    writeFileSync(key, "no key");
    expect((await vram(["proof", "verify", folder, "--pub", key])).code).toBe(2);
  });

  it("names what was changed, to people and to programs, and ends with 3", async () => {
    const { folder } = bundle();
    appendFileSync(join(folder, "index.html"), "more");
    for (let index = 0; index < 30; index += 1) writeFileSync(join(folder, `added-${index}`), "");
    const told = await vram(["proof", "verify", folder]);
    expect(told.code).toBe(3);
    expect(told.out).toContain("and 11 more, which --json lists");
    const listed = await vram(["proof", "verify", folder, "--json"]);
    const { schema, ok, faults } = JSON.parse(listed.out) as Record<string, unknown> & { faults: readonly object[] };
    expect([listed.code, schema, ok, faults.length]).toEqual([3, "vram-residency/proof-verify/v1", false, 31]);
    expect(faults.at(-1)).toMatchObject({ kind: "changed", path: "index.html" });
  });

  it("has one form of JSON", async () => {
    const { folder } = bundle();
    const { out } = await vram(["proof", "verify", folder, "--json"]);
    const document = JSON.parse(out) as Record<string, unknown>;
    await expect(`${JSON.stringify({ ...document, keyId: "KEY" }, null, 2)}\n`).toMatchFileSnapshot(
      join(import.meta.dirname, "../golden/proof-verify.json"),
    );
  });

  it("refuses what is no bundle, with the way to one", async () => {
    const none = await vram(["proof", "verify", import.meta.dirname]);
    expect([none.code, none.err]).toEqual([1, expect.stringContaining("npm run proof")]);
    expect((await vram(["proof", "verify"])).code).toBe(2);
  });

  it("holds for every bundle that was committed: of the whole suite at a commit, and nothing failed", async () => {
    const runs = readdirSync(COMMITTED, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    expect(runs.length).toBeGreaterThan(0);
    for (const { name } of runs) {
      const pub = join(COMMITTED, `${name}.pub.pem`);
      const { code, out } = await vram(["proof", "verify", join(COMMITTED, name), "--pub", pub, "--json"]);
      expect(code, out).toBe(0);
      const said = JSON.parse(out) as Record<string, unknown>;
      expect(said).toMatchObject({ keyGiven: true, commit: expect.any(String) as string, counts: { failed: 0 } });
      expect(said).not.toHaveProperty("partial");
    }
  });
});
