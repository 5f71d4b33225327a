/** `vram token add`, `list`, `revoke`. */
import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openTokens } from "../../src/service/tokens.ts";
import { normalised, vram } from "../helpers/cli.ts";
import { machine, write } from "../helpers/config.ts";
import { openSmall, randomFile, temporaryFolder } from "../helpers/vram.ts";

const TOKEN = /^vram_(?:use|operate)_[A-Za-z0-9_-]{43}$/;

describe("vram token", () => {
  it("shows help with examples first", async () => {
    expect((await vram(["token", "--help"])).out.startsWith("Examples:\n  $ vram token ")).toBe(true);
    for (const command of ["add", "list", "revoke"]) {
      const { out } = await vram(["token", command, "--help"]);
      await expect(out).toMatchFileSnapshot(join(import.meta.dirname, `../golden/help-token-${command}.txt`));
    }
    expect((await vram(["token", "add", "a"])).err).toContain("required option '--scope <scope>'");
    expect((await vram(["token", "add", "a", "--scope", "root"])).code).toBe(2);
    expect((await vram(["token", "revoke"])).code).toBe(2);
  });

  it("[VR-API-02] makes a token that is shown once, lists it without showing it, and revokes it", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    const at = ["--state-dir", stateDir];
    const added = await vram(["token", "add", "engine-1", "--scope", "use", ...at]);
    const token = added.out.trimEnd();
    expect(added.code).toBe(0);
    expect(token).toMatch(TOKEN);
    expect(added.err).toMatch(/^engine-1: scope use, fingerprint [0-9a-f]{6}\. It is not shown again\.\n$/);
    expect(added.err).not.toContain(token.slice(-43));
    expect((await stat(stateDir)).mode & 0o777).toBe(0o700);
    expect(await openTokens(stateDir).check(token)).toMatchObject({ name: "engine-1", scope: "use" });

    await vram(["token", "add", "deploy", "--scope", "operate", ...at]);
    const list = await vram(["token", "list", ...at]);
    expect(list.out).toMatch(/^deploy {4}operate {2}[0-9a-f]{6} {2}\S+Z\nengine-1 {2}use {6}[0-9a-f]{6} {2}\S+Z\n$/);
    const json = await vram(["token", "list", "--json", ...at]);
    const { tokens } = JSON.parse(json.out) as { readonly tokens: readonly object[] };
    expect(tokens.map((one) => Object.keys(one))).toEqual(Array(2).fill(["name", "scope", "fingerprint", "createdAt"]));

    expect(await vram(["token", "revoke", "engine-1", ...at])).toMatchObject({ code: 0, out: "engine-1: revoked\n" });
    expect(await openTokens(stateDir).check(token)).toBeUndefined();
    const again = await vram(["token", "revoke", "engine-1", ...at]);
    expect(again.code).toBe(2);
    expect(again.err).toContain("fix   `vram token list` lists them");
  });

  it("prints one JSON document each", async () => {
    const at = ["--json", "--state-dir", await temporaryFolder()];
    const empty = await vram(["token", "list", ...at]);
    expect(normalised(empty.out)).toMatchObject({ schema: "vram-residency/token-list/v1", ok: true, tokens: [] });
    const added = JSON.parse((await vram(["token", "add", "a", "--scope", "use", ...at])).out) as { token: string };
    expect(added).toMatchObject({ schema: "vram-residency/token-add/v1", ok: true, name: "a", scope: "use" });
    expect(added.token).toMatch(TOKEN);
    const taken = JSON.parse((await vram(["token", "add", "a", "--scope", "use", ...at])).out) as unknown;
    expect(taken).toMatchObject({
      ok: false,
      error: { code: "INVALID_ARGUMENT", message: "there is a token called a" },
    });
    const revoked = JSON.parse((await vram(["token", "revoke", "a", ...at])).out) as unknown;
    expect(revoked).toMatchObject({ schema: "vram-residency/token-revoke/v1", ok: true, name: "a", scope: "use" });
    expect(revoked).not.toHaveProperty("token");
  });

  it("takes the state directory of the configuration, and makes none to look into", async () => {
    const { folder, system } = await machine();
    const stateDir = join(folder, "var");
    await write(system, `stateDir = "${stateDir}"\n`);
    const setting = { systemConfig: system };
    const none = await vram(["token", "list"], setting);
    expect(none).toMatchObject({ code: 1, out: "" });
    expect(none.err).toContain(`${stateDir}: there is no state directory`);
    expect(existsSync(stateDir)).toBe(false);
    expect((await vram(["token", "add", "a", "--scope", "use"], setting)).code).toBe(0);
    expect(await readFile(join(stateDir, "tokens.json"), "utf8")).toContain('"name": "a"');
    const empty = await vram(["token", "list", "--state-dir", await temporaryFolder()], setting);
    expect(empty).toMatchObject({ code: 0, out: "" });
    expect(empty.err).toContain("there are no tokens");
    expect((await vram(["token", "list"])).err).toContain("neither XDG_STATE_HOME nor HOME says where the state is");
    expect((await vram(["token", "list", "--config", system])).out).toContain("a  use");
  });

  it("works beside a process that uses the state directory, and leaves its files alone", async () => {
    const stateDir = join(await temporaryFolder(), "state");
    const { path } = await randomFile(5000);
    const { vram: running } = await openSmall({ stateDir });
    expect((await vram(["token", "add", "a", "--scope", "use", "--state-dir", stateDir])).code).toBe(0);
    await running.seal(path, { name: "m" });
    await running.verify("m");
    await running.close();
    const again = await openSmall({ stateDir });
    await again.vram.close();
    expect((await vram(["token", "list", "--state-dir", stateDir])).out).toMatch(/^a {2}use/);
  });
});
